package jwks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"spillway/auth"
	"spillway/auth/fetch"
	"spillway/auth/token"
)

// A publisher serves key sets, and does what hostile and broken ones do.
type publisher struct {
	*httptest.Server
	asked atomic.Int32

	mu     sync.Mutex
	answer http.HandlerFunc
}

func publish(t *testing.T, answer http.HandlerFunc) *publisher {
	p := &publisher{answer: answer}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asked.Add(1)
		p.mu.Lock()
		answer := p.answer
		p.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *publisher) now(answer http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}

func serve(body []byte, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		_, _ = w.Write(body)
	}
}

func broken(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
}

// A clock is moved by hand.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d)) }

func newCache(p *publisher, change func(*Options)) (*Cache, *clock) {
	c := &clock{}
	c.advance(1e9 * time.Second)
	o := Options{Now: c.now, Client: fetch.New(fetch.Options{
		Private: true, Timeout: 2 * time.Second, TLS: p.Client().Transport.(*http.Transport).TLSClientConfig,
	})}
	if change != nil {
		change(&o)
	}
	return New(o), c
}

func find(t *testing.T, s *Set, id string) error {
	t.Helper()
	_, err := s.Find(t.Context(), id, token.ES384)
	return err
}

func want(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) || (got == nil) != (want == nil) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestRotationWithoutRestart(t *testing.T) {
	old, fresh := token.NewSigningKey(), token.NewSigningKey()
	p := publish(t, serve(token.PublicJSON(old)))
	cache, clock := newCache(p, nil)
	s := cache.At(p.URL)
	want(t, "old key", find(t, s, old.ID()), nil)

	p.now(serve(token.PublicJSON(fresh)))
	want(t, "new key at once", find(t, s, fresh.ID()), token.ErrKeyNotFound)
	clock.advance(5 * time.Second)
	want(t, "new key after the interval", find(t, s, fresh.ID()), nil)
	want(t, "old key after that", find(t, s, old.ID()), token.ErrKeyNotFound)
}

func TestWithdrawnKeyEndsWithTheLifetime(t *testing.T) {
	old := token.NewSigningKey()
	p := publish(t, serve(token.PublicJSON(old), "Cache-Control", "max-age=60"))
	cache, clock := newCache(p, nil)
	s := cache.At(p.URL)
	want(t, "at first", find(t, s, old.ID()), nil)
	p.now(serve([]byte(`{"keys":[]}`)))
	clock.advance(59 * time.Second)
	want(t, "within the lifetime", find(t, s, old.ID()), nil)
	clock.advance(time.Second)
	want(t, "after it", find(t, s, old.ID()), token.ErrKeyNotFound)
}

func TestInventedKidsCauseOneRequestAnInterval(t *testing.T) {
	key := token.NewSigningKey()
	p := publish(t, serve(token.PublicJSON(key)))
	cache, clock := newCache(p, func(o *Options) { o.Interval = 30 * time.Second })
	s := cache.At(p.URL)
	want(t, "known key", find(t, s, key.ID()), nil)
	for second := range 60 {
		var g sync.WaitGroup
		for worker := range 10 {
			g.Go(func() {
				for i := range 100 {
					if _, err := s.Find(t.Context(), fmt.Sprintf("%d.%d.%d", second, worker, i), token.ES384); !errors.Is(err, token.ErrKeyNotFound) {
						t.Errorf("invented key: %v", err)
					}
				}
			})
		}
		g.Wait()
		want(t, "known key between them", find(t, s, key.ID()), nil)
		clock.advance(time.Second)
	}
	if n := p.asked.Load(); n != 2 { // at 0 s and 30 s; the one of the known key was the first
		t.Errorf("60000 invented kids in a minute caused %d requests, want 2 with an interval of 30s", n)
	}
}

func TestRefusedAnswers(t *testing.T) {
	key := token.NewSigningKey()
	good := token.PublicJSON(key)
	many := `{"keys":[` + strings.Repeat(`{"kty":"RSA"},`, 9999) + `{}]}`
	for name, answer := range map[string]http.HandlerFunc{
		"Status500WithKeys": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(500)
			_, _ = w.Write(good)
		},
		"Status201": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(201)
			_, _ = w.Write(good)
		},
		"HTML":       serve(good, "Content-Type", "text/html"),
		"NoType":     serve(good, "Content-Type", ""),
		"Compressed": serve(good, "Content-Encoding", "gzip"),
		"10MiB":      serve([]byte(`{"keys":[],"x":"` + strings.Repeat("x", 10<<20) + `"}`)),
		"10000Keys":  serve([]byte(many)),
		"Malformed":  serve([]byte(`{"keys":`)),
		"Redirect": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/" {
				http.Redirect(w, r, "/target", http.StatusTemporaryRedirect)
				return
			}
			serve(good)(w, r)
		},
		"HangsUp": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"Stalls": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for _, b := range good {
				_, _ = w.Write([]byte{b})
				_ = http.NewResponseController(w).Flush()
				select {
				case <-time.After(time.Second):
				case <-r.Context().Done():
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := publish(t, answer)
			p.Config.ErrorLog = nil
			cache, clock := newCache(p, nil)
			s := cache.At(p.URL + "/")
			for range 3 {
				want(t, "key", find(t, s, key.ID()), auth.ErrUnavailable)
			}
			if n := p.asked.Load(); n != 1 {
				t.Errorf("asked %d times within the interval", n)
			}
			p.now(serve(good))
			clock.advance(5 * time.Second)
			want(t, "key after it was mended", find(t, s, key.ID()), nil)
		})
	}
}

// TestOutage: an issuer's keys outlive its outage for a bounded time, a
// client's do not.
func TestOutage(t *testing.T) {
	key := token.NewSigningKey()
	for _, tt := range []struct {
		maxStale, after time.Duration
		want            error
	}{
		{0, 5*time.Minute - 1, nil},
		{0, 5 * time.Minute, auth.ErrUnavailable},
		{time.Hour, 5 * time.Minute, nil},
		{time.Hour, 65*time.Minute - 1, nil},
		{time.Hour, 65 * time.Minute, auth.ErrUnavailable},
	} {
		p := publish(t, serve(token.PublicJSON(key)))
		cache, clock := newCache(p, func(o *Options) { o.MaxStale = tt.maxStale })
		s := cache.At(p.URL)
		want(t, "before", find(t, s, key.ID()), nil)
		p.now(broken(http.StatusBadGateway))
		clock.advance(tt.after)
		for range 3 {
			want(t, fmt.Sprintf("stale %v, after %v", tt.maxStale, tt.after), find(t, s, key.ID()), tt.want)
		}
	}
}

// TestHangingAddresses: while three addresses and a stale issuer hang, another
// client is served at once, and the issuer's tokens within the patience.
func TestHangingAddresses(t *testing.T) {
	key := token.NewSigningKey()
	release := make(chan struct{})
	hang := func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}
	p := publish(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/hang") {
			hang(w, r)
			return
		}
		serve(token.PublicJSON(key))(w, r)
	})
	cache, clock := newCache(p, func(o *Options) { o.MaxStale = time.Hour })
	issuer := cache.At(p.URL + "/issuer")
	want(t, "issuer", find(t, issuer, key.ID()), nil)
	var g sync.WaitGroup
	for i := range 3 {
		g.Go(func() {
			want(t, "hanging", find(t, cache.At(fmt.Sprint(p.URL, "/hang", i)), key.ID()), auth.ErrUnavailable)
		})
	}
	start := time.Now()
	want(t, "a healthy address", find(t, cache.At(p.URL+"/ok"), key.ID()), nil)
	if d := time.Since(start); d > time.Second {
		t.Errorf("a healthy address took %v while others hung", d)
	}
	p.now(hang)
	clock.advance(10 * time.Minute)
	start = time.Now()
	want(t, "stale issuer", find(t, issuer, key.ID()), nil)
	if d := time.Since(start); d > staleWait+500*time.Millisecond {
		t.Errorf("a token of the stale issuer took %v", d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := cache.At(p.URL+"/hang0").Find(ctx, "x", token.ES384); !errors.Is(err, auth.ErrUnavailable) {
		t.Errorf("caller that has gone: %v", err)
	}
	g.Wait()
	close(release)
}

func TestNotKept(t *testing.T) {
	key := token.NewSigningKey()
	p := publish(t, serve(token.PublicJSON(key), "Cache-Control", "no-store"))
	cache, clock := newCache(p, nil)
	s := cache.At(p.URL)
	want(t, "first", find(t, s, key.ID()), nil)
	want(t, "too early to ask again", find(t, s, key.ID()), token.ErrKeyNotFound)
	clock.advance(5 * time.Second)
	want(t, "asked again", find(t, s, key.ID()), nil)
	if n := p.asked.Load(); n != 2 {
		t.Errorf("asked %d times", n)
	}
}

func TestPrivateAddressesOfClients(t *testing.T) {
	p := publish(t, serve(token.PublicJSON(token.NewSigningKey())))
	cache := New(Options{Client: fetch.New(fetch.Options{TLS: p.Client().Transport.(*http.Transport).TLSClientConfig})})
	for _, address := range []string{p.URL, strings.Replace(p.URL, "127.0.0.1", "localhost", 1), strings.Replace(p.URL, "https", "http", 1), "%", ""} {
		err := find(t, cache.At(address), "x")
		want(t, address, err, auth.ErrUnavailable)
	}
	if n := p.asked.Load(); n != 0 {
		t.Errorf("asked %d times", n)
	}
}

func TestReady(t *testing.T) {
	p := publish(t, broken(http.StatusServiceUnavailable))
	cache, clock := newCache(p, nil)
	s := cache.At(p.URL)
	want(t, "away", s.Ready(t.Context()), auth.ErrUnavailable)
	p.now(serve(token.PublicJSON(token.NewSigningKey())))
	clock.advance(5 * time.Second)
	want(t, "back", s.Ready(t.Context()), nil)
}

func TestLifetime(t *testing.T) {
	for _, tt := range []struct {
		control, age string
		want         time.Duration
	}{
		{"", "", 5 * time.Minute},
		{"max-age=60", "", time.Minute},
		{"public, MAX-AGE=60", "20", 40 * time.Second},
		{"max-age=60", "70", 0},
		{"max-age=999999999", "", 24 * time.Hour},
		{`max-age="60"`, "", time.Minute},
		{"max-age=-1", "", 0},
		{"max-age=x", "", 0},
		{"no-cache", "", 0},
		{"no-store, max-age=60", "", 0},
		{"max-age=60, no-store", "", 0},
		{"must-revalidate", "", 5 * time.Minute},
	} {
		h := http.Header{}
		h.Set("Cache-Control", tt.control)
		h.Set("Age", tt.age)
		if got := lifetime(h, 5*time.Minute, 24*time.Hour); got != tt.want {
			t.Errorf("Cache-Control %q, Age %q: %v, want %v", tt.control, tt.age, got, tt.want)
		}
	}
}
