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

// set is what is exported: about 450 resources of twenty types.
var set = sync.OnceValue(func() *fakefhir.Dataset {
	return fakefhir.Generate(fakefhir.GenerateOptions{Patients: 1, Seed: 3})
})

// outcome is what became of an export that was struck.
type outcome struct {
	fault  fault
	struck bool
	verdict
	job    jobs.Job
	events [domains]map[string]int
}

type verdict string

const (
	exact  verdict = "exact"
	told   verdict = "told"   // not exact, and the error file says so
	alarm  verdict = "alarm"  // exact, though the error file has an error
	failed verdict = "failed" // with a reason
	wrong  verdict = "WRONG"
)

// strike performs one export, struck by a fault: resources change and go after
// its transaction time, so that every kind of unit has work. Then it is deleted.
func strike(t *testing.T, server fakefhir.Options, f fault) outcome {
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	server.Dataset = set()
	p := &points{fault: f}
	h := build(t, server, p)
	h.settle = 100 * time.Millisecond
	then := make(truth)
	for _, typ := range h.srv.Types() {
		then[typ] = make(map[string][]byte)
		for id, r := range h.srv.All(typ) {
			then[typ][id] = compact(t, r.JSON)
		}
	}
	ids := slices.Sorted(maps.Keys(then["Observation"]))
	var living sync.WaitGroup
	living.Go(func() { h.live(ctx, t) })
	writing := time.AfterFunc(20*time.Millisecond, func() { // after the kick-off, before anything has settled
		for i, id := range ids[:min(len(ids), 9)] {
			if i%3 == 0 {
				h.srv.Delete("Observation", id)
				continue
			}
			_, _ = h.srv.Put("Observation", id, fmt.Appendf(nil, `{"resourceType":"Observation","id":%q,"status":"amended"}`, id))
		}
		_, _ = h.srv.Put("Observation", "made-later", []byte(`{"resourceType":"Observation","id":"made-later"}`))
	})
	defer writing.Stop()
	job := h.export(ctx, t, jobs.Request{Since: time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC)})
	o := outcome{fault: f, job: *job}
	if job.State == jobs.Completed {
		// What was changed at or before the transaction time, where the machine is slow.
		for typ := range then {
			for id := range then[typ] {
				for _, v := range h.srv.History(typ, id) {
					if v.LastUpdated.After(job.TransactionTime) {
						continue
					}
					if delete(then[typ], id); !v.Deleted {
						then[typ][id] = compact(t, v.JSON)
					}
				}
			}
		}
		for _, v := range h.srv.History("Observation", "made-later") {
			if !v.LastUpdated.After(job.TransactionTime) {
				then["Observation"]["made-later"] = compact(t, v.JSON)
			}
		}
		output, issues := h.lines(t, job)
		n, some := differences(output, then)
		switch {
		case n == 0 && !slices.ContainsFunc(issues, func(s string) bool { return s[:5] == "error" }):
			o.verdict = exact
		case n == 0:
			o.verdict = alarm
		case said(issues) && f.domain == toUpstream:
			o.verdict = told
		default:
			o.verdict = wrong
			t.Errorf("%d differences, and the error file says %q; such as\n%q", n, issues, some)
		}
	} else if o.verdict = failed; job.Failure == "" {
		o.verdict = wrong
		t.Errorf("the job is %s, and no reason is told", job.State)
	}
	if f.mode != full {
		h.gone(ctx, t, job.ID)
	}
	for d := range domains {
		o.events[d], o.struck = p.seen(d)
	}
	cancel()
	living.Wait()
	return o
}

// tally counts outcomes by what was struck and how.
type tally struct {
	mu    sync.Mutex
	count map[string]map[verdict]int
}

func (c *tally) add(o outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := fmt.Sprintf("%-8s %-18s %s", o.fault.domain, o.fault.step, o.fault.mode)
	if !o.struck {
		name = "nothing was struck"
	}
	if c.count == nil {
		c.count = make(map[string]map[verdict]int)
	}
	if c.count[name] == nil {
		c.count[name] = make(map[verdict]int)
	}
	c.count[name][o.verdict]++
}

func (c *tally) log(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(c.count)) {
		t.Logf("%-40s %v", name, c.count[name])
	}
}

// TestFaultPoints strikes exports at steps all over their lives, each in the
// ways that fit it. The small form takes each way once, at a step that the seed
// chooses; at length all of them come, again and again.
func TestFaultPoints(t *testing.T) {
	random := rand.New(rand.NewPCG(seed(t), 0))
	whole, began := length(t), time.Now()
	servers := []fakefhir.Options{{}, {NoDirect: true, NoSystemHistory: true}, {NoDirect: true, HistoryTimes: true}}
	clean := strike(t, servers[0], fault{n: -1})
	if clean.verdict != exact {
		t.Fatalf("without a fault: %s: %s", clean.verdict, clean.job.Failure)
	}
	t.Logf("the steps of an export: %v", clean.events)
	var all tally
	round := func(t *testing.T) {
		for d := range domains {
			for _, m := range modes[d] {
				steps := slices.Sorted(maps.Keys(clean.events[d]))
				steps = slices.DeleteFunc(steps, func(step string) bool { return !m.fits(step) })
				if whole == 0 {
					steps = []string{steps[random.IntN(len(steps))]}
				}
				for _, step := range steps {
					f := fault{domain: d, step: step, n: 1 + random.IntN(clean.events[d][step]), mode: m}
					server := servers[random.IntN(len(servers))]
					t.Run(f.String(), func(t *testing.T) {
						t.Parallel()
						all.add(strike(t, server, f))
					})
				}
			}
		}
	}
	for n := 1; n == 1 || time.Since(began) < whole && !t.Failed(); n++ {
		t.Run(fmt.Sprint("round ", n), round)
	}
	all.log(t)
}
