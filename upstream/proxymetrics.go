package upstream

import (
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// proxyMetrics counts what is passed through. Its zero value counts nothing.
type proxyMetrics struct {
	requests *prometheus.CounterVec // by method and class
	inFlight prometheus.Gauge
	wait     prometheus.Histogram
}

func newProxyMetrics(r prometheus.Registerer) (proxyMetrics, error) {
	if r == nil {
		return proxyMetrics{}, nil
	}
	var m proxyMetrics
	var err [3]error
	m.requests, err[0] = register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "spillway_passthrough_requests_total",
		Help: "Requests passed through to the upstream, by method and by class of the answer; class cut is an answer that broke off, canceled a client that left.",
	}, []string{"method", "class"}))
	m.inFlight, err[1] = register(r, prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "spillway_passthrough_in_flight",
		Help: "Requests being passed through.",
	}))
	m.wait, err[2] = register(r, prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "spillway_passthrough_wait_seconds",
		Help:    "Time until the upstream's headers were there, or no answer came.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
	}))
	return m, errors.Join(err[:]...)
}

func (m proxyMetrics) waited(d time.Duration) {
	if m.wait != nil {
		m.wait.Observe(d.Seconds())
	}
}

func (m proxyMetrics) begin() {
	if m.inFlight != nil {
		m.inFlight.Inc()
	}
}

// end is deferred, and runs also when the handler panics to break off.
func (m proxyMetrics) end(r *http.Request, rec *recorder) {
	if m.inFlight == nil {
		return
	}
	m.inFlight.Dec()
	result := class(rec.status)
	switch {
	case r.Context().Err() != nil:
		result = "canceled"
	case !rec.whole:
		result = "cut"
	}
	m.requests.WithLabelValues(methodLabel(r.Method), result).Inc()
}

// methodLabel keeps the number of methods finite.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "other"
}

// A recorder remembers the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int
	whole  bool // the handler came to its end
}

// WriteHeader remembers a final status. The upstream's 100 is not passed on:
// the server sends one by itself as soon as the body is read, and that is when
// the upstream has asked for it.
func (r *recorder) WriteHeader(status int) {
	if status == http.StatusContinue {
		return
	}
	if status >= 200 && r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the writer's other methods.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
