package gateway

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spillway/jobs"
	"spillway/upstream/fhir"
)

var testNow = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// parseFilters is ParseRequest with _typeFilter values alone.
func parseFilters(level jobs.Level, lenient bool, values ...string) (jobs.Request, error) {
	group := ""
	if level == jobs.LevelGroup {
		group = "1"
	}
	return ParseRequest(level, group, url.Values{"_typeFilter": values}, lenient, testCapabilities(), nil, testNow)
}

func TestTypeFilters(t *testing.T) {
	const group = jobs.LevelGroup
	for _, c := range []struct {
		name  string
		level jobs.Level // "": system
		value string
		want  []string // "Type?query"; nil: refused
		says  string
	}{
		{name: "OK", value: "Observation?status=final", want: []string{"Observation?status=final"}},
		{name: "OKSeveralParameters", value: "Observation?status=final&code=a|b&code=c", want: []string{"Observation?status=final&code=a%7Cb&code=c"}},
		{name: "OKOr", value: "Observation?category=a,b", want: []string{"Observation?category=a%2Cb"}},
		{name: "OKModifier", value: "Observation?code:not=x&code:of-type=y", want: []string{"Observation?code:not=x&code:of-type=y"}},
		{name: "OKTwoInOne", value: "Observation?category=a%2Cb,Condition?code=x", want: []string{"Observation?category=a%2Cb", "Condition?code=x"}},
		{name: "OKThreeInOne", value: "Observation?category=a,b,Observation?code=c,Condition?code=x", want: []string{"Observation?category=a%2Cb", "Observation?code=c", "Condition?code=x"}},
		{name: "OKEscapedComma", value: `Observation?code=a\,Condition?code=x`, want: []string{`Observation?code=a%5C%2CCondition%3Fcode%3Dx`}},
		{name: "OKDateBarePlus", value: "Observation?date=ge2020-01-01T00:00:00+02:00", want: []string{"Observation?date=ge2020-01-01T00%3A00%3A00%2B02%3A00"}},
		{name: "OKTokenBarePlusIsSpace", value: "Observation?code=a+b", want: []string{"Observation?code=a+b"}},
		{name: "OKEqualSigns", value: "Observation?code=a=b=c", want: []string{"Observation?code=a%3Db%3Dc"}},
		{name: "OKDoubleEqual", value: "Observation?code==b", want: []string{"Observation?code=%3Db"}},
		{name: "OKEncodedAmpersand", value: "Observation?code=x%26_include=*", want: []string{"Observation?code=x%26_include%3D%2A"}},
		{name: "OKTwiceEncodedAmpersand", value: "Observation?code=x%2526_include=*", want: []string{"Observation?code=x%2526_include%3D%2A"}},
		{name: "OKEncodedSemicolon", value: "Observation?code=a%3Bb", want: []string{"Observation?code=a%3Bb"}},
		{name: "OKFullWidthAmpersand", value: "Observation?code=x＆_count=1", want: []string{"Observation?code=x%EF%BC%86_count%3D1"}},
		{name: "OKFragment", value: "Observation?code=x#y", want: []string{"Observation?code=x%23y"}},
		{name: "OKForeignURLIsLiteral", value: "Observation?subject=https://evil.example/Patient/1", want: []string{"Observation?subject=https%3A%2F%2Fevil.example%2FPatient%2F1"}},
		{name: "OKPatientAtSystem", value: "Observation?patient=Patient/1&_id=7", want: []string{"Observation?patient=Patient%2F1&_id=7"}},
		{name: "OKDuplicate", value: "Observation?code=x,Observation?code=x", want: []string{"Observation?code=x"}},

		// Not for a filter.
		{name: "ErrInclude", value: "Observation?code=x&_include=Observation:subject", says: `"_include" is not allowed`},
		{name: "ErrIncludeIterate", value: "Observation?_include:iterate=*", says: "_include"},
		{name: "ErrRevinclude", value: "Observation?_revinclude=Provenance:target", says: "_revinclude"},
		{name: "ErrHas", value: "Patient?_has:Observation:patient:code=x", says: "_has"},
		{name: "ErrHasCase", value: "Patient?_HAS:Observation:patient:code=x", says: "_HAS"},
		{name: "ErrChain", value: "Observation?subject.name=x", says: `"subject.name"`},
		{name: "ErrTypedChain", value: "Observation?patient:Patient.name=x", says: "chained"},
		{name: "ErrTypedReference", value: "Observation?subject:Patient=1", says: "modifiers that are types"},
		{name: "ErrFilter", value: "Observation?_filter=code+eq+x", says: "_filter"},
		{name: "ErrQuery", value: "Observation?_query=x", says: "_query"},
		{name: "ErrSort", value: "Observation?_sort=date", says: "_sort"},
		{name: "ErrCount", value: "Observation?%5Fcount=1", says: "_count"},
		{name: "ErrSummary", value: "Observation?_summary=true", says: "_summary"},
		{name: "ErrContained", value: "Observation?_containedType=x", says: "_containedType"},
		{name: "ErrGetPages", value: "Observation?_getpagesoffset=1", says: "_getpagesoffset"},
		{name: "ErrLastUpdated", value: "Observation?_lastUpdated=gt2020", says: "use _since and _until"},
		{name: "ErrUnknownParameter", value: "Patient?status=active", says: `no search parameter "status" for Patient`},
		{name: "ErrUnknownType", value: "Nope?x=1", says: `"Nope", which is not a FHIR resource type`},
		{name: "ErrTypeNotUpstream", value: "Basic?code=1", says: "does not offer the type"},

		// The compartment is not the client's to choose.
		{name: "ErrPatientAtGroup", level: group, value: "Observation?patient=Patient/other", says: `"patient" is not allowed`},
		{name: "ErrSubjectNotAtGroup", level: group, value: "Observation?subject:not=Patient/1", says: `"subject" is not allowed`},
		{name: "ErrPatientMissing", level: group, value: "Observation?patient:missing=true", says: `"patient" is not allowed`},
		{name: "ErrIDAtPatient", level: jobs.LevelPatient, value: "Patient?_id=other", says: `"_id" is not allowed`},
		{name: "ErrOutsideCompartment", level: group, value: "Organization?name=x", says: "patient compartment"},
		{name: "OKCodeAtGroup", level: group, value: "Observation?code=x", want: []string{"Observation?code=x"}},

		// Not a filter.
		{name: "ErrCompartment", value: "Patient/1/Observation?code=x", says: "not a FHIR resource type"},
		{name: "ErrSystem", value: "?x=1", says: "not a FHIR resource type"},
		{name: "ErrNoQuestionMark", value: "Observation", says: "a question mark and search parameters"},
		{name: "ErrEmpty", value: "", says: "a question mark"},
		{name: "ErrNoParameter", value: "Patient?", says: "no search parameter"},
		{name: "ErrOperation", value: "$everything?x=1", says: "not a FHIR resource type"},
		{name: "ErrInstance", value: "Group/1?x=1", says: "not a FHIR resource type"},
		{name: "ErrDots", value: "../Patient?name=1", says: "not a FHIR resource type"},
		{name: "ErrURL", value: "http://evil.example/Patient?name=1", says: "not a FHIR resource type"},
		{name: "ErrFragment", value: "Patient#?name=1", says: "not a FHIR resource type"},
		{name: "ErrNoName", value: "Patient?=x", says: "without a name"},
		{name: "ErrNoValue", value: "Patient?name=", says: "without a value"},
		{name: "ErrNoEqual", value: "Patient?name", says: "without a value"},
		{name: "ErrEmptyPair", value: "Patient?name=a&&gender=female", says: "without a name"},
		{name: "ErrSemicolon", value: "Patient?name=a;gender=female", says: "semicolon"},
		{name: "ErrEntity", value: "Patient?name=a&amp;gender=female", says: "semicolon"},
		{name: "ErrLineBreak", value: "Patient?name=a%0d%0ab", says: "control characters"},
		{name: "ErrBadEscape", value: "Patient?name=%zz", says: "percent escape"},
		{name: "ErrNotUTF8", value: "Patient?name=%ff", says: "UTF-8"},
		{name: "ErrFullWidthName", value: "Patient?n＆ame=x", says: "not supported"},
		{name: "ErrLong", value: "Patient?name=" + strings.Repeat("x", maxFilterBytes), says: "longer than"},
		{name: "ErrManyParameters", value: "Patient?" + strings.Repeat("name=x&", maxFilterParameters) + "name=x", says: "more than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			level := c.level
			if level == "" {
				level = jobs.LevelSystem
			}
			r, err := parseFilters(level, false, c.value)
			if (err == nil) != (c.want != nil) {
				t.Fatalf("%+v, %v", r.TypeFilters, err)
			}
			if err != nil {
				if !strings.HasPrefix(err.Error(), "_typeFilter: ") || !strings.Contains(err.Error(), c.says) {
					t.Error(err)
				}
				return
			}
			var got []string
			for _, f := range r.TypeFilters {
				got = append(got, f.Type+"?"+f.Query)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestLenientFiltersAreNeverShort(t *testing.T) {
	for _, c := range []struct {
		name   string
		values []string
		want   []jobs.TypeFilter
		notes  int
	}{
		{"PartIgnored", []string{"Patient?status=x&gender=female"}, []jobs.TypeFilter{{Type: "Patient", Query: "gender=female"}}, 1},
		{"AlternativeIgnored", []string{"Patient?status=x", "Patient?gender=female"}, nil, 1},
		{"OtherTypeStays", []string{"Patient?status=x", "Condition?code=x"}, []jobs.TypeFilter{{Type: "Condition", Query: "code=x"}}, 1},
		{"IncludeIgnored", []string{"Observation?code=x&_include=*"}, []jobs.TypeFilter{{Type: "Observation", Query: "code=x"}}, 1},
	} {
		r, err := parseFilters(jobs.LevelSystem, true, c.values...)
		if err != nil || !slices.Equal(r.TypeFilters, c.want) || len(r.Notes) != c.notes {
			t.Errorf("%s: %+v, %v", c.name, r, err)
		}
	}
	for _, malformed := range []string{"Patient", "Patient?", "Patient?a;b", "Nope?x=1"} {
		if r, err := parseFilters(jobs.LevelSystem, true, malformed); err == nil {
			t.Errorf("%s: %+v", malformed, r)
		}
	}
}

func TestParseRequestRefusesGroups(t *testing.T) {
	for _, c := range []struct {
		level jobs.Level
		group string
	}{{jobs.LevelGroup, ""}, {jobs.LevelGroup, ".."}, {jobs.LevelGroup, "a/b"}, {jobs.LevelSystem, "1"}} {
		if r, err := ParseRequest(c.level, c.group, nil, false, nil, nil, testNow); err == nil {
			t.Errorf("%+v", r)
		}
	}
	r, err := ParseRequest(jobs.LevelPatient, "", url.Values{"patient": {"1", "Patient/2"}, "_type": {"Basic"}}, false, nil, nil, testNow)
	if err != nil || !slices.Equal(r.Patients, []string{"1", "2"}) {
		t.Errorf("%+v, %v", r, err)
	}
}

// FuzzTypeFilter checks that what would be sent upstream is read there as what
// was parsed here, and holds nothing that is denied.
func FuzzTypeFilter(f *testing.F) {
	for _, s := range []string{
		"Observation?status=final", "Observation?category=a%2Cb,Condition?code=x", "Observation?code=x%2526_include=*", `Observation?code=a\,Condition?code=x`,
		"Observation?code==b", "Patient?name=x&_has:Observation:patient:code=y", "Patient?=x", "Patient?a;b", "Observation?date=ge2020-01-01T00:00:00+02:00", "Patient?name=&&", "Patient?%6eame=1",
	} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, value string, lenient bool) {
		for _, level := range []jobs.Level{jobs.LevelSystem, jobs.LevelGroup} {
			r, err := parseFilters(level, lenient, value)
			if err != nil {
				if p, ok := err.(*Problem); !ok || p.Status != 400 {
					t.Fatalf("%v", err)
				}
				continue
			}
			if !lenient && len(r.Notes) > 0 {
				t.Errorf("notes without lenience: %v", r.Notes)
			}
			asked := make(map[string][]searchParameter)
			for _, raw := range splitFilters(value) {
				typ, parameters, err := parseTypeFilter(raw)
				if err != nil {
					t.Fatalf("accepted, but %v", err)
				}
				asked[typ] = append(asked[typ], parameters...)
			}
			for _, filter := range r.TypeFilters {
				sent, err := url.ParseQuery(filter.Query)
				if err != nil || len(sent) == 0 {
					t.Fatalf("%q: %v", filter.Query, err)
				}
				for name, values := range sent {
					base, _, _ := strings.Cut(name, ":")
					if shapes(base) || level != jobs.LevelSystem && selectsPatients(fhir.R4, filter.Type, base) || strings.ContainsAny(name, ".&=;?# ") || !testCapabilities().Has(filter.Type, base) {
						t.Errorf("%q would be sent", name)
					}
					for _, v := range values {
						if !slices.ContainsFunc(asked[filter.Type], func(p searchParameter) bool {
							return p.name == name && (p.value == v || restorePlus(p.value) == v)
						}) {
							t.Errorf("%s=%q was not asked for", name, v)
						}
					}
				}
			}
			// The other way round: the encoding loses nothing.
			for typ, parameters := range asked {
				kept := slices.DeleteFunc(parameters, func(p searchParameter) bool { return !searchName.MatchString(p.name) })
				want := make(url.Values)
				for _, p := range kept {
					want.Add(p.name, p.value)
				}
				got, err := url.ParseQuery(encodeSearch(kept))
				if err != nil || !cmp.Equal(got, want) {
					t.Errorf("%s: %v became %v, %v", typ, want, got, err)
				}
			}
		}
	})
}

// FuzzParameters reads bodies of kick-offs at every level.
func FuzzParameters(f *testing.F) {
	f.Add([]byte(parametersOf("_type valueString Patient,Observation", "_since valueInstant 2020-01-01T00:00:00Z", "patient valueReference Patient/1")), false)
	f.Add([]byte(parametersOf("_typeFilter valueString Observation?status=final", "_elements valueString id,Patient.meta", "x valueString y")), true)
	f.Add([]byte(parametersOf("includeAssociatedData valueCoding LatestProvenanceResources", "_outputFormat valueCode ndjson", "_until valueInstant 9999-12-31T23:59:59Z")), false)
	f.Add([]byte(`{"resourceType":"Parameters","parameter":[{"name":"patient","valueReference":{"reference":"Patient/.."}}]}`), true)
	f.Add([]byte(`{}`), false)
	f.Fuzz(func(t *testing.T, body []byte, lenient bool) {
		values, err := readBody(body, "http://fhir.example.org/fhir")
		if err != nil {
			return
		}
		for _, level := range []jobs.Level{jobs.LevelSystem, jobs.LevelPatient, jobs.LevelGroup} {
			group := ""
			if level == jobs.LevelGroup {
				group = "1"
			}
			r, err := ParseRequest(level, group, values, lenient, testCapabilities(), nil, testNow)
			if err != nil {
				if p, ok := err.(*Problem); !ok || p.Status != 400 || p.Issue.Diagnostics == "" || fhir.Outcome(p.Issue) == nil {
					t.Errorf("%#v", err)
				}
				continue
			}
			encoded, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			var back jobs.Request
			if err := json.Unmarshal(encoded, &back); err != nil || !cmp.Equal(r, back) {
				t.Errorf("stored %+v, read %+v, %v", r, back, err)
			}
			if len(values["_type"]) > 0 && len(r.Types) == 0 || level == jobs.LevelSystem && len(r.Patients) > 0 || len(values["patient"]) > 0 && len(r.Patients) == 0 {
				t.Errorf("a restriction is lost: %v became %+v", values, r)
			}
			for _, id := range r.Patients {
				if !fhir.ValidID(id) {
					t.Errorf("patient %q", id)
				}
			}
			for _, typ := range r.Types {
				if _, ok := testCapabilities().Type(typ); !ok {
					t.Errorf("type %q", typ)
				}
			}
			if r.Since.After(testNow.Add(futureSlack)) || !lenient && len(r.Notes) > 0 && len(r.Types) < 2 {
				t.Errorf("%+v", r)
			}
		}
	})
}

// TestHostileFiltersAreCheap measures no time, only what is kept.
func TestHostileFiltersAreCheap(t *testing.T) {
	if n := len(splitFilters(strings.Repeat(",A?", 300_000))); n > maxTypeFilters+2 {
		t.Errorf("%d filters", n)
	}
	many := "Patient?" + strings.TrimSuffix(strings.Repeat("x=1&", 40), "&")
	var values []string
	for i := range 10 {
		values = append(values, strings.ReplaceAll(many, "x=", "x"+string(rune('a'+i))+"="))
	}
	r, err := parseFilters(jobs.LevelSystem, true, values...)
	if err != nil || len(r.Notes) != 10 {
		t.Errorf("%d notes, %v", len(r.Notes), err)
	}
}
