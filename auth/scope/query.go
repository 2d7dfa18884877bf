package scope

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
)

// A Param is one search parameter with its value, decoded.
type Param struct {
	Name  string `json:"name"`
	Value string `json:"value"` // alternatives with commas between them
}

// A Query is what a search must find: all of its parameters apply. It is in
// canonical order, without repetitions.
type Query []Param

func compare(a, b Param) int {
	return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Value, b.Value))
}

func (q Query) canonical() Query {
	q = slices.Clone(q)
	slices.SortFunc(q, compare)
	return slices.Compact(q)
}

// and returns the query that both find.
func (q Query) and(other Query) Query { return append(slices.Clone(q), other...).canonical() }

// within reports whether whatever q finds is also found by wider, because q
// has all of its parameters.
func (q Query) within(wider Query) bool {
	return !slices.ContainsFunc(wider, func(p Param) bool { return !slices.Contains(q, p) })
}

// Encode writes the query for an address.
func (q Query) Encode() string {
	var b strings.Builder
	for i, p := range q {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(url.QueryEscape(p.Name))
		b.WriteByte('=')
		b.WriteString(url.QueryEscape(p.Value))
	}
	return b.String()
}

// A token is one alternative of the value of a token parameter.
// Source: FHIR R4, Search, "token".
type token struct {
	system, code string
	anySystem    bool // code alone
	anyCode      bool // system| alone
}

// alternatives reads a value: [system|]code, with commas between, where a
// backslash takes a comma's or a bar's meaning away.
func alternatives(value string) []token {
	var list []token
	for _, text := range splitUnescaped(value, ',') {
		parts := splitUnescaped(text, '|')
		switch {
		case text == "" || text == "|" || len(parts) > 2:
			list = append(list, token{}) // finds nothing, or nobody knows what
		case len(parts) == 1:
			list = append(list, token{code: unescape(text), anySystem: true})
		default:
			list = append(list, token{system: unescape(parts[0]), code: unescape(parts[1]), anyCode: parts[1] == ""})
		}
	}
	return list
}

func splitUnescaped(s string, at byte) []string {
	var list []string
	start := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case at:
			list = append(list, s[start:i])
			start = i + 1
		}
	}
	return append(list, s[start:])
}

func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
