package download

import (
	"fmt"
	"slices"
	"sync"
)

// A Kind is a kind of problem.
type Kind int

// The kinds, in the order in which they are told.
const (
	BadManifest Kind = iota
	Missing          // a file is not there, or cannot be read
	Damaged          // a file cannot be decompressed or has too long a line
	WrongSize
	WrongHash
	WrongCount
	BadLine  // a line is not one resource
	BadType  // a line is of another type
	BadID    // a resource has no valid id
	Twice    // a resource is there twice
	Both     // a resource is there, and deleted
	BadProof // the evidence does not add up
	Unnamed  // a file that the manifest does not name
	kinds
)

// A Problem is one thing that is wrong.
type Problem struct {
	Kind Kind
	File string // "": the manifest, or all of the download
	Line int64  // from 1; 0: the whole file
	Text string
}

// String returns the problem as one line: place, then words.
func (p Problem) String() string {
	switch {
	case p.File == "":
		return p.Text
	case p.Line == 0:
		return p.File + ": " + p.Text
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Text)
}

// A Report is what Verify found.
type Report struct {
	Files, Lines, Bytes int64 // what was read; bytes uncompressed
	// Problems are the first of each kind, by kind; More is how many there are
	// beyond them.
	Problems []Problem
	More     map[Kind]int64
	// Issues is the number of issues of severity error or fatal in the error
	// files.
	Issues int64
	// Unproven says what could not be proven to be complete. Each is a sentence.
	Unproven []string
}

// Sound reports whether all that is there is as it should be.
func (r *Report) Sound() bool { return len(r.Problems) == 0 }

// Complete reports whether, besides, nothing is known to be missing and that is proven.
func (r *Report) Complete() bool { return r.Sound() && r.Issues == 0 && len(r.Unproven) == 0 }

// Total is the number of all problems.
func (r *Report) Total() int64 {
	n := int64(len(r.Problems))
	for _, more := range r.More {
		n += more
	}
	return n
}

// findings gathers problems, the first of each kind. Safe for concurrent use.
type findings struct {
	first int

	mu     sync.Mutex
	listed [kinds][]Problem
	counts [kinds]int64
}

func (f *findings) add(k Kind, file string, line int64, format string, args ...any) {
	f.addMany(1, Problem{k, file, line, fmt.Sprintf(format, args...)})
}

// addMany counts n problems of which one can be told.
func (f *findings) addMany(n int64, p Problem) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts[p.Kind] += n
	if len(f.listed[p.Kind]) < f.first {
		f.listed[p.Kind] = append(f.listed[p.Kind], p)
	}
}

// count counts n problems that are not told.
func (f *findings) count(k Kind, n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts[k] += n
}

// into writes what was found. order is the place of each file in the manifest.
func (f *findings) into(r *Report, order map[string]int) {
	r.More = make(map[Kind]int64)
	for k := range kinds {
		listed := f.listed[k]
		slices.SortStableFunc(listed, func(x, y Problem) int {
			if x.File != y.File {
				return order[x.File] - order[y.File]
			}
			return int(x.Line - y.Line)
		})
		r.Problems = append(r.Problems, listed...)
		if more := f.counts[k] - int64(len(listed)); more > 0 {
			r.More[k] = more
		}
	}
}
