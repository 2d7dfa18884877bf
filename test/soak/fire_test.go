package soak

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"spillway/jobs"
	"spillway/test/fakefhir"
)

// fire writes to a server: creates, updates, deletes, and transactions that
// become visible late.
type fire struct {
	srv  *fakefhir.Server
	late time.Duration // of a transaction at most

	mu     sync.Mutex
	random *rand.Rand
	ids    map[string][]string // all that ever were, by type
	open   map[string]bool     // what a transaction that is not visible yet writes

	writes int
	under  sync.WaitGroup
}

func ignite(srv *fakefhir.Server, random *rand.Rand, late time.Duration) *fire {
	f := &fire{srv: srv, random: random, late: late, ids: make(map[string][]string), open: make(map[string]bool)}
	for _, typ := range srv.Types() {
		f.ids[typ] = slices.Sorted(maps.Keys(srv.All(typ)))
	}
	return f
}

// burn writes so many resources a second until ctx ends, and then waits for what
// is not visible yet.
func (f *fire) burn(ctx context.Context, perSecond int) {
	defer f.under.Wait()
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	for skip := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if skip--; skip < 0 {
				skip = f.write() - 1
			}
		}
	}
}

var burning = []string{"Patient", "Encounter", "Observation", "Observation", "Condition"}

// write writes once and returns how many resources that were.
func (f *fire) write() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	size, wait := 1, time.Duration(0)
	if f.random.IntN(10) == 0 {
		size, wait = 1+f.random.IntN(20), time.Duration(f.random.Int64N(int64(f.late)))
	}
	tx := f.srv.Begin()
	var names []string
	for range size {
		typ := burning[f.random.IntN(len(burning))]
		id := fmt.Sprint("fire-", f.writes)
		if f.random.IntN(4) > 0 {
			id = f.ids[typ][f.random.IntN(len(f.ids[typ]))]
		}
		name := typ + "/" + id
		if f.open[name] {
			continue
		}
		f.writes++
		f.open[name] = true
		names = append(names, name)
		if f.random.IntN(5) == 0 {
			tx.Delete(typ, id)
			continue
		}
		f.ids[typ] = append(f.ids[typ], id)
		_ = tx.Put(typ, id, fmt.Appendf(nil, `{"resourceType":%q,"id":%q,"language":"x%d"}`, typ, id, f.writes))
	}
	commit := func() {
		tx.Commit()
		for _, name := range names {
			delete(f.open, name)
		}
	}
	if wait == 0 {
		commit()
		return size
	}
	f.under.Go(func() {
		time.Sleep(wait) // what is tested is the delay
		f.mu.Lock()
		defer f.mu.Unlock()
		commit()
	})
	return size
}

// at is what the server held at an instant.
func (f *fire) at(t *testing.T, instant time.Time) truth {
	t.Helper()
	held := make(truth)
	for typ, ids := range f.ids {
		held[typ] = make(map[string][]byte)
		for _, id := range ids {
			var last fakefhir.Resource
			for _, v := range f.srv.History(typ, id) {
				if !v.LastUpdated.After(instant) {
					last = v
				}
			}
			if last.JSON != nil && held[typ][id] == nil {
				held[typ][id] = compact(t, last.JSON)
			}
		}
	}
	return held
}

// TestUnderFire exports a server while 50 resources a second are written. At
// length these are 20,000 resources, 100 exports or as many as there is time
// for, and transactions become visible up to 4 s late.
func TestUnderFire(t *testing.T) {
	random := rand.New(rand.NewPCG(seed(t), 1))
	whole, began := length(t), time.Now()
	patients, exports, late, settle := 5, 2, 300*time.Millisecond, time.Second
	if whole > 0 {
		patients, exports, late, settle = 50, 100, 4*time.Second, 5*time.Second
	}
	set := fakefhir.Generate(fakefhir.GenerateOptions{Patients: patients})
	servers := map[string]fakefhir.Options{
		"direct":             {},
		"links":              {NoDirect: true},
		"history of types":   {NoDirect: true, NoSystemHistory: true},
		"history with times": {NoDirect: true, HistoryTimes: true},
		"clock ahead":        {Offset: 5 * time.Minute},
		"clock behind":       {NoDirect: true, Offset: -5 * time.Minute},
		"small pages":        {NoDirect: true, PageMax: 50},
		"cached counts":      {ResultCache: time.Minute},
		"slow":               {NoDirect: true, Latency: 20 * time.Millisecond},
	}
	names := slices.Sorted(maps.Keys(servers))
	writes, done := 0, 0
	for n := range exports {
		if n > 1 && time.Since(began) > whole {
			break
		}
		name := names[random.IntN(len(names))]
		t.Run(fmt.Sprint(n, " ", name), func(t *testing.T) {
			server := servers[name]
			server.Dataset = set
			h := build(t, server, &points{fault: fault{n: -1}})
			h.settle, h.window, h.page = settle, 1000, 250
			f := ignite(h.srv, rand.New(rand.NewPCG(random.Uint64(), 2)), late)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			var living sync.WaitGroup
			living.Go(func() { h.live(ctx, t) })
			writing, stop := context.WithCancel(ctx)
			living.Go(func() { f.burn(writing, 50) })
			time.Sleep(2 * late) // some of it is under way at the kick-off
			job := h.export(ctx, t, jobs.Request{})
			stop()
			cancel()
			living.Wait()
			if job.State != jobs.Completed {
				t.Fatalf("the job is %s: %s", job.State, job.Failure)
			}
			output, issues := h.lines(t, job)
			if n, some := differences(output, f.at(t, job.TransactionTime)); n > 0 {
				t.Errorf("%d differences, such as %q; issues: %q", n, some, issues)
			}
			if said(issues) {
				t.Errorf("a false alarm: %q", issues)
			}
			writes += f.writes
			done++
		})
	}
	t.Logf("%d exports of %d resources, %d writes meanwhile, in %v", done, set.Len(), writes, time.Since(began).Round(time.Second))
}
