//go:build e2e

package chaos

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestRedisAway takes Redis away in the middle of an export.
func TestRedisAway(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		leave, back func(t *testing.T, w *world)
		away        time.Duration
	}{
		"cut": {
			leave: func(_ *testing.T, w *world) { w.redis.cut() },
			back:  func(_ *testing.T, w *world) { w.redis.mend() },
			away:  6 * time.Second,
		},
		"stalled for longer than a lease": {
			leave: func(t *testing.T, w *world) { w.signalRedis(t, syscall.SIGSTOP) },
			back:  func(t *testing.T, w *world) { w.signalRedis(t, syscall.SIGCONT) },
			away:  25 * time.Second,
		},
		"killed and started with its append-only file": {
			leave: func(_ *testing.T, w *world) { w.store.Kill() },
			back:  func(t *testing.T, w *world) { w.store.start(t) },
			away:  4 * time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const resources = 20_000
			w := newWorld(t, options{resources: resources, page: 250 * time.Millisecond, replicas: 2, wired: true, strays: true})
			status := kickOff(t, w.front.url)
			w.awaitSegments(t)

			c.leave(t, w)
			left := time.Now()
			for round := 0; time.Since(left) < c.away; round++ {
				for _, r := range w.replicas {
					w.mustPassThrough(t, r)
					mustBeUnavailable(t, r, status)
				}
			}
			c.back(t, w)
			back := time.Now()
			for _, r := range w.replicas {
				w.mustPassThrough(t, r)
			}
			for _, r := range w.replicas {
				eventually(t, 10*time.Second, "a replica to find Redis again", func() bool {
					answer, err := ask(t.Context(), http.MethodGet, through(r.origin, status))
					return err == nil && answer.status == http.StatusAccepted
				})
			}
			eventually(t, time.Minute, "work to go on", func() bool { return w.replicas[0].slices()+w.replicas[1].slices() > 0 })
			t.Logf("work went on %s after Redis was back", time.Since(back).Round(time.Millisecond))
			w.upstream.slow(t, 0)
			finish(t, status, resources, time.Minute, nil)
			w.remove(t, status, time.Minute)
		})
	}
}

func (w *world) signalRedis(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := w.store.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// awaitSegments waits until something is stored and more is to come.
func (w *world) awaitSegments(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, "the first slices to end", func() bool {
		var done, running float64
		for _, r := range w.replicas {
			done += r.metric("spillway_units_total", `kind="slice"`)
			running += r.slices()
		}
		return done > 0 && running > 0
	})
}

// mustPassThrough checks that a request which is none of ours goes through, and
// quickly.
func (w *world) mustPassThrough(t *testing.T, r *replica) {
	t.Helper()
	begun := time.Now()
	answer := must(t, http.StatusOK, http.MethodGet, r.origin+"/fhir/Observation/bulk-0000000007")
	if took := time.Since(begun); took > time.Second {
		t.Errorf("pass-through took %s", took)
	}
	if direct := must(t, http.StatusOK, http.MethodGet, w.upstream.base+"/Observation/bulk-0000000007"); string(direct.body) != string(answer.body) {
		t.Errorf("pass-through is not what the FHIR server says: %.200s", answer.body)
	}
}

// mustBeUnavailable checks that all of our routes say within two seconds that
// they cannot, and when to ask again.
func mustBeUnavailable(t *testing.T, r *replica, statusURL string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, request := range []struct {
		method, url string
		headers     []string
	}{
		{http.MethodGet, r.origin + "/fhir/$export", kickOffHeaders},
		{http.MethodGet, through(r.origin, statusURL), nil},
		{http.MethodDelete, through(r.origin, statusURL), nil},
	} {
		begun := time.Now()
		answer, err := ask(ctx, request.method, request.url, request.headers...)
		took := time.Since(begun)
		if err != nil {
			t.Fatalf("%s %s: %v", request.method, request.url, err)
		}
		seconds, _ := strconv.Atoi(answer.header.Get("Retry-After"))
		if answer.status != http.StatusServiceUnavailable || seconds < 1 || !answer.isOutcome() {
			t.Errorf("%s %s: status %d, Retry-After %q: %.200s", request.method, request.url, answer.status, answer.header.Get("Retry-After"), answer.body)
		}
		if took > 2*time.Second {
			t.Errorf("%s %s was answered after %s", request.method, request.url, took.Round(time.Millisecond))
		}
	}
	// It stays in service, for what goes through needs no Redis.
	answer, err := ask(ctx, http.MethodGet, r.admin+"/readyz")
	if err != nil || answer.status != http.StatusOK || !strings.Contains(string(answer.body), `"degraded"`) {
		t.Errorf("/readyz says %d %s (%v) though Redis is away", answer.status, answer.body, err)
	}
}

// TestRedisEmptied empties Redis in the middle of an export: it is gone, and
// what it has left in the bucket goes, too.
func TestRedisEmptied(t *testing.T) {
	t.Parallel()
	const resources = 20_000
	w := newWorld(t, options{resources: resources, page: 250 * time.Millisecond, replicas: 2, export: "  retention: 1s\n"})
	status := kickOff(t, w.front.url)
	w.awaitSegments(t)
	if err := w.store.client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "status 404", func() bool {
		r, err := ask(t.Context(), http.MethodGet, status)
		return err == nil && r.status == http.StatusNotFound && r.isOutcome()
	})
	for _, r := range w.replicas {
		w.mustPassThrough(t, r)
		eventually(t, 30*time.Second, "work to stop", func() bool { return r.metric("spillway_units_running") == 0 })
	}
	files, err := w.bucket.files()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d files are left without an export", len(files))
	w.upstream.slow(t, 0)
	w.mustBeEmpty(t, status, 4*time.Minute) // the sweeper looks for such files every minute, and at those older than one
}
