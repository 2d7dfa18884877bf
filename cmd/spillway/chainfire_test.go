package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spillway/test/fakefhir"
)

// fireRate is how many writes a second there are.
const fireRate = 50

var fireTypes = []string{"Patient", "Encounter", "Observation", "Condition"}

// A fire writes to a fake server: it creates, updates, deletes and makes again,
// some of it in transactions that become visible after their stamp.
type fire struct {
	server *fakefhir.Server
	late   time.Duration // of a transaction, at most
	random *rand.Rand    // of the one goroutine that writes

	mu      sync.Mutex
	ids     map[string][]string // all that ever were, by type
	gone    map[string][]string // those that were deleted once
	busy    map[string]bool     // that an open transaction writes
	done    map[string]int      // writes by kind
	stop    chan struct{}
	writing sync.WaitGroup
}

func ignite(s *fakefhir.Server, seed uint64, late time.Duration) *fire {
	f := &fire{
		server: s, late: late, random: rand.New(rand.NewPCG(seed, 1)),
		ids: make(map[string][]string), gone: make(map[string][]string), busy: make(map[string]bool), done: make(map[string]int), stop: make(chan struct{}),
	}
	for _, typ := range s.Types() {
		f.ids[typ] = slices.Sorted(maps.Keys(s.All(typ)))
	}
	f.writing.Go(func() {
		tick := time.NewTicker(time.Second / fireRate)
		defer tick.Stop()
		for due := 0; ; {
			select {
			case <-f.stop:
				return
			case <-tick.C:
			}
			for due++; due > 0; {
				due -= f.write()
			}
		}
	})
	return f
}

// extinguish stops writing and waits for open transactions.
func (f *fire) extinguish() {
	close(f.stop)
	f.writing.Wait()
}

// write makes one write, or a transaction of several, and returns how many.
func (f *fire) write() int {
	n := 1
	if f.random.IntN(12) == 0 {
		n = 2 + f.random.IntN(12)
	}
	tx := f.server.Begin()
	typ := fireTypes[f.random.IntN(len(fireTypes))]
	var mine []string
	for range n {
		if id, ok := f.pick(typ); ok {
			mine = append(mine, typ+"/"+id)
			f.put(tx, typ, id)
		}
	}
	commit := func() {
		tx.Commit()
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, name := range mine {
			delete(f.busy, name)
		}
	}
	if n == 1 {
		commit()
		return n
	}
	wait := time.Duration(f.random.Int64N(int64(f.late)))
	f.writing.Go(func() {
		time.Sleep(wait) // what is tested is the delay
		commit()
	})
	return n
}

// pick reserves a resource, old or new, as the locks of a database would.
func (f *fire) pick(typ string) (id string, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch gone := f.gone[typ]; {
	case f.random.IntN(4) == 0:
		id = fmt.Sprintf("fire-%d", len(f.ids[typ]))
		f.ids[typ] = append(f.ids[typ], id)
		f.done["created"]++
	case f.random.IntN(5) == 0 && len(gone) > 0:
		id = gone[f.random.IntN(len(gone))]
	default:
		id = f.ids[typ][f.random.IntN(len(f.ids[typ]))]
	}
	if f.busy[typ+"/"+id] {
		return "", false
	}
	f.busy[typ+"/"+id] = true
	return id, true
}

func (f *fire) put(tx *fakefhir.Tx, typ, id string) {
	history := f.server.History(typ, id)
	gone := len(history) > 0 && history[len(history)-1].Deleted
	f.mu.Lock()
	defer f.mu.Unlock()
	if !gone && f.random.IntN(4) == 0 {
		tx.Delete(typ, id)
		f.gone[typ] = append(f.gone[typ], id)
		f.done["deleted"]++
		return
	}
	if gone {
		f.done["made again"]++
	}
	f.done["written"]++
	_ = tx.Put(typ, id, fmt.Appendf(nil, `{"resourceType":%q,"id":%q,"language":"x%d","subject":{"reference":"Patient/patient-%d"}}`,
		typ, id, f.random.IntN(1_000_000), 1+f.random.IntN(3)))
}

// at is what the server held at an instant, and when what it did not hold any
// more was deleted: all by Type/id.
func (f *fire) at(t *testing.T, instant time.Time) (held map[string]string, gone map[string]time.Time) {
	t.Helper()
	f.mu.Lock()
	ids := make(map[string][]string)
	for typ, all := range f.ids {
		ids[typ] = slices.Clone(all)
	}
	f.mu.Unlock()
	held, gone = make(map[string]string), make(map[string]time.Time)
	for typ, all := range ids {
		for _, id := range all {
			var last fakefhir.Resource
			for _, v := range f.server.History(typ, id) {
				if !v.LastUpdated.After(instant) {
					last = v
				}
			}
			switch {
			case last.Deleted:
				gone[typ+"/"+id] = last.LastUpdated
			case last.JSON != nil:
				held[typ+"/"+id] = compacted(t, last.JSON)
			}
		}
	}
	return held, gone
}

func compacted(t *testing.T, b []byte) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// A copyOf is what a client has that applies one run after the other.
type copyOf map[string]string

// apply takes in the run in a directory, and returns what it lists as deleted.
func (c copyOf) apply(t *testing.T, dir string) (deleted map[string]bool) {
	t.Helper()
	var m struct{ Output, Deleted []struct{ URL string } }
	b, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range m.Output {
		for _, line := range readLines(t, filepath.Join(dir, file.URL)) {
			var r struct{ ResourceType, ID string }
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatal(err)
			}
			c[r.ResourceType+"/"+r.ID] = line
		}
	}
	deleted = make(map[string]bool)
	for _, file := range m.Deleted {
		for _, line := range readLines(t, filepath.Join(dir, file.URL)) {
			var b struct {
				Entry []struct{ Request struct{ Method, URL string } }
			}
			if err := json.Unmarshal([]byte(line), &b); err != nil {
				t.Fatal(err)
			}
			for _, e := range b.Entry {
				deleted[e.Request.URL] = true
				delete(c, e.Request.URL)
			}
		}
	}
	return deleted
}

// TestChain exports again and again, each time what has changed since the last
// run, while the server is written to all the time. After each run a client that
// has applied all of them has exactly what the server held at its
// transactionTime. SPILLWAY_SOAK makes it go on for a time, such as 30m (10m if
// it is no duration), with the settle time that is the default.
func TestChain(t *testing.T) {
	runs, settle, pause := 3, time.Second, 300*time.Millisecond
	var until time.Time
	if s := os.Getenv("SPILLWAY_SOAK"); s != "" {
		long, err := time.ParseDuration(s)
		if err != nil {
			long = 10 * time.Minute
		}
		runs, settle, pause, until = 1<<30, 5*time.Second, 2*time.Second, time.Now().Add(long)
	}
	o := few()
	o.Latency = 2 * time.Millisecond
	s, url := fake(t, o)
	t.Chdir(t.TempDir())
	f := ignite(s, uint64(time.Now().UnixNano()), settle*4/5)
	defer func() { t.Logf("writes: %v", f.done) }()
	defer f.extinguish()
	mine := make(copyOf)
	var since time.Time
	for n := 1; n <= runs && (until.IsZero() || time.Now().Before(until)); n++ {
		dir := fmt.Sprintf("runs/%06d", n)
		line := []string{"export", "--upstream", url, "--out", dir, "--settle", settle.String(), "--page-size", "50"}
		if n > 1 {
			line = append(line, "--since", "last")
		}
		if got := spillway(t.Context(), line...); got.status != 0 || strings.Contains(got.err, "error file") {
			t.Fatalf("run %d: %+v", n, got)
		}
		if got := spillway(t.Context(), "verify", dir); got.status != 0 {
			t.Errorf("verify run %d: %+v", n, got)
		}
		at, err := time.Parse(time.RFC3339, manifestOf(t, dir).TransactionTime)
		if err != nil {
			t.Fatal(err)
		}
		deleted := mine.apply(t, dir)
		held, gone := f.at(t, at)
		if diff := cmp.Diff(copyOf(held), mine); diff != "" {
			t.Fatalf("run %d: what the server held at %v (-) and what was exported up to then (+):\n%s", n, at, diff)
		}
		for name, when := range gone {
			if want := n > 1 && !when.Before(since); want != deleted[name] {
				t.Errorf("run %d: %s was deleted at %v, since %v up to %v: listed %t", n, name, when, since, at, deleted[name])
			}
			delete(deleted, name)
		}
		if len(deleted) > 0 {
			t.Errorf("run %d lists as deleted what the server held at %v: %v", n, at, deleted)
		}
		since = at
		time.Sleep(pause) // so that there is something between the runs, too
		if !until.IsZero() && n > 2 {
			if err := os.RemoveAll(fmt.Sprintf("runs/%06d", n-2)); err != nil { // a long chain must not fill the disk
				t.Fatal(err)
			}
		}
	}
}
