//go:build e2e

package chaos

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

// A wire stands between the replicas and a server that they need.
type wire struct {
	t     testing.TB
	proxy *toxiproxy.Proxy
}

// newWire starts a wire to a server. It ends with the test.
func newWire(t testing.TB, to string) *wire {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())
	w := &wire{t: t, proxy: toxiproxy.NewProxy(server, "wire", "127.0.0.1:0", to)}
	if err := w.proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.proxy.Stop)
	return w
}

func (w *wire) address() string { return w.proxy.Listen }

// cut closes all connections and refuses new ones.
func (w *wire) cut() { w.proxy.Stop() }

// stall keeps all connections and lets nothing through in either direction.
func (w *wire) stall() {
	w.toxic(`{"type": "timeout", "stream": "upstream", "attributes": {"timeout": 0}}`)
	w.toxic(`{"type": "timeout", "stream": "downstream", "attributes": {"timeout": 0}}`)
}

// slow makes answers come late and bytes come slowly.
func (w *wire) slow(milliseconds, kilobytesPerSecond int) {
	w.toxic(fmt.Sprintf(`{"type": "latency", "stream": "downstream", "attributes": {"latency": %d, "jitter": %d}}`, milliseconds, milliseconds/2))
	w.toxic(fmt.Sprintf(`{"type": "bandwidth", "stream": "upstream", "attributes": {"rate": %d}}`, kilobytesPerSecond))
}

func (w *wire) toxic(json string) {
	w.t.Helper()
	if _, err := w.proxy.Toxics.AddToxicJson(strings.NewReader(json)); err != nil {
		w.t.Fatal(err)
	}
}

// mend undoes all of it. A connection that was stalled breaks.
func (w *wire) mend() {
	w.t.Helper()
	w.proxy.Toxics.ResetToxics(context.Background())
	if err := w.proxy.Start(); err != nil && err != toxiproxy.ErrProxyAlreadyStarted {
		w.t.Fatal(err)
	}
}
