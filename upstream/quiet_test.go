package upstream

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/upstream/fhir"
)

// What an upstream and a caller say to each other stays between them.
func TestNothingIsGivenAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		reg := prometheus.NewRegistry()
		requests := 0
		c, _ := serveMemory(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Secret", "secret")
			switch requests++; requests % 4 {
			case 1:
				w.WriteHeader(500)
				_, _ = io.WriteString(w, `{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"exception","diagnostics":"secret"}]}`)
			case 2:
				w.Header().Set("Retry-After", "3")
				w.WriteHeader(429)
			case 3:
				answer(w, `{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Observation","id":"secret","x":"sec`)
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			case 0:
				answer(w, `{"resourceType":"Bundle","total":1,"entry":[]}`)
			}
		}, func(c *Config) {
			c.Header = http.Header{"Authorization": {"Bearer secret"}}
			c.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
			c.Registerer = reg
		})
		s := Search{Type: "Observation", Query: "patient=secret"}
		if _, err := c.Page(t.Context(), s, "", func(*fhir.Entry) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Count(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		out := logged.String()
		if strings.Contains(out, "secret") {
			t.Errorf("logged %s", out)
		}
		for _, w := range []string{`request="search Observation" failure=status status=500 wait=`, `request="count Observation" failure=throttled status=429`, "failure=truncated"} {
			if !strings.Contains(out, w) {
				t.Errorf("logged %s\nwithout %s", out, w)
			}
		}
		wantMetric(t, reg,
			`spillway_upstream_requests_total{class="2xx",kind="search"} 2`,
			`spillway_upstream_requests_total{class="4xx",kind="search"} 1`,
			`spillway_upstream_requests_total{class="5xx",kind="search"} 1`,
			`spillway_upstream_requests_total{class="2xx",kind="count"} 2`,
			`spillway_upstream_retries_total{kind="search"} 3`,
			`spillway_upstream_retries_total{kind="count"} 3`,
			`spillway_upstream_request_seconds_count{kind="search"} 4`,
			`spillway_upstream_in_flight 0`,
			`spillway_upstream_waiting 0`,
			`spillway_upstream_breaker 0`,
			`spillway_upstream_page_size 1000`,
			`spillway_upstream_step_backs_total{reason="throttled"} 2`,
			`spillway_upstream_step_backs_total{reason="outage"} 0`)

		// Two clients may share a registry.
		if _, err := New(Config{URL: parse(t, "http://x"), Registerer: reg}); err != nil {
			t.Error(err)
		}
		// Another metric of the same name is an error, not a panic.
		other := prometheus.NewRegistry()
		other.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "spillway_upstream_in_flight", Help: "another"}))
		if _, err := New(Config{URL: parse(t, "http://x"), Registerer: other}); err == nil {
			t.Error("New takes a registry with other metrics")
		}
	})
}
