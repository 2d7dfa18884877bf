//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// fireType is a type that the tests' data hardly has.
const fireType = "Basic"

// deed is one write and when it was under way.
type deed struct {
	began, ended time.Time
	deletes      bool
}

// fire writes to HAPI: single writes, and transactions that are stamped when
// they begin and visible when they end.
type fire struct {
	base    string
	ids     []string
	mu      sync.Mutex
	deeds   map[string][]deed // by id, in order
	stop    chan struct{}
	writers sync.WaitGroup
	failed  error
}

func ignite(t *testing.T, base string) *fire {
	t.Helper()
	f := &fire{base: base, deeds: make(map[string][]deed), stop: make(chan struct{})}
	for i := range 240 {
		f.ids = append(f.ids, fmt.Sprintf("e2e-fire-%d", i))
	}
	f.transact(f.ids[:160]) // each writer has ids of its own
	t.Cleanup(func() {
		for _, id := range f.ids {
			_ = write(http.MethodDelete, base+"/"+fireType+"/"+id, "")
		}
	})
	for n := range 2 {
		mine := f.ids[n*80 : n*80+80]
		f.writers.Go(func() {
			random := rand.New(rand.NewPCG(7, uint64(n)))
			for !f.stopped(time.Duration(random.IntN(80)) * time.Millisecond) {
				f.put(mine[random.IntN(len(mine))], random.IntN(4) == 0)
			}
		})
	}
	f.writers.Go(func() {
		for !f.stopped(200 * time.Millisecond) {
			f.transact(f.ids[160:])
		}
	})
	return f
}

func (f *fire) stopped(after time.Duration) bool {
	select {
	case <-f.stop:
		return true
	case <-time.After(after):
		return false
	}
}

func (f *fire) extinguish(t *testing.T) {
	t.Helper()
	close(f.stop)
	f.writers.Wait()
	if f.failed != nil {
		t.Fatalf("writing: %v", f.failed)
	}
}

func (f *fire) body(id string) string {
	return `{"resourceType":"` + fireType + `","id":"` + id + `","code":{"text":"` + fmt.Sprint(rand.Int()) + `"}}`
}

func (f *fire) put(id string, deletes bool) {
	began, method, body := time.Now(), http.MethodPut, f.body(id)
	if deletes {
		method, body = http.MethodDelete, ""
	}
	f.note(write(method, f.base+"/"+fireType+"/"+id, body), began, deletes, id)
}

func (f *fire) transact(ids []string) {
	entries := make([]string, len(ids))
	for i, id := range ids {
		entries[i] = `{"resource":` + f.body(id) + `,"request":{"method":"PUT","url":"` + fireType + `/` + id + `"}}`
	}
	began := time.Now()
	f.note(write(http.MethodPost, f.base, `{"resourceType":"Bundle","type":"transaction","entry":[`+strings.Join(entries, ",")+`]}`), began, false, ids...)
}

func (f *fire) note(err error, began time.Time, deletes bool, ids ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil && f.failed == nil {
		f.failed = err
	}
	for _, id := range ids {
		f.deeds[id] = append(f.deeds[id], deed{began, time.Now(), deletes})
	}
}

// at returns what a resource was at an instant by HAPI's history of it, and by
// our own notes of deletions, which have no time there. It is not sure of a
// deletion that was under way at the instant.
func (f *fire) at(t *testing.T, id string, instant time.Time) (was resource, exists, sure bool) {
	t.Helper()
	var history struct {
		Entry []struct {
			Resource json.RawMessage
			Request  struct{ Method string }
		}
	}
	if err := getJSON(f.base+"/"+fireType+"/"+id+"/_history?_count=500&_since=1970-01-01T00:00:00Z", &history); err != nil {
		t.Fatal(err)
	}
	sure = true
	for _, d := range f.deeds[id] {
		if d.deletes && !d.began.After(instant.Add(20*time.Millisecond)) && !d.ended.Before(instant.Add(-20*time.Millisecond)) {
			sure = false
		}
	}
	for _, entry := range history.Entry { // newest first
		if entry.Request.Method == http.MethodDelete {
			continue
		}
		r, err := newResource(entry.Resource)
		if err != nil {
			t.Fatal(err)
		}
		if r.Meta.LastUpdated.After(instant) {
			continue
		}
		for _, d := range f.deeds[id] {
			if d.deletes && d.began.After(r.Meta.LastUpdated) && d.ended.Before(instant) {
				return r, false, sure
			}
		}
		return r, true, sure
	}
	return was, false, sure
}

// TestExportWhileWritten exports twice while HAPI is written to, the second
// time what changed since the first, and verifies both: each is what HAPI held at its transaction
// time, and the deletions are those in between.
func TestExportWhileWritten(t *testing.T) {
	base, held := server.ready(t)
	f := ignite(t, base)
	args := []string{"--upstream", base, "--type", fireType + ",Patient,Observation"}
	first := export(t, args...)
	first.mustExit(t, 0)
	one := readFolder(t, first.dir)
	second := export(t, append(args, "--since", "last:"+first.dir)...)
	f.extinguish(t)
	second.mustExit(t, 0)
	two := readFolder(t, second.dir)
	verify(t, first.dir)
	verify(t, second.dir)
	for _, e := range []*exported{one, two} {
		if len(e.doubled) > 0 {
			t.Errorf("on more than one line: %q", e.doubled)
		}
		for _, i := range e.issues {
			if i.Severity != "information" {
				t.Errorf("the error file says: %s", i)
			}
		}
	}
	since, until := parseTime(t, one.manifest.TransactionTime), parseTime(t, two.manifest.TransactionTime)
	listed := make(map[string]bool)
	for _, name := range two.deleted {
		listed[name] = true
	}
	deletions := 0
	for _, id := range f.ids {
		then, existed, sure := f.at(t, id, since)
		if sure {
			check(t, "first", id, one.resources[fireType][id], then, existed)
		}
		now, exists, sureNow := f.at(t, id, until)
		if !sureNow || !sure {
			continue
		}
		check(t, "second", id, two.resources[fireType][id], now, exists && !now.Meta.LastUpdated.Before(since))
		name := fireType + "/" + id
		deleted := false
		for _, d := range f.deeds[id] {
			deleted = deleted || d.deletes && d.began.After(since) && d.ended.Before(until)
		}
		if want := deleted && !exists; want && !listed[name] || listed[name] && exists {
			t.Errorf("%s: listed as deleted %t, exists %t", id, listed[name], exists)
		}
		if want := deleted && !exists; want {
			deletions++
		}
	}
	if deletions == 0 {
		t.Error("nothing was deleted between the exports")
	}
	one.resources[fireType] = held[fireType]
	one.mustEqual(t, held.of(fireType, "Patient", "Observation"))
	if len(two.resources["Patient"])+len(two.resources["Observation"]) > 0 {
		t.Error("the second export holds what did not change")
	}
}

func parseTime(t *testing.T, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func check(t *testing.T, export, id string, got, want resource, exists bool) {
	t.Helper()
	switch {
	case !exists && got.JSON != nil:
		t.Errorf("%s export: %s should not be there: %s", export, id, got.JSON)
	case exists && !bytes.Equal(got.JSON, want.JSON):
		t.Errorf("%s export: %s is\n%s\nwant\n%s", export, id, got.JSON, want.JSON)
	}
}
