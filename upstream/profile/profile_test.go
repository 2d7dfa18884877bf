package profile

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBuiltinProfilesAreSound(t *testing.T) {
	all := Builtin()
	if want := []string{"blaze", "cerner", "epic", "firely", "generic", "google", "hapi", "linuxforhealth", "medplum", "microsoft"}; !slices.Equal(Names(), want) {
		t.Errorf("names %q", Names())
	}
	for _, p := range all {
		if p.Title == "" || (len(p.Match) == 0) != (p.Name == Generic) {
			t.Errorf("%s: title %q, %d matches", p.Name, p.Title, len(p.Match))
		}
		if p.Patients.Required && !p.Forbids(ProbeData) {
			t.Errorf("%s: patients are required, but whole types would be probed", p.Name)
		}
		for _, typ := range p.Ruled() {
			if r := p.Types[typ]; (r.Search == ScopeNone || r.Search == ScopeID) && r.Why == "" {
				t.Errorf("%s: %s cannot be searched, and nobody is told why", p.Name, typ)
			}
		}
	}
}

func TestChoose(t *testing.T) {
	for _, tt := range []struct {
		name string
		Statement
		want, by string
	}{
		{name: "HAPI", Statement: Statement{Software: "HAPI FHIR Server"}, want: "hapi", by: `software.name says "HAPI FHIR Server"`},
		{name: "HAPI behind a proxy of that name", Statement: Statement{Software: "HAPI FHIR Server", URL: "https://epicenter.example.org/fhir"}, want: "hapi"},
		{name: "Microsoft", Statement: Statement{Software: "Azure Healthcare APIs", Publisher: "Microsoft"}, want: "microsoft", by: `publisher says "Microsoft"`},
		{name: "Google", Statement: Statement{URL: "https://healthcare.googleapis.com/v1/projects/p/locations/l/datasets/d/fhirStores/s/fhir"}, want: "google"},
		{name: "Firely", Statement: Statement{Software: "Firely Server", Publisher: "Firely"}, want: "firely"},
		{name: "Blaze", Statement: Statement{Software: "Blaze"}, want: "blaze"},
		{name: "LinuxForHealth", Statement: Statement{Software: "LinuxForHealth FHIR Server"}, want: "linuxforhealth"},
		{name: "IBM", Statement: Statement{Software: "IBM FHIR Server"}, want: "linuxforhealth"},
		{name: "Medplum", Statement: Statement{Software: "medplum"}, want: "medplum"},
		{name: "Cerner", Statement: Statement{Publisher: "Cerner", Implementation: "Cerner implementation of FHIR on top of Millennium"}, want: "cerner", by: `publisher says "Cerner"`},
		{name: "Epic", Statement: Statement{Software: "Epic"}, want: "epic"},
		{name: "a HAPI of others", Statement: Statement{Software: "HAPI FHIR Server", Publisher: "Google", URL: "https://x.cerner.com/fhir"}, want: "hapi"},
		{name: "a HAPI at the path of Epic", Statement: Statement{Software: "HAPI FHIR Server", URL: "https://fhir.example.org/api/FHIR/R4"}, want: "hapi"},
		{name: "Cerner by its address", Statement: Statement{URL: "https://fhir-ehr.cerner.com/r4/tenant/"}, want: "cerner", by: `the address says ".cerner.com/"`},
		{name: "no word of it", Statement: Statement{Software: "Epicenter", Publisher: "Blazes and sons"}, want: "generic"},
		{name: "nothing", want: "generic"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, by := Choose(tt.Statement)
			if p.Name != tt.want || tt.by != "" && by != tt.by || (by == "") != (tt.want == Generic) {
				t.Errorf("%s by %q, want %s by %q", p.Name, by, tt.want, tt.by)
			}
		})
	}
}

func TestParse(t *testing.T) {
	p, err := Parse("mine", []byte(`
title: Ours
match: [{software: Ours, url: /fhir}]
settle: 0s
paging: {max: 30, chain_max: 500, link_life: 90s}
url_max: 1024
supports: {last_updated: works, post: refused, strict: ignored}
counts: total
patients: {required: true, per_search: 3, parameter: subject, listing: works, group: all-of-them}
types:
  Observation: {with: [category=a, "category=b&status=final"], exhaustive: true, max: 5}
  Binary: {search: none, why: "they are attachments"}
  Patient: {search: whole}
skip_probes: [counts, history]
notes: [A sentence.]
`))
	if err != nil {
		t.Fatal(err)
	}
	want := &Profile{
		Name: "mine", Title: "Ours", Match: []Match{{Software: "Ours", URL: "/fhir"}}, Settle: new(time.Duration(0)),
		PageMax: 30, ChainMax: 500, LinkLife: 90 * time.Second, URLMax: 1024,
		LastUpdated: Works, Post: Refused, Strict: Ignored, Counts: CountTotal,
		Patients: Patients{Required: true, PerSearch: 3, Parameter: "subject", Listing: Works, Group: "all-of-them"},
		Types: map[string]Type{
			"Observation": {With: []string{"category=a", "category=b&status=final"}, Exhaustive: true, PageMax: 5},
			"Binary":      {Search: ScopeNone, Why: "they are attachments"},
			"Patient":     {Search: ScopeWhole},
		},
		Skip: []Probe{ProbeCounts, ProbeHistory}, Notes: []string{"A sentence."},
	}
	if d := cmp.Diff(want, p); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	if !p.Forbids(ProbeCounts) || p.Forbids(ProbeSort) || (*Profile)(nil).Forbids(ProbeSort) {
		t.Error("forbidden probes")
	}
}

func TestLikeBeginsWithABuiltinProfile(t *testing.T) {
	p, err := Parse("mine", []byte("like: epic\npatients: {group: everybody}\ntypes:\n  EpisodeOfCare: {with: [type=a]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	epic, err := Named("epic")
	if err != nil {
		t.Fatal(err)
	}
	want := *epic
	want.Name, want.Match, want.Patients.Group = "mine", nil, "everybody"
	want.Types["EpisodeOfCare"] = Type{With: []string{"type=a"}}
	if d := cmp.Diff(&want, p); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

func TestParseSaysWhatIsWrong(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "mine: it is empty"},
		{"unknown key", "title: x\nsetle: 5s\n", "line 2: key setle is not known in file"},
		{"unknown key below", "paging:\n  max: 1\n  min: 1\n", "line 3: key min"},
		{"two unknown keys", "a: 1\nb: 2\n", "line 2: key b"},
		{"unknown key of a type", "types:\n  Patient:\n    serch: whole\n", "line 3: key serch"},
		{"no mapping", "[1]", "line 1: cannot unmarshal"},
		{"no YAML", "a: [", "line 1: did not find"},
		{"twice", "title: a\ntitle: b\n", `line 2: mapping key "title" already defined`},
		{"two documents", "title: a\n---\ntitle: b\n", "more than one document"},
		{"no word", "supports: {post: maybe}", `line 1: "maybe" is not allowed here; want works, ignored, refused`},
		{"no counting", "counts: maybe", "want summary, total, last-page, none"},
		{"no scope", "types: {Patient: {search: all}}", "want whole, patient, id, none"},
		{"no probe", "skip_probes: [everything]", `"everything" is no probe; want data, page`},
		{"no duration", "title: x\nsettle: soon", `line 2: "soon" is no duration`},
		{"negative duration", "settle: -1s", `"-1s" is no duration`},
		{"range", "title: x\npaging:\n  max: 1000000", "line 3: paging.max: 1000000 is out of range"},
		{"no type", "types:\n  observation: {max: 1}", "line 2: types.observation: is no resource type"},
		{"no query", "types:\n  Observation:\n    max: 1\n    with: [category]\n", ""},
		{"not encoded", "types:\n  Observation:\n    with: ['category=a b']\n", "line 3: types.Observation.with: \"category=a b\" is not encoded"},
		{"ours", "types: {Observation: {with: [_count=5]}}", "which Spillway decides on"},
		{"exhaustive without with", "types: {Observation: {exhaustive: true}}", "says nothing without with"},
		{"like nothing", "title: x\nlike: nobody", "line 2: like: \"nobody\" is no built-in profile; these are: blaze"},
		{"like a path", "like: ../profile", "is no built-in profile"},
		{"match everything", "match: [{}]", "would match every server"},
		{"parameter", "patients: {parameter: 'a b'}", `"a b" is no search parameter`},
		{"group", "patients: {group: 'a/b'}", `"a/b" is no id`},
		{"too large", strings.Repeat("#", maxFile+1), "is no profile"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("mine", []byte(tt.text))
			if tt.want == "" {
				if err != nil {
					t.Errorf("got %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "mine") {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ours.yaml")
	if err := os.WriteFile(path, []byte("title: Ours\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err := Named(path); err != nil || p.Title != "Ours" || p.Name != path {
		t.Errorf("got %+v, %v", p, err)
	}
	if p, err := Named("hapi"); err != nil || p.Name != "hapi" {
		t.Errorf("got %+v, %v", p, err)
	}
	if _, err := Named("nobody"); err == nil || !strings.Contains(err.Error(), "nor a built-in profile (blaze, ") {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range Names() {
		text, err := builtinText(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("like: epic\ntypes: {Observation: {with: [category=a], exhaustive: true}}\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse("mine", text)
		if (p == nil) == (err == nil) {
			t.Fatalf("%v and %v", p, err)
		}
		if err != nil {
			return
		}
		for typ, r := range p.Types {
			if !isType(typ) || r.Search < ScopeUnknown || r.Search > ScopeNone {
				t.Errorf("rule of %q: %+v", typ, r)
			}
			for _, q := range r.With {
				if queryProblem(q) != "" {
					t.Errorf("%s is searched with %q", typ, q)
				}
			}
		}
		if p.PageMax < 0 || p.ChainMax < 0 || p.LinkLife < 0 || p.Settle != nil && *p.Settle < 0 || p.Patients.PerSearch < 0 {
			t.Errorf("negative: %+v", p)
		}
	})
}
