package scope

import (
	"regexp"
	"slices"
	"strings"
)

// An Interaction is what a REST request does, in the words of scopes.
type Interaction struct {
	Type string // "*": it may touch every type
	Need Permissions
}

var (
	typeForm = regexp.MustCompile(`^[A-Z][A-Za-z]{0,63}$`)
	idForm   = regexp.MustCompile(`^[A-Za-z0-9.-]{1,64}$`)
)

// Interact says what a request does: its method, the segments of its path
// below the FHIR base, decoded, the names of its parameters, from the query and
// of a search by POST from the form, and whether it creates on a condition
// (If-None-Exist). It is false for what no scope can be told for, and what must
// therefore be refused where scopes decide: operations, batches and
// transactions, and everything that is no interaction of FHIR. A search that
// reaches into other types needs the right to all of them.
// Source: SMART App Launch 2.2, Scopes and Launch Context, "Scopes for
// requesting FHIR Resources"; FHIR R4, RESTful API.
func Interact(method string, segments, parameters []string, conditional bool) (Interaction, bool) {
	for _, s := range segments {
		if s == "" || strings.HasPrefix(s, "$") {
			return Interaction{}, false
		}
	}
	switch method {
	case "GET", "HEAD":
		return reading(segments, parameters)
	case "POST":
		if n := len(segments); n > 0 && segments[n-1] == "_search" {
			return searching(segments[:n-1], parameters)
		}
		if len(segments) == 1 && typeForm.MatchString(segments[0]) && len(parameters) == 0 {
			return onCondition(Interaction{segments[0], Create}, conditional), true
		}
	case "PUT", "PATCH", "DELETE":
		need := Update
		if method == "DELETE" {
			need = Delete
		}
		switch {
		case len(segments) == 1 && typeForm.MatchString(segments[0]):
			if method == "PUT" { // what is not found is created
				need |= Create
			}
			i := onCondition(Interaction{segments[0], need}, true)
			if reaches(parameters) {
				i.Type = "*"
			}
			return i, true
		case len(segments) == 2 && typeForm.MatchString(segments[0]) && isID(segments[1]) && len(parameters) == 0:
			return Interaction{segments[0], need}, true
		}
	}
	return Interaction{}, false
}

// Permits reports whether an interaction is granted. A scope with a query does
// not grant it: nobody looks at what the server answers.
func (g Grant) Permits(i Interaction) bool { return i.Need != 0 && g.Allows(i.Type, i.Need).All }

func onCondition(i Interaction, conditional bool) Interaction {
	if conditional {
		i.Need |= Search // it tells whether there is a match
	}
	return i
}

// reading is a GET. What a search finds is returned whole, so it takes the
// right to read as well.
func reading(segments, parameters []string) (Interaction, bool) {
	history := len(segments) > 0 && segments[len(segments)-1] == "_history"
	switch n := len(segments); {
	case history && n == 1:
		return Interaction{"*", Read | Search}, true
	case history && n == 2 && typeForm.MatchString(segments[0]):
		return reach(Interaction{segments[0], Read | Search}, parameters), true
	case history && n == 3, n == 4 && segments[2] == "_history" && isID(segments[3]), n == 2:
		if !typeForm.MatchString(segments[0]) || !isID(segments[1]) {
			return Interaction{}, false
		}
		return reach(Interaction{segments[0], Read}, parameters), true
	}
	return searching(segments, parameters)
}

// reach widens what has a parameter by which it may be another thing than its
// path says: some servers give the page of a search, such as _getpages, at any
// path.
func reach(i Interaction, parameters []string) Interaction {
	if reaches(parameters) {
		return Interaction{"*", i.Need | Read | Search}
	}
	return i
}

// searching is a search: of the system, of a type, or of a compartment.
func searching(segments, parameters []string) (Interaction, bool) {
	typ := ""
	switch len(segments) {
	case 0:
		typ = "*"
	case 1:
		typ = segments[0]
	case 3:
		if !typeForm.MatchString(segments[0]) || !isID(segments[1]) {
			return Interaction{}, false
		}
		typ = segments[2]
	}
	if typ != "*" && !typeForm.MatchString(typ) {
		return Interaction{}, false
	}
	if reaches(parameters) {
		typ = "*"
	}
	return Interaction{typ, Read | Search}, true
}

// reaches reports whether a search uses or returns resources of other types:
// chains, reverse chains, included resources, lists, named queries, pages of a
// search that nobody knows any more.
func reaches(parameters []string) bool {
	return slices.ContainsFunc(parameters, func(name string) bool {
		if strings.Contains(name, ".") {
			return true
		}
		return strings.HasPrefix(name, "_") && !slices.Contains([]string{
			"_id", "_lastUpdated", "_tag", "_profile", "_security", "_source", "_language", "_text", "_content",
			"_sort", "_count", "_elements", "_summary", "_total", "_format", "_pretty", "_since", "_at", "_offset",
		}, strings.SplitN(name, ":", 2)[0])
	})
}

func isID(s string) bool { return idForm.MatchString(s) && s != "." && s != ".." }
