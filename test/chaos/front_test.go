//go:build e2e

package chaos

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A front is the load balancer before the replicas. It takes them in turn.
type front struct {
	url       string // origin
	replicas  []*replica
	transport *http.Transport
	turn      atomic.Uint32
	// watched means that it asks each replica at /readyz and sends nothing to
	// one that is not ready; a request goes to another replica only where the
	// connection was refused, as load balancers do. Otherwise it tries one
	// after the other until one answers, so that only what all of them refuse
	// is a failure.
	watched bool
}

const (
	watchEvery = 250 * time.Millisecond
	// answerTime is how long a replica may take to begin an answer, and to go
	// on with it, if a frozen one must be told from a slow one.
	answerTime = 3 * time.Second
)

// newFront starts a balancer that has no replicas yet. It ends with the test.
func newFront(t testing.TB, watched bool) *front {
	t.Helper()
	f := &front{watched: watched, transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 32}}
	if !watched {
		f.transport.ResponseHeaderTimeout = answerTime
	}
	s := httptest.NewServer(f)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
		f.transport.CloseIdleConnections()
	})
	f.url = s.URL
	return f
}

// watch asks the replicas how they are, until ctx ends.
func (f *front) watch(ctx context.Context) {
	for ctx.Err() == nil {
		for _, r := range f.replicas {
			r.ready.Store(r.well())
		}
		select {
		case <-ctx.Done():
		case <-time.After(watchEvery):
		}
	}
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	first := int(f.turn.Add(1))
	for i := range f.replicas {
		to := f.replicas[(first+i)%len(f.replicas)]
		if f.watched && !to.ready.Load() {
			continue
		}
		out := r.Clone(ctx)
		out.RequestURI, out.URL.Scheme, out.URL.Host = "", "http", strings.TrimPrefix(to.origin, "http://")
		answer, err := f.transport.RoundTrip(out)
		if err == nil {
			f.pass(w, answer, cancel)
			return
		}
		if r.Context().Err() != nil {
			return
		}
		var dial *net.OpError
		refused := errors.As(err, &dial) && dial.Op == "dial"
		if !refused && (f.watched || r.Method == http.MethodPost) {
			break
		}
	}
	w.Header().Set("X-Front", "no replica answered")
	w.WriteHeader(http.StatusBadGateway)
}

// pass passes an answer on. If it breaks off, or the replica freezes, the
// client sees a broken connection.
func (f *front) pass(w http.ResponseWriter, answer *http.Response, cancel context.CancelFunc) {
	defer answer.Body.Close()
	for name, values := range answer.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.StatusCode)
	var frozen *time.Timer
	if !f.watched {
		frozen = time.AfterFunc(answerTime, cancel)
		defer frozen.Stop()
	}
	part := make([]byte, 64<<10)
	for {
		n, err := answer.Body.Read(part)
		if n > 0 {
			if _, err := w.Write(part[:n]); err != nil {
				return // the client has gone
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				panic(http.ErrAbortHandler)
			}
			return
		}
		if frozen != nil {
			frozen.Reset(answerTime)
		}
	}
}
