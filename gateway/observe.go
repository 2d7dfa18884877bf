package gateway

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/upstream/fhir"
)

// metrics are what the gateway counts. All label values are from fixed sets.
type metrics struct {
	requests *prometheus.CounterVec   // route, method, class
	duration *prometheus.HistogramVec // route
	sent     *prometheus.CounterVec   // encoding
}

func newMetrics() *metrics {
	return &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "spillway_http_requests_total",
			Help: "Requests answered, by route, method and status class (aborted: broken off).",
		}, []string{"route", "method", "class"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "spillway_http_request_seconds",
			Help:    "Time from the request to the last byte of its response, by route.",
			Buckets: []float64{.005, .02, .1, .5, 2, 10, 60, 600},
		}, []string{"route"}),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "spillway_download_bytes_total",
			Help: "Bytes of exported files sent to clients, by content encoding.",
		}, []string{"encoding"}),
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.sent} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// observed remembers what was written, for the log and the metrics.
type observed struct {
	http.ResponseWriter
	route  string
	status int // 0: nothing written yet
	bytes  int64
	after  []func() // done when the answer has been sent
}

// Unwrap lets http.ResponseController reach the connection.
func (o *observed) Unwrap() http.ResponseWriter { return o.ResponseWriter }

func (o *observed) WriteHeader(status int) {
	if o.status == 0 && status >= 200 {
		o.status = status
	}
	o.ResponseWriter.WriteHeader(status)
}

func (o *observed) Write(p []byte) (int, error) {
	if o.status == 0 {
		o.status = http.StatusOK
	}
	n, err := o.ResponseWriter.Write(p)
	o.bytes += int64(n)
	return n, err
}

// routeOf returns the route that a response is written for.
func routeOf(w http.ResponseWriter) string {
	if o, ok := w.(*observed); ok {
		return o.route
	}
	return ""
}

// bytesOf returns how much of a body has been written.
func bytesOf(w http.ResponseWriter) int64 {
	if o, ok := w.(*observed); ok {
		return o.bytes
	}
	return 0
}

// observe is deferred around every request. It ends panics, counts, and writes
// the one line of the access log.
func (s *server) observe(o *observed, r *http.Request, start time.Time) {
	aborted := false
	if v := recover(); v != nil {
		if v != http.ErrAbortHandler {
			s.logger.ErrorContext(r.Context(), "a handler panicked", "route", o.route, "kind", fmt.Sprintf("%T", v), "at", callers())
		}
		if v == http.ErrAbortHandler || o.status != 0 {
			aborted = true
		} else {
			clear(o.Header())
			writeOutcome(o, http.StatusInternalServerError, fhir.Issue{
				Severity: fhir.SeverityError, Code: fhir.IssueException, Diagnostics: "internal error",
			})
		}
	}
	method, class := methodLabel(r.Method), classLabel(o.status)
	if aborted {
		class = "aborted"
	}
	took := time.Since(start)
	s.metrics.requests.WithLabelValues(o.route, method, class).Inc()
	s.metrics.duration.WithLabelValues(o.route).Observe(took.Seconds())
	if o.route == routeFile && o.status/100 == 2 {
		s.metrics.sent.WithLabelValues(cmp.Or(o.Header().Get("Content-Encoding"), "identity")).Add(float64(o.bytes))
	}
	s.logger.LogAttrs(context.WithoutCancel(r.Context()), levelOf(o.route), "request",
		slog.String("method", method), slog.String("route", o.route), slog.Int("status", o.status),
		slog.Int64("bytes", o.bytes), slog.Duration("took", took), slog.Bool("aborted", aborted))
	if len(o.after) > 0 {
		_ = http.NewResponseController(o.ResponseWriter).Flush() // recorders in tests need none
		for _, f := range o.after {
			f()
		}
	}
	if aborted {
		panic(http.ErrAbortHandler)
	}
}

// levelOf keeps traffic that is not ours out of an ordinary log.
func levelOf(route string) slog.Level {
	switch route {
	case routeSystemExport, routePatientExport, routeGroupExport, routeStatus, routeFile, TokenPath:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "other"
}

func classLabel(status int) string {
	if status < 100 || status > 599 {
		return "none"
	}
	return string(rune('0'+status/100)) + "xx"
}

// callers names the functions on the stack of a panic, without their arguments.
func callers() string {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	var b strings.Builder
	for {
		frame, more := frames.Next()
		if !strings.HasPrefix(frame.Function, "runtime.") {
			fmt.Fprintf(&b, "%s:%d ", frame.Function, frame.Line)
		}
		if !more {
			return strings.TrimSpace(b.String())
		}
	}
}
