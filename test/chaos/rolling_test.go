//go:build e2e

package chaos

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

// TestRollingRestart restarts three replicas one after the other, twice, behind
// a load balancer that asks for readiness. No client notices.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	const resources, clients = 20_000, 15
	w := newWorld(t, options{resources: resources, page: 500 * time.Millisecond, watched: true, export: "  retention: 10m\n"})
	for _, r := range w.replicas {
		eventually(t, 10*time.Second, "the balancer to see the replicas", r.ready.Load)
	}
	statuses := []string{kickOff(t, w.front.url), kickOff(t, w.front.url)}

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	p := &pollers{}
	for i := range clients {
		p.group.Go(func() { p.poll(ctx, statuses[i%2]) })
	}
	p.group.Go(func() { p.poll(ctx, w.front.url+"/fhir/Observation/bulk-0000000007") })

	for round := range 2 * len(w.replicas) {
		i := round % len(w.replicas)
		r, begun := w.replicas[i], time.Now()
		if code, err := r.Stop(30 * time.Second); err != nil || code != 0 {
			t.Fatalf("replica %d: exit status %d: %v", i, code, err)
		}
		stopped := time.Since(begun)
		r.start(t)
		t.Logf("replica %d stopped in %s, was ready again %s later", i, stopped.Round(time.Millisecond), (time.Since(begun) - stopped).Round(time.Millisecond))
		eventually(t, 10*time.Second, "the balancer to see it", r.ready.Load)
	}
	for _, status := range statuses {
		if r := must(t, http.StatusAccepted, http.MethodGet, status); len(r.body) != 0 {
			t.Errorf("the body of a 202 is %q", r.body)
		} // so the restarts happened in the middle of the exports
	}
	w.upstream.slow(t, 0)
	for _, status := range statuses {
		finish(t, status, resources, time.Minute, nil)
	}
	stop()
	p.group.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	t.Logf("%d requests", p.asked)
	if len(p.failures) > 0 {
		t.Errorf("%d of %d requests failed, such as: %s", len(p.failures), p.asked, p.failures[0])
	}
}

// pollers are clients that ask again and again, and note every failure.
type pollers struct {
	group sync.WaitGroup

	mu       sync.Mutex
	asked    int
	failures []string
}

func (p *pollers) poll(ctx context.Context, url string) {
	for ctx.Err() == nil {
		r, err := ask(ctx, http.MethodGet, url)
		if ctx.Err() != nil {
			return
		}
		p.mu.Lock()
		p.asked++
		switch {
		case err != nil:
			p.failures = append(p.failures, err.Error())
		case r.status != http.StatusOK && r.status != http.StatusAccepted:
			p.failures = append(p.failures, fmt.Sprintf("status %d %s: %.300s", r.status, r.header.Get("X-Front"), r.body))
		}
		p.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
		}
	}
}
