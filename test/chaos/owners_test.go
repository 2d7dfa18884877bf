//go:build e2e

package chaos

import (
	"testing"
	"time"

	"spillway/auth/scope"
	"spillway/jobs"
	"spillway/jobs/redisstore"
	fake "spillway/test/fakefhir"
)

// TestManyExportsOfOneClient has one client queue 50 exports, and then another
// one a small one: that waits hardly longer than it takes alone. The exports go
// straight into the store, where they have owners.
func TestManyExportsOfOneClient(t *testing.T) {
	t.Parallel()
	const large, small = 20_000, 3_000
	w := newWorld(t, options{
		resources: large, page: 250 * time.Millisecond, window: 1000, replicas: 2,
		flags: func(int) []string { return []string{"--workers-only"} },
	})
	store, err := redisstore.Open(t.Context(), redisstore.Options{URL: redisURL(w.store.address)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	create := func(owner string, until time.Time) jobs.ID {
		job, first := jobs.New(jobs.Request{Level: jobs.LevelSystem, Until: until, URL: "http://example.org/fhir/$export"}, owner, time.Now())
		job.Authorization = scope.Snapshot{All: true}.Encode()
		if err := store.Create(t.Context(), job, first); err != nil {
			t.Fatal(err)
		}
		return job.ID
	}
	takes := func(what string) time.Duration {
		begun := time.Now()
		id := create("other", fake.Bulk(large).LastUpdated(small).Add(-time.Millisecond))
		eventually(t, 2*time.Minute, what, func() bool {
			job, err := store.Get(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			if job.State == jobs.Failed {
				t.Fatal(job.Failure)
			}
			return job.State == jobs.Completed
		})
		return time.Since(begun)
	}
	alone := takes("the small export, alone")
	for range 50 {
		create("many", time.Time{})
	}
	w.awaitSegments(t)
	beside := takes("the small export beside 50")
	all, err := store.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ended := 0
	for _, job := range all {
		if job.Owner == "many" && job.State.Ended() {
			ended++
		}
	}
	t.Logf("the small export took %s alone and %s beside 50, of which %d had ended then", alone.Round(time.Millisecond), beside.Round(time.Millisecond), ended)
	if ended > 10 {
		t.Errorf("%d of the 50 exports ended before the small one", ended)
	}
}
