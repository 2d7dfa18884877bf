package upstream

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"spillway/upstream/fhir"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const fhirJSON = "application/fhir+json;charset=utf-8"

// serve starts h on loopback and returns a client for it under /fhir.
func serve(t *testing.T, h http.Handler, edit ...func(*Config)) (*Client, *httptest.Server) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c := client(t, s.URL+"/fhir", edit...)
	return c, s
}

func client(t *testing.T, address string, edit ...func(*Config)) *Client {
	t.Helper()
	cfg := Config{URL: parse(t, address), Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
	for _, e := range edit {
		e(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func parse(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// answer writes a body with the FHIR media type.
func answer(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", fhirJSON)
	_, _ = io.WriteString(w, body)
}

// bundle is a page of Observations with these ids.
func bundle(next string, ids ...string) string {
	var b strings.Builder
	b.WriteString(`{"resourceType":"Bundle","type":"searchset"`)
	if next != "" {
		fmt.Fprintf(&b, `,"link":[{"relation":"next","url":%q}]`, next)
	}
	b.WriteString(`,"entry":[`)
	for i, id := range ids {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"resource":{"resourceType":"Observation","id":%q},"search":{"mode":"match"}}`, id)
	}
	return b.String() + "]}"
}

// total is a page that only counts.
func total(n int) string {
	return fmt.Sprintf(`{"resourceType":"Bundle","type":"searchset","total":%d}`, n)
}

// idsInto returns a visitor that appends the ids it sees.
func idsInto(ids *[]string) func(*fhir.Entry) error {
	return func(e *fhir.Entry) error {
		*ids = append(*ids, e.Header.ID)
		return nil
	}
}

var observations = Search{Type: "Observation"}

// memory is a network without sockets, so that a server can live in a
// synctest bubble.
type memory struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	mu    sync.Mutex
	down  bool // refuse connections
	dials int
}

func (m *memory) Accept() (net.Conn, error) {
	select {
	case c := <-m.conns:
		return c, nil
	case <-m.done:
		return nil, net.ErrClosed
	}
}
func (m *memory) Close() error   { m.once.Do(func() { close(m.done) }); return nil }
func (m *memory) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (m *memory) setDown(down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = down
}

// dialed returns how many connections were tried.
func (m *memory) dialed() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dials
}

func (m *memory) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	m.mu.Lock()
	m.dials++
	down := m.down
	m.mu.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	near, far := net.Pipe()
	select {
	case m.conns <- far:
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-m.done:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
}

// serveMemory is serve for a synctest bubble.
func serveMemory(t *testing.T, h http.HandlerFunc, edit ...func(*Config)) (*Client, *memory) {
	t.Helper()
	m := &memory{conns: make(chan net.Conn), done: make(chan struct{})}
	var wg sync.WaitGroup
	s := &http.Server{ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wg.Add(1)
		defer wg.Done()
		h(w, r)
	})
	wg.Go(func() { _ = s.Serve(m) })
	c := client(t, "http://fhir.test/fhir", edit...)
	c.transport.DialContext = m.dial
	t.Cleanup(func() {
		c.transport.CloseIdleConnections()
		_ = s.Close()
		wg.Wait()
	})
	return c, m
}

// since is the fake time that has passed, in whole seconds.
func since(start time.Time) int { return int(time.Since(start).Seconds()) }
