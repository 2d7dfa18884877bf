package scope

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// grammar is the scope syntax written a second time, as one expression, with
// the names and values of a query spelled out.
var grammar = regexp.MustCompile(`^system/(\*|[A-Z][A-Za-z]{0,63})\.` +
	`(?:(read|write|\*)|(c?r?u?d?s?)((?:[?&](?:_security|_tag|_profile|_source|_language|_id|[A-Za-z][A-Za-z0-9_-]*)=(?:[!$'()*,./0-9:<>@A-Z\[\]^_` + "`" + `a-z{|}~-]|%[0-9A-Fa-f]{2})+)*))$`)

// reference returns what a scope grants by the grammar; false: nothing.
func reference(s string) (typ, letters string, params []string, ok bool) {
	m := grammar.FindStringSubmatch(s)
	if m == nil || strings.Count(s, "?") > 1 || m[4] != "" && m[4][0] != '?' {
		return "", "", nil, false
	}
	if letters = map[string]string{"read": "rs", "write": "cud", "*": "cruds"}[m[2]]; letters == "" {
		letters = m[3]
	}
	if m[4] != "" {
		params = strings.Split(m[4][1:], "&")
	}
	return m[1], letters, params, letters != ""
}

// FuzzParse: no text grants more than the grammar says, and what it restricts
// is restricted by the same parameters.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"system/Patient.rs", "system/*.read", "system/*.*", "system/Patient.rs?", "system/Patient.rs?a=b&&c", "system/Patient.rs?a",
		"system/Observation.rs?category=http://x|y%26&status=a,b", "system/Patient.dus", "patient/Patient.rs", "system/Patient.rs?a=b?c=d",
		"system/Patient.cruds?_security=R&_tag=%5C%2C",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		scope, err := Parse(s)
		if err != nil {
			return
		}
		typ, letters, params, ok := reference(s)
		if !ok || scope.Type != typ || scope.Permissions.String() != letters {
			t.Fatalf("%q grants %s on %s, by the grammar %q on %q", s, scope.Permissions, scope.Type, letters, typ)
		}
		if (len(params) == 0) != (len(scope.Query) == 0) {
			t.Fatalf("%q: query %v, by the grammar %q", s, scope.Query, params)
		}
		for _, p := range params {
			name, value, _ := strings.Cut(p, "=")
			decoded, err := url.PathUnescape(value)
			if err != nil || !slices.Contains(scope.Query, Param{name, decoded}) {
				t.Fatalf("%q: %q is not in %v", s, p, scope.Query)
			}
		}
		again, err := Parse(newScope(scope.Type, scope.Permissions, scope.Query).text)
		if err != nil || again.Type != typ || again.Permissions != scope.Permissions || !slices.Equal(again.Query, scope.Query) {
			t.Fatalf("%q written again: %+v, %v", s, again, err)
		}
		back, err := url.ParseQuery(scope.Query.Encode())
		if err != nil || len(back) == 0 && len(scope.Query) > 0 {
			t.Fatalf("%q encodes as %q: %v", s, scope.Query.Encode(), err)
		}
		for _, p := range scope.Query {
			if !slices.Contains(back[p.Name], p.Value) {
				t.Fatalf("%q encodes as %q", s, scope.Query.Encode())
			}
		}
	})
}

// TestGrantsAgreeWithTheirScopes draws scopes and resources, and decides for
// each resource from the scopes one by one whether it may be read.
func TestGrantsAgreeWithTheirScopes(t *testing.T) {
	drawScope := rapid.Custom(func(t *rapid.T) string {
		s := "system/" + rapid.SampledFrom([]string{"*", "Observation", "Condition"}).Draw(t, "type") +
			"." + rapid.SampledFrom([]string{"r", "s", "rs", "cruds", "cud", "rd"}).Draw(t, "permissions")
		var params []string
		for _, name := range []string{"category", "code", "_security"} {
			if v := rapid.SampledFrom([]string{"", "", "a", "b", "a,b"}).Draw(t, name); v != "" {
				params = append(params, name+"="+v)
			}
		}
		if len(params) > 0 {
			s += "?" + strings.Join(params, "&")
		}
		return s
	})
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.SliceOfN(drawScope, 0, 6).Draw(t, "scopes")
		asked := rapid.SliceOfN(drawScope, 0, 3).Draw(t, "asked")
		typ := rapid.SampledFrom([]string{"Observation", "Condition"}).Draw(t, "typ")
		draw := func(name string) string { return rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, name) }
		resource := fmt.Sprintf(`{"resourceType":%q,"category":[{"coding":[{"code":%q}]}],"code":{"coding":[{"code":%q}]},"meta":{"security":[{"code":%q}]}}`,
			typ, draw("category"), draw("code"), draw("security"))

		scopes, _, err := ParseList(strings.Join(texts, " "))
		if err != nil {
			t.Fatal(err)
		}
		may := func(scopes []Scope, need Permissions) bool {
			return slices.ContainsFunc(scopes, func(s Scope) bool {
				if s.Permissions&need == 0 || s.Type != "*" && s.Type != typ {
					return false
				}
				ok, err := s.Query.Matches(typ, []byte(resource))
				if err != nil {
					t.Fatal(err)
				}
				return ok
			})
		}
		g, err := NewGrant(scopes)
		if err != nil {
			t.Fatal(err)
		}
		want := may(scopes, Read) && may(scopes, Search)
		if got := g.Allows(typ, Read|Search).Admits(typ, []byte(resource), false); got != want {
			t.Fatalf("%q: %s may be read: %v, want %v", texts, resource, got, want)
		}

		// A token carries what was asked for and granted, and not more.
		wanted, _, err := ParseList(strings.Join(asked, " "))
		if err != nil {
			t.Fatal(err)
		}
		carried := g.Restrict(wanted)
		for _, need := range []Permissions{Create, Read, Update, Delete, Search} {
			if got, want := may(carried, need), may(scopes, need) && may(wanted, need); got != want {
				t.Fatalf("%q asked of %q gives %q: %s on %s: %v, want %v", asked, texts, carried, need, resource, got, want)
			}
		}

		// Whoever is covered may read all of the snapshot.
		snapshot, _, err := g.Decide(Request{Types: []string{typ}})
		if err != nil {
			return
		}
		other, err := NewGrant(wanted)
		if err != nil {
			t.Fatal(err)
		}
		if other.Covers(snapshot) && want && (!may(wanted, Read) || !may(wanted, Search)) {
			t.Fatalf("%q covers %q but not %s", asked, texts, resource)
		}
	})
}
