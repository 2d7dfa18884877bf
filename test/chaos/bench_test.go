//go:build e2e

package chaos

import (
	"net/http"
	"testing"
	"time"
)

// BenchmarkStores exports the same resources with bbolt and disk, then with
// Redis and bucket, one process each, and tells the ratio of their rates, and
// what Redis has had to do.
//
//	go test -tags e2e,disable_grpc_modules -run '^$' -bench Stores -benchtime 5x ./test/chaos
func BenchmarkStores(b *testing.B) {
	const resources = 1_000_000
	o := options{resources: resources, pageSize: 1000, window: 10_000, replicas: 1}
	shared := newWorld(b, o)
	o.embedded = true
	embedded := newWorld(b, o)
	embedded.exportOnce(b) // warms both, and the FHIR server, up
	shared.remove(b, shared.exportOnce(b), time.Minute)

	memory := shared.store.stat(b, "memory", "used_memory")
	commands := shared.store.stat(b, "stats", "total_commands_processed")
	var own, others time.Duration
	var grown, sent float64
	for b.Loop() {
		begun := time.Now()
		embedded.exportOnce(b)
		own += time.Since(begun)

		begun = time.Now()
		status := shared.exportOnce(b)
		others += time.Since(begun)
		grown += shared.store.stat(b, "memory", "used_memory") - memory
		sent += shared.store.stat(b, "stats", "total_commands_processed") - commands
		shared.remove(b, status, time.Minute)
		memory = shared.store.stat(b, "memory", "used_memory")
		commands = shared.store.stat(b, "stats", "total_commands_processed")
	}
	n := float64(b.N)
	b.ReportMetric(resources*n/own.Seconds(), "embedded-resources/s")
	b.ReportMetric(resources*n/others.Seconds(), "shared-resources/s")
	b.ReportMetric(own.Seconds()/others.Seconds(), "ratio")
	b.ReportMetric(grown/n/resources*1e6, "redis-B/1M")
	b.ReportMetric(sent/n/resources*1e6, "redis-commands/1M")
}

// exportOnce exports everything and returns the status URL. The files are not
// downloaded.
func (w *world) exportOnce(b *testing.B) string {
	b.Helper()
	status := kickOff(b, w.replicas[0].origin)
	for {
		switch r, err := ask(b.Context(), http.MethodGet, through(w.replicas[0].origin, status)); {
		case err != nil:
			b.Fatal(err)
		case r.status == http.StatusOK:
			return status
		case r.status != http.StatusAccepted:
			b.Fatalf("status %d: %.300s", r.status, r.body)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
