//go:build e2e

package chaos

import (
	"net/http"
	"syscall"
	"testing"
	"time"
)

// TestTakeover ends the process that has the only unit of work in hand.
func TestTakeover(t *testing.T) {
	t.Parallel()
	const resources = 15_000 // one window
	for name, c := range map[string]struct {
		end    func(t *testing.T, r *replica)
		within time.Duration // after the end of the process
	}{
		"at once after SIGTERM": {
			end: func(t *testing.T, r *replica) {
				if code, err := r.Stop(15 * time.Second); err != nil || code != 0 {
					t.Fatalf("exit status %d: %v", code, err)
				}
			},
			within: 2 * time.Second,
		},
		"within 30 s after SIGKILL": {
			end:    func(_ *testing.T, r *replica) { r.Kill() },
			within: 30 * time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// One unit, which takes about a minute from its beginning.
			w := newWorld(t, options{resources: resources, window: resources, pageSize: 250, page: time.Second, replicas: 2})
			status := kickOff(t, w.front.url)
			holder, other := w.holder(t)
			before := holder.metric("spillway_export_resources_total")
			c.end(t, holder)
			ended := time.Now()
			eventually(t, c.within, "the other process to take over", func() bool { return other.slices() > 0 })
			t.Logf("taken over after %s (%v resources were in segments)", time.Since(ended).Round(time.Millisecond), before)
			w.upstream.slow(t, 0)
			finish(t, status, resources, time.Minute, away)
			w.remove(t, status, time.Minute)
		})
	}
}

// holder waits until a replica of two has a slice in hand, and returns it and
// the other one.
func (w *world) holder(t *testing.T) (holder, other *replica) {
	t.Helper()
	eventually(t, 30*time.Second, "a process to begin a slice", func() bool {
		for i, r := range w.replicas {
			if r.slices() > 0 {
				holder, other = r, w.replicas[1-i]
			}
		}
		return holder != nil
	})
	return holder, other
}

// TestFencing freezes a process past its leases, and wakes it when another has
// its units, or has ended the export with them.
func TestFencing(t *testing.T) {
	t.Parallel()
	const resources = 20_000
	for name, ended := range map[string]bool{"woken while the successor works": false, "woken after the end": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Ten units of 20 pages.
			w := newWorld(t, options{resources: resources, page: 500 * time.Millisecond, replicas: 2})
			status := kickOff(t, w.front.url)
			frozen, other := w.replicas[0], w.replicas[1]
			var inHand float64
			eventually(t, 30*time.Second, "both processes to begin slices", func() bool {
				inHand = frozen.slices()
				return inHand > 0 && other.slices() > 0
			})
			if err := frozen.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			at := time.Now()
			t.Logf("frozen with %v slices in hand", inHand)

			// When the other has done as many as there are, it has taken over.
			alone := func() float64 { return other.metric("spillway_units_total", `kind="slice"`, `result="completed"`) }
			if ended {
				w.upstream.slow(t, 0)
				finish(t, status, resources, time.Minute, away)
			} else {
				eventually(t, time.Minute, "the leases to be lost", func() bool {
					return time.Since(at) > 22*time.Second && other.slices() > 0
				})
			}
			t.Logf("woken after %s; the other has completed %v slices", time.Since(at).Round(time.Second), alone())
			if err := frozen.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			eventually(t, time.Minute, "the process that was frozen to give its units up", func() bool {
				lost := frozen.metric("spillway_units_total", `result="lost"`)
				return lost+frozen.metric("spillway_units_total", `result="ended"`) >= inHand
			})
			w.upstream.slow(t, 0)
			finish(t, status, resources, time.Minute, nil)
			for _, r := range w.replicas { // both know the same files
				answer := must(t, http.StatusOK, http.MethodGet, through(r.origin, status))
				if err := exact(answer.body, resources, func(url string) ([]byte, error) {
					return download(t.Context(), through(r.origin, url), nil)
				}); err != nil {
					t.Errorf("through %s: %v", r.origin, err)
				}
			}
			w.remove(t, status, time.Minute)
		})
	}
}
