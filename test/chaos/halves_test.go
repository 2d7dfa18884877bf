//go:build e2e

package chaos

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	fake "spillway/test/fakefhir"
)

// TestHalves has one process that answers and another that works.
func TestHalves(t *testing.T) {
	t.Parallel()
	const resources = 20_000
	w := newWorld(t, options{
		resources: resources, page: 250 * time.Millisecond, replicas: 2,
		flags: func(i int) []string { return []string{[]string{"--no-workers", "--workers-only"}[i]} },
	})
	web, work := w.replicas[0], w.replicas[1]
	w.front.replicas = w.replicas[:1]
	if _, err := ask(t.Context(), http.MethodGet, work.origin+"/fhir/metadata"); err == nil {
		t.Error("the worker answers clients")
	}

	t.Run("DELETE stops the work", func(t *testing.T) {
		status := kickOff(t, w.front.url)
		w.awaitSegments(t)
		if web.metric("spillway_units_total")+web.metric("spillway_units_running") > 0 {
			t.Error("the process without workers has worked")
		}
		must(t, http.StatusAccepted, http.MethodDelete, status)
		deleted := time.Now()
		must(t, http.StatusNotFound, http.MethodGet, status)
		eventually(t, 15*time.Second, "the work to stop", func() bool { return work.metric("spillway_units_running") == 0 })
		t.Logf("the work stopped %s after DELETE", time.Since(deleted).Round(time.Millisecond))
		w.mustBeEmpty(t, status, time.Minute)
		t.Logf("nothing was left %s after DELETE", time.Since(deleted).Round(time.Millisecond))
	})

	t.Run("an export", func(t *testing.T) {
		w.upstream.slow(t, 0)
		status := kickOff(t, w.front.url)
		finish(t, status, resources, time.Minute, nil)
		w.remove(t, status, time.Minute)
	})
}

// TestSmallExport queues an export of 3 units after one of 240.
func TestSmallExport(t *testing.T) {
	t.Parallel()
	const large, small = 240_000, 3_000
	w := newWorld(t, options{resources: large, page: 500 * time.Millisecond, window: 1000, replicas: 2})
	first := kickOff(t, w.front.url)
	w.awaitSegments(t)
	// The first resources, those before the cluster of resource `small`.
	end := fake.Bulk(large).LastUpdated(small)
	n := small
	for fake.Bulk(large).LastUpdated(n - 1).Equal(end) {
		n--
	}
	begun := time.Now()
	second := kickOff(t, w.front.url, "_until="+end.Add(-time.Millisecond).Format("2006-01-02T15:04:05.000Z"))
	finish(t, second, n, 2*time.Minute, nil)
	answer := must(t, http.StatusAccepted, http.MethodGet, first)
	progress := answer.header.Get("X-Progress")
	t.Logf("the small export took %s; the large one then says %q", time.Since(begun).Round(time.Millisecond), progress)
	var percent int
	if _, err := fmt.Sscanf(progress, "%d%%", &percent); err != nil || percent > 33 {
		t.Errorf("the large export says %q when the small one has ended (%v)", progress, err)
	}
	w.upstream.slow(t, 0)
	finish(t, first, large, time.Minute, nil)
}
