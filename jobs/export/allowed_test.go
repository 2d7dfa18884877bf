package export_test

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"spillway/auth/scope"
	"spillway/jobs"
	"spillway/test/fakefhir"
)

// allow is what the gateway stores for a request of a client with these scopes.
func (w *world) allow(t *testing.T, r jobs.Request, unchecked bool, list string) json.RawMessage {
	t.Helper()
	found, others, err := scope.ParseList(list)
	if err != nil || len(others) > 0 {
		t.Fatalf("scopes: %v, %v", err, others)
	}
	grant, err := scope.NewGrant(found)
	must(t, err)
	supported := append(w.srv.Types(), "Basic")
	snapshot, _, err := grant.Decide(scope.Request{Types: r.Types, Supported: supported, Group: r.Level == jobs.LevelGroup, Unchecked: unchecked})
	must(t, err)
	return snapshot.Encode()
}

// Members of Observations of two categories. The second is of nobody's scopes.
const (
	laboratory = `,"category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"laboratory"}]}]`
	canary     = `,"category":[{"coding":[{"code":"canary"}]}],"valueString":"canary-5f2e"`
)

func (w *world) put(t *testing.T, typ, id, more string) {
	t.Helper()
	_, err := w.srv.Put(typ, id, []byte(`{"resourceType":"`+typ+`","id":"`+id+`","status":"final","code":{"text":"x"}`+more+`}`))
	must(t, err)
}

// inCategory keeps Observations of some categories, and all of other types.
func inCategory(types []string, codes ...string) func(typ, _ string, r []byte) bool {
	return func(typ, _ string, r []byte) bool {
		if typ != "Observation" {
			return slices.Contains(types, typ)
		}
		var o struct {
			Category []struct{ Coding []struct{ Code string } }
		}
		if json.Unmarshal(r, &o) != nil {
			return false
		}
		for _, c := range o.Category {
			for _, coding := range c.Coding {
				if slices.Contains(codes, coding.Code) {
					return true
				}
			}
		}
		return false
	}
}

// TestScopesBecomeSearches reads the union of what several scopes of a type
// allow, each once, and asks the upstream for nothing else.
func TestScopesBecomeSearches(t *testing.T) {
	for _, test := range []struct {
		name, scopes string
		request      jobs.Request
		keep         func(typ, id string, r []byte) bool
		queries      []string // one of which every search of Observation has
	}{
		{
			"OneQuery", "system/Observation.rs?category=laboratory system/Patient.rs", jobs.Request{},
			inCategory([]string{"Patient"}, "laboratory"), []string{"category=laboratory"},
		},
		{
			"TwoQueriesThatOverlap", "system/Observation.rs?category=laboratory system/Observation.rs?status=final", jobs.Request{},
			func(typ, _ string, r []byte) bool {
				return typ == "Observation" && (strings.Contains(string(r), `"status":"final"`) || inCategory(nil, "laboratory")(typ, "", r))
			}, []string{"category=laboratory", "status=final"},
		},
		{
			"QueryAndFilters", "system/Observation.rs?category=laboratory",
			jobs.Request{Types: []string{"Observation"}, TypeFilters: []jobs.TypeFilter{{Type: "Observation", Query: "status=final"}, {Type: "Observation", Query: "status=preliminary"}}},
			func(typ, _ string, r []byte) bool {
				return inCategory(nil, "laboratory")(typ, "", r) && (strings.Contains(string(r), `"status":"final"`) || strings.Contains(string(r), `"status":"preliminary"`))
			}, []string{"category=laboratory"},
		},
		{
			"QueryAbsorbedByTheWhole", "system/Observation.rs?category=laboratory system/Observation.rs", jobs.Request{},
			func(typ, _ string, _ []byte) bool { return typ == "Observation" }, []string{""},
		},
		{
			"PatientLevel", "system/Observation.rs?category=laboratory system/Patient.r system/Patient.s", jobs.Request{Level: jobs.LevelPatient},
			func(typ, _ string, r []byte) bool {
				return inCategory([]string{"Patient"}, "laboratory")(typ, "", r) && (typ == "Patient" || strings.Contains(string(r), `"Patient/`))
			}, []string{"category=laboratory"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, settings{})
			w.put(t, "Observation", "canary", canary)
			_, err := w.client.Learn(t.Context())
			must(t, err)
			probed := len(w.srv.Log())
			job := w.runAllowed(t, test.request, w.allow(t, test.request, false, test.scopes))
			same(t, w.exported(t, job), only(w.truth(t), test.keep))
			if issues := w.issues(t, job); anyContains(issues, "error:") {
				t.Errorf("issues: %q", issues)
			}
			for _, r := range w.srv.Log()[probed:] {
				switch r.Kind {
				case fakefhir.KindSearch, fakefhir.KindCount:
					if r.Type == "Observation" && !slices.ContainsFunc(test.queries, func(q string) bool { return strings.Contains(r.Query, q) }) {
						t.Errorf("%s %s?%s does not restrict to the scopes", r.Method, r.Path, r.Query)
					}
					if r.Type != "Observation" && r.Type != "Patient" {
						t.Errorf("%s was asked for: it may not be read", r.Type)
					}
				}
			}
		})
	}
}

// TestIgnoredScopesFailClosed has the upstream ignore what restricts a search: nothing of what may
// not be read is written anywhere, and the outcome counts it.
func TestIgnoredScopesFailClosed(t *testing.T) {
	for _, test := range []struct {
		name    string
		request jobs.Request
		ignore  string
		scopes  string
		keep    func(typ, id string, r []byte) bool
		denied  string
	}{
		{"System", jobs.Request{}, "category", "system/Observation.rs?category=laboratory", inCategory(nil, "laboratory"), "resources that the scopes of this export do not allow"},
		{"TwoScopes", jobs.Request{}, "category", "system/Observation.rs?category=laboratory system/Observation.rs?category=survey", inCategory(nil, "laboratory", "survey"), "do not allow"},
		{"Security", jobs.Request{}, "_security", "system/Observation.rs?_security=http://x|N", func(string, string, []byte) bool { return false }, "do not allow"},
		{"Patients", jobs.Request{Level: jobs.LevelPatient}, "category", "system/Observation.rs?category=laboratory", func(typ, _ string, r []byte) bool {
			return inCategory(nil, "laboratory")(typ, "", r) && strings.Contains(string(r), `"Patient/`)
		}, "do not allow"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, settings{})
			w.put(t, "Observation", "canary", canary+`,"subject":{"reference":"Patient/patient-1"}`)
			w.put(t, "Observation", "lab", laboratory)
			w.srv.Script(fakefhir.Fault{Match: fakefhir.Match{Type: "Observation"}, Do: fakefhir.Do{IgnoreParams: []string{test.ignore}}})
			job := w.runAllowed(t, test.request, w.allow(t, test.request, false, test.scopes))
			same(t, w.exported(t, job), only(w.truth(t), test.keep))
			if issues := w.issues(t, job); !anyContains(issues, "error: Observation: the upstream returned") || !anyContains(issues, test.denied) {
				t.Errorf("issues: %q", issues)
			}
			w.nowhere(t, "canary")
		})
	}
}

// nowhere looks for a text in everything that is stored.
func (w *world) nowhere(t *testing.T, text string) {
	t.Helper()
	for object, err := range w.storage.List(t.Context(), "") {
		must(t, err)
		r, err := w.storage.Open(t.Context(), object.Key, 0, -1)
		must(t, err)
		var plain io.Reader = r
		if strings.HasSuffix(object.Key, ".gz") {
			plain, err = gzip.NewReader(r)
			must(t, err)
		}
		b, err := io.ReadAll(plain)
		must(t, err)
		must(t, r.Close())
		if bytes.Contains(b, []byte(text)) {
			t.Errorf("%s holds what may not be read", object.Key)
		}
	}
}

// A job without a record of what it may read, or with one that cannot be read,
// reads nothing.
func TestNothingIsReadWithoutAuthorization(t *testing.T) {
	for name, allowed := range map[string]json.RawMessage{
		"None": nil, "Null": json.RawMessage("null"), "Empty": json.RawMessage("{}"), "NoTypes": json.RawMessage(`{"types":{}}`),
		"MoreThanIsKnown": json.RawMessage(`{"all":true,"except":["Observation"]}`), "Text": json.RawMessage(`"all"`), "Array": json.RawMessage(`[]`),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, settings{})
			job := w.runAllowed(t, jobs.Request{}, allowed)
			if job.State != jobs.Failed || !strings.Contains(job.Failure, "no readable record of what its client may read") || len(job.Files) > 0 {
				t.Errorf("%s: %q", job.State, job.Failure)
			}
			if log := w.srv.Log(); len(log) > 0 {
				t.Errorf("the upstream was asked: %+v", log[0])
			}
		})
	}
}

// What changed while the export ran is looked at as it was, and as it is.
func TestTailWithinScopes(t *testing.T) {
	w := newWorld(t, settings{})
	w.put(t, "Observation", "lab-then", laboratory)
	w.put(t, "Observation", "lab-now", canary)
	w.put(t, "Observation", "lab-gone", laboratory)
	w.put(t, "Observation", "canary-gone", canary)
	w.before(jobs.UnitSlice, func() {
		time.Sleep(2 * time.Millisecond) // past the transaction time
		w.put(t, "Observation", "lab-then", canary)
		w.put(t, "Observation", "lab-now", laboratory)
		w.put(t, "Observation", "lab-fresh", laboratory)
		w.srv.Delete("Observation", "lab-gone")
		w.srv.Delete("Observation", "canary-gone")
	})
	request := jobs.Request{Types: []string{"Observation"}}
	then := only(w.truth(t), inCategory(nil, "laboratory"))
	job := w.runAllowed(t, request, w.allow(t, request, false, "system/Observation.rs?category=laboratory"))
	same(t, w.exported(t, job), then)
	if issues := w.issues(t, job); anyContains(issues, "error:") || anyContains(issues, "do not allow") {
		t.Errorf("issues: %q", issues)
	}
	w.nowhere(t, "canary-5f2e")
}

// Ids of deleted resources are told only where their last version may be read.
func TestDeletedWithinScopes(t *testing.T) {
	w := newWorld(t, settings{})
	w.put(t, "Observation", "lab", laboratory)
	w.put(t, "Observation", "lab-once", laboratory)
	w.put(t, "Observation", "lab-once", canary)
	w.put(t, "Observation", "canary", canary)
	w.put(t, "Condition", "private", "")
	_, err := w.srv.Put("Patient", "pat", []byte(`{"resourceType":"Patient","id":"pat"}`))
	must(t, err)
	time.Sleep(2 * time.Millisecond)
	since := w.srv.Now()
	for _, name := range []string{"Observation/lab", "Observation/lab-once", "Observation/canary", "Condition/private", "Patient/pat"} {
		typ, id, _ := strings.Cut(name, "/")
		w.srv.Delete(typ, id)
	}
	for _, test := range []struct {
		name, scopes string
		unchecked    bool
		request      jobs.Request
		want         []string
		issue        string
	}{
		{"Checked", "system/Observation.rs?category=laboratory system/Patient.rs", false, jobs.Request{}, []string{"Observation/lab", "Patient/pat"}, ""},
		{"PatientLevel", "system/Patient.rs", false, jobs.Request{Level: jobs.LevelPatient}, []string{"Patient/pat"}, ""},
		{"OnlyTheUpstreamKnows", "system/Observation.rs?category=laboratory system/Observation.rs?date=ge2000", true, jobs.Request{}, []string{"Observation/lab"}, "of 2 deleted resources"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.request.Since = since
			job := w.runAllowed(t, test.request, w.allow(t, test.request, test.unchecked, test.scopes))
			listed := slices.Sorted(maps.Keys(w.deletions(t, job)))
			if !slices.Equal(listed, test.want) {
				t.Errorf("listed %q, want %q; issues %q", listed, test.want, w.issues(t, job))
			}
			if issues := w.issues(t, job); test.issue != "" && !anyContains(issues, test.issue) || anyContains(issues, "canary") {
				t.Errorf("issues: %q", issues)
			}
		})
	}
}

// Queries that cannot be evaluated count where the operator says so, and then
// the upstream alone enforces them.
func TestUncheckedQueries(t *testing.T) {
	w := newWorld(t, settings{})
	request := jobs.Request{Types: []string{"Patient"}}
	job := w.runAllowed(t, request, w.allow(t, request, true, "system/Patient.rs?gender=female"))
	same(t, w.exported(t, job), only(w.truth(t), func(typ, _ string, r []byte) bool {
		return typ == "Patient" && strings.Contains(string(r), `"gender":"female"`)
	}))
	// A record without the switch does not trust such a query, whoever wrote it.
	allowed := json.RawMessage(strings.Replace(string(w.allow(t, request, true, "system/Patient.rs?gender=female")), `"unchecked":true`, `"unchecked":false`, 1))
	job = w.runAllowed(t, request, allowed)
	if got := w.exported(t, job); len(got) > 0 || !anyContains(w.issues(t, job), "do not allow") {
		t.Errorf("exported %d types; issues %q", len(got), w.issues(t, job))
	}
}

// An upstream that ignores what it alone should enforce is found out before
// anything is read.
func TestUncheckedQueriesMustBeEnforced(t *testing.T) {
	for _, test := range []struct {
		name   string
		do     fakefhir.Do
		failed bool
	}{
		{"Ignored", fakefhir.Do{IgnoreParams: []string{"gender"}}, true},
		{"Refused", fakefhir.Do{Status: &fakefhir.Status{Code: 400}}, false},
	} {
		w := newWorld(t, settings{})
		_, err := w.client.Learn(t.Context())
		must(t, err)
		w.srv.Script(fakefhir.Fault{Match: fakefhir.Match{Type: "Patient", QueryContains: "gender=none-"}, Do: test.do},
			fakefhir.Fault{Match: fakefhir.Match{Type: "Patient"}, Do: fakefhir.Do{IgnoreParams: test.do.IgnoreParams}})
		request := jobs.Request{Types: []string{"Patient"}}
		job := w.runAllowed(t, request, w.allow(t, request, true, "system/Patient.rs?gender=female"))
		if (job.State == jobs.Failed) != test.failed || test.failed && (!strings.Contains(job.Failure, "ignores the parameter gender") || len(job.Files) > 0) {
			t.Errorf("%s: %s, %q", test.name, job.State, job.Failure)
		}
		w.nowhere(t, `"gender":"male"`)
	}
}

func TestProvenanceWithinScopes(t *testing.T) {
	w := newWorld(t, settings{})
	put := func(id, label, recorded string) {
		_, err := w.srv.Put("Provenance", id, []byte(`{"resourceType":"Provenance","id":"`+id+`","meta":{"security":[{"system":"http://x","code":"`+label+`"}]},`+
			`"target":[{"reference":"Patient/patient-1"}],"recorded":"`+recorded+`","agent":[{"who":{"display":"x"}}]}`))
		must(t, err)
	}
	put("open", "N", "2101-01-01T00:00:00Z")
	put("secret", "R", "2102-01-01T00:00:00Z")
	for _, test := range []struct {
		name, scopes, value string
		ignore              bool
		want                []string
		issue               string
	}{
		{"Relevant", "system/Patient.rs system/Provenance.rs?_security=http://x|N", jobs.RelevantProvenance, false, []string{"open"}, ""},
		{"Latest", "system/Patient.rs system/Provenance.rs?_security=http://x|N", jobs.LatestProvenance, false, []string{"open"}, ""},
		{"RelevantIgnored", "system/Patient.rs system/Provenance.rs?_security=http://x|N", jobs.RelevantProvenance, true, []string{"open"}, "do not allow"},
		{"LatestIgnored", "system/Patient.rs system/Provenance.rs?_security=http://x|N", jobs.LatestProvenance, true, []string{"open"}, "do not allow"},
		{"NotAllowed", "system/Patient.rs", jobs.RelevantProvenance, false, nil, "error: includeAssociatedData: Provenance was not exported"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w.srv.Reset()
			if test.ignore {
				w.srv.Script(fakefhir.Fault{Match: fakefhir.Match{Type: "Provenance"}, Do: fakefhir.Do{IgnoreParams: []string{"_security"}}})
			}
			// The gateway refuses what may not be read; this is the second line.
			allowed := w.allow(t, jobs.Request{}, false, test.scopes)
			job := w.runAllowed(t, jobs.Request{Types: []string{"Patient"}, IncludeAssociatedData: []string{test.value}}, allowed)
			got := w.exported(t, job)
			if ids := slices.Sorted(maps.Keys(got["Provenance"])); !slices.Equal(ids, test.want) {
				t.Errorf("Provenance %q, want %q", ids, test.want)
			}
			if issues := w.issues(t, job); test.issue != "" && !anyContains(issues, test.issue) || test.issue == "" && anyContains(issues, "error:") {
				t.Errorf("issues: %q", issues)
			}
		})
	}
}

// A Group that may not be read is one that does not exist, also where it is a
// member of another.
func TestGroupWithinScopes(t *testing.T) {
	w := newWorld(t, settings{})
	put := func(id, label, member string) {
		_, err := w.srv.Put("Group", id, []byte(`{"resourceType":"Group","id":"`+id+`","meta":{"security":[{"system":"http://x","code":"`+label+`"}]},`+
			`"type":"person","actual":true,"member":[{"entity":{"reference":"`+member+`"}}]}`))
		must(t, err)
	}
	put("open", "N", "Patient/patient-1")
	put("secret", "R", "Patient/patient-2")
	put("both", "N", "Group/secret")
	const scopes = "system/Patient.rs system/Group.rs?_security=http://x|N"
	run := func(id string) *jobs.Job {
		request := jobs.Request{Level: jobs.LevelGroup, GroupID: id, Types: []string{"Patient"}}
		return w.runAllowed(t, request, w.allow(t, request, false, scopes))
	}
	if got := w.exported(t, run("open")); len(got["Patient"]) != 1 || got["Patient"]["patient-1"] == nil {
		t.Errorf("open: %d patients", len(got["Patient"]))
	}
	secret, none := run("secret"), run("none")
	if secret.State != jobs.Failed || secret.Failure != none.Failure {
		t.Errorf("a Group that may not be read: %s %q; one that does not exist: %s %q", secret.State, secret.Failure, none.State, none.Failure)
	}
	job := run("both")
	if got := w.exported(t, job); len(got["Patient"]) > 0 || !anyContains(w.issues(t, job), "may not be read with the scopes") {
		t.Errorf("nested: %d patients, issues %q", len(got["Patient"]), w.issues(t, job))
	}
}

// Of patients that may not be read it is not told whether they exist.
func TestMissingPatientsAreNotToldOutsideTheScopes(t *testing.T) {
	w := newWorld(t, settings{})
	request := jobs.Request{Level: jobs.LevelPatient, Types: []string{"Patient"}, Patients: []string{"patient-1", "nobody"}}
	job := w.runAllowed(t, request, w.allow(t, request, false, "system/Patient.rs?_security=http://x|N"))
	if issues := w.issues(t, job); anyContains(issues, "patient-1") || anyContains(issues, "nobody") {
		t.Errorf("issues: %q", issues)
	}
}
