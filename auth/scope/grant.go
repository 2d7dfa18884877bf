package scope

import (
	"slices"
	"strings"
)

// maxQueries bounds the scopes with a query in a grant.
const maxQueries = 32

// A Grant is what a client may do. It is immutable; the zero value grants
// nothing.
type Grant struct {
	everything bool
	scopes     []Scope
}

// Everything is the grant of clients that no scope restricts.
func Everything() Grant { return Grant{everything: true} }

// NewGrant returns what the scopes grant together. ErrTooMany: they have more
// queries than an export could search for.
func NewGrant(scopes []Scope) (Grant, error) {
	queries := 0
	for _, s := range scopes {
		if len(s.Query) > 0 {
			queries++
		}
	}
	if queries > maxQueries || len(scopes) > maxScopes {
		return Grant{}, ErrTooMany
	}
	return Grant{scopes: slices.Clone(scopes)}, nil
}

// Empty reports whether nothing is granted.
func (g Grant) Empty() bool { return !g.everything && len(g.scopes) == 0 }

// String returns the scopes, separated by spaces; "" for Everything.
func (g Grant) String() string {
	texts := make([]string, len(g.scopes))
	for i, s := range g.scopes {
		texts[i] = s.text
	}
	return strings.Join(texts, " ")
}

// Access is what may be done with a type: with all of it, or with what at
// least one of the queries finds. The zero value is nothing.
type Access struct {
	All bool    `json:"all,omitempty"`
	Any []Query `json:"any,omitempty"`
}

// None reports whether nothing may be done.
func (a Access) None() bool { return !a.All && len(a.Any) == 0 }

// Allows returns on what of a type all of the permissions are granted. Scopes
// add up: one may give r and another s.
func (g Grant) Allows(typ string, need Permissions) Access {
	if g.everything {
		return Access{All: true}
	}
	whole := Access{}
	partial := Access{All: true}
	for bit := Permissions(1); bit <= need; bit <<= 1 {
		if need&bit == 0 {
			continue
		}
		one := Access{}
		for _, s := range g.scopes {
			if s.Permissions&bit == 0 || s.Type != "*" && s.Type != typ {
				continue
			}
			one = one.or(s.access())
			if s.Permissions&need == need {
				whole = whole.or(s.access())
			}
		}
		partial = partial.and(one)
	}
	if need == 0 {
		return Access{}
	}
	return whole.or(partial)
}

func (s Scope) access() Access {
	if len(s.Query) == 0 {
		return Access{All: true}
	}
	return Access{Any: []Query{s.Query}}
}

// or returns what either permits. A query whose finds another one finds too is
// left out.
func (a Access) or(b Access) Access {
	if a.All || b.All {
		return Access{All: true}
	}
	var any []Query
	for _, q := range append(slices.Clone(a.Any), b.Any...) {
		if slices.ContainsFunc(any, q.within) {
			continue
		}
		any = slices.DeleteFunc(any, func(old Query) bool { return old.within(q) })
		any = append(any, q)
	}
	return Access{Any: any}
}

// and returns what both permit.
func (a Access) and(b Access) Access {
	switch {
	case a.All:
		return b
	case b.All:
		return a
	}
	both := Access{}
	for _, p := range a.Any {
		for _, q := range b.Any {
			both = both.or(Access{Any: []Query{p.and(q)}})
		}
	}
	return both
}

// covers reports whether all that narrow permits is permitted by a.
func (a Access) covers(narrow Access) bool {
	if a.All {
		return true
	}
	return !narrow.All && !slices.ContainsFunc(narrow.Any, func(q Query) bool {
		return !slices.ContainsFunc(a.Any, q.within)
	})
}

// within returns what scopes of the request are also granted by g, each cut
// down to what is: the scope as it was asked for where all of it is granted,
// else those of g for the same type that give a part of it.
func (g Grant) within(asked Scope) []Scope {
	if g.everything {
		return []Scope{asked}
	}
	var granted []Scope
	rest := asked.Permissions
	for bit := Permissions(1); bit <= asked.Permissions; bit <<= 1 {
		if asked.Permissions&bit != 0 && g.allowsAll(asked, bit) {
			rest &^= bit
		}
	}
	if rest == 0 {
		return []Scope{asked}
	}
	for _, s := range g.scopes {
		p := s.Permissions & asked.Permissions
		if p == 0 || asked.Type != "*" && s.Type != "*" && s.Type != asked.Type {
			continue
		}
		typ := asked.Type
		if typ == "*" {
			typ = s.Type
		}
		granted = append(granted, newScope(typ, p, s.Query.and(asked.Query)))
	}
	return granted
}

// allowsAll reports whether a permission is granted on all that asked names.
func (g Grant) allowsAll(asked Scope, bit Permissions) bool {
	one := Access{}
	for _, s := range g.scopes {
		if s.Permissions&bit != 0 && (s.Type == "*" || s.Type == asked.Type) {
			one = one.or(s.access())
		}
	}
	return one.covers(asked.access())
}

// newScope writes a scope of the second version.
func newScope(typ string, p Permissions, q Query) Scope {
	text := "system/" + typ + "." + p.String()
	for i, param := range q {
		separator := "&"
		if i == 0 {
			separator = "?"
		}
		text += separator + param.Name + "=" + escape(param.Value)
	}
	return Scope{Type: typ, Permissions: p, Query: q, text: text}
}

// escape writes a value so that Parse reads it.
func escape(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || strings.IndexByte("\"\\%&+;#?=", c) >= 0 {
			b.WriteString("%" + string(hex[c>>4]) + string(hex[c&15]))
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// Restrict returns the scopes of a request as far as g grants them, without
// repetitions: what a token may carry. It is empty if nothing is granted.
func (g Grant) Restrict(asked []Scope) []Scope {
	var granted []Scope
	for _, a := range asked {
		for _, s := range g.within(a) {
			if !slices.ContainsFunc(granted, func(o Scope) bool { return o.text == s.text }) {
				granted = append(granted, s)
			}
		}
	}
	return granted
}
