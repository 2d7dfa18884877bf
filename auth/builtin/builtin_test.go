package builtin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"spillway/auth"
	"spillway/auth/fetch"
	"spillway/auth/jwks"
	"spillway/auth/scope"
	"spillway/auth/token"
)

const (
	base     = "https://fhir.example.org/fhir"
	tokenURL = "https://fhir.example.org/token"
)

// A site is a server with its clients, its record of used assertions, and a
// clock that is moved by hand.
type site struct {
	*Server
	config Config
	keys   map[string]*token.SigningKey // of clients, by id
	clock  atomic.Int64
	broken atomic.Bool // the record is out of reach
	said   []Decision
	mu     sync.Mutex
	seen   map[string]time.Time
	jtis   atomic.Int64
}

func (s *site) now() time.Time { return time.Unix(s.clock.Load(), 0) }

func newSite(t testing.TB, change func(*Config)) *site {
	t.Helper()
	s := &site{keys: map[string]*token.SigningKey{}, seen: map[string]time.Time{}}
	s.clock.Store(1_800_000_000)
	client := func(id, scopes string, groups ...string) Client {
		s.keys[id] = token.NewSigningKey()
		return Client{ID: id, JWKS: token.PublicJSON(s.keys[id]), Scopes: scopes, Groups: auth.Groups{IDs: groups}}
	}
	s.config = Config{
		Issuer: base, Audience: base, TokenURL: tokenURL,
		Keys: []*token.SigningKey{token.NewSigningKey()},
		JWKS: jwks.New(jwks.Options{Client: fetch.New(fetch.Options{})}),
		Clients: []Client{
			client("c1", "system/*.rs", "7"),
			client("c2", "system/Patient.rs system/Observation.rs?category=laboratory"),
			client("off", "system/*.rs"),
		},
		Seen: func(_ context.Context, key string, until time.Time) (bool, error) {
			if s.broken.Load() {
				return false, errors.New("the store is away")
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			_, ok := s.seen[key]
			s.seen[key] = until
			return ok, nil
		},
		Observe: func(_ *http.Request, d Decision) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.said = append(s.said, d)
			return nil
		},
		Now: s.now,
	}
	s.config.Clients[2].Disabled = true
	if change != nil {
		change(&s.config)
	}
	var err error
	if s.Server, err = New(s.config); err != nil {
		t.Fatal(err)
	}
	return s
}

// assertion is one of a client that does all well, but for the changes.
func (s *site) assertion(id string, change map[string]any) string {
	claims := map[string]any{
		"iss": id, "sub": id, "aud": tokenURL, "exp": s.now().Add(5 * time.Minute).Unix(),
		"jti": fmt.Sprint("n", s.jtis.Add(1)),
	}
	maps.Copy(claims, change)
	key := s.keys[id]
	if key == nil {
		key = token.NewSigningKey()
	}
	compact, err := key.Sign("JWT", claims)
	if err != nil {
		panic(err)
	}
	return compact
}

func (s *site) form(id string) url.Values {
	return url.Values{
		"grant_type": {"client_credentials"}, "scope": {"system/*.read"},
		"client_assertion_type": {assertionType}, "client_assertion": {s.assertion(id, nil)},
	}
}

func (s *site) post(body string, change func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, tokenURL, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	s.TokenHandler().ServeHTTP(w, r)
	return w
}

type answer struct {
	AccessToken string      `json:"access_token"`
	TokenType   string      `json:"token_type"`
	ExpiresIn   json.Number `json:"expires_in"`
	Scope       string      `json:"scope"`
	Error       string      `json:"error"`
	Description string      `json:"error_description"`
}

func read(t testing.TB, w *httptest.ResponseRecorder) answer {
	t.Helper()
	var a answer
	if w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("Content-Type %q", w.Header().Get("Content-Type"))
	}
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		t.Fatalf("%v in %s", err, w.Body)
	}
	return a
}

func (s *site) token(t testing.TB, id string) string {
	t.Helper()
	w := s.post(s.form(id).Encode(), nil)
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return read(t, w).AccessToken
}

func (s *site) show(compact string) (auth.Principal, error) {
	r := httptest.NewRequest(http.MethodGet, base+"/$export", nil)
	r.Header.Set("Authorization", "Bearer "+compact)
	return s.Authenticate(r)
}

func TestTokenIsGivenAndAccepted(t *testing.T) {
	s := newSite(t, nil)
	w := s.post(s.form("c1").Encode(), nil)
	a := read(t, w)
	if w.Code != http.StatusOK || a.TokenType != "bearer" || a.ExpiresIn != "300" || a.Scope != "system/*.read" || a.AccessToken == "" {
		t.Fatalf("%d %+v", w.Code, a)
	}
	if h := w.Header(); h.Get("Cache-Control") != "no-store" || h.Get("Pragma") != "no-cache" {
		t.Errorf("header %v", h)
	}
	p, err := s.show(a.AccessToken)
	if err != nil || p.ClientID != "c1" || p.Issuer != base || p.TokenID == "" || !p.Expires.Equal(s.now().Add(5*time.Minute)) ||
		!p.Groups.Allows("7") || p.Groups.Allows("8") || !p.Grant.Allows("Patient", scope.Read|scope.Search).All || !p.Grant.Allows("Patient", scope.Delete).None() {
		t.Errorf("%+v, %v", p, err)
	}
	want := Decision{Client: "c1", Granted: true, AssertionID: "n1", KeyID: s.keys["c1"].ID(), TokenID: p.TokenID, Scope: "system/*.read"}
	if len(s.said) != 1 || s.said[0] != want {
		t.Errorf("observed %+v, want %+v", s.said, want)
	}
	if !s.RequiresToken() {
		t.Error("manifests would say that no token is needed")
	}
}

func TestTokenEndpoint(t *testing.T) {
	s := newSite(t, nil)
	set := func(name, value string) func(url.Values) { return func(v url.Values) { v.Set(name, value) } }
	del := func(name string) func(url.Values) { return func(v url.Values) { v.Del(name) } }
	assert := func(id string, change map[string]any) func(url.Values) {
		return func(v url.Values) { v.Set("client_assertion", s.assertion(id, change)) }
	}
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for _, tt := range []struct {
		name   string
		form   func(url.Values)
		add    string
		change func(*http.Request)
		status int
		code   string
	}{
		{name: "OK", status: 200},
		{name: "OKCharset", change: header("Content-Type", "application/x-www-form-urlencoded;charset=UTF-8"), status: 200},
		{name: "OKNoAccept", change: header("Accept", "text/html"), status: 200},
		{name: "OKClientID", form: set("client_id", "c1"), status: 200},
		{name: "OKUnknownParameter", form: set("resource", "x"), status: 200},
		{name: "OKOtherScopesBeside", form: set("scope", "openid system/Patient.rs"), status: 200},
		{name: "OKExpWithinSkew", form: assert("c1", map[string]any{"exp": s.now().Add(330 * time.Second).Unix()}), status: 200},

		{name: "GET", change: func(r *http.Request) { r.Method = http.MethodGet }, status: 405},
		{name: "PUT", change: func(r *http.Request) { r.Method = http.MethodPut }, status: 405},
		{name: "JSON", change: header("Content-Type", "application/json"), status: 400, code: "invalid_request"},
		{name: "NoContentType", change: func(r *http.Request) { r.Header.Del("Content-Type") }, status: 400, code: "invalid_request"},
		{name: "Compressed", change: header("Content-Encoding", "gzip"), status: 400, code: "invalid_request"},
		{name: "ParametersInTheQuery", change: func(r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			r.URL.RawQuery, r.Body = string(b), http.NoBody
		}, status: 400, code: "invalid_request"},
		{name: "ScopeTwice", add: "&scope=system/*.rs", status: 400, code: "invalid_request"},
		{name: "AssertionTwice", add: "&client_assertion=x", status: 400, code: "invalid_request"},
		{name: "MalformedForm", add: "&x=%zz", status: 400, code: "invalid_request"},
		{name: "Semicolon", add: "&x=1;y=2", status: 400, code: "invalid_request"},
		{name: "BodyTooLarge", form: set("x", strings.Repeat("x", 64<<10)), status: 413, code: "invalid_request"},
		{name: "NoGrantType", form: del("grant_type"), status: 400, code: "invalid_request"},
		{name: "OtherGrantType", form: set("grant_type", "password"), status: 400, code: "unsupported_grant_type"},
		{name: "OtherAssertionType", form: set("client_assertion_type", "not_an_assertion_type"), status: 400, code: "invalid_request"},
		{name: "NoAssertionType", form: del("client_assertion_type"), status: 400, code: "invalid_request"},
		{name: "BasicAndAssertion", change: header("Authorization", "Basic eDp5"), status: 400, code: "invalid_request"},

		{name: "NoAssertion", form: del("client_assertion"), status: 401, code: "invalid_client"},
		{name: "Garbage", form: set("client_assertion", "garbage"), status: 401, code: "invalid_client"},
		{name: "Assertion1MiB", form: set("client_assertion", strings.Repeat("x", 1<<20)), status: 413, code: "invalid_request"},
		{name: "UnknownClient", form: assert("c9", nil), status: 401, code: "invalid_client"},
		{name: "DisabledClient", form: assert("off", nil), status: 401, code: "invalid_client"},
		{name: "OfAnotherClient", form: func(v url.Values) {
			claims := map[string]any{"iss": "c2", "sub": "c2"}
			v.Set("client_assertion", s.assertion("c1", claims))
		}, status: 401, code: "invalid_client"},
		{name: "OtherAudience", form: assert("c1", map[string]any{"aud": base}), status: 401, code: "invalid_client"},
		{name: "Expired", form: assert("c1", map[string]any{"exp": s.now().Add(-time.Hour).Unix()}), status: 401, code: "invalid_client"},
		{name: "LivesTooLong", form: assert("c1", map[string]any{"exp": s.now().Add(331 * time.Second).Unix()}), status: 401, code: "invalid_client"},
		{name: "NoJti", form: assert("c1", map[string]any{"jti": nil}), status: 401, code: "invalid_client"},
		{name: "OtherClientID", form: set("client_id", "c2"), status: 401, code: "invalid_client"},
		{name: "AccessTokenAsAssertion", form: func(v url.Values) { v.Set("client_assertion", s.token(t, "c1")) }, status: 401, code: "invalid_client"},

		{name: "NoScope", form: del("scope"), status: 400, code: "invalid_scope"},
		{name: "EmptyScope", form: set("scope", ""), status: 400, code: "invalid_scope"},
		{name: "MalformedScope", form: set("scope", "system/Patient.sr system/*.rs"), status: 400, code: "invalid_scope"},
		{name: "ChainInScope", form: set("scope", "system/Observation.rs?subject.name=x"), status: 400, code: "invalid_scope"},
		{name: "NoneOfOurScopes", form: set("scope", "openid patient/*.rs"), status: 400, code: "invalid_scope"},
		{name: "NotGranted", form: set("scope", "system/*.write"), status: 400, code: "invalid_scope"},
		{name: "10000Scopes", form: set("scope", strings.Repeat("a ", 10000)), status: 400, code: "invalid_scope"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			form := s.form("c1")
			if tt.form != nil {
				tt.form(form)
			}
			w := s.post(form.Encode()+tt.add, tt.change)
			if w.Code != tt.status {
				t.Fatalf("%d %s, want %d", w.Code, w.Body, tt.status)
			}
			if w.Header().Get("Cache-Control") != "no-store" {
				t.Error("the answer may be kept")
			}
			if tt.status == http.StatusMethodNotAllowed {
				if w.Header().Get("Allow") != "POST" {
					t.Errorf("Allow: %q", w.Header().Get("Allow"))
				}
				return
			}
			a := read(t, w)
			if a.Error != tt.code || (a.AccessToken != "") != (tt.code == "") {
				t.Errorf("%s, want %q", w.Body, tt.code)
			}
			if !regexp.MustCompile(`^[\x20-\x21\x23-\x5B\x5D-\x7E]*$`).MatchString(a.Description) {
				t.Errorf("the description has characters that it must not have: %q", a.Description)
			}
		})
	}
}

// TestStrangersLookAlike: whatever is wrong with an assertion, the answer is
// the same to the byte.
func TestStrangersLookAlike(t *testing.T) {
	s := newSite(t, nil)
	forger := token.NewSigningKey()
	forge := func(id string) string {
		compact, err := forger.Sign("JWT", map[string]any{"iss": id, "sub": id, "aud": tokenURL, "exp": s.now().Add(time.Minute).Unix(), "jti": "x"})
		if err != nil {
			t.Fatal(err)
		}
		return compact
	}
	replayed := s.assertion("c1", nil)
	form := s.form("c1")
	form.Set("client_assertion", replayed)
	s.post(form.Encode(), nil)
	var first string
	for name, assertion := range map[string]string{
		"unknown client": forge("c9"), "disabled client": forge("off"), "bad signature": forge("c1"), "replayed": replayed,
		"no token": "x", "other audience": s.assertion("c1", map[string]any{"aud": "https://evil"}),
	} {
		form.Set("client_assertion", assertion)
		w := s.post(form.Encode(), nil)
		got := fmt.Sprint(w.Code, w.Header(), w.Body)
		if first == "" {
			first = got
		}
		if got != first || w.Code != http.StatusUnauthorized {
			t.Errorf("%s:\n%s\n%s", name, got, first)
		}
	}
	for _, d := range s.said[1:] {
		if d.Granted || d.Reason == "" {
			t.Errorf("observed %+v", d)
		}
	}
}

func TestPasswordIsChallenged(t *testing.T) {
	s := newSite(t, nil)
	form := s.form("c1")
	form.Del("client_assertion")
	form.Del("client_assertion_type")
	w := s.post(form.Encode(), func(r *http.Request) { r.SetBasicAuth("c1", "secret") })
	if w.Code != http.StatusUnauthorized || !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Basic ") || read(t, w).Error != "invalid_client" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}

// TestReplayAcrossReplicas sends one assertion to two replicas a hundred times
// at once.
func TestReplayAcrossReplicas(t *testing.T) {
	s := newSite(t, nil)
	twin, err := New(s.config)
	if err != nil {
		t.Fatal(err)
	}
	body := s.form("c1").Encode()
	var ok, refused atomic.Int32
	var g sync.WaitGroup
	for i := range 100 {
		g.Go(func() {
			server := s.Server
			if i%2 == 1 {
				server = twin
			}
			r := httptest.NewRequest(http.MethodPost, tokenURL, strings.NewReader(body))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			w := httptest.NewRecorder()
			server.TokenHandler().ServeHTTP(w, r)
			switch w.Code {
			case http.StatusOK:
				ok.Add(1)
			case http.StatusUnauthorized:
				refused.Add(1)
			}
		})
	}
	g.Wait()
	if ok.Load() != 1 || refused.Load() != 99 {
		t.Errorf("%d tokens and %d refusals", ok.Load(), refused.Load())
	}
}

func TestFailsClosed(t *testing.T) {
	s := newSite(t, nil)
	s.broken.Store(true)
	w := s.post(s.form("c1").Encode(), nil)
	if a := read(t, w); w.Code != http.StatusServiceUnavailable || a.AccessToken != "" || w.Header().Get("Retry-After") != "5" {
		t.Errorf("without the record: %d %s", w.Code, w.Body)
	}
	// A stranger learns nothing of it, and takes no part in it.
	form := s.form("c1")
	form.Set("client_assertion", s.assertion("c9", nil))
	if w := s.post(form.Encode(), nil); w.Code != http.StatusUnauthorized {
		t.Errorf("stranger, without the record: %d", w.Code)
	}
	s = newSite(t, func(c *Config) {
		c.Observe = func(*http.Request, Decision) error { return errors.New("disk full") }
	})
	if w := s.post(s.form("c1").Encode(), nil); w.Code != http.StatusServiceUnavailable || read(t, w).AccessToken != "" {
		t.Errorf("without the audit: %d %s", w.Code, w.Body)
	}
}

func TestLimit(t *testing.T) {
	asked := []string{}
	s := newSite(t, func(c *Config) {
		c.Limit = func(_ *http.Request, client string) time.Duration {
			asked = append(asked, client)
			if client == "c2" {
				return 1500 * time.Millisecond
			}
			return 0
		}
	})
	if w := s.post(s.form("c1").Encode(), nil); w.Code != http.StatusOK {
		t.Errorf("%d", w.Code)
	}
	if w := s.post(s.form("c2").Encode(), nil); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "2" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	form := s.form("c1")
	form.Set("client_assertion", s.assertion("c9", map[string]any{"iss": "c2", "sub": "c2"}))
	if w := s.post(form.Encode(), nil); w.Code != http.StatusUnauthorized {
		t.Errorf("a stranger in the name of c2: %d", w.Code)
	}
	if fmt.Sprint(asked) != "[ c1  c2 ]" {
		t.Errorf("asked for %q", asked)
	}
}

func TestGrants(t *testing.T) {
	s := newSite(t, nil)
	for asked, want := range map[string]string{
		"system/*.read":          "system/Patient.rs system/Observation.rs?category=laboratory",
		"system/Patient.read":    "system/Patient.read",
		"system/Patient.cruds":   "system/Patient.rs",
		"system/Observation.rs":  "system/Observation.rs?category=laboratory",
		"system/Condition.rs":    "",
		"openid system/Group.rs": "",
	} {
		form := s.form("c2")
		form.Set("scope", asked)
		w := s.post(form.Encode(), nil)
		if a := read(t, w); a.Scope != want || (w.Code == http.StatusOK) != (want != "") {
			t.Errorf("%q: %d %q, want %q", asked, w.Code, a.Scope, want)
		}
	}
}

func TestAccessTokens(t *testing.T) {
	s := newSite(t, nil)
	compact := s.token(t, "c1")
	if p, err := s.show(compact + "x"); !errors.Is(err, auth.ErrBadCredential) || p.ClientID != "" {
		t.Errorf("changed: %+v, %v", p, err)
	}
	if _, err := s.show(s.assertion("c1", map[string]any{"aud": base})); !errors.Is(err, auth.ErrBadCredential) {
		t.Errorf("an assertion as an access token: %v", err)
	}
	forOther, err := s.config.Keys[0].Sign("JWT", map[string]any{"iss": base, "aud": base, "client_id": "c1", "scope": "system/*.rs", "exp": s.now().Add(time.Minute).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.show(forOther); !errors.Is(err, token.ErrTokenType) {
		t.Errorf("something else that our key has signed: %v", err)
	}
	r := httptest.NewRequest(http.MethodGet, base+"/$export?access_token="+compact, nil)
	if _, err := s.Authenticate(r); !errors.Is(err, auth.ErrNoCredential) {
		t.Errorf("in the query: %v", err)
	}
	other := newSite(t, nil)
	if _, err := other.show(compact); !errors.Is(err, auth.ErrBadCredential) {
		t.Errorf("of another gateway: %v", err)
	}
	s.clock.Add(329)
	if _, err := s.show(compact); err != nil {
		t.Errorf("within the skew: %v", err)
	}
	s.clock.Add(1)
	if _, err := s.show(compact); !errors.Is(err, token.ErrExpired) {
		t.Errorf("expired: %v", err)
	}
}

func TestKeysAreReplaced(t *testing.T) {
	s := newSite(t, nil)
	old := s.token(t, "c1")
	fresh := token.NewSigningKey()
	behind, both, only := s.config, s.config, s.config
	behind.Keys = []*token.SigningKey{s.config.Keys[0], fresh}
	both.Keys = []*token.SigningKey{fresh, s.config.Keys[0]}
	only.Keys = []*token.SigningKey{fresh}
	var err error
	for i, config := range []Config{behind, both, only} {
		if s.Server, err = New(config); err != nil {
			t.Fatal(err)
		}
		if _, err := s.show(old); (err == nil) != (i < 2) {
			t.Errorf("step %d: old token: %v", i, err)
		}
		if _, err := s.show(s.token(t, "c1")); err != nil {
			t.Errorf("step %d: its own token: %v", i, err)
		}
	}
	only.Keys = []*token.SigningKey{fresh, fresh}
	if _, err := New(only); err == nil {
		t.Error("a key twice was accepted")
	}
}

func TestClientsAreReplaced(t *testing.T) {
	s := newSite(t, nil)
	compact := s.token(t, "c1")
	clients := s.config.Clients
	clients[0].Scopes = "system/Patient.rs"
	clients[0].Groups = auth.Groups{}
	if err := s.SetClients(clients); err != nil {
		t.Fatal(err)
	}
	p, err := s.show(compact)
	if err != nil || !p.Grant.Allows("Observation", scope.Read).None() || !p.Grant.Allows("Patient", scope.Read|scope.Search).All || p.Groups.Allows("7") {
		t.Errorf("after a scope was taken away: %+v, %v", p, err)
	}
	broken := append([]Client{{ID: "x"}}, clients...)
	if err := s.SetClients(broken); err == nil {
		t.Error("a broken client was accepted")
	}
	if _, err := s.show(compact); err != nil {
		t.Errorf("after a change that was refused: %v", err)
	}
	clients[0].Disabled = true
	if err := s.SetClients(clients); err != nil {
		t.Fatal(err)
	}
	if _, err := s.show(compact); !errors.Is(err, auth.ErrBadCredential) {
		t.Errorf("disabled: %v", err)
	}
	if s.Enabled("c1") || s.Enabled("c9") || !s.Enabled("c2") {
		t.Error("who is enabled is wrong")
	}
}

func TestClientsOfTheConfiguration(t *testing.T) {
	s := newSite(t, nil)
	keys := s.config.Clients[0].JWKS
	private := []byte(`{"keys":[{"kty":"RSA","kid":"a","n":"AQAB","e":"AQAB","d":"AQAB"}]}`)
	for name, c := range map[string]Client{
		"no id":           {JWKS: keys, Scopes: "system/*.rs"},
		"no keys":         {ID: "x", Scopes: "system/*.rs"},
		"both":            {ID: "x", JWKS: keys, JWKSURL: "https://x.example.org", Scopes: "system/*.rs"},
		"http":            {ID: "x", JWKSURL: "http://x.example.org", Scopes: "system/*.rs"},
		"relative":        {ID: "x", JWKSURL: "/jwks", Scopes: "system/*.rs"},
		"private key":     {ID: "x", JWKS: private, Scopes: "system/*.rs"},
		"no keys in it":   {ID: "x", JWKS: []byte(`{"keys":[]}`), Scopes: "system/*.rs"},
		"no key set":      {ID: "x", JWKS: []byte(`{}`), Scopes: "system/*.rs"},
		"no scopes":       {ID: "x", JWKS: keys},
		"patient scope":   {ID: "x", JWKS: keys, Scopes: "patient/*.rs"},
		"malformed scope": {ID: "x", JWKS: keys, Scopes: "system/*.sr"},
		"twice":           {ID: "c1", JWKS: keys, Scopes: "system/*.rs"},
	} {
		config := s.config
		config.Clients = append([]Client{s.config.Clients[0]}, c)
		if _, err := New(config); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestKeysByAddress: a client publishes its keys, replaces them, and goes away.
func TestKeysByAddress(t *testing.T) {
	key := token.NewSigningKey()
	var published atomic.Pointer[token.SigningKey]
	published.Store(key)
	asked := atomic.Int32{}
	p := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		k := published.Load()
		if k == nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(token.PublicJSON(k))
	}))
	defer p.Close()
	s := newSite(t, nil)
	config := s.config
	config.JWKS = jwks.New(jwks.Options{Now: s.now, Client: fetch.New(fetch.Options{Private: true, TLS: p.Client().Transport.(*http.Transport).TLSClientConfig})})
	config.Clients = []Client{{ID: "c1", JWKSURL: p.URL, Scopes: "system/*.rs"}}
	var err error
	if s.Server, err = New(config); err != nil {
		t.Fatal(err)
	}
	s.keys["c1"] = key
	s.token(t, "c1")
	s.keys["c1"] = token.NewSigningKey()
	published.Store(s.keys["c1"])
	s.clock.Add(5)
	s.token(t, "c1")
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times", n)
	}
	published.Store(nil)
	s.clock.Add(301)
	if w := s.post(s.form("c1").Encode(), nil); w.Code != http.StatusUnauthorized || read(t, w).Error != "invalid_client" {
		t.Errorf("keys out of reach: %d %s", w.Code, w.Body)
	}
}

// TestManyRequestsWithInventedKids: a thousand tokens a second cost one request
// for keys.
func TestManyRequestsWithInventedKids(t *testing.T) {
	asked := atomic.Int32{}
	key := token.NewSigningKey()
	p := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(token.PublicJSON(key))
	}))
	defer p.Close()
	s := newSite(t, nil)
	config := s.config
	config.JWKS = jwks.New(jwks.Options{Now: s.now, Client: fetch.New(fetch.Options{Private: true, TLS: p.Client().Transport.(*http.Transport).TLSClientConfig})})
	config.Clients = []Client{{ID: "c1", JWKSURL: p.URL, Scopes: "system/*.rs"}}
	var err error
	if s.Server, err = New(config); err != nil {
		t.Fatal(err)
	}
	s.keys["c1"] = key
	s.token(t, "c1")
	for range 200 {
		form := s.form("c1")
		form.Set("client_assertion", s.assertion("c9", map[string]any{"iss": "c1", "sub": "c1"})) // a fresh key each time
		if w := s.post(form.Encode(), nil); w.Code != http.StatusUnauthorized {
			t.Fatalf("%d", w.Code)
		}
	}
	s.token(t, "c1")
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times within one interval", n)
	}
}

func TestConfigIsChecked(t *testing.T) {
	s := newSite(t, nil)
	for name, change := range map[string]func(*Config){
		"no replay record": func(c *Config) { c.Seen = nil },
		"no key":           func(c *Config) { c.Keys = nil },
		"no token URL":     func(c *Config) { c.TokenURL = "" },
		"no audience":      func(c *Config) { c.Audience = "" },
		"long life":        func(c *Config) { c.TTL = 2 * time.Hour },
		"great skew":       func(c *Config) { c.Skew = time.Hour },
	} {
		config := s.config
		change(&config)
		if _, err := New(config); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if got := s.Configuration().TokenEndpoint; got != tokenURL {
		t.Errorf("discovery names %q", got)
	}
}

func BenchmarkToken(b *testing.B) {
	s := newSite(b, func(c *Config) { c.Observe = nil })
	bodies := make([]string, b.N)
	for i := range bodies {
		bodies[i] = s.form("c1").Encode()
	}
	b.ResetTimer()
	for _, body := range bodies {
		if w := s.post(body, nil); w.Code != http.StatusOK {
			b.Fatal(w.Body)
		}
	}
}
