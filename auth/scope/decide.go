package scope

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// maxSearches bounds the searches that one type takes.
const maxSearches = 100

// ErrTooManySearches says that the scopes and the filters of a request multiply
// to more searches than are made for one type.
var ErrTooManySearches = errors.New("scope: scopes and filters make too many searches")

// A RefusedError names the types that a client asked for and may not read.
type RefusedError struct {
	Types []string // sorted; empty: every type
}

// Error names the types.
func (e *RefusedError) Error() string {
	if len(e.Types) == 0 {
		return "scope: nothing may be read"
	}
	return "scope: not allowed to read " + strings.Join(e.Types, ", ")
}

// Scope returns the scopes that would have been enough, for a challenge.
func (e *RefusedError) Scope() string {
	if len(e.Types) == 0 {
		return "system/*.rs"
	}
	return "system/" + strings.Join(e.Types, ".rs system/") + ".rs"
}

// A Request is a kick-off, as far as it matters here.
type Request struct {
	// Types asked for. Empty: all that may be read.
	Types []string
	// Supported is what the upstream offers at the level of the export. It
	// matters only if no Types are asked for, and not every type may be read.
	Supported []string
	// Group says that a Group is exported, which takes the right to read it.
	Group bool
	// Lenient leaves out the types that may not be read, instead of refusing
	// the request.
	Lenient bool
	// Unchecked lets queries count that cannot be evaluated here, so that the
	// upstream alone enforces them.
	Unchecked bool
	// Offers reports whether the upstream says that it has a search parameter.
	// A query that only it enforces does not count without. Nil: it has all.
	Offers func(typ, param string) bool
}

// A Snapshot is what an export may read, fixed when it was kicked off. The
// zero value is nothing.
type Snapshot struct {
	// All says that every type may be read whole, those included that the
	// upstream will have one day.
	All bool `json:"all,omitempty"`
	// Types has an entry, which is not empty, for each type that may be read,
	// if not All may.
	Types map[string]Access `json:"types,omitempty"`
	// Members is what of Group may be read to learn whose data is exported,
	// where it is that of a Group and not All may be read.
	Members Access `json:"members,omitzero"`
	// Unchecked says that queries count which cannot be evaluated here.
	Unchecked bool `json:"unchecked,omitempty"`
}

// ErrNoSnapshot says that something is no Snapshot, so that nothing may be read.
var ErrNoSnapshot = errors.New("scope: not the record of what may be read")

// ReadSnapshot reads what was written as JSON. It is strict: a record that has
// more in it than is understood here may mean to permit less.
func ReadSnapshot(b []byte) (Snapshot, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var s Snapshot
	if err := d.Decode(&s); err != nil {
		return Snapshot{}, fmt.Errorf("%w: %w", ErrNoSnapshot, err)
	}
	if _, err := d.Token(); err != io.EOF || !s.All && len(s.Types) == 0 {
		return Snapshot{}, ErrNoSnapshot
	}
	return s, nil
}

// Access returns what may be read of a type.
func (s Snapshot) Access(typ string) Access {
	if s.All {
		return Access{All: true}
	}
	return s.Types[typ]
}

// Group returns what of Group may be read to learn whose data is exported.
func (s Snapshot) Group() Access {
	if s.All {
		return Access{All: true}
	}
	return s.Members
}

// Encode writes the snapshot for ReadSnapshot.
func (s Snapshot) Encode() json.RawMessage {
	b, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("scope: encoding a snapshot: %v", err)) // it has only strings and booleans
	}
	return b
}

// Names returns the types that may be read, sorted; or true if every one may.
func (s Snapshot) Names() (types []string, all bool) {
	if s.All {
		return nil, true
	}
	return slices.Sorted(maps.Keys(s.Types)), false
}

// Decide says what an export may read. Types that were asked for and may not
// be read are a *RefusedError, or, with Lenient, are returned beside the rest.
// If no types were asked for, refused are those supported that are left out.
// Where nothing is left it is a *RefusedError in every case: a Snapshot that
// was returned without an error is never empty.
func (g Grant) Decide(r Request) (allowed Snapshot, refused []string, err error) {
	var members Access
	if r.Group {
		if members = g.readable("Group", r); members.None() {
			return Snapshot{}, nil, &RefusedError{Types: []string{"Group"}}
		}
	}
	types := r.Types
	if len(types) == 0 {
		if g.everything || g.Allows("*", Read|Search).All {
			return Snapshot{All: true}, nil, nil
		}
		types = r.Supported
	}
	allowed = Snapshot{Types: make(map[string]Access), Members: members, Unchecked: r.Unchecked}
	for _, typ := range types {
		if a := g.readable(typ, r); a.None() {
			refused = append(refused, typ)
		} else {
			allowed.Types[typ] = a
		}
	}
	slices.Sort(refused)
	refused = slices.Compact(refused)
	switch {
	case len(r.Types) > 0 && len(refused) > 0 && (!r.Lenient || len(allowed.Types) == 0):
		return Snapshot{}, nil, &RefusedError{Types: refused}
	case len(allowed.Types) == 0:
		return Snapshot{}, nil, &RefusedError{}
	}
	return allowed, refused, nil
}

// readable is what an export may read of a type. Queries that nobody is sure to
// enforce are left out, which narrows it.
func (g Grant) readable(typ string, r Request) Access {
	a := g.Allows(typ, Read|Search)
	a.Any = slices.DeleteFunc(slices.Clone(a.Any), func(q Query) bool {
		if q.Checkable(typ) {
			return false
		}
		return !r.Unchecked || r.Offers != nil && slices.ContainsFunc(q, func(p Param) bool { return !r.Offers(typ, p.Name) })
	})
	return a
}

// Covers reports whether g grants all that the snapshot let an export read.
// Status and files are shown only to a token that does.
// Source: Bulk Data Access IG, "Security Considerations": scopes that cover
// all resources exported.
func (g Grant) Covers(s Snapshot) bool {
	if s.All && !g.Allows("*", Read|Search).All {
		return false
	}
	for typ, a := range s.Types {
		if !g.Allows(typ, Read|Search).covers(a) {
			return false
		}
	}
	return true
}

// Searches returns the queries to search a type with, so that together they
// find what is permitted and what at least one of the filters finds. Filters
// are encoded queries of the request, for this type; none: everything. An
// empty query in the result finds the whole type; a result without queries, of
// an Access without rights, finds nothing.
func (a Access) Searches(filters []string) ([]string, error) {
	if a.None() {
		return nil, nil
	}
	if len(filters) == 0 {
		filters = []string{""}
	}
	queries := []string{""}
	if !a.All {
		queries = queries[:0]
		for _, q := range a.Any {
			if len(q) > 0 { // a query without parameters would find everything
				queries = append(queries, q.Encode())
			}
		}
	}
	if len(filters)*len(queries) > maxSearches {
		return nil, ErrTooManySearches
	}
	var searches []string
	for _, f := range filters {
		for _, q := range queries {
			search := f
			if f != "" && q != "" {
				search += "&"
			}
			if search += q; !slices.Contains(searches, search) {
				searches = append(searches, search)
			}
		}
	}
	return searches, nil
}
