package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// adminHandler answers on the admin listener, which is for the operator alone.
func adminHandler(metrics prometheus.Gatherer, r *readiness) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeHealth(w, http.StatusOK, health{Status: "ok"})
	})
	mux.Handle("GET /readyz", r)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// health is what /healthz and /readyz answer.
type health struct {
	Status string            `json:"status"`           // ok, not ready, stopping
	Checks map[string]string `json:"checks,omitempty"` // by name: ok, or a sentence
}

func writeHealth(w http.ResponseWriter, status int, h health) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(h) // the client has gone
}

// readiness says whether requests should be sent here: store and storage
// answer, and the upstream has been learnt once. An upstream that goes away
// later does not count: other replicas would see the same.
type readiness struct {
	engine *engine
	log    *slog.Logger

	mu       sync.Mutex
	upstream string // "ok", or why it has not been learnt
	stopping bool
}

func newReadiness(e *engine, log *slog.Logger) *readiness {
	return &readiness{engine: e, log: log, upstream: "has not been asked yet"}
}

// relearn is how long an upstream that could not be learnt is left alone. Each
// attempt takes about ten seconds on its own.
const relearn = 5 * time.Second

// Run learns the upstream, again and again until it succeeds or ctx ends.
func (r *readiness) Run(ctx context.Context) error {
	for said := ""; ; {
		facts, err := r.engine.upstream.Learn(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			r.learnt("ok")
			r.log.Info("upstream learnt", "fhir", facts.Capabilities.FHIRVersion, "software", facts.Capabilities.Software,
				"types", len(facts.Capabilities.Types))
			for _, p := range facts.Problems {
				r.log.Warn("upstream: " + p)
			}
			return nil
		}
		r.learnt(err.Error())
		if said != err.Error() {
			said = err.Error()
			r.log.Warn("not ready: the upstream could not be learnt; trying on", "error", said)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(relearn):
		}
	}
}

func (r *readiness) learnt(how string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.upstream = how
}

// stop makes the process not ready for good.
func (r *readiness) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopping = true
}

// ServeHTTP answers /readyz.
func (r *readiness) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	ctx, cancel := context.WithTimeout(req.Context(), 5*time.Second)
	defer cancel()
	r.mu.Lock()
	stopping, upstream := r.stopping, r.upstream
	r.mu.Unlock()
	h := health{Status: "ok", Checks: map[string]string{
		"store": verdict(r.engine.store.Ping(ctx)), "storage": verdict(r.engine.files.Ready(ctx)), "upstream": upstream,
	}}
	status := http.StatusOK
	for _, check := range h.Checks {
		if check != "ok" {
			h.Status, status = "not ready", http.StatusServiceUnavailable
		}
	}
	if stopping {
		h.Status, status = "stopping", http.StatusServiceUnavailable
	}
	writeHealth(w, status, h)
}

func verdict(err error) string {
	if err != nil {
		return err.Error()
	}
	return "ok"
}
