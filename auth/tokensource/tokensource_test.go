package tokensource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"spillway/auth"
	"spillway/auth/builtin"
	"spillway/auth/fetch"
	"spillway/auth/jwks"
	"spillway/auth/smart"
	"spillway/auth/token"
)

const secret = "s3cr3t"

// A server records what comes to it.
type server struct {
	*httptest.Server
	mu     sync.Mutex
	answer http.HandlerFunc
	asked  atomic.Int32
}

func serve(t *testing.T, answer http.HandlerFunc) *server {
	s := &server{answer: answer}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		s.mu.Lock()
		answer := s.answer
		s.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) now(answer http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func parse(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func do(t *testing.T, rt http.RoundTripper, address string) (*http.Response, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address, strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := rt.RoundTrip(r)
	if err == nil {
		t.Cleanup(func() { _ = got.Body.Close() })
	}
	if r.Header.Get("Authorization") != "" || r.Header.Get("X-Api-Key") != "" {
		t.Error("the caller's request was changed")
	}
	return got, err
}

func TestFixedCredentials(t *testing.T) {
	var h http.Header
	up := serve(t, func(_ http.ResponseWriter, r *http.Request) { h = r.Header })
	key, err := Header("X-Api-Key", secret)
	if err != nil {
		t.Fatal(err)
	}
	for want, source := range map[string]Source{secret: key, "Basic dTpzM2NyM3Q=": Basic("u", secret)} {
		rt, err := Transport(source, parse(t, up.URL+"/fhir"), false, http.DefaultTransport)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := do(t, rt, up.URL+"/fhir/Patient"); err != nil {
			t.Fatal(err)
		}
		if got := h.Get("X-Api-Key") + h.Get("Authorization"); got != want {
			t.Errorf("sent %q", got)
		}
		if printed := fmt.Sprintf("%v %+v %#v %s", source, source, source, source); strings.Contains(printed, secret) || strings.Contains(printed, "dTpz") {
			t.Errorf("printed as %s", printed)
		}
	}
	for name, value := range map[string]string{"": "x", "a b": "x", "A:": "x", "A": "", "B": "x\r\nC: d", "D": " x", "E": "x\x00"} {
		if _, err := Header(name, value); err == nil || strings.Contains(err.Error(), "C: d") {
			t.Errorf("%q: %q: %v", name, value, err)
		}
	}
}

// TestCredentialGoesToTheUpstreamOnly: other hosts, other ports, another
// scheme, and the target of a redirect never see it.
func TestCredentialGoesToTheUpstreamOnly(t *testing.T) {
	var leaked atomic.Bool
	other := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked.Store(true)
		}
	})
	up := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	})
	rt, err := Transport(Basic("u", secret), parse(t, up.URL+"/fhir"), false, http.DefaultTransport)
	if err != nil {
		t.Fatal(err)
	}
	port := up.URL[strings.LastIndex(up.URL, ":"):]
	for _, address := range []string{
		other.URL, "http://localhost" + port, "https://127.0.0.1" + port, "http://127.0.0.1", "http://127.0.0.1" + port + ".evil.example.org",
		"http://127.0.0.1" + port + "@evil.example.org",
	} {
		if _, err := do(t, rt, strings.Replace(address, port+".", ".", 1)); !errors.Is(err, ErrForeign) {
			t.Errorf("%s: %v", address, err)
		}
	}
	c := &http.Client{Transport: rt} // even one that follows redirects
	if got, err := c.Get(up.URL); !errors.Is(err, ErrForeign) {
		t.Errorf("redirect: %v, %v", got, err)
	}
	if leaked.Load() {
		t.Error("the credential went elsewhere")
	}
	if _, err := Transport(Basic("u", secret), parse(t, "http://fhir.example.org"), false, rt); err == nil {
		t.Error("a password would go over plain http")
	}
	for _, base := range []string{"https://fhir.example.org", "http://localhost:8080", "http://[::1]:8080"} {
		if _, err := Transport(Basic("u", secret), parse(t, base), false, rt); err != nil {
			t.Errorf("%s: %v", base, err)
		}
	}
	if _, err := Transport(Basic("u", secret), parse(t, "http://fhir.example.org"), true, rt); err != nil {
		t.Errorf("with the switch: %v", err)
	}
	same, err := Transport(Basic("u", secret), parse(t, "https://fhir.example.org"), false, roundTrip(func(r *http.Request) (*http.Response, error) {
		return nil, errors.New("reached " + r.URL.Host)
	}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := do(t, same, "https://fhir.example.org:443/x"); err == nil || errors.Is(err, ErrForeign) {
		t.Errorf("the port that https implies: %v", err)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A clock is moved by hand.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(c.at.Load(), 0) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d / time.Second)) }

func source(t *testing.T, c ClientCredentialsConfig) (*ClientCredentials, *clock) {
	t.Helper()
	now := &clock{}
	now.at.Store(1_800_000_000)
	c.ClientID, c.Scope, c.Now = "gw", "system/*.rs", now.now
	c.Client = fetch.New(fetch.Options{Plain: true, Private: true, Timeout: 2 * time.Second})
	if c.Key == nil {
		c.Key = token.NewSigningKey()
	}
	s, err := NewClientCredentials(c)
	if err != nil {
		t.Fatal(err)
	}
	return s, now
}

// numbered gives the tokens t1, t2 and so on.
func numbered(expiresIn string) http.HandlerFunc {
	n := atomic.Int32{}
	return func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"access_token":"t%d","token_type":"Bearer"%s}`, n.Add(1), expiresIn)
	}
}

func value(t *testing.T, s Source) (string, error) {
	t.Helper()
	h := http.Header{}
	err := s.Authorize(t.Context(), h)
	return h.Get("Authorization"), err
}

func want(t *testing.T, what string, s Source, expected string) {
	t.Helper()
	if got, err := value(t, s); got != expected || err != nil {
		t.Errorf("%s: %q, %v, want %q", what, got, err, expected)
	}
}

// TestAgainstAnAuthorisationServer fetches tokens from the server of package
// builtin, by way of discovery and of published keys.
func TestAgainstAnAuthorisationServer(t *testing.T) {
	key := token.NewSigningKey()
	mux := http.NewServeMux()
	up := serve(t, mux.ServeHTTP)
	keys := serve(t, KeysHandler(key).ServeHTTP)
	s, now := source(t, ClientCredentialsConfig{FHIRBase: up.URL + "/fhir", Key: key, KeySetURL: keys.URL})
	seen := map[string]bool{}
	as, err := builtin.New(builtin.Config{
		Issuer: up.URL + "/fhir", Audience: up.URL + "/fhir", TokenURL: up.URL + "/token", Keys: []*token.SigningKey{token.NewSigningKey()},
		JWKS:    jwks.New(jwks.Options{Client: s.c.Client, Now: now.now}),
		Clients: []builtin.Client{{ID: "gw", JWKSURL: keys.URL, Scopes: "system/*.rs"}}, PlainJWKS: true, Now: now.now,
		Seen: func(_ context.Context, key string, _ time.Time) (bool, error) {
			was := seen[key]
			seen[key] = true
			return was, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	mux.Handle("/fhir"+smart.Path, smart.Handler(as.Configuration()))
	mux.Handle("/token", as.TokenHandler())
	mux.HandleFunc("/fhir/Patient", func(w http.ResponseWriter, r *http.Request) {
		if p, err := as.Authenticate(r); err != nil || p.ClientID != "gw" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	rt, err := Transport(s, parse(t, up.URL+"/fhir"), false, http.DefaultTransport)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if got, err := do(t, rt, up.URL+"/fhir/Patient"); err != nil || got.StatusCode != http.StatusOK {
			t.Fatalf("%v, %v", got, err)
		}
		now.advance(200 * time.Second)
	}
	if len(seen) == 0 {
		t.Error("no assertion was used")
	}
}

func TestTokenIsRenewedAhead(t *testing.T) {
	as := serve(t, numbered(`,"expires_in":300`))
	s, now := source(t, ClientCredentialsConfig{TokenURL: as.URL})
	var g sync.WaitGroup
	for range 50 {
		g.Go(func() { want(t, "first", s, "Bearer t1") })
	}
	g.Wait()
	now.advance(239 * time.Second)
	want(t, "before 80 %", s, "Bearer t1")
	if n := as.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	now.advance(time.Second)
	want(t, "at 80 %, while it is renewed", s, "Bearer t1")
	land(s)
	want(t, "renewed", s, "Bearer t2")
	now.advance(300 * time.Second)
	want(t, "expired meanwhile", s, "Bearer t3")
	if n := as.asked.Load(); n != 3 {
		t.Errorf("asked %d times", n)
	}
}

// land waits for the attempt that is under way.
func land(s *ClientCredentials) {
	s.mu.Lock()
	f := s.flight
	s.mu.Unlock()
	if f != nil {
		<-f.done
	}
}

func TestLifetimes(t *testing.T) {
	for answer, life := range map[string]time.Duration{
		`,"expires_in":100`:    100 * time.Second,
		`,"expires_in":"100"`:  100 * time.Second,
		``:                     time.Minute,
		`,"expires_in":null`:   time.Minute,
		`,"expires_in":-1`:     time.Minute,
		`,"expires_in":1e99`:   time.Minute,
		`,"expires_in":"soon"`: time.Minute,
	} {
		as := serve(t, numbered(answer))
		s, now := source(t, ClientCredentialsConfig{TokenURL: as.URL})
		want(t, answer, s, "Bearer t1")
		if got := s.expires.Sub(now.now()); got != life {
			t.Errorf("%s: lives %v", answer, got)
		}
	}
}

func TestRefusedTokenIsReplacedOnce(t *testing.T) {
	as := serve(t, numbered(`,"expires_in":300`))
	s, now := source(t, ClientCredentialsConfig{TokenURL: as.URL})
	revoked := map[string]bool{}
	bodies := 0
	up := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if b, _ := io.ReadAll(r.Body); string(b) == "body" {
			bodies++
		}
		if revoked[r.Header.Get("Authorization")] || revoked["all"] {
			w.Header().Set("WWW-Authenticate", "Bearer")
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	rt, err := Transport(s, parse(t, up.URL), false, http.DefaultTransport)
	if err != nil {
		t.Fatal(err)
	}
	status := func() int {
		got, err := do(t, rt, up.URL)
		if err != nil {
			t.Fatal(err)
		}
		return got.StatusCode
	}
	if got := status(); got != http.StatusOK {
		t.Errorf("%d", got)
	}
	now.advance(10 * time.Second)
	revoked["Bearer t1"] = true
	if got := status(); got != http.StatusOK || as.asked.Load() != 2 || bodies != 3 {
		t.Errorf("revoked: %d, %d tokens fetched, %d bodies", got, as.asked.Load(), bodies)
	}
	revoked["all"] = true
	for range 10 {
		if got := status(); got != http.StatusUnauthorized {
			t.Errorf("%d", got)
		}
	}
	if n := as.asked.Load(); n != 2 {
		t.Errorf("a server that refuses everything made us fetch %d tokens", n)
	}
}

func TestFailures(t *testing.T) {
	const echoed = "the assertion was eyJhbGciOi"
	for name, answer := range map[string]http.HandlerFunc{
		"refused": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": "invalid_client", "error_description": echoed})
		},
		"unknown error": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": echoed})
		},
		"html":     func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(echoed)) },
		"no token": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"token_type":"bearer"}`)) },
		"other type": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"access_token":"x","token_type":"mac"}`))
		},
		"split header": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"access_token":"x\r\ny","token_type":"bearer"}`))
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/other", http.StatusPermanentRedirect)
		},
		"large":    func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) },
		"hangs up": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		as := serve(t, answer)
		s, now := source(t, ClientCredentialsConfig{TokenURL: as.URL + "/token?secret=" + secret})
		for range 5 {
			got, err := value(t, s)
			if !errors.Is(err, auth.ErrUnavailable) || got != "" {
				t.Fatalf("%s: %q, %v", name, got, err)
			}
			if strings.Contains(err.Error(), echoed) || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "eyJ") {
				t.Errorf("%s: the error tells too much: %v", name, err)
			}
			if name == "refused" && !strings.Contains(err.Error(), "401 (invalid_client)") {
				t.Errorf("the error tells too little: %v", err)
			}
		}
		if n := as.asked.Load(); n != 1 {
			t.Errorf("%s: asked %d times within the interval", name, n)
		}
		as.now(numbered(""))
		now.advance(retryInterval)
		want(t, name+", mended", s, "Bearer t1")
	}
}

// TestOutageWithATokenInHand: as long as the old token lives, nobody notices.
func TestOutageWithATokenInHand(t *testing.T) {
	as := serve(t, numbered(`,"expires_in":300`))
	s, now := source(t, ClientCredentialsConfig{TokenURL: as.URL})
	want(t, "first", s, "Bearer t1")
	as.now(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	for range 9 {
		now.advance(33 * time.Second)
		want(t, "while it lives", s, "Bearer t1")
		land(s)
	}
	now.advance(33 * time.Second)
	if _, err := value(t, s); !errors.Is(err, auth.ErrUnavailable) {
		t.Errorf("when it has expired: %v", err)
	}
}

func TestCallerMayGo(t *testing.T) {
	release := make(chan struct{})
	as := serve(t, func(w http.ResponseWriter, r *http.Request) {
		<-release
		numbered("")(w, r)
	})
	s, _ := source(t, ClientCredentialsConfig{TokenURL: as.URL})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Authorize(ctx, http.Header{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	close(release)
	want(t, "the one who stays", s, "Bearer t1")
}

func TestDiscoveredEndpointMustBeSafe(t *testing.T) {
	up := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"token_endpoint":"ftp://x/"}`)) })
	s, _ := source(t, ClientCredentialsConfig{FHIRBase: up.URL})
	if _, err := value(t, s); !errors.Is(err, auth.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	c := fetch.New(fetch.Options{})
	key := token.NewSigningKey()
	for name, config := range map[string]ClientCredentialsConfig{
		"no endpoint": {ClientID: "a", Key: key, Scope: "s", Client: c},
		"both":        {ClientID: "a", Key: key, Scope: "s", Client: c, TokenURL: "https://x", FHIRBase: "https://y"},
		"no URL":      {ClientID: "a", Key: key, Scope: "s", Client: c, TokenURL: "x"},
		"no key":      {ClientID: "a", Scope: "s", Client: c, TokenURL: "https://x"},
	} {
		if _, err := NewClientCredentials(config); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	s, err := NewClientCredentials(ClientCredentialsConfig{ClientID: "a", Key: key, Scope: "s", Client: c, TokenURL: "https://x"})
	if err != nil {
		t.Fatal(err)
	}
	s.value = "Bearer " + secret
	if printed := fmt.Sprintf("%v %+v %#v", s, s, s); strings.Contains(printed, secret) {
		t.Errorf("printed as %s", printed)
	}
}

func TestKeysHandler(t *testing.T) {
	h := KeysHandler(token.NewSigningKey(), token.NewSigningKey())
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if set, err := token.ReadKeySet(w.Body.Bytes()); err != nil || set.Usable() != 2 || len(set.Dropped()) > 0 {
		t.Errorf("%v, %v", set, err)
	}
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
}
