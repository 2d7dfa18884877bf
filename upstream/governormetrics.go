package upstream

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// backNames are the label of each reason to step back.
var backNames = [...]string{
	backThrottled: "throttled", backUnavailable: "unavailable", backTimeout: "timeout",
	backLatency: "latency", backPass: "pass_through", backOutage: "outage",
}

// governorMetrics shows what the governor does. Its zero value shows nothing.
type governorMetrics struct {
	limit, slots, waiting, pause, breaker, page prometheus.Gauge
	backs                                       *prometheus.CounterVec // by reason
}

func newGovernorMetrics(r prometheus.Registerer) (governorMetrics, error) {
	if r == nil {
		return governorMetrics{}, nil
	}
	var m governorMetrics
	var errs []error
	gauge := func(name, help string) prometheus.Gauge {
		g, err := register(r, prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help}))
		errs = append(errs, err)
		return g
	}
	m.limit = gauge("spillway_upstream_limit", "Requests that all processes together may have under way for exports at this moment.")
	m.slots = gauge("spillway_upstream_slots", "Requests that this process may have under way for exports at this moment.")
	m.waiting = gauge("spillway_upstream_waiting", "Requests for exports that wait for their turn.")
	m.pause = gauge("spillway_upstream_pause_until_seconds", "Until when the upstream has asked to be left alone, as a Unix time; 0 if it never has.")
	m.breaker = gauge("spillway_upstream_breaker", "0: the upstream is asked as usual; 1: it only fails and is left alone; 2: one request is trying whether it is back.")
	m.page = gauge("spillway_upstream_page_size", "The smallest page size that any type is asked for at this moment.")
	var err error
	m.backs, err = register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "spillway_upstream_step_backs_total",
		Help: "How often the limit was lowered on what this process saw, by reason.",
	}, []string{"reason"}))
	for _, name := range backNames[1:] {
		if err == nil {
			m.backs.WithLabelValues(name)
		}
	}
	return m, errors.Join(append(errs, err)...)
}

func (m *governorMetrics) grants(g grant) {
	if m.limit == nil {
		return
	}
	m.limit.Set(float64(g.limit))
	m.slots.Set(float64(g.slots))
	if g.stepped != noStepBack {
		m.backs.WithLabelValues(backNames[g.stepped]).Inc()
	}
}

func (m *governorMetrics) waits(n int) {
	if m.waiting != nil {
		m.waiting.Set(float64(n))
	}
}

func (m *governorMetrics) pauses(until time.Time) {
	if m.pause != nil {
		m.pause.Set(float64(until.UnixMilli()) / 1000)
	}
}

func (m *governorMetrics) breaks(b *breaker) {
	switch {
	case m.breaker == nil:
	case !b.open:
		m.breaker.Set(0)
	case b.probing:
		m.breaker.Set(2)
	default:
		m.breaker.Set(1)
	}
}

func (m *governorMetrics) pages(size int) {
	if m.page != nil {
		m.page.Set(float64(size))
	}
}
