package upstream

import (
	"errors"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// The kinds of request that metrics tell apart.
const (
	kindMetadata = "metadata"
	kindCount    = "count"
	kindSearch   = "search"
	kindNext     = "next"
	kindRead     = "read"
	kindHistory  = "history"
	kindProbe    = "probe"
)

// clientMetrics counts the client's requests. Its zero value counts nothing.
type clientMetrics struct {
	requests *prometheus.CounterVec   // by kind and class
	seconds  *prometheus.HistogramVec // by kind
	retries  *prometheus.CounterVec   // by kind
	inFlight prometheus.Gauge
	governor governorMetrics
}

func newClientMetrics(r prometheus.Registerer) (clientMetrics, error) {
	if r == nil {
		return clientMetrics{}, nil
	}
	var m clientMetrics
	var err [5]error
	m.requests, err[0] = register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "spillway_upstream_requests_total",
		Help: "Requests sent to the upstream for exports, by kind and by class of the answer.",
	}, []string{"kind", "class"}))
	m.seconds, err[1] = register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "spillway_upstream_request_seconds",
		Help:    "Time spent waiting for the upstream's answer, headers and body.",
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
	}, []string{"kind"}))
	m.retries, err[2] = register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "spillway_upstream_retries_total",
		Help: "Requests sent again after a failure.",
	}, []string{"kind"}))
	m.inFlight, err[3] = register(r, prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "spillway_upstream_in_flight",
		Help: "Requests to the upstream under way for exports.",
	}))
	m.governor, err[4] = newGovernorMetrics(r)
	return m, errors.Join(err[:]...)
}

// register adds c to r, or returns the one like it that is there already.
func register[C prometheus.Collector](r prometheus.Registerer, c C) (C, error) {
	err := r.Register(c)
	var there prometheus.AlreadyRegisteredError
	if errors.As(err, &there) {
		if former, ok := there.ExistingCollector.(C); ok {
			return former, nil
		}
	}
	return c, err
}

func (m *clientMetrics) begin() {
	if m.inFlight != nil {
		m.inFlight.Inc()
	}
}

func (m *clientMetrics) end(kind string, v verdict) {
	if m.inFlight == nil {
		return
	}
	m.inFlight.Dec()
	m.requests.WithLabelValues(kind, class(v.status)).Inc()
	m.seconds.WithLabelValues(kind).Observe(v.latency.Seconds())
}

func (m *clientMetrics) retried(kind string) {
	if m.retries != nil {
		m.retries.WithLabelValues(kind).Inc()
	}
}

// class is "2xx" and the like, or "error" for no answer.
func class(status int) string {
	if status < 100 || status > 599 {
		return "error"
	}
	return strconv.Itoa(status/100) + "xx"
}
