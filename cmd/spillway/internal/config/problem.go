package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Problem is one thing that is wrong with the configuration.
type Problem struct {
	Source string // the file, the environment variable or the flag; "" if none of them says anything
	Line   int    // in the file; 0 where Source is no file
	Key    string // such as upstream.timeout; "" where the whole file is meant
	Text   string // what is wrong and what to do; holds no secret
}

// String returns "spillway.yaml:12: upstream.timeout: text", or as much of it
// as applies.
func (p Problem) String() string {
	var b strings.Builder
	if p.Source != "" {
		b.WriteString(p.Source)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
	}
	// The name of a variable or a flag says which key is meant.
	if p.Key != "" && (p.Source == "" || p.Line > 0) {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Text)
	return b.String()
}

// Problems is all that is wrong, in the order of the file, then of the rest.
type Problems []Problem

// Error returns one problem a line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

// sorted puts problems of the file first, by line, and leaves out repetitions.
func (p Problems) sorted() Problems {
	slices.SortStableFunc(p, func(a, b Problem) int {
		return cmp.Or(-cmp.Compare(min(a.Line, 1), min(b.Line, 1)), cmp.Compare(a.Line, b.Line))
	})
	return slices.Compact(p)
}
