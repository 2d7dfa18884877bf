//go:build e2e

package chaos

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
	"time"
)

// TestBucketAway spoils the bucket in the middle of an export, and then under a
// download.
func TestBucketAway(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		leave func(w *world, errors *atomic.Bool)
		away  time.Duration
		slow  bool // it goes on meanwhile
	}{
		"500":     {leave: func(_ *world, errors *atomic.Bool) { errors.Store(true) }, away: 20 * time.Second},
		"cut":     {leave: func(w *world, _ *atomic.Bool) { w.bucketWire.cut() }, away: 10 * time.Second},
		"stalled": {leave: func(w *world, _ *atomic.Bool) { w.bucketWire.stall() }, away: 15 * time.Second},
		"slow":    {leave: func(w *world, _ *atomic.Bool) { w.bucketWire.slow(1500, 50) }, away: 15 * time.Second, slow: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const resources = 20_000
			var errors atomic.Bool
			o := options{resources: resources, page: 250 * time.Millisecond, replicas: 2, wired: true}
			// The wire is made by the world, so what answers 500 finds out later
			// where it leads to.
			var target atomic.Pointer[url.URL]
			o.s3 = newSpoiler(t, &target, &errors)
			o.idle = true
			w := newWorld(t, o)
			target.Store(&url.URL{Scheme: "http", Host: w.bucketWire.address()})
			for _, r := range w.replicas {
				r.start(t)
			}
			mend := func() {
				errors.Store(false)
				w.bucketWire.mend()
			}

			status := kickOff(t, w.front.url)
			w.awaitSegments(t)
			c.leave(w, &errors)
			w.watchAway(t, status, c.away, c.slow)
			mend()
			w.upstream.slow(t, 0)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			answer, err := waitEnd(ctx, status, nil)
			if answer.status == http.StatusInternalServerError && answer.isOutcome() {
				t.Fatalf("the export failed, though the bucket was away for %s only: %s", c.away, answer.body)
			}
			if err != nil {
				t.Fatal(err)
			}
			whole := make(map[string][]byte)
			if err := exact(answer.body, resources, func(url string) ([]byte, error) {
				content, err := download(ctx, url, nil)
				whole[url] = content
				return content, err
			}); err != nil {
				t.Fatalf("the export is not exact: %v", err)
			}

			c.leave(w, &errors)
			for url, content := range whole {
				mustNotBeShort(t, through(w.replicas[0].origin, url), content, c.slow)
			}
			mend()
			w.remove(t, status, time.Minute)
		})
	}
}

// newSpoiler starts an HTTP proxy that can answer 500 to everything. It returns
// its address.
func newSpoiler(t *testing.T, target *atomic.Pointer[url.URL], errors *atomic.Bool) string {
	t.Helper()
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = target.Load().Scheme, target.Load().Host
		r.Out.Host = r.In.Host // it is signed
		r.Out.URL.RawQuery = r.In.URL.RawQuery
	}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if errors.Load() {
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = w.Write([]byte(`<?xml version="1.0"?><Error><Code>InternalError</Code><Message>scripted</Message></Error>`))
			return
		}
		forward.ServeHTTP(w, r)
	}))
	s.Config.ErrorLog = nil
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.Listener.Addr().String()
}

// watchAway checks that everything but the export itself works while the
// bucket is away.
func (w *world) watchAway(t *testing.T, status string, away time.Duration, mayEnd bool) {
	t.Helper()
	for left := time.Now(); time.Since(left) < away; time.Sleep(500 * time.Millisecond) {
		for _, r := range w.replicas {
			w.mustPassThrough(t, r)
		}
		r, err := ask(t.Context(), http.MethodGet, status)
		if err == nil && r.status == http.StatusOK && mayEnd {
			return
		}
		if err != nil || r.status != http.StatusAccepted {
			t.Fatalf("a poll was answered %d (%v): %.500s", r.status, err, r.body)
		}
	}
}

// mustNotBeShort checks that a download while the bucket is away is whole, or an
// error, or breaks off visibly.
func mustNotBeShort(t *testing.T, url string, content []byte, mustWork bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	begun := time.Now()
	r, err := ask(ctx, http.MethodGet, url, "Accept-Encoding: gzip")
	t.Logf("a download from a bucket that is away took %s", time.Since(begun).Round(time.Millisecond))
	switch {
	case err != nil:
		t.Logf("a download broke off: %v", err)
	case r.status == http.StatusOK:
		if string(r.body) != string(content) {
			t.Errorf("a download has %d bytes of %d with status 200", len(r.body), len(content))
		}
	case r.status >= 500 && r.isOutcome():
		t.Logf("a download was answered %d", r.status)
	default:
		t.Errorf("a download was answered %d: %.300s", r.status, r.body)
	}
	if mustWork && (err != nil || r.status != http.StatusOK) {
		t.Errorf("a download from a slow bucket failed: %d %v", r.status, err)
	}
}
