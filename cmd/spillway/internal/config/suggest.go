package config

import (
	"slices"
	"strings"
)

// suggestion says which key was probably meant, or nothing.
func (l *loader) suggestion(key string) string {
	cut := strings.LastIndexByte(key, '.') + 1
	prefix, last := key[:cut], key[cut:]
	var siblings, elsewhere []string
	for _, k := range slices.Concat(l.record, l.config.keys) {
		if rest, ok := strings.CutPrefix(k.name, prefix); ok {
			sibling, _, _ := strings.Cut(rest, ".")
			siblings = append(siblings, sibling)
		}
		if strings.HasSuffix(k.name, "."+last) {
			elsewhere = append(elsewhere, k.name)
		}
	}
	if near := nearest(last, siblings); near != "" {
		return "; did you mean " + near + "?"
	}
	if len(elsewhere) == 1 {
		return "; did you mean " + elsewhere[0] + "?"
	}
	return ""
}

func (l *loader) envSuggestion(name string) string {
	var names []string
	for _, k := range l.config.keys {
		names = append(names, envName(k.name))
	}
	if near := nearest(name, names); near != "" {
		return "; did you mean " + near + "?"
	}
	return ""
}

// nearest returns the candidate that takes the fewest edits to reach, if that
// is few enough to be a slip.
func nearest(word string, candidates []string) string {
	best, least := "", 3
	for _, c := range slices.Compact(candidates) {
		if d := distance(word, c); d < least && d <= (len(c)+2)/3 {
			best, least = c, d
		}
	}
	return best
}

// distance counts the characters to insert, delete, replace or swap with
// their neighbour between a and b.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return max(len(a), len(b)) // no key is so long, and the table would be large
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}
