package scope

import (
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Errors of Parse.
var (
	// ErrOther: no system scope, such as openid, or patient/Patient.rs. It
	// may mean something elsewhere and grants nothing here.
	ErrOther = errors.New("scope: not a system scope")
	// ErrMalformed: it looks like a system scope and is none.
	ErrMalformed = errors.New("scope: malformed")
	// ErrQuery: its query has a parameter that scopes must not use: a chain, a
	// modifier, one that shapes the result or reaches into other resources.
	ErrQuery = errors.New("scope: this search parameter cannot be used in a scope")
	// ErrTooMany: more scopes than are looked at.
	ErrTooMany = errors.New("scope: too many scopes")
)

// What scopes may measure at most.
const (
	maxScopes     = 256
	maxScopeBytes = 2048
	maxParams     = 8 // of one query
)

// Permissions are a set of what may be done with a type.
type Permissions uint8

// The permissions of SMART scopes, in the order in which they are written.
const (
	Create Permissions = 1 << iota
	Read               // read, vread and the history of a resource
	Update
	Delete
	Search // search, and the history of a type or of the system
)

const permissionLetters = "cruds"

// String writes the letters of the permissions.
func (p Permissions) String() string {
	var b strings.Builder
	for i := range permissionLetters {
		if p&(1<<i) != 0 {
			b.WriteByte(permissionLetters[i])
		}
	}
	return b.String()
}

// A Scope is one system scope.
type Scope struct {
	Type        string // a FHIR type; "*": every one
	Permissions Permissions
	Query       Query // empty: the whole type

	text string
}

// String returns the scope as it was written, so that a client that speaks the
// first version of scopes reads what it has sent.
func (s Scope) String() string { return s.text }

var (
	// Permissions in order, each at most once: others, such as .dus, would be
	// read as rights that nobody meant to give.
	scopeForm = regexp.MustCompile(`^system/(\*|[A-Z][A-Za-z]{0,63})\.(read|write|\*|c?r?u?d?s?)(?:\?(.*))?$`)
	paramForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,63}$`)
)

// Parse reads one scope of either version.
func Parse(s string) (Scope, error) {
	switch {
	case !strings.HasPrefix(s, "system/"):
		return Scope{}, ErrOther
	case len(s) > maxScopeBytes || !scopeText(s):
		return Scope{}, ErrMalformed
	}
	parts := scopeForm.FindStringSubmatch(s)
	if parts == nil {
		return Scope{}, ErrMalformed
	}
	scope := Scope{Type: parts[1], text: s}
	second := false
	switch parts[2] {
	case "read":
		scope.Permissions = Read | Search
	case "write":
		scope.Permissions = Create | Update | Delete
	case "*":
		scope.Permissions = Create | Read | Update | Delete | Search
	default:
		for _, letter := range parts[2] {
			scope.Permissions |= 1 << strings.IndexRune(permissionLetters, letter)
		}
		second = true
	}
	if scope.Permissions == 0 {
		return Scope{}, ErrMalformed
	}
	if !strings.Contains(s, "?") {
		return scope, nil
	}
	if !second { // queries came with the second version
		return Scope{}, ErrMalformed
	}
	query, err := parseQuery(parts[3])
	scope.Query = query
	return scope, err
}

// scopeText reports whether s has only characters of a scope.
// Source: RFC 6749, 3.3.
func scopeText(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r == '"' || r == '\\' || r > '~'
	})
}

func parseQuery(s string) (Query, error) {
	pairs := strings.Split(s, "&")
	if len(pairs) > maxParams {
		return nil, ErrMalformed
	}
	var q Query
	for _, pair := range pairs {
		name, encoded, ok := strings.Cut(pair, "=")
		if !ok || name == "" || encoded == "" || strings.ContainsAny(encoded, "+;#?=") {
			return nil, ErrMalformed // a plus would be read as a space by some
		}
		if !paramForm.MatchString(name) || !permitted(name) {
			return nil, ErrQuery
		}
		value, err := url.PathUnescape(encoded)
		if err != nil || !utf8.ValidString(value) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil, ErrMalformed
		}
		if slices.Contains(alternatives(value), token{}) {
			return nil, ErrMalformed // such as a comma too many, which servers take for anything
		}
		q = append(q, Param{name, value})
	}
	return q.canonical(), nil
}

// permitted reports whether a parameter restricts what a search of its type
// finds, and does nothing else.
func permitted(name string) bool {
	switch name {
	case "_security", "_tag", "_profile", "_source", "_language", "_id":
		return true
	}
	return name[0] != '_'
}

// ParseList reads scopes that are separated by spaces. It returns the system
// scopes among them, and for every other one why it is none, in no particular
// form. Whether a malformed one is an error is for the caller to say.
func ParseList(s string) (scopes []Scope, others []error, err error) {
	for text := range strings.SplitSeq(s, " ") {
		if text == "" {
			continue
		}
		if len(scopes)+len(others) >= maxScopes {
			return nil, nil, ErrTooMany
		}
		scope, err := Parse(text)
		if err != nil {
			others = append(others, err)
			continue
		}
		scopes = append(scopes, scope)
	}
	return scopes, others, nil
}
