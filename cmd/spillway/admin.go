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
	Status string            `json:"status"`           // ok, degraded, not ready, stopping
	Checks map[string]string `json:"checks,omitempty"` // by name: ok, or a sentence
}

func writeHealth(w http.ResponseWriter, status int, h health) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(h) // the client has gone
}

// readiness says whether requests should be sent here: store and storage
// answer, the upstream has been learnt once, and tokens could be judged once. Redis, a bucket or an upstream
// that goes away later does not count: with the other replicas it would be the
// same, and what goes through to the upstream needs neither store nor storage.
type readiness struct {
	engine *engine
	issuer func(context.Context) error // whether tokens can be judged; nil: at any time
	log    *slog.Logger

	mu       sync.Mutex
	judged   bool   // tokens could be judged once
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
				"types", len(facts.Capabilities.Types), "profile", facts.Profile.Name)
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

func (r *readiness) isStopping() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stopping
}

// hasJudged reports whether tokens could be judged once. An issuer that goes away
// later is the same for all replicas, and its keys are remembered for a while.
func (r *readiness) hasJudged() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.judged
}

// status judges the checks. That a shared store or storage answered once is
// known from the start of the process.
func (r *readiness) status(checks map[string]string) (string, int) {
	failed := func(name string) bool { said, asked := checks[name]; return asked && said != "ok" }
	switch {
	case r.isStopping():
		return "stopping", http.StatusServiceUnavailable
	case failed("upstream"), failed("auth") && !r.hasJudged(), failed("store") && !r.engine.shared, failed("storage") && r.engine.links == nil:
		return "not ready", http.StatusServiceUnavailable
	case failed("store"), failed("storage"), failed("auth"):
		return "degraded", http.StatusOK
	}
	return "ok", http.StatusOK
}

// ServeHTTP answers /readyz.
func (r *readiness) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	checks := map[string]string{"upstream": r.upstream}
	r.mu.Unlock()
	store := verdict(req.Context(), r.engine.store.Ping)
	storage := verdict(req.Context(), r.engine.files.Ready)
	if r.issuer != nil {
		checks["auth"] = <-verdict(req.Context(), r.issuer)
		r.mu.Lock()
		r.judged = r.judged || checks["auth"] == "ok"
		r.mu.Unlock()
	}
	checks["store"], checks["storage"] = <-store, <-storage
	status, code := r.status(checks)
	writeHealth(w, code, health{Status: status, Checks: checks})
}

// verdictWithin is less than what load balancers wait for.
const verdictWithin = time.Second

// verdict asks whether something works, and sends "ok" or why not.
func verdict(ctx context.Context, ask func(context.Context) error) <-chan string {
	ctx, cancel := context.WithTimeout(ctx, verdictWithin)
	asked, answer := make(chan error, 1), make(chan string, 1)
	go func() { asked <- ask(ctx) }()
	go func() {
		defer cancel()
		select {
		case err := <-asked:
			answer <- sentence(err)
		case <-ctx.Done():
			answer <- "has not answered within " + verdictWithin.String()
		}
	}()
	return answer
}

func sentence(err error) string {
	if err != nil {
		return err.Error()
	}
	return "ok"
}
