package export

import (
	"github.com/prometheus/client_golang/prometheus"

	"spillway/upstream/fhir"
)

// metrics counts what is written. Label values are FHIR type names or "other".
type metrics struct {
	resources *prometheus.CounterVec
	bytes     *prometheus.CounterVec
	stored    prometheus.Counter
	windows   *prometheus.CounterVec
	denied    *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		resources: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "spillway_export_resources_total", Help: "Resources written to segments, by type.",
		}, []string{"type"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "spillway_export_bytes_total", Help: "Uncompressed bytes written to segments, by type.",
		}, []string{"type"}),
		stored: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spillway_segment_bytes_total", Help: "Bytes of segments as stored.",
		}),
		windows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "spillway_windows_total", Help: "Windows read, by what was proven of them.",
		}, []string{"result"}),
		denied: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "spillway_export_denied_total", Help: "Resources that the upstream returned against the scopes of an export, by type. They are not exported.",
		}, []string{"type"}),
	}
	if r != nil {
		r.MustRegister(m.resources, m.bytes, m.stored, m.windows, m.denied)
	}
	return m
}

// typeLabel keeps label values to a fixed set.
func typeLabel(typ string) string {
	if fhir.KnownType(typ) {
		return typ
	}
	return "other"
}
