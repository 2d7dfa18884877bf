package export_test

import (
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway/jobs"
	"spillway/jobs/export"
	"spillway/storage/disk"
	"spillway/test/fakefhir"
)

func TestSystemExportIsExact(t *testing.T) {
	for _, test := range []struct {
		name string
		settings
	}{
		{name: "OKSmallWindows"},
		{name: "OKOneWindow", settings: settings{window: 1 << 20, pageSize: 1000}},
		{name: "OKTinyPages", settings: settings{window: 30, pageSize: 7}},
		{name: "OKIdentitySegments", settings: settings{encoding: jobs.EncodingIdentity}},
		{name: "OKSmallFiles", settings: settings{fileSize: 20_000}},
		{name: "OKPretty", settings: settings{server: fakefhir.Options{Pretty: true}}},
		{name: "OKLinksLast", settings: settings{server: fakefhir.Options{LinksLast: true}}},
		{name: "OKRelativeLinks", settings: settings{server: fakefhir.Options{Links: fakefhir.LinkRelative}}},
		{name: "OKPathLinks", settings: settings{server: fakefhir.Options{Links: fakefhir.LinkPath}}},
		{name: "OKNoGzip", settings: settings{server: fakefhir.Options{NoGzip: true}}},
		{name: "OKClockAhead", settings: settings{server: fakefhir.Options{Offset: 5 * time.Minute}}},
		{name: "OKClockBehind", settings: settings{server: fakefhir.Options{Offset: -5 * time.Minute}}},
		{name: "OKNoDirect", settings: settings{server: fakefhir.Options{NoDirect: true}}},
		{name: "OKResultCache", settings: settings{server: fakefhir.Options{ResultCache: time.Minute}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, test.settings)
			job := w.run(t, jobs.Request{})
			same(t, w.exported(t, job), w.truth(t))
			if issues := w.issues(t, job); len(issues) > 0 {
				t.Errorf("issues: %q", issues)
			}
			for _, e := range job.Evidence {
				if !e.Proven || e.Counted != e.Exported || int(e.Exported) != len(w.srv.All(e.Type)) {
					t.Errorf("evidence %+v, the server has %d", e, len(w.srv.All(e.Type)))
				}
			}
			if len(job.Evidence) != len(w.srv.Types()) {
				t.Errorf("evidence for %d types, the server has %d", len(job.Evidence), len(w.srv.Types()))
			}
		})
	}
}

func TestFilesAreGroupedBySize(t *testing.T) {
	w := newWorld(t, settings{fileSize: 20_000})
	job := w.run(t, jobs.Request{Types: []string{"Observation"}})
	if len(job.Files) < 3 {
		t.Errorf("%d files of %d bytes, more were expected", len(job.Files), job.Files[0].Size)
	}
	one := newWorld(t, settings{})
	if job := one.run(t, jobs.Request{Types: []string{"Observation"}}); len(job.Files) != 1 || job.Files[0].Name != "1.Observation.ndjson" {
		t.Errorf("files: %+v", job.Files)
	}
}

func TestTransactionTime(t *testing.T) {
	for _, offset := range []time.Duration{0, 5 * time.Minute, -5 * time.Minute} {
		w := newWorld(t, settings{server: fakefhir.Options{Offset: offset}})
		before := w.srv.Now()
		job := w.run(t, jobs.Request{Types: []string{"Patient"}})
		if early, late := before.Add(-2*time.Second), w.srv.Now().Add(2*time.Second); job.TransactionTime.Before(early) || job.TransactionTime.After(late) {
			t.Errorf("offset %v: transaction time %v, the upstream's clock went from %v to %v", offset, job.TransactionTime, before, w.srv.Now())
		}
	}
}

// TestWritesBeforeKickOffAreIn writes right before the kick-off, on clocks
// that differ, and wants all of it.
func TestWritesBeforeKickOffAreIn(t *testing.T) {
	for _, offset := range []time.Duration{0, 90 * time.Second, -90 * time.Second} {
		w := newWorld(t, settings{server: fakefhir.Options{Offset: offset}})
		_, err := w.srv.Put("Patient", "fresh", []byte(`{"resourceType":"Patient","id":"fresh"}`))
		must(t, err)
		got := w.exported(t, w.run(t, jobs.Request{}))
		if got["Patient"]["fresh"] == nil {
			t.Errorf("offset %v: the patient written before the kick-off is missing", offset)
		}
	}
}

func TestFaultsAreExactOrReported(t *testing.T) {
	factor := func(f float64) *fakefhir.LieTotal { return &fakefhir.LieTotal{Factor: &f} }
	observations := fakefhir.Match{Type: "Observation"}
	search := fakefhir.Match{Type: "Observation", Kind: fakefhir.KindSearch}
	next := fakefhir.Match{Type: "Observation", Kind: fakefhir.KindNext}
	count := fakefhir.Match{Type: "Observation", Kind: fakefhir.KindCount}
	for _, test := range []struct {
		name   string
		faults []fakefhir.Fault
		// exact: no issue but information. reported: an issue that holds this text.
		// failed: the job's failure holds this text.
		exact            bool
		reported, failed string
		pageSize         int
	}{
		{name: "OKThrottled", exact: true, faults: []fakefhir.Fault{{Match: observations, Times: 2, Do: fakefhir.Do{Status: &fakefhir.Status{Code: 429, Header: http.Header{"Retry-After": {"1"}}}}}}},
		{name: "OKUnavailable", exact: true, faults: []fakefhir.Fault{{Match: observations, Times: 2, Do: fakefhir.Do{Status: &fakefhir.Status{Code: 503}}}}},
		{name: "OKConnectionCut", exact: true, faults: []fakefhir.Fault{{Match: next, Times: 3, Do: fakefhir.Do{Cut: &fakefhir.Cut{After: 900}}}}},
		{name: "OKHangup", exact: true, faults: []fakefhir.Fault{{Match: search, Times: 3, Do: fakefhir.Do{Hangup: true}}}},
		{name: "OKTruncatedOnce", exact: true, faults: []fakefhir.Fault{{Match: next, Times: 1, Do: fakefhir.Do{TruncatedJSON: true}}}},
		{name: "OKPageRepeatedOnce", exact: true, faults: []fakefhir.Fault{{Match: next, Times: 1, Do: fakefhir.Do{RepeatPage: true}}}},
		{name: "OKPageDroppedOnce", exact: true, faults: []fakefhir.Fault{{Match: next, Times: 1, Do: fakefhir.Do{DropPage: true}}}},
		{name: "OKEntriesDroppedOnce", exact: true, faults: []fakefhir.Fault{{Match: search, Times: 1, Do: fakefhir.Do{DropEntries: 5}}}},
		{name: "OKDuplicates", exact: true, faults: []fakefhir.Fault{{Match: observations, Do: fakefhir.Do{DuplicateEntries: 20}}}},
		{name: "OKNextGoneOnce", exact: true, faults: []fakefhir.Fault{{Match: next, Times: 1, Do: fakefhir.Do{GoneNext: true}}}},
		{name: "OKCountWrongOnce", exact: true, faults: []fakefhir.Fault{{Match: count, Times: 1, Do: fakefhir.Do{LieTotal: &fakefhir.LieTotal{Delta: 7}}}}},
		{name: "OKChainEndsEarly", exact: true, pageSize: 500, faults: []fakefhir.Fault{{Match: observations, Do: fakefhir.Do{EndChainEarly: 2}}}},
		{name: "OKLoopOnce", exact: true, faults: []fakefhir.Fault{{Match: next, Times: 1, Do: fakefhir.Do{LoopNext: true}}}},
		{name: "OKEndless", exact: true, faults: []fakefhir.Fault{{Match: observations, Do: fakefhir.Do{Endless: true}}}},

		// More resources share one millisecond than the chain gives before it ends.
		{name: "ReportedChainEndsEarly", reported: "may be missing", faults: []fakefhir.Fault{{Match: observations, Do: fakefhir.Do{EndChainEarly: 2}}}},
		{name: "ReportedAlwaysThreeMore", reported: "may be missing", faults: []fakefhir.Fault{{Match: count, Do: fakefhir.Do{LieTotal: &fakefhir.LieTotal{Delta: 3}}}}},
		{name: "ReportedTooMany", reported: "may be missing", faults: []fakefhir.Fault{{Match: count, Do: fakefhir.Do{LieTotal: factor(1.5)}}}},
		{name: "ReportedTooFew", reported: "prove nothing", faults: []fakefhir.Fault{{Match: count, Do: fakefhir.Do{LieTotal: factor(0.5)}}}},
		{name: "ReportedZero", reported: "prove nothing", faults: []fakefhir.Fault{{Match: count, Do: fakefhir.Do{LieTotal: factor(0)}}}},
		{name: "ReportedNoCounts", reported: "no usable counts", faults: []fakefhir.Fault{{Match: fakefhir.Match{Kind: fakefhir.KindCount}, Do: fakefhir.Do{LieTotal: &fakefhir.LieTotal{Absent: true}}}}},
		{name: "ReportedEntriesAlwaysDropped", reported: "may be missing", faults: []fakefhir.Fault{{Match: search, Do: fakefhir.Do{DropEntries: 1}}}},
		{name: "ReportedWrongType", reported: "another type", faults: []fakefhir.Fault{{Match: search, Do: fakefhir.Do{WrongType: true}}}},
		{name: "ReportedOutcomeEntry", reported: "OperationOutcome", faults: []fakefhir.Fault{{Match: search, Do: fakefhir.Do{OutcomeEntry: true}}}},
		{name: "ReportedTypeRefused", reported: "Observation could not be exported", faults: []fakefhir.Fault{{Match: observations, Do: fakefhir.Do{Status: &fakefhir.Status{Code: 400}}}}},
		{name: "ReportedLastUpdatedIgnored", reported: "cannot search by _lastUpdated", faults: []fakefhir.Fault{{Do: fakefhir.Do{IgnoreParams: []string{"_lastUpdated"}}}}},

		{name: "FailedHTML", failed: "search Observation", faults: []fakefhir.Fault{{Match: search, Do: fakefhir.Do{HTML: true}}}},
		{name: "FailedOutcomeWith200", failed: "search Observation", faults: []fakefhir.Fault{{Match: search, Do: fakefhir.Do{OutcomeWith200: true}}}},
		{name: "FailedGarbage", failed: "search Observation", faults: []fakefhir.Fault{{Match: next, Do: fakefhir.Do{Garbage: true}}}},
		{name: "FailedForeignNext", failed: "Observation", faults: []fakefhir.Fault{{Match: search, Do: fakefhir.Do{ForeignNext: "http://127.0.0.1:9/fhir"}}}},
		{name: "FailedFilterIgnoredByOneType", failed: "ignores that filter", faults: []fakefhir.Fault{{Match: observations, Do: fakefhir.Do{IgnoreParams: []string{"_lastUpdated"}}}}},
	} {
		for _, direct := range []bool{false, true} {
			name := test.name
			if direct {
				name += "Direct"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, settings{pageSize: test.pageSize, server: fakefhir.Options{NoDirect: !direct}})
				// What was learnt stays true: the faults begin after it.
				if test.name != "ReportedNoCounts" && test.name != "ReportedLastUpdatedIgnored" {
					_, err := w.client.Learn(t.Context())
					must(t, err)
				}
				w.srv.Script(test.faults...)
				job := w.run(t, jobs.Request{})
				if test.failed != "" && (!direct || job.State == jobs.Failed) {
					if job.State != jobs.Failed || !strings.Contains(job.Failure, test.failed) {
						t.Errorf("job is %s, %q; a failure with %q was expected", job.State, job.Failure, test.failed)
					}
					return
				}
				got, issues := w.exported(t, job), w.issues(t, job)
				w.srv.Reset()
				d := differences(got, w.truth(t))
				switch {
				case test.exact:
					if len(d) > 0 || anyContains(issues, "error:") || anyContains(issues, "warning:") {
						t.Errorf("issues %q, differences: %s", issues, d)
					}
				case !direct && !anyContains(issues, test.reported): // there are ways around faults of next links
					t.Errorf("issues %q do not tell %q", issues, test.reported)
				case len(d) > 0 && !anyContains(issues, "error:"):
					t.Errorf("silently not exact: %s", d)
				}
			})
		}
	}
}

func TestPatientLevel(t *testing.T) {
	w := newWorld(t, settings{})
	job := w.run(t, jobs.Request{Level: jobs.LevelPatient})
	same(t, w.exported(t, job), w.compartments(t, slices.Collect(maps.Keys(w.srv.All("Patient")))...))
}

func TestPatientList(t *testing.T) {
	w := newWorld(t, settings{})
	ids := slices.Sorted(maps.Keys(w.srv.All("Patient")))[:2]
	job := w.run(t, jobs.Request{Level: jobs.LevelPatient, Patients: append(ids, "nobody")})
	want := w.compartments(t, ids...)
	delete(want, "Group")
	same(t, w.exported(t, job), want)
	if issues := w.issues(t, job); !anyContains(issues, "not found on the upstream: nobody") {
		t.Errorf("issues: %q", issues)
	}
}

func (w *world) compartments(t *testing.T, ids ...string) map[string]map[string][]byte {
	t.Helper()
	want := make(map[string]map[string][]byte)
	for typ, resources := range w.srv.CompartmentTruth(ids...) {
		for id, r := range resources {
			if typ == "Patient" && !slices.Contains(ids, id) {
				continue // linked to, not asked for
			}
			if want[typ] == nil {
				want[typ] = make(map[string][]byte)
			}
			want[typ][id] = compact(t, r.JSON)
		}
	}
	return want
}

func TestGroup(t *testing.T) {
	for _, post := range []bool{true, false} {
		w := newWorld(t, settings{server: fakefhir.Options{NoPostSearch: !post}})
		patients := slices.Sorted(maps.Keys(w.srv.All("Patient")))
		put := func(id, members string) {
			_, err := w.srv.Put("Group", id, []byte(`{"resourceType":"Group","id":"`+id+`","type":"person","actual":true,"member":[`+members+`]}`))
			must(t, err)
		}
		member := func(ref, more string) string { return `{"entity":{"reference":"` + ref + `"}` + more + `}` }
		put("inner", member("Patient/"+patients[2], "")+","+member("Group/outer", ""))
		put("outer", strings.Join([]string{
			member("Patient/"+patients[0], ""),
			member("Patient/"+patients[1], `,"inactive":true`),
			member("Patient/"+patients[3], `,"period":{"end":"2020-01-01"}`),
			member("Patient/"+patients[4], `,"period":{"start":"2020-01-01","end":"2999-01-01"}`),
			member("Group/inner", ""),
			member("Practitioner/x", ""),
		}, ","))
		job := w.run(t, jobs.Request{Level: jobs.LevelGroup, GroupID: "outer"})
		want := w.compartments(t, patients[0], patients[2], patients[4])
		want["Group"] = map[string][]byte{"outer": compact(t, w.srv.All("Group")["outer"].JSON)}
		same(t, w.exported(t, job), want)

		job = w.run(t, jobs.Request{Level: jobs.LevelGroup, GroupID: "outer", Patients: []string{patients[4], patients[5]}, Types: []string{"Patient"}})
		if got := w.exported(t, job); len(got["Patient"]) != 1 || got["Patient"][patients[4]] == nil {
			t.Errorf("patient list within a group: %d patients", len(got["Patient"]))
		}
		if issues := w.issues(t, job); !anyContains(issues, "not current members") {
			t.Errorf("issues: %q", issues)
		}
		if job := w.run(t, jobs.Request{Level: jobs.LevelGroup, GroupID: "none"}); job.State != jobs.Failed || !strings.Contains(job.Failure, "group does not exist") {
			t.Errorf("missing group: %s, %q", job.State, job.Failure)
		}
	}
}

// TestSharedResourcesOfACohort makes resources that belong to patients of
// different batches: each is exported once.
func TestSharedResourcesOfACohort(t *testing.T) {
	w := newWorld(t, settings{server: fakefhir.Options{NoPostSearch: true, Dataset: fakefhir.Generate(fakefhir.GenerateOptions{Patients: 70, Seed: 3})}})
	patients := slices.Sorted(maps.Keys(w.srv.All("Patient")))
	for i := range 20 {
		id := "shared-" + string(rune('a'+i))
		_, err := w.srv.Put("Observation", id, []byte(`{"resourceType":"Observation","id":"`+id+`","status":"final","code":{"text":"x"},"subject":{"reference":"Patient/`+patients[i]+`"},"performer":[{"reference":"Patient/`+patients[len(patients)-1-i]+`"}]}`))
		must(t, err)
	}
	job := w.run(t, jobs.Request{Level: jobs.LevelPatient, Patients: patients, Types: []string{"Observation", "Patient"}})
	want := w.compartments(t, patients...)
	same(t, w.exported(t, job), only(want, func(typ, _ string, _ []byte) bool { return typ == "Observation" || typ == "Patient" }))
}

func TestIgnoredPatientFilterFailsClosed(t *testing.T) {
	w := newWorld(t, settings{})
	ids := slices.Sorted(maps.Keys(w.srv.All("Patient")))[:1]
	w.srv.Script(fakefhir.Fault{Do: fakefhir.Do{IgnoreParams: []string{"subject", "patient", "_id"}}})
	job := w.run(t, jobs.Request{Level: jobs.LevelPatient, Patients: ids})
	if job.State != jobs.Failed || !strings.Contains(job.Failure, "ignores the patient filter") {
		t.Errorf("job is %s: %q", job.State, job.Failure)
	}
}

func TestSinceUntil(t *testing.T) {
	w := newWorld(t, settings{})
	var stamps []time.Time
	updated := make(map[string]time.Time)
	for _, typ := range w.srv.Types() {
		for id, r := range w.srv.All(typ) {
			stamps = append(stamps, r.LastUpdated)
			updated[typ+"/"+id] = r.LastUpdated
		}
	}
	slices.SortFunc(stamps, time.Time.Compare)
	since, until := stamps[len(stamps)/3], stamps[2*len(stamps)/3]
	for _, test := range []struct {
		name         string
		since, until time.Time
	}{
		{name: "OKSince", since: since},
		{name: "OKUntil", until: until},
		{name: "OKBoth", since: since, until: until},
		{name: "OKNothing", since: stamps[len(stamps)-1].Add(time.Hour)},
	} {
		t.Run(test.name, func(t *testing.T) {
			job := w.run(t, jobs.Request{Since: test.since, Until: test.until})
			same(t, w.exported(t, job), only(w.truth(t), func(typ, id string, _ []byte) bool {
				at := updated[typ+"/"+id]
				return !at.Before(test.since) && (test.until.IsZero() || !at.After(test.until))
			}))
		})
	}
}

func TestSinceWhereLastUpdatedIsIgnored(t *testing.T) {
	w := newWorld(t, settings{})
	w.srv.Script(fakefhir.Fault{Do: fakefhir.Do{IgnoreParams: []string{"_lastUpdated"}}})
	all := w.srv.All("Observation")
	var stamps []time.Time
	for _, r := range all {
		stamps = append(stamps, r.LastUpdated)
	}
	slices.SortFunc(stamps, time.Time.Compare)
	since := stamps[len(stamps)/2]
	job := w.run(t, jobs.Request{Types: []string{"Observation"}, Since: since})
	same(t, w.exported(t, job), only(w.truth(t), func(typ, id string, _ []byte) bool {
		return typ == "Observation" && !all[id].LastUpdated.Before(since)
	}))
}

func TestTypeFiltersAreAlternatives(t *testing.T) {
	w := newWorld(t, settings{})
	job := w.run(t, jobs.Request{
		Types: []string{"Patient", "Encounter"},
		TypeFilters: []jobs.TypeFilter{
			{Type: "Patient", Query: "gender=female"},
			{Type: "Patient", Query: "gender=female%2Cmale"},
		},
	})
	want := only(w.truth(t), func(typ, _ string, r []byte) bool {
		var p struct{ Gender string }
		must(t, json.Unmarshal(r, &p))
		return typ == "Encounter" || typ == "Patient" && (p.Gender == "female" || p.Gender == "male")
	})
	same(t, w.exported(t, job), want)
}

func TestElements(t *testing.T) {
	w := newWorld(t, settings{})
	job := w.run(t, jobs.Request{Types: []string{"Patient", "Encounter"}, Elements: []jobs.Element{{Name: "id"}, {Type: "Patient", Name: "gender"}}})
	for _, line := range w.exported(t, job)["Patient"] {
		var p map[string]json.RawMessage
		must(t, json.Unmarshal(line, &p))
		delete(p, "gender")
		if len(p) != 3 || p["id"] == nil || !strings.Contains(string(p["meta"]), `"SUBSETTED"`) {
			t.Errorf("Patient holds more or less than resourceType, id, meta and gender: %s", line)
		}
	}
	for _, line := range w.exported(t, job)["Encounter"] {
		if !strings.Contains(string(line), `"status"`) || !strings.Contains(string(line), `"class"`) {
			t.Errorf("Encounter lacks its mandatory elements: %s", line)
		}
	}
}

func TestAssociatedProvenance(t *testing.T) {
	w := newWorld(t, settings{})
	patient := slices.Sorted(maps.Keys(w.srv.All("Patient")))[0]
	put := func(id, target, recorded string) {
		_, err := w.srv.Put("Provenance", id, []byte(`{"resourceType":"Provenance","id":"`+id+`","target":[{"reference":"`+target+`"}],"recorded":"`+recorded+`","agent":[{"who":{"display":"x"}}]}`))
		must(t, err)
	}
	put("zz-old", "Patient/"+patient, "2101-01-01T00:00:00Z")
	put("zz-new", "Patient/"+patient, "2102-01-01T00:00:00Z")
	put("zz-other", "Encounter/none", "2102-01-01T00:00:00Z")
	for value, want := range map[string]map[string]bool{
		jobs.LatestProvenance:   {"zz-old": false, "zz-new": true, "zz-other": false},
		jobs.RelevantProvenance: {"zz-old": true, "zz-new": true, "zz-other": false},
	} {
		job := w.run(t, jobs.Request{Types: []string{"Patient"}, IncludeAssociatedData: []string{value}})
		got := w.exported(t, job)
		for id, wanted := range want {
			if (got["Provenance"][id] != nil) != wanted {
				t.Errorf("%s: Provenance/%s exported is %v", value, id, !wanted)
			}
		}
		if len(got["Patient"]) != len(w.srv.All("Patient")) {
			t.Errorf("%s: %d patients", value, len(got["Patient"]))
		}
	}
}

// TestWritesMeanwhile changes, deletes and creates while the export reads. What
// nobody touched is there, once, unchanged.
func TestWritesMeanwhile(t *testing.T) {
	w := newWorld(t, settings{pageSize: 20, window: 60})
	before := w.truth(t)
	touched := make(map[string]bool)
	stop, done := make(chan struct{}), make(chan struct{})
	ids := slices.Sorted(maps.Keys(w.srv.All("Observation")))
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			id := ids[i*7%len(ids)]
			switch r := w.srv.All("Observation")[id]; {
			case i%3 == 0:
				_, _ = w.srv.Put("Observation", id+"-made", r.JSON)
			case i%3 == 1 && r.JSON != nil:
				touched[id] = true
				_, _ = w.srv.Put("Observation", id, r.JSON)
			default:
				touched[id] = true
				w.srv.Delete("Observation", id)
			}
		}
	}()
	job := w.run(t, jobs.Request{})
	close(stop)
	<-done
	got := w.exported(t, job)
	untouched := only(before, func(typ, id string, _ []byte) bool { return typ != "Observation" || !touched[id] })
	same(t, only(got, func(typ, id string, _ []byte) bool { return untouched[typ][id] != nil }), untouched)
}

func TestRemoveBytesAndOrphans(t *testing.T) {
	w := newWorld(t, settings{})
	job := w.run(t, jobs.Request{Types: []string{"Patient"}})
	objects := func() (n int) {
		for _, err := range w.storage.List(t.Context(), "") {
			must(t, err)
			n++
		}
		return n
	}
	if objects() == 0 {
		t.Fatal("nothing was written")
	}
	must(t, w.engine.SweepOrphans(t.Context(), func(id jobs.ID) bool { return id == job.ID }, 0))
	must(t, w.engine.SweepOrphans(t.Context(), func(jobs.ID) bool { return false }, time.Hour))
	if objects() == 0 {
		t.Error("a known or young job was swept")
	}
	must(t, w.engine.SweepOrphans(t.Context(), func(jobs.ID) bool { return false }, 0))
	if n := objects(); n != 0 {
		t.Errorf("%d objects are left of an unknown job", n)
	}
	job = w.run(t, jobs.Request{Types: []string{"Patient"}})
	must(t, w.engine.RemoveBytes(t.Context(), job.ID))
	if n := objects(); n != 0 {
		t.Errorf("%d objects are left of a removed job", n)
	}
}

// TestFullStorageOnlyPauses runs a unit where there is no room: it is handed
// back without blame, and leaves nothing.
func TestFullStorageOnlyPauses(t *testing.T) {
	w := newWorld(t, settings{})
	full, err := disk.Open(t.TempDir(), disk.Options{MinFree: 1 << 60})
	must(t, err)
	now := time.Now()
	engine := export.New(export.Config{Upstream: w.client, Storage: full, Jobs: w.jobs, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }})
	job, first := jobs.New(jobs.Request{Level: jobs.LevelSystem}, "", now)
	job.Authorization = everything
	must(t, w.jobs.Create(t.Context(), job, first))
	lease, job, err := w.jobs.Claim(t.Context(), "test")
	must(t, err)
	_, err = engine.Run(t.Context(), job, lease, nil)
	var wait *jobs.WaitError
	if !errors.As(err, &wait) || !wait.Until.After(now) {
		t.Errorf("Run returned %v", err)
	}
}

// TestSilentUnitsAreRenewed lets the worker of every unit fall silent again and
// again, as kill -9 does: the export is exact all the same. A unit whose worker
// always falls silent fails the job in the end.
func TestSilentUnitsAreRenewed(t *testing.T) {
	for _, test := range []struct {
		name   string
		silent func(l *jobs.Lease) bool
		state  jobs.State
	}{
		{name: "OKTwiceEach", silent: func(l *jobs.Lease) bool { return l.Silent < 2 && l.Unit.Renewals == 0 }, state: jobs.Completed},
		{name: "OKFirstTryOfAll", silent: func(l *jobs.Lease) bool { return l.Silent == 0 && l.Unit.Renewals < 3 }, state: jobs.Completed},
		{name: "ErrAlways", silent: func(l *jobs.Lease) bool { return l.Unit.Type == "Encounter" && (l.Silent < 2 || l.Unit.Renewals == 3) }, state: jobs.Failed},
	} {
		t.Run(test.name, func(t *testing.T) {
			var mu sync.Mutex
			now := time.Now()
			clock := func() time.Time {
				mu.Lock()
				defer mu.Unlock()
				return now
			}
			w := newWorld(t, settings{window: 300, clock: clock})
			w.silent = func(l *jobs.Lease) bool {
				if !test.silent(l) {
					return false
				}
				mu.Lock()
				defer mu.Unlock()
				now = now.Add(time.Minute) // past every lease
				return true
			}
			w.workers = 1 // another's lease would run out as well
			job := w.run(t, jobs.Request{Types: []string{"Patient", "Encounter", "Observation"}})
			if job.State != test.state {
				t.Fatalf("job is %s: %s", job.State, job.Failure)
			}
			if job.State == jobs.Completed {
				same(t, w.exported(t, job), only(w.truth(t), func(typ, _ string, _ []byte) bool {
					return typ == "Patient" || typ == "Encounter" || typ == "Observation"
				}))
			}
		})
	}
}
