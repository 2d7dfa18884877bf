package export_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway/jobs"
	"spillway/jobs/export"
	"spillway/test/fakefhir"
	"spillway/upstream/fhir"
)

// fire writes to a server while it is exported: creates, updates, deletes, and
// transactions that become visible some time after their stamp.
type fire struct {
	w     *world
	delay time.Duration // the longest of a transaction

	mu   sync.Mutex
	ids  map[string][]string // all that ever were, by type
	busy map[string]bool     // that an open transaction writes, or has written and nobody may

	stop    chan struct{}
	writers sync.WaitGroup
	writes  int
}

var fireTypes = []string{"Patient", "Encounter", "Observation", "Condition"}

// ignite starts to write, seeded.
func ignite(w *world, seed uint64, delay time.Duration) *fire {
	f := &fire{w: w, delay: delay, ids: make(map[string][]string), busy: make(map[string]bool), stop: make(chan struct{})}
	for _, typ := range w.srv.Types() {
		f.ids[typ] = slices.Sorted(maps.Keys(w.srv.All(typ)))
	}
	for n := range uint64(3) {
		f.writers.Go(func() {
			random := rand.New(rand.NewPCG(seed, n))
			for {
				select {
				case <-f.stop:
					return
				case <-time.After(time.Duration(random.IntN(60)) * time.Millisecond):
					f.write(random)
				}
			}
		})
	}
	return f
}

// extinguish stops writing and waits for open transactions.
func (f *fire) extinguish() {
	close(f.stop)
	f.writers.Wait()
}

// pick reserves resources, so that no two open transactions write the same, as
// the locks of a database see to. Some are new.
func (f *fire) pick(random *rand.Rand, n int) (typ string, ids []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	typ = fireTypes[random.IntN(len(fireTypes))]
	for range n {
		id := ""
		if random.IntN(4) == 0 {
			id = fmt.Sprintf("fire-%d", f.writes)
			f.ids[typ] = append(f.ids[typ], id)
		} else {
			id = f.ids[typ][random.IntN(len(f.ids[typ]))]
		}
		f.writes++
		if f.busy[typ+"/"+id] {
			continue
		}
		f.busy[typ+"/"+id] = true
		ids = append(ids, id)
	}
	return typ, ids
}

func (f *fire) release(typ string, ids []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		delete(f.busy, typ+"/"+id)
	}
}

func (f *fire) write(random *rand.Rand) {
	size := 1
	if random.IntN(8) == 0 {
		size = 1 + random.IntN(20)
	}
	typ, ids := f.pick(random, size)
	tx := f.w.srv.Begin()
	for _, id := range ids {
		if random.IntN(4) == 0 {
			tx.Delete(typ, id)
			continue
		}
		_ = tx.Put(typ, id, fmt.Appendf(nil, `{"resourceType":%q,"id":%q,"language":"x%d","subject":{"reference":"Patient/patient-%d"}}`,
			typ, id, random.IntN(1_000_000), 1+random.IntN(9)))
	}
	if wait := time.Duration(random.Int64N(int64(f.delay) + 1)); random.IntN(10) == 0 && f.delay > 0 {
		f.writers.Go(func() {
			time.Sleep(wait) // what is tested is the delay
			tx.Commit()
			f.release(typ, ids)
		})
		return
	}
	tx.Commit()
	f.release(typ, ids)
}

// at is the truth about an instant: the current resources, and those deleted,
// with the time of that.
func (f *fire) at(t *testing.T, instant time.Time) (live map[string]map[string][]byte, gone map[string]time.Time) {
	t.Helper()
	live, gone = make(map[string]map[string][]byte), make(map[string]time.Time)
	for typ, ids := range f.ids {
		live[typ] = make(map[string][]byte)
		for _, id := range ids {
			var last fakefhir.Resource
			for _, v := range f.w.srv.History(typ, id) {
				if !v.LastUpdated.After(instant) {
					last = v
				}
			}
			switch {
			case last.Deleted:
				gone[typ+"/"+id] = last.LastUpdated
			case last.JSON != nil:
				live[typ][id] = compact(t, last.JSON)
			}
		}
	}
	return live, gone
}

// deletions are what the deleted files of a job list.
func (w *world) deletions(t *testing.T, job *jobs.Job) map[string]bool {
	t.Helper()
	found := make(map[string]bool)
	for _, f := range job.Files {
		if f.Kind != jobs.KindDeleted {
			continue
		}
		if f.Type != "Bundle" {
			t.Errorf("a file of deletions is of type %s", f.Type)
		}
		for _, line := range w.lines(t, f) {
			var b struct {
				ResourceType, Type string
				Entry              []struct{ Request struct{ Method, URL string } }
			}
			must(t, json.Unmarshal(line, &b))
			if b.ResourceType != "Bundle" || b.Type != "transaction" || len(b.Entry) != 1 || b.Entry[0].Request.Method != "DELETE" {
				t.Errorf("a deletion reads %s", line)
				continue
			}
			if url := b.Entry[0].Request.URL; found[url] {
				t.Errorf("%s was listed as deleted twice", url)
			} else {
				found[url] = true
			}
		}
	}
	return found
}

func lastUpdated(t *testing.T, resource []byte) time.Time {
	t.Helper()
	var r struct {
		Meta struct{ LastUpdated time.Time }
	}
	must(t, json.Unmarshal(resource, &r))
	return r.Meta.LastUpdated
}

// TestExportUnderFire exports twice while the server is written to, the second
// time what changed since the first. Each export is exactly what the server
// held at its transaction time, and the two together miss nothing.
func TestExportUnderFire(t *testing.T) {
	const settle = time.Second
	for _, test := range []struct {
		name   string
		server fakefhir.Options
	}{
		{name: "OKDirect"},
		{name: "OKLinks", server: fakefhir.Options{NoDirect: true}},
		{name: "OKHistoryOfTypes", server: fakefhir.Options{NoSystemHistory: true}},
		{name: "OKHistoryTimes", server: fakefhir.Options{HistoryTimes: true}},
		{name: "OKClockAhead", server: fakefhir.Options{Offset: 5 * time.Minute}},
	} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprintf("%s%d", test.name, seed), func(t *testing.T) {
				t.Parallel()
				server := test.server
				server.Latency = 2 * time.Millisecond
				w := newWorld(t, settings{server: server, window: 60, settle: settle})
				_, err := w.client.Learn(t.Context())
				must(t, err)
				f := ignite(w, seed, settle/3)
				first := w.run(t, jobs.Request{})
				second := w.run(t, jobs.Request{Since: first.TransactionTime})
				f.extinguish()
				t.Logf("%d writes", f.writes)

				held, _ := f.at(t, first.TransactionTime)
				same(t, w.exported(t, first), held)
				if issues := append(w.issues(t, first), w.issues(t, second)...); anyContains(issues, "error:") || anyContains(issues, "warning:") {
					t.Errorf("issues: %q", issues)
				}
				now, gone := f.at(t, second.TransactionTime)
				changed := w.exported(t, second)
				same(t, changed, only(now, func(_, _ string, r []byte) bool { return !lastUpdated(t, r).Before(first.TransactionTime) }))
				deleted := w.deletions(t, second)
				for name, at := range gone {
					if want := !at.Before(first.TransactionTime); want != deleted[name] {
						t.Errorf("%s was deleted at %v, since %v: listed %t", name, at, first.TransactionTime, deleted[name])
					}
				}
				// What a client has that applies the second export to the first.
				for typ, resources := range changed {
					maps.Copy(held[typ], resources)
				}
				for name := range deleted {
					typ, id, _ := strings.Cut(name, "/")
					if changed[typ][id] != nil {
						t.Errorf("%s is both exported and deleted", name)
					}
					delete(held[typ], id)
				}
				same(t, held, now)
				if len(w.deletions(t, first)) > 0 {
					t.Error("an export without _since lists deletions")
				}
			})
		}
	}
}

// TestPatientsUnderFire exports what belongs to patients while it moves from one
// patient to another.
func TestPatientsUnderFire(t *testing.T) {
	const settle = time.Second
	some := []string{"patient-1", "patient-3", "patient-8"}
	for _, test := range []struct {
		name string
		jobs.Request
		cohorts export.Cohorts
	}{
		{"OKAll", jobs.Request{Level: jobs.LevelPatient}, ""},
		{"OKSome", jobs.Request{Level: jobs.LevelPatient, Patients: some}, ""},
		{"OKBatches", jobs.Request{Level: jobs.LevelPatient, Patients: some}, export.CohortsBatches},
		{"OKScan", jobs.Request{Level: jobs.LevelPatient, Patients: some}, export.CohortsScan},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, settings{server: fakefhir.Options{Latency: 2 * time.Millisecond}, window: 60, settle: settle, cohorts: test.cohorts})
			_, err := w.client.Learn(t.Context())
			must(t, err)
			f := ignite(w, 5, settle/3)
			first := w.run(t, test.Request)
			test.Since = first.TransactionTime
			second := w.run(t, test.Request)
			f.extinguish()
			belongs := func(typ, _ string, r []byte) bool {
				found := false
				must(t, fhir.R4.PatientRefs(typ, r, func(param, id string) bool {
					found = test.Patients == nil || param != "link" && slices.Contains(some, id)
					return !found
				}))
				return found && (typ != "Group" || test.Patients == nil)
			}
			held, _ := f.at(t, first.TransactionTime)
			exact := func(job *jobs.Job, want map[string]map[string][]byte) {
				t.Helper()
				same(t, w.exported(t, job), want)
				if issues := w.issues(t, job); anyContains(issues, "error:") || anyContains(issues, "incomplete") {
					t.Errorf("issues: %q", issues)
				}
			}
			exact(first, only(held, belongs))
			now, gone := f.at(t, second.TransactionTime)
			exact(second, only(now, func(typ, id string, r []byte) bool {
				return belongs(typ, id, r) && !lastUpdated(t, r).Before(first.TransactionTime)
			}))
			deleted := w.deletions(t, second)
			for name, at := range gone {
				typ, id, _ := strings.Cut(name, "/")
				var last []byte
				for _, v := range w.srv.History(typ, id) {
					if v.JSON != nil && !v.LastUpdated.After(at) {
						last = v.JSON
					}
				}
				if want := !at.Before(first.TransactionTime) && belongs(typ, id, last); want != deleted[name] {
					t.Errorf("%s was deleted at %v, since %v: listed %t", name, at, first.TransactionTime, deleted[name])
				}
			}
		})
	}
}

// TestExportUnderFireWithoutHistory exports a server that keeps no history:
// what did not change is exact, what did is there once at most, and what is
// missing or newer is said.
func TestExportUnderFireWithoutHistory(t *testing.T) {
	w := newWorld(t, settings{server: fakefhir.Options{NoHistory: true, Latency: 2 * time.Millisecond}, window: 60, settle: time.Second})
	_, err := w.client.Learn(t.Context())
	must(t, err)
	f := ignite(w, 1, 100*time.Millisecond)
	job := w.run(t, jobs.Request{Since: time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC)})
	f.extinguish()
	then, _ := f.at(t, job.TransactionTime)
	now := w.truth(t)
	got := w.exported(t, job)
	missing := 0
	deleted := func(typ, id string) bool {
		return slices.ContainsFunc(w.srv.History(typ, id), func(v fakefhir.Resource) bool {
			return v.Deleted && v.LastUpdated.After(job.TransactionTime)
		})
	}
	for typ, resources := range then {
		for id, r := range resources {
			switch g := got[typ][id]; {
			case string(g) == string(r):
			case string(now[typ][id]) == string(r):
				t.Errorf("%s/%s did not change and is not exact: %s", typ, id, g)
			case g == nil && !deleted(typ, id):
				t.Errorf("%s/%s is missing, though a newer version could be had", typ, id)
			case g == nil:
				missing++
			}
		}
	}
	for typ, resources := range got {
		for id := range resources {
			if then[typ][id] == nil {
				t.Errorf("%s/%s was not there at the transaction time", typ, id)
			}
		}
	}
	issues := w.issues(t, job)
	if !anyContains(issues, "cannot list what was deleted") {
		t.Errorf("issues: %q", issues)
	}
	t.Logf("%d missing; issues: %q", missing, issues)
	if missing > 0 && !anyContains(issues, "that were deleted while this export ran") {
		t.Errorf("%d are missing, but issues say %q", missing, issues)
	}
}
