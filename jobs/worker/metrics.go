package worker

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/jobs"
)

// What came of an attempt, as a label.
const (
	resultCompleted = "completed"
	resultFailed    = "failed"
	resultWaiting   = "waiting"  // handed back until a later time
	resultReleased  = "released" // handed back, since the worker stops or the store was away
	resultEnded     = "ended"    // the job had ended
	resultLost      = "lost"     // the lease was lost
)

type metrics struct {
	units   *prometheus.CounterVec   // by kind and result
	running *prometheus.GaugeVec     // by kind
	seconds *prometheus.HistogramVec // by kind
}

// newMetrics returns metrics that are registered, or work for nobody if reg is nil.
func newMetrics(reg prometheus.Registerer, store jobs.Store) *metrics {
	m := &metrics{
		units: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "spillway_units_total", Help: "Attempts at units of work that ended, by what came of them.",
		}, []string{"kind", "result"}),
		running: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "spillway_units_running", Help: "Units of work under way.",
		}, []string{"kind"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "spillway_unit_seconds", Help: "Duration of attempts at units of work.",
			Buckets: prometheus.ExponentialBuckets(0.01, 4, 10), // 10 ms to 44 min
		}, []string{"kind"}),
	}
	if reg != nil {
		reg.MustRegister(m.units, m.running, m.seconds, jobsCollector{store})
	}
	return m
}

// kindLabel keeps the label's values a fixed set.
func kindLabel(k jobs.UnitKind) string {
	switch k {
	case jobs.UnitPlan, jobs.UnitSlice, jobs.UnitAssociated, jobs.UnitTail, jobs.UnitDeleted, jobs.UnitFinish:
		return string(k)
	}
	return "other"
}

// jobsCollector counts the jobs in the store when it is asked.
type jobsCollector struct{ store jobs.Store }

func (c jobsCollector) desc() *prometheus.Desc {
	return prometheus.NewDesc("spillway_jobs", "Exports in the job store, by state.", []string{"state"}, nil)
}

// Describe implements prometheus.Collector.
func (c jobsCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc() }

// Collect implements prometheus.Collector. A store that does not answer yields
// nothing: the other metrics are needed then.
func (c jobsCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	all, err := c.store.List(ctx)
	if err != nil {
		return
	}
	count := map[jobs.State]int{jobs.Queued: 0, jobs.Running: 0, jobs.Completed: 0, jobs.Failed: 0, jobs.Canceled: 0}
	for _, j := range all {
		if _, known := count[j.State]; known {
			count[j.State]++
		}
	}
	for state, n := range count {
		ch <- prometheus.MustNewConstMetric(c.desc(), prometheus.GaugeValue, float64(n), string(state))
	}
}
