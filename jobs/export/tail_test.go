package export_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway/jobs"
	"spillway/test/fakefhir"
)

// before calls f once, before the first unit of a kind is worked on.
func (w *world) before(kind jobs.UnitKind, f func()) {
	var once sync.Once
	w.silent = func(l *jobs.Lease) bool {
		if l.Unit.Kind == kind {
			once.Do(f)
		}
		return false
	}
}

func observation(id, more string) []byte {
	return []byte(`{"resourceType":"Observation","id":"` + id + `","status":"final","code":{"text":"x"}` + more + `}`)
}

// TestLateCommits makes writes visible only after everything was read, though
// they are stamped before the transaction time: the closing count finds them.
func TestLateCommits(t *testing.T) {
	for _, test := range []struct {
		name   string
		server fakefhir.Options
	}{
		{name: "OKDirect"},
		{name: "OKLinks", server: fakefhir.Options{NoDirect: true}},
		{name: "OKHistoryOfTypes", server: fakefhir.Options{NoSystemHistory: true}},
		{name: "OKNoHistory", server: fakefhir.Options{NoHistory: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, settings{server: test.server})
			old := slices.Sorted(maps.Keys(w.srv.All("Observation")))[0]
			was := compact(t, w.srv.All("Observation")[old].JSON)
			empty := "Basic"
			if len(w.srv.All(empty)) > 0 {
				t.Fatalf("there are resources of type %s", empty)
			}
			tx := w.srv.Begin()
			for i := range 5 {
				id := fmt.Sprintf("late-%d", i)
				must(t, tx.Put("Observation", id, observation(id, "")))
			}
			must(t, tx.Put("Observation", old, observation(old, "")))
			must(t, tx.Put(empty, "late", []byte(`{"resourceType":"`+empty+`","id":"late"}`)))
			w.before(jobs.UnitTail, func() { tx.Commit() })
			job := w.run(t, jobs.Request{})
			want := w.truth(t)
			want["Observation"][old] = was
			same(t, w.exported(t, job), want)
			issues := w.issues(t, job)
			if anyContains(issues, "error:") || !anyContains(issues, "1 resources were changed by writes that the upstream made visible only after") {
				t.Errorf("issues: %q", issues)
			}
			for _, e := range job.Evidence {
				if want := map[string]int64{"Observation": 5, empty: 1}[e.Type]; e.Late != want {
					t.Errorf("%s: %d late, want %d", e.Type, e.Late, want)
				}
			}
		})
	}
}

// TestTail changes and deletes resources after the transaction time, before
// anything is read.
func TestTail(t *testing.T) {
	w := newWorld(t, settings{})
	then := w.truth(t)
	var changed, deleted []string
	for i, id := range slices.Sorted(maps.Keys(then["Observation"])) {
		switch i % 3 {
		case 0:
			changed = append(changed, id)
		case 1:
			deleted = append(deleted, id)
		}
	}
	w.before(jobs.UnitSlice, func() {
		time.Sleep(2 * time.Millisecond) // past the transaction time
		for _, id := range changed {
			_, err := w.srv.Put("Observation", id, observation(id, ""))
			must(t, err)
		}
		for _, id := range deleted {
			w.srv.Delete("Observation", id)
		}
		_, err := w.srv.Put("Observation", "fresh", observation("fresh", ""))
		must(t, err)
	})
	job := w.run(t, jobs.Request{})
	same(t, w.exported(t, job), then)
	if issues := w.issues(t, job); len(issues) > 0 {
		t.Errorf("issues: %q", issues)
	}
	for _, e := range job.Evidence {
		if e.Type == "Observation" && (e.Tail != int64(len(changed)+len(deleted)) || e.Newer != 0 || !e.Proven || int(e.Exported) != len(then["Observation"])) {
			t.Errorf("evidence: %+v", e)
		}
	}
}

// TestTailWithFilter changes resources so that they match a filter no more, or
// only now. Where the filter can be evaluated here, what it found at the
// transaction time is known; where it cannot, that is said.
func TestTailWithFilter(t *testing.T) {
	for _, test := range []struct {
		name, query string
		want        []string
		issues      []string
	}{
		{name: "OKEvaluated", query: "status=registered", want: []string{"goes", "leaves", "same", "stays"}},
		{name: "OKOther", query: "status=registered&_id=stays,leaves,same,goes,comes,fresh", want: []string{"comes", "same", "stays"}, issues: []string{
			"2 resources changed after the transactionTime before they could be read", "2 resources were changed or deleted",
		}},
		{name: "OKEvaluatedCode", query: "code=X", want: []string{"goes", "leaves", "same", "stays"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, settings{})
			put := func(id, status string) {
				_, err := w.srv.Put("Observation", id, []byte(`{"resourceType":"Observation","id":"`+id+`","status":"`+status+
					`","code":{"coding":[{"code":"`+map[bool]string{true: "X", false: "Y"}[status == "registered"]+`"}]}}`))
				must(t, err)
			}
			for _, id := range []string{"stays", "leaves", "same", "goes"} {
				put(id, "registered")
			}
			put("comes", "amended")
			then := w.truth(t)
			w.before(jobs.UnitSlice, func() {
				time.Sleep(2 * time.Millisecond) // past the transaction time
				put("stays", "registered")
				put("leaves", "amended")
				put("comes", "registered")
				put("fresh", "registered")
				w.srv.Delete("Observation", "goes")
			})
			job := w.run(t, jobs.Request{Types: []string{"Observation"}, TypeFilters: []jobs.TypeFilter{{Type: "Observation", Query: test.query}}})
			got, issues := w.exported(t, job)["Observation"], w.issues(t, job)
			if ids := slices.Sorted(maps.Keys(got)); !slices.Equal(ids, test.want) {
				t.Errorf("exported %q, want %q", ids, test.want)
			}
			for _, want := range test.issues {
				if !anyContains(issues, want) {
					t.Errorf("issues: %q, want %q", issues, want)
				}
			}
			if len(test.issues) > 0 {
				return
			}
			for id, r := range got {
				if string(r) != string(then["Observation"][id]) {
					t.Errorf("%s is not as it was: %s", id, r)
				}
			}
			if len(issues) > 0 {
				t.Errorf("issues: %q", issues)
			}
		})
	}
}

// TestDeletedOfPatients lists the deletions of a cohort and of all patients,
// and none beside.
func TestDeletedOfPatients(t *testing.T) {
	w := newWorld(t, settings{})
	patients := slices.Sorted(maps.Keys(w.srv.All("Patient")))
	subject := func(i int) string { return `,"subject":{"reference":"Patient/` + patients[i] + `"}` }
	put := func(id, more string) {
		_, err := w.srv.Put("Observation", id, observation(id, more))
		must(t, err)
	}
	for i, id := range []string{"mine", "other", "again", "older"} {
		put(id, subject(i%2*3))
	}
	put("nobodys", "")
	_, err := w.srv.Put("Organization", "firm", []byte(`{"resourceType":"Organization","id":"firm"}`))
	must(t, err)
	w.srv.Delete("Observation", "older")
	time.Sleep(2 * time.Millisecond) // older than since
	since := w.srv.Now()
	for _, name := range []string{"Observation/mine", "Observation/other", "Observation/again", "Observation/nobodys", "Organization/firm", "Patient/" + patients[1], "Patient/" + patients[5]} {
		typ, id, _ := strings.Cut(name, "/")
		w.srv.Delete(typ, id)
	}
	put("again", subject(0))
	for _, test := range []struct {
		name    string
		request jobs.Request
		want    []string
	}{
		{"System", jobs.Request{}, []string{"Observation/mine", "Observation/other", "Observation/nobodys", "Organization/firm", "Patient/" + patients[1], "Patient/" + patients[5]}},
		{"Types", jobs.Request{Types: []string{"Patient"}}, []string{"Patient/" + patients[1], "Patient/" + patients[5]}},
		{"AllPatients", jobs.Request{Level: jobs.LevelPatient}, []string{"Observation/mine", "Observation/other", "Patient/" + patients[1], "Patient/" + patients[5]}},
		{"SomePatients", jobs.Request{Level: jobs.LevelPatient, Patients: patients[:2]}, []string{"Observation/mine", "Patient/" + patients[1]}},
		{"NoSince", jobs.Request{Level: "none"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.request.Since = since
			if test.request.Level == "none" {
				test.request.Level, test.request.Since = "", time.Time{}
			}
			job := w.run(t, test.request)
			got := w.exported(t, job)
			listed := slices.Sorted(maps.Keys(w.deletions(t, job)))
			slices.Sort(test.want)
			if !slices.Equal(listed, test.want) {
				t.Errorf("listed %q\nwant   %q\nissues %q", listed, test.want, w.issues(t, job))
			}
			if len(test.request.Types) == 0 && got["Observation"]["again"] == nil {
				t.Error("what was deleted and made again is not exported")
			}
			var sum int64
			for _, e := range job.Evidence {
				sum += e.Deleted
			}
			if sum != int64(len(test.want)) {
				t.Errorf("evidence of %d deletions, want %d", sum, len(test.want))
			}
		})
	}
}

// TestBrokenHistory lets the history fail though its probe went well: the export
// does without.
func TestBrokenHistory(t *testing.T) {
	for _, test := range []struct {
		name, typ string
		do        fakefhir.Do
		want      string
	}{
		{"Refused", "", fakefhir.Do{Status: &fakefhir.Status{Code: 400}}, "cannot list what was deleted since"},
		{"HTML", "", fakefhir.Do{HTML: true}, "cannot list what was deleted since"},
		{"OneTypeRefused", "Observation", fakefhir.Do{Status: &fakefhir.Status{Code: 404}}, "warning: Observation: the upstream offers no history of it"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, settings{server: fakefhir.Options{NoSystemHistory: test.typ != ""}})
			_, err := w.client.Learn(t.Context())
			must(t, err)
			w.srv.Script(fakefhir.Fault{Match: fakefhir.Match{Kind: fakefhir.KindHistory, Type: test.typ}, Do: test.do})
			job := w.run(t, jobs.Request{Since: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)})
			same(t, w.exported(t, job), only(w.truth(t), func(_, _ string, r []byte) bool { return lastUpdated(t, r).Year() >= 2000 }))
			if issues := w.issues(t, job); !anyContains(issues, test.want) || anyContains(issues, "error:") {
				t.Errorf("issues: %q", issues)
			}
		})
	}
}

// TestTailWhereLastUpdatedIsIgnored changes resources before a whole type is
// read: the history has them as they were. Where it fails, that is said.
func TestTailWhereLastUpdatedIsIgnored(t *testing.T) {
	for _, test := range []struct {
		name   string
		faults []fakefhir.Fault
		issue  string
	}{
		{name: "OKHistory"},
		{name: "ReportedNoHistory", issue: "error: Observation: 1 resources changed after the transactionTime", faults: []fakefhir.Fault{
			{Match: fakefhir.Match{Kind: fakefhir.KindHistory}, Do: fakefhir.Do{Status: &fakefhir.Status{Code: 400}}},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, settings{})
			w.srv.Script(fakefhir.Fault{Do: fakefhir.Do{IgnoreParams: []string{"_lastUpdated"}}})
			_, err := w.client.Learn(t.Context())
			must(t, err)
			then := w.truth(t)
			w.before(jobs.UnitSlice, func() {
				w.srv.Script(test.faults...)
				update(t, w.srv, slices.Sorted(maps.Keys(then["Observation"]))[3], "")
				update(t, w.srv, "fresh", "")
			})
			job := w.run(t, jobs.Request{Types: []string{"Observation"}})
			got, issues := w.exported(t, job), w.issues(t, job)
			if test.issue == "" {
				same(t, got, only(then, func(typ, _ string, _ []byte) bool { return typ == "Observation" }))
			} else if len(got["Observation"]) != len(then["Observation"])-1 || !anyContains(issues, test.issue) {
				t.Errorf("%d of %d; issues: %q", len(got["Observation"]), len(then["Observation"]), issues)
			}
		})
	}
}

// TestIgnoredFilter exports a server that ignores a filter: that is said.
func TestIgnoredFilter(t *testing.T) {
	w := newWorld(t, settings{})
	for i, status := range []string{"registered", "amended", "registered"} {
		_, err := w.srv.Put("Observation", fmt.Sprint("o-", i), []byte(`{"resourceType":"Observation","id":"o-`+fmt.Sprint(i)+`","status":"`+status+`"}`))
		must(t, err)
	}
	all := len(w.srv.All("Observation"))
	w.srv.Script(fakefhir.Fault{Do: fakefhir.Do{IgnoreParams: []string{"status"}}})
	job := w.run(t, jobs.Request{Types: []string{"Observation"}, TypeFilters: []jobs.TypeFilter{{Type: "Observation", Query: "status=registered"}}})
	want := fmt.Sprintf("error: Observation: %d resources of this export do not match its _typeFilter", all-2)
	if issues := w.issues(t, job); !anyContains(issues, want) {
		t.Errorf("issues: %q, want %q", issues, want)
	}
}
