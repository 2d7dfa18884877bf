package scope

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	const all = Create | Read | Update | Delete | Search
	for _, tt := range []struct {
		text string
		typ  string
		p    Permissions
		q    Query
		err  error
	}{
		{"system/*.read", "*", Read | Search, nil, nil},
		{"system/Patient.write", "Patient", Create | Update | Delete, nil, nil},
		{"system/Patient.*", "Patient", all, nil, nil},
		{"system/*.*", "*", all, nil, nil},
		{"system/Patient.rs", "Patient", Read | Search, nil, nil},
		{"system/Patient.cruds", "Patient", all, nil, nil},
		{"system/Patient.r", "Patient", Read, nil, nil},
		{"system/Observation.rs?category=laboratory", "Observation", Read | Search, Query{{"category", "laboratory"}}, nil},
		{"system/Observation.rs?category=http://terminology.hl7.org/CodeSystem/observation-category|laboratory", "Observation", Read | Search,
			Query{{"category", "http://terminology.hl7.org/CodeSystem/observation-category|laboratory"}}, nil},
		{"system/Observation.rs?status=final&category=laboratory", "Observation", Read | Search, Query{{"category", "laboratory"}, {"status", "final"}}, nil},
		{"system/Observation.rs?category=a%26b", "Observation", Read | Search, Query{{"category", "a&b"}}, nil},
		{"system/Observation.rs?category=a%2Cb", "Observation", Read | Search, Query{{"category", "a,b"}}, nil},
		{"system/Observation.rs?category=a%2526b", "Observation", Read | Search, Query{{"category", "a%26b"}}, nil}, // decoded once

		{"system/Patient.dus", "", 0, nil, ErrMalformed},
		{"system/Patient.rd", "Patient", Read | Delete, nil, nil}, // in order, and not rs
		{"system/Patient.sr", "", 0, nil, ErrMalformed},
		{"system/Patient.srr", "", 0, nil, ErrMalformed},
		{"system/Patient.dc", "", 0, nil, ErrMalformed},
		{"system/Patient.rr", "", 0, nil, ErrMalformed},
		{"system/Patient.", "", 0, nil, ErrMalformed},
		{"system/Patient", "", 0, nil, ErrMalformed},
		{"system/Patient.READ", "", 0, nil, ErrMalformed},
		{"system/patient.rs", "", 0, nil, ErrMalformed},
		{"system/Pat*.rs", "", 0, nil, ErrMalformed},
		{"system/.rs", "", 0, nil, ErrMalformed},
		{"system/Patient.rs.rs", "", 0, nil, ErrMalformed},
		{"system/Patient.rs?", "", 0, nil, ErrMalformed},
		{"system/Patient.rs?a", "", 0, nil, ErrMalformed},
		{"system/Patient.rs?=b", "", 0, nil, ErrMalformed},
		{"system/Patient.rs?a=", "", 0, nil, ErrMalformed},
		{"system/Patient.rs?a=b&&c=d", "", 0, nil, ErrMalformed},
		{"system/Patient.rs?a=b&&c", "", 0, nil, ErrMalformed},
		{"system/Patient.rs?a=b&", "", 0, nil, ErrMalformed},
		{"system/Patient.rs?a=b;c=d", "", 0, nil, ErrMalformed},
		{"system/Patient.rs?a=b=c", "", 0, nil, ErrMalformed},
		{"system/Patient.rs?a=b+c", "", 0, nil, ErrMalformed},
		{"system/Patient.rs?a=%zz", "", 0, nil, ErrMalformed},
		{"system/Patient.rs?a=%00", "", 0, nil, ErrMalformed},
		{"system/Patient.rs?a=%ff", "", 0, nil, ErrMalformed},
		{"system/Patient.rs?a=,", "", 0, nil, ErrMalformed},
		{"system/Patient.rs?a=x,", "", 0, nil, ErrMalformed},
		{"system/Patient.rs?a=%7C", "", 0, nil, ErrMalformed},
		{"system/Patient.rs?a%3Db=c", "", 0, nil, ErrQuery},
		{"system/Patient.read?a=b", "", 0, nil, ErrMalformed},
		{"system/Patient.*?a=b", "", 0, nil, ErrMalformed},
		{"system/Observation.rs?subject.name=x", "", 0, nil, ErrQuery},
		{"system/Observation.rs?code:not=x", "", 0, nil, ErrQuery},
		{"system/Observation.rs?_has:x=y", "", 0, nil, ErrQuery},
		{"system/Observation.rs?_include=Observation%3Asubject", "", 0, nil, ErrQuery},
		{"system/Observation.rs?_count=0", "", 0, nil, ErrQuery},
		{"system/Observation.rs?_filter=x", "", 0, nil, ErrQuery},
		{"system/Patient.rs\n", "", 0, nil, ErrMalformed},
		{"system/Patient.rs?a=" + strings.Repeat("x", 3000), "", 0, nil, ErrMalformed},
		{"system/Patient.rs?" + strings.Repeat("a=b&", 8) + "a=b", "", 0, nil, ErrMalformed},
		{"system/Patienté.rs", "", 0, nil, ErrMalformed},

		{"*/Patient.read", "", 0, nil, ErrOther},
		{"patient/Patient.rs", "", 0, nil, ErrOther},
		{"user/*.cruds", "", 0, nil, ErrOther},
		{"openid", "", 0, nil, ErrOther},
		{"System/*.rs", "", 0, nil, ErrOther},
		{"", "", 0, nil, ErrOther},
	} {
		s, err := Parse(tt.text)
		if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
			t.Errorf("%q: %v, want %v", tt.text, err, tt.err)
			continue
		}
		if err != nil {
			continue
		}
		if s.Type != tt.typ || s.Permissions != tt.p || !slices.Equal(s.Query, tt.q) || s.String() != tt.text {
			t.Errorf("%q: %+v %s", tt.text, s, s.Permissions)
		}
		if again, err := Parse(newScope(s.Type, s.Permissions, s.Query).text); err != nil || again.Permissions != s.Permissions || !slices.Equal(again.Query, s.Query) {
			t.Errorf("%q: written again and read: %+v, %v", tt.text, again, err)
		}
	}
}

func TestParseList(t *testing.T) {
	scopes, others, err := ParseList(" openid  system/Patient.rs system/Patient.sr fhirUser ")
	if err != nil || len(scopes) != 1 || len(others) != 3 {
		t.Errorf("%v, %v, %v", scopes, others, err)
	}
	if !errors.Is(others[1], ErrMalformed) {
		t.Errorf("others: %v", others)
	}
	if _, _, err := ParseList(strings.Repeat("system/Patient.rs ", 10000)); !errors.Is(err, ErrTooMany) {
		t.Errorf("10000 scopes: %v", err)
	}
}

func grant(t testing.TB, text string) Grant {
	t.Helper()
	scopes, _, err := ParseList(text)
	if err != nil {
		t.Fatal(err)
	}
	g, err := NewGrant(scopes)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestAllows(t *testing.T) {
	lab, vital, final := Query{{"category", "lab"}}, Query{{"category", "vital"}}, Query{{"status", "final"}}
	for _, tt := range []struct {
		scopes string
		want   Access
	}{
		{"", Access{}},
		{"system/Observation.rs", Access{All: true}},
		{"system/*.rs", Access{All: true}},
		{"system/*.read", Access{All: true}},
		{"system/Observation.r", Access{}},
		{"system/Observation.s", Access{}},
		{"system/Observation.write", Access{}},
		{"system/Patient.rs", Access{}},
		{"system/Observation.r system/Observation.s", Access{All: true}},
		{"system/Observation.r system/*.s", Access{All: true}},
		{"system/Observation.r system/Patient.s", Access{}},
		{"system/Observation.rs?category=lab", Access{Any: []Query{lab}}},
		{"system/Observation.rs?category=lab system/Observation.rs?category=vital", Access{Any: []Query{lab, vital}}},
		{"system/Observation.rs?category=lab system/Observation.rs", Access{All: true}},
		{"system/*.rs system/Observation.rs?category=lab", Access{All: true}},
		{"system/Observation.r?category=lab system/Observation.s", Access{Any: []Query{lab}}},
		{"system/Observation.r?category=lab system/Observation.s?status=final", Access{Any: []Query{lab.and(final)}}},
		{"system/Observation.rs?category=lab&status=final system/Observation.rs?category=lab", Access{Any: []Query{lab}}},
		{"system/Observation.rs?category=lab system/Observation.r", Access{Any: []Query{lab}}},
		{"patient/Observation.rs user/*.rs", Access{}},
	} {
		if got := grant(t, tt.scopes).Allows("Observation", Read|Search); !cmp.Equal(got, tt.want) {
			t.Errorf("%q: %+v, want %+v", tt.scopes, got, tt.want)
		}
	}
	if !Everything().Allows("X", Delete).All || !(Grant{}).Allows("X", Read).None() || !grant(t, "system/*.rs").Allows("X", 0).None() {
		t.Error("the ends of the scale are wrong")
	}
}

func TestDecide(t *testing.T) {
	supported := []string{"Encounter", "Group", "Observation", "Patient"}
	for _, tt := range []struct {
		name    string
		scopes  string
		request Request
		types   string
		refused string
		denied  string // what the challenge asks for; empty: not denied
	}{
		{name: "OKAsked", scopes: "system/*.read", request: Request{Types: []string{"Patient"}}, types: "Patient"},
		{name: "OKAll", scopes: "system/*.read", request: Request{Supported: supported}, types: "*"},
		{name: "OKWithin", scopes: "system/Patient.rs system/Observation.rs", request: Request{Supported: supported}, types: "Observation Patient", refused: "Encounter Group"},
		{name: "AskedBeyond", scopes: "system/Patient.rs", request: Request{Types: []string{"Patient", "Observation"}, Supported: supported}, denied: "system/Observation.rs"},
		{name: "AskedBeyondTwo", scopes: "system/Patient.rs", request: Request{Types: []string{"Observation", "Encounter", "Observation"}}, denied: "system/Encounter.rs system/Observation.rs"},
		{name: "OKLenient", scopes: "system/Patient.rs", request: Request{Types: []string{"Patient", "Observation"}, Lenient: true}, types: "Patient", refused: "Observation"},
		{name: "LenientNothingLeft", scopes: "system/Patient.rs", request: Request{Types: []string{"Observation"}, Lenient: true, Supported: supported}, denied: "system/Observation.rs"},
		{name: "NothingGranted", scopes: "", request: Request{Supported: supported}, denied: "system/*.rs"},
		{name: "NothingGrantedLenient", scopes: "system/Patient.r", request: Request{Supported: supported, Lenient: true}, denied: "system/*.rs"},
		{name: "OKAllUnknown", scopes: "system/*.rs", request: Request{}, types: "*"},
		{name: "OKAllLabelled", scopes: "system/*.rs?_security=N", request: Request{Supported: supported}, types: "Encounter Group Observation Patient"},
		{name: "NothingSupported", scopes: "system/Patient.rs", request: Request{}, denied: "system/*.rs"},
		{name: "OKGroup", scopes: "system/Group.rs system/Patient.rs", request: Request{Types: []string{"Patient"}, Group: true}, types: "Patient"},
		{name: "GroupNotGranted", scopes: "system/Patient.rs", request: Request{Types: []string{"Patient"}, Group: true}, denied: "system/Group.rs"},
		{name: "OKQuery", scopes: "system/Observation.rs?category=lab", request: Request{Types: []string{"Observation"}}, types: "Observation"},
		{name: "QueryNotCheckable", scopes: "system/Observation.rs?performer=x", request: Request{Types: []string{"Observation"}}, denied: "system/Observation.rs"},
		{name: "OKQueryUnchecked", scopes: "system/Observation.rs?performer=x", request: Request{Types: []string{"Observation"}, Unchecked: true}, types: "Observation"},
		{name: "OKOneOfTheQueries", scopes: "system/Observation.rs?performer=x system/Observation.rs?status=final", request: Request{Types: []string{"Observation"}}, types: "Observation"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, refused, err := grant(t, tt.scopes).Decide(tt.request)
			var denied *RefusedError
			if errors.As(err, &denied) {
				if denied.Scope() != tt.denied || len(s.Types) > 0 {
					t.Errorf("denied %q with %v, want %q", denied.Scope(), s, tt.denied)
				}
				return
			}
			if err != nil || tt.denied != "" {
				t.Fatalf("got %v, want a denial of %q", err, tt.denied)
			}
			names, all := s.Names()
			if all {
				names = []string{"*"}
			}
			if got := strings.Join(names, " "); got != tt.types || all && !s.Access("Anything").All {
				t.Errorf("allowed %q, want %q", got, tt.types)
			}
			if got := strings.Join(refused, " "); got != tt.refused {
				t.Errorf("refused %q, want %q", got, tt.refused)
			}
		})
	}
}

func TestSnapshotsAreKept(t *testing.T) {
	g := grant(t, "system/Patient.rs system/Observation.rs?category=lab&status=final system/Observation.rs?_security=R")
	s, _, err := g.Decide(Request{Types: []string{"Patient", "Observation"}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"types":{"Observation":{"any":[[{"name":"category","value":"lab"},{"name":"status","value":"final"}],[{"name":"_security","value":"R"}]]},"Patient":{"all":true}}}`
	if string(b) != want {
		t.Errorf("written as %s", b)
	}
	var again Snapshot
	if err := json.Unmarshal(b, &again); err != nil || !cmp.Equal(again, s) {
		t.Errorf("read as %+v, %v", again, err)
	}
	if !g.Covers(again) {
		t.Error("the grant does not cover what it allowed")
	}
	for scopes, want := range map[string]bool{
		"system/*.rs": true,
		"system/Patient.rs system/Observation.rs?category=lab system/Observation.rs?_security=R": true,
		"system/Patient.rs system/Observation.rs?category=lab&status=final":                      false,
		"system/Observation.rs": false,
		"system/Patient.rs":     false,
		"":                      false,
		"system/*.r":            false,
	} {
		if grant(t, scopes).Covers(s) != want {
			t.Errorf("%q covers: %v", scopes, !want)
		}
	}
	everything, _, err := Everything().Decide(Request{})
	if err != nil || !everything.All || !Everything().Covers(everything) || !grant(t, "system/*.rs").Covers(everything) ||
		grant(t, "system/Patient.rs").Covers(everything) || grant(t, "system/*.rs?_security=N").Covers(everything) || (Grant{}).Covers(everything) {
		t.Errorf("%+v, %v", everything, err)
	}
	for _, broken := range []string{`{}`, `null`, `{"types":{"Patient":{}}}`, `{"types":{"Patient":{"any":[[]]}}}`, `{"types":{"Patient":{"any":[null]}}}`} {
		var s Snapshot
		if err := json.Unmarshal([]byte(broken), &s); err != nil {
			t.Fatal(err)
		}
		searches, err := s.Access("Patient").Searches(nil)
		if len(searches) > 0 || err != nil || s.Access("Patient").Admits("Patient", []byte(`{}`), true) {
			t.Errorf("%s permits something: %q", broken, searches)
		}
	}
}

func TestSearches(t *testing.T) {
	two := Access{Any: []Query{{{"category", "a|b&c"}}, {{"status", "final"}}}}
	for _, tt := range []struct {
		access  Access
		filters []string
		want    []string
	}{
		{Access{}, nil, nil},
		{Access{}, []string{"a=b"}, nil},
		{Access{All: true}, nil, []string{""}},
		{Access{All: true}, []string{"a=b", "c=d"}, []string{"a=b", "c=d"}},
		{two, nil, []string{"category=a%7Cb%26c", "status=final"}},
		{two, []string{"x=y", ""}, []string{"x=y&category=a%7Cb%26c", "x=y&status=final", "category=a%7Cb%26c", "status=final"}},
	} {
		got, err := tt.access.Searches(tt.filters)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%+v with %q: %q, %v", tt.access, tt.filters, got, err)
		}
	}
	if _, err := two.Searches(make([]string, 51)); !errors.Is(err, ErrTooManySearches) {
		t.Errorf("102 searches: %v", err)
	}
}

func TestMatches(t *testing.T) {
	const lab = `{"resourceType":"Observation","meta":{"security":[{"system":"s","code":"R"}],"tag":[{"code":"t"}]},"status":"final",
		"category":[{"text":"x"},{"coding":[{"system":"http://c","code":"laboratory"},{"code":"plain"}]}],
		"code":{"coding":[{"system":"http://loinc.org","code":"1234-5"}]}}`
	for _, tt := range []struct {
		query, resource string
		want            bool
	}{
		{"category=laboratory", lab, true},
		{"category=http://c|laboratory", lab, true},
		{"category=http://d|laboratory", lab, false},
		{"category=http://c|", lab, true},
		{"category=|plain", lab, true},
		{"category=|laboratory", lab, false},
		{"category=x", lab, false},
		{"category=vital,laboratory", lab, true},
		{`category=vital%5C,laboratory`, lab, false},
		{"category=Laboratory", lab, false},
		{"code=http://loinc.org|1234-5", lab, true},
		{"code=1234", lab, false},
		{"status=final", lab, true},
		{"status=amended,final", lab, true},
		{"status=amended", lab, false},
		{"_security=s|R", lab, true},
		{"_security=N", lab, false},
		{"_tag=t", lab, true},
		{"category=laboratory&status=final&code=1234-5", lab, true},
		{"category=laboratory&status=amended", lab, false},
		{"category=laboratory&category=plain", lab, true},
		{"category=laboratory&category=vital", lab, false},
		{"status=final", `{"status":"final","status":"amended"}`, false},
		{"status=final", `{"STATUS":"final"}`, false},
		{"status=final", `{"status":"final"`, false},
		{"status=final", `{"status":{"x":"final"}}`, false},
		{"status=final", `[]`, false},
		{"status=final", ``, false},
		{"category=x", `{"category":"x"}`, false},
		{"_security=R", `{"security":[{"code":"R"}]}`, false},
		{"_security=R", `{"meta":[{"security":[{"code":"R"}]}]}`, false},
	} {
		s, err := Parse("system/Observation.rs?" + tt.query)
		if err != nil {
			t.Errorf("%s: %v", tt.query, err)
			continue
		}
		got, err := s.Query.Matches("Observation", []byte(tt.resource))
		if err != nil || got != tt.want {
			t.Errorf("%s finds %s: %v, %v", tt.query, tt.resource, got, err)
		}
		if a := (Access{Any: []Query{s.Query}}); a.Admits("Observation", []byte(tt.resource), false) != tt.want {
			t.Errorf("%s: Admits differs", tt.query)
		}
	}
}

func TestUncheckable(t *testing.T) {
	for text, want := range map[string]bool{
		"system/Observation.rs?performer=x":                  false,
		"system/Observation.rs?_profile=x":                   false,
		"system/Observation.rs?status=http://s|final":        false, // the system is implied by the element
		"system/Patient.rs?status=active":                    false,
		"system/Patient.rs?category=x":                       false,
		"system/AllergyIntolerance.rs?code=x":                false, // also finds what is in a reaction
		"system/AllergyIntolerance.rs?category=food":         true,
		"system/MedicationRequest.rs?code=http://rx|1":       true,
		"system/Patient.rs?_security=R":                      true,
		"system/Observation.rs?category=x&performer=y":       false,
		"system/Condition.rs?code=http://snomed.info/sct|42": true,
	} {
		s, err := Parse(text)
		if err != nil {
			t.Fatal(text, err)
		}
		if got := s.Query.Checkable(s.Type); got != want {
			t.Errorf("%s: checkable %v", text, got)
		}
		a := Access{Any: []Query{s.Query}}
		resource := []byte(`{"category":[{"coding":[{"code":"x"}]}]}`)
		if !want && (a.Admits(s.Type, resource, false) || !a.Admits(s.Type, resource, true)) {
			t.Errorf("%s: admitted without the switch, or not with it", text)
		}
	}
	// What can be evaluated of such a query is, whatever the switch says.
	s, err := Parse("system/Observation.rs?category=x&performer=y")
	if err != nil {
		t.Fatal(err)
	}
	if (Access{Any: []Query{s.Query}}).Admits("Observation", []byte(`{"category":[{"coding":[{"code":"other"}]}]}`), true) {
		t.Error("a resource of another category is admitted")
	}
}

func TestRestrict(t *testing.T) {
	for _, tt := range []struct{ granted, asked, want string }{
		{"system/*.read", "system/*.read", "system/*.read"},
		{"system/*.rs", "system/*.read", "system/*.read"},
		{"system/*.cruds", "system/Patient.rs", "system/Patient.rs"},
		{"system/Patient.rs system/Observation.rs", "system/*.read", "system/Patient.rs system/Observation.rs"},
		{"system/Patient.rs", "system/Observation.rs", ""},
		{"system/Patient.rs", "system/Patient.cruds", "system/Patient.rs"},
		{"system/Patient.rs", "system/Patient.write", ""},
		{"system/Observation.rs?category=lab", "system/Observation.rs", "system/Observation.rs?category=lab"},
		{"system/Observation.rs?category=lab", "system/Observation.rs?category=lab", "system/Observation.rs?category=lab"},
		{"system/Observation.rs?category=lab", "system/Observation.rs?category=vital", "system/Observation.rs?category=lab&category=vital"},
		{"system/Observation.rs", "system/Observation.rs?category=lab", "system/Observation.rs?category=lab"},
		{"system/*.rs?_security=N", "system/*.rs", "system/*.rs?_security=N"},
		{"system/*.rs?_security=N", "system/Patient.rs", "system/Patient.rs?_security=N"},
		{"system/*.r system/*.s", "system/Patient.rs", "system/Patient.rs"},
		{"", "system/*.rs", ""},
		{"system/*.rs", "system/Patient.rs system/Patient.rs", "system/Patient.rs"},
	} {
		asked, _, err := ParseList(tt.asked)
		if err != nil {
			t.Fatal(err)
		}
		granted := grant(t, tt.granted).Restrict(asked)
		g, err := NewGrant(granted)
		if err != nil {
			t.Fatal(err)
		}
		if g.String() != tt.want {
			t.Errorf("%q asked of %q: %q, want %q", tt.asked, tt.granted, g, tt.want)
		}
	}
}
