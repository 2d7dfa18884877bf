package export_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"spillway/jobs"
	"spillway/test/fakefhir"
)

// moment calls f once, before the server answers the first request that is of
// what is asked for.
type moment struct {
	is   func(*http.Request) bool
	f    func(*fakefhir.Server)
	once sync.Once
}

func (m *moment) see(srv *fakefhir.Server, r *http.Request) {
	if m.is(r) {
		m.once.Do(func() { m.f(srv) })
	}
}

func isCount(r *http.Request) bool {
	return strings.HasSuffix(r.URL.Path, "/Observation") && strings.Contains(r.URL.RawQuery, "_summary=count")
}

func update(t *testing.T, srv *fakefhir.Server, id, more string) {
	t.Helper()
	time.Sleep(2 * time.Millisecond) // past the transaction time
	_, err := srv.Put("Observation", id, observation(id, more))
	must(t, err)
}

// TestLossBehindChanges loses a resource on a page, as paging by offset does
// when another one leaves, while others change so that the numbers agree all
// the same: one that was read leaves before its window is counted again, another
// between the look for changes and the closing count.
func TestLossBehindChanges(t *testing.T) {
	for _, test := range []struct {
		name    string
		server  fakefhir.Options
		window  int64
		request jobs.Request
	}{
		{name: "OKOneWindow", server: fakefhir.Options{NoDirect: true}, window: 10_000},
		{name: "OKWindows", server: fakefhir.Options{NoDirect: true}, window: 300},
		{name: "OKHistoryOfTypes", server: fakefhir.Options{NoDirect: true, NoSystemHistory: true}, window: 10_000},
		{name: "OKPatients", server: fakefhir.Options{NoDirect: true}, window: 10_000, request: jobs.Request{Level: jobs.LevelPatient}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var w *world
			var reading, looked atomic.Bool
			afterReading := &moment{
				is: func(r *http.Request) bool { return reading.Load() && isCount(r) },
				f:  func(srv *fakefhir.Server) { update(t, srv, "first", "") },
			}
			closing := &moment{
				is: func(r *http.Request) bool { return looked.Load() && isCount(r) },
				f:  func(srv *fakefhir.Server) { update(t, srv, "second", "") },
			}
			w = newWorld(t, settings{server: test.server, window: test.window, before: func(srv *fakefhir.Server, r *http.Request) {
				looked.Store(looked.Load() || reading.Load() && strings.Contains(r.URL.Path, "_history"))
				afterReading.see(srv, r)
				closing.see(srv, r)
			}})
			_, err := w.client.Learn(t.Context())
			must(t, err)
			patient := slices.Sorted(maps.Keys(w.srv.All("Patient")))[0]
			for _, id := range []string{"first", "second"} {
				update(t, w.srv, id, `,"subject":{"reference":"Patient/`+patient+`"}`)
			}
			w.before(jobs.UnitSlice, func() { reading.Store(true) })
			w.srv.Script(fakefhir.Fault{
				Match: fakefhir.Match{Type: "Observation", Kind: fakefhir.KindNext, Page: 2}, Times: 1, Do: fakefhir.Do{DropEntries: 1},
			})
			then := w.truth(t)["Observation"]
			test.request.Types = []string{"Observation"}
			job := w.run(t, test.request)
			got := w.exported(t, job)["Observation"]
			for id, r := range then {
				if g := got[id]; g == nil && (test.request.Level == "" || strings.Contains(string(r), "Patient/")) {
					t.Errorf("Observation/%s is missing; issues: %q", id, w.issues(t, job))
				}
			}
			if !looked.Load() || len(w.srv.History("Observation", "second")) != 2 {
				t.Error("the closing count did not come after a look for changes")
			}
			if issues := w.issues(t, job); len(issues) > 0 {
				t.Errorf("issues: %q", issues)
			}
		})
	}
}

// TestLossBehindFilters does so where a resource may match several filters.
func TestLossBehindFilters(t *testing.T) {
	var reading atomic.Bool
	afterReading := &moment{
		is: func(r *http.Request) bool {
			return reading.Load() && isCount(r) && strings.Contains(r.URL.RawQuery, "status=final")
		},
		f: func(srv *fakefhir.Server) { update(t, srv, "n-099", "") },
	}
	w := newWorld(t, settings{server: fakefhir.Options{NoDirect: true, Dataset: fakefhir.Generate(fakefhir.GenerateOptions{})}, window: 10_000, before: afterReading.see})
	for i := range 100 {
		update(t, w.srv, fmt.Sprintf("n-%03d", i), "")
	}
	_, err := w.client.Learn(t.Context())
	must(t, err)
	w.before(jobs.UnitSlice, func() { reading.Store(true) })
	w.srv.Script(fakefhir.Fault{
		Match: fakefhir.Match{Type: "Observation", Kind: fakefhir.KindNext, Page: 2}, Times: 1, Do: fakefhir.Do{DropEntries: 1},
	})
	then := w.truth(t)
	job := w.run(t, jobs.Request{Types: []string{"Observation"}, TypeFilters: []jobs.TypeFilter{
		{Type: "Observation", Query: "status=final"}, {Type: "Observation", Query: "status=amended"},
	}})
	got := w.exported(t, job)
	if len(got["Observation"]) != len(then["Observation"]) {
		t.Errorf("exported %d of %d; issues: %q", len(got["Observation"]), len(then["Observation"]), w.issues(t, job))
	}
	if issues := w.issues(t, job); anyContains(issues, "error:") {
		t.Errorf("issues: %q", issues)
	}
}

// TestMadeAfterwards makes a resource after the transaction time and changes it
// at once, where only its newest version can be found by searching: it was not
// there, and its first version tells.
func TestMadeAfterwards(t *testing.T) {
	w := newWorld(t, settings{server: fakefhir.Options{NoHistory: true}})
	then := w.truth(t)
	w.before(jobs.UnitSlice, func() {
		update(t, w.srv, "fresh", "")
		update(t, w.srv, "fresh", "")
		update(t, w.srv, "fresh", "")
	})
	job := w.run(t, jobs.Request{})
	same(t, w.exported(t, job), then)
	if issues := w.issues(t, job); !anyContains(issues, "warning: The upstream offers no history") {
		t.Errorf("what may have been deleted meanwhile is not warned of: %q", issues)
	}
}
