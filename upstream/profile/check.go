package profile

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// check says what is wrong with a file whose every value is of its kind.
func (f *file) check(root *yaml.Node) (problems []string) {
	add := func(path []string, format string, args ...any) {
		problems = append(problems, fmt.Sprintf("line %d: %s: ", line(root, path...), strings.Join(path, "."))+fmt.Sprintf(format, args...))
	}
	number := func(v, least, most int, path ...string) {
		if v != 0 && (v < least || v > most) {
			add(path, "%d is out of range; allowed is %d to %d", v, least, most)
		}
	}
	number(f.Paging.Max, 1, 100_000, "paging", "max")
	number(f.Paging.ChainMax, 1, 1_000_000_000, "paging", "chain_max")
	number(f.URLMax, 256, 1<<20, "url_max")
	number(f.Patients.PerSearch, 1, 1000, "patients", "per_search")
	if p := f.Patients.Parameter; p != "" && !isName(p) {
		add([]string{"patients", "parameter"}, "%q is no search parameter", p)
	}
	if id := f.Patients.Group; id != "" && !isID(id) {
		add([]string{"patients", "group"}, "%q is no id of a resource", id)
	}
	for _, m := range f.Match {
		if m == (match{}) {
			add([]string{"match"}, "an entry without a condition would match every server")
		}
	}
	for _, typ := range slices.Sorted(maps.Keys(f.Types)) {
		r := f.Types[typ]
		at := func(key string) []string { return []string{"types", typ, key} }
		if !isType(typ) {
			add([]string{"types", typ}, "is no resource type")
		}
		number(r.Max, 1, 100_000, at("max")...)
		for _, q := range r.With {
			if problem := queryProblem(q); problem != "" {
				add(at("with"), "%q %s", q, problem)
			}
		}
		if r.Exhaustive && len(r.With) == 0 {
			add(at("exhaustive"), "says nothing without with")
		}
	}
	return problems
}

// queryProblem says what is wrong with a query that is added to searches, or "".
func queryProblem(q string) string {
	values, err := url.ParseQuery(q)
	switch {
	case err != nil || len(values) == 0:
		return "is no query such as category=laboratory"
	case strings.ContainsFunc(q, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '#' }):
		return "is not encoded"
	}
	for name := range values {
		bare, _, _ := strings.Cut(name, ":")
		if !isName(bare) {
			return "is no query such as category=laboratory"
		}
		switch bare {
		case "_lastUpdated", "_count", "_sort", "_total", "_summary", "_elements", "_include", "_revinclude", "_format":
			return "holds " + bare + ", which Spillway decides on"
		}
	}
	return ""
}

func isType(s string) bool {
	return s != "" && len(s) <= 64 && s[0] >= 'A' && s[0] <= 'Z' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

func isName(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == ""
}

func isID(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") == ""
}

// line is where a key stands, or the nearest above it that does; 1 if none does.
func line(root *yaml.Node, path ...string) int {
	at := 1
	n := root
	if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
		n = n.Content[0]
	}
	for _, key := range path {
		found := false
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				at, n, found = n.Content[i].Line, n.Content[i+1], true
				break
			}
		}
		if !found {
			break
		}
	}
	return at
}
