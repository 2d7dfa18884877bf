package bearer

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
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
	"spillway/auth/token"
)

// An issuer is a server of ours that does as it is told.
type issuer struct {
	*httptest.Server
	key   *token.SigningKey
	mu    sync.Mutex
	paths map[string]http.HandlerFunc
	asked atomic.Int32
}

func newIssuer(t *testing.T) *issuer {
	i := &issuer{key: token.NewSigningKey(), paths: map[string]http.HandlerFunc{}}
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.asked.Add(1)
		i.mu.Lock()
		h := i.paths[r.URL.Path]
		i.mu.Unlock()
		if h == nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		h(w, r)
	}))
	t.Cleanup(i.Close)
	i.on("/jwks", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(token.PublicJSON(i.key)) })
	return i
}

func (i *issuer) on(path string, h http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.paths[path] = h
}

func body(format string, args ...any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintf(w, format, args...) }
}

func (i *issuer) sign(t *testing.T, claims map[string]any) string {
	t.Helper()
	all := map[string]any{"iss": i.URL, "aud": audience1, "exp": time.Now().Add(time.Minute).Unix(), "client_id": "c1", "scope": "system/*.rs"}
	for k, v := range claims {
		if all[k] = v; v == nil {
			delete(all, k)
		}
	}
	compact, err := i.key.Sign("JWT", all)
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

func TestClaims(t *testing.T) {
	i := newIssuer(t)
	list := make([]string, 300)
	for n := range list {
		list[n] = "x"
	}
	for _, tt := range []struct {
		name   string
		claims map[string]any
		config JWTConfig
		client string // empty: refused
		export bool
	}{
		{name: "OK", client: "c1", export: true},
		{name: "OKAzp", claims: map[string]any{"client_id": nil, "azp": "c2"}, client: "c2", export: true},
		{name: "OKCid", claims: map[string]any{"client_id": nil, "cid": "c3"}, client: "c3", export: true},
		{name: "OKOwnClaims", claims: map[string]any{"appid": "c4", "roles": []string{"system/*.rs"}}, config: JWTConfig{ClientClaims: []string{"appid"}, ScopeClaims: []string{"roles"}}, client: "c4", export: true},
		{name: "OKScp", claims: map[string]any{"scope": nil, "scp": []string{"openid", "system/*.read"}}, client: "c1", export: true},
		{name: "ScopeCountsBeforeScp", claims: map[string]any{"scope": "openid", "scp": []string{"system/*.read"}}, client: "c1"},
		{name: "NoClient", claims: map[string]any{"client_id": nil, "sub": "somebody"}},
		{name: "ClientNumber", claims: map[string]any{"client_id": 7}},
		{name: "NoScope", claims: map[string]any{"scope": nil}, client: "c1"},
		{name: "ScopeObject", claims: map[string]any{"scope": map[string]any{}}, client: "c1"},
		{name: "ScopeMalformed", claims: map[string]any{"scope": "system/*.sr"}, client: "c1"},
		{name: "ScopesTooMany", claims: map[string]any{"scope": append(list, "system/*.rs")}, client: "c1"},
		{name: "IDToken", claims: map[string]any{"at_hash": "x"}},
		{name: "TooOld", claims: map[string]any{"iat": time.Now().Add(-time.Hour).Unix()}, config: JWTConfig{MaxAge: time.Minute}},
		{name: "AlgorithmNotAllowed", config: JWTConfig{Algorithms: []token.Algorithm{token.RS256}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := tt.config
			c.Issuer, c.Audiences, c.JWKSURL, c.Client = i.URL, []string{audience1}, i.URL+"/jwks", client()
			j, err := NewJWT(c)
			if err != nil {
				t.Fatal(err)
			}
			p, err := show(t, j, i.sign(t, tt.claims))
			if p.ClientID != tt.client || mayExport(p, "Patient") != tt.export || (err == nil) != (tt.client != "") {
				t.Errorf("%+v, %v", p, err)
			}
			if err != nil && !errors.Is(err, auth.ErrBadCredential) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestDiscovery(t *testing.T) {
	const openid, oauth = "/tenant/.well-known/openid-configuration", "/.well-known/oauth-authorization-server/tenant"
	for _, tt := range []struct {
		name, path, document string
		ok                   bool
	}{
		{"OKOpenID", openid, `{"issuer":"%[1]s/tenant","jwks_uri":"%[1]s/jwks"}`, true},
		{"OKOAuth", oauth, `{"issuer":"%[1]s/tenant","jwks_uri":"%[1]s/jwks"}`, true},
		{"NoDocument", "/x", ``, false},
		{"OtherIssuer", openid, `{"issuer":"%[1]s","jwks_uri":"%[1]s/jwks"}`, false},
		{"NoIssuer", openid, `{"jwks_uri":"%[1]s/jwks"}`, false},
		{"IssuerTwice", openid, `{"issuer":"%[1]s","issuer":"%[1]s/tenant","jwks_uri":"%[1]s/jwks"}`, false},
		{"NoKeys", openid, `{"issuer":"%[1]s/tenant"}`, false},
		{"KeysInAFile", openid, `{"issuer":"%[1]s/tenant","jwks_uri":"file:///jwks"}`, false},
		{"HTML", openid, `<html>`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := newIssuer(t)
			if tt.document != "" {
				i.on(tt.path, body(tt.document, i.URL))
			}
			j, err := NewJWT(JWTConfig{Issuer: i.URL + "/tenant", Audiences: []string{audience1}, Client: client()})
			if err != nil {
				t.Fatal(err)
			}
			p, err := show(t, j, i.sign(t, map[string]any{"iss": i.URL + "/tenant"}))
			if (err == nil) != tt.ok || (p.ClientID == "c1") != tt.ok || err != nil && !errors.Is(err, auth.ErrUnavailable) {
				t.Errorf("%+v, %v", p, err)
			}
			if ready := j.Ready(t.Context()); (ready == nil) != tt.ok {
				t.Errorf("ready: %v", ready)
			}
		})
	}
}

// TestIssuerComesLater: the gateway starts before the issuer does.
func TestIssuerComesLater(t *testing.T) {
	i := newIssuer(t)
	var clock atomic.Int64
	now := time.Now()
	j, err := NewJWT(JWTConfig{Issuer: i.URL, Audiences: []string{audience1}, Client: client(), Now: func() time.Time { return now.Add(time.Duration(clock.Load())) }})
	if err != nil {
		t.Fatal(err)
	}
	compact := i.sign(t, nil)
	for range 10 {
		if _, err := show(t, j, compact); !errors.Is(err, auth.ErrUnavailable) {
			t.Fatalf("%v", err)
		}
	}
	if n := i.asked.Load(); n != 2 { // both addresses, once
		t.Errorf("asked %d times", n)
	}
	i.on("/.well-known/openid-configuration", body(`{"issuer":"%[1]s","jwks_uri":"%[1]s/jwks"}`, i.URL))
	clock.Add(int64(5 * time.Second))
	if _, err := show(t, j, compact); err != nil {
		t.Errorf("%v", err)
	}
}

func TestIntrospectionAnswers(t *testing.T) {
	expired := time.Now().Add(-time.Second).Unix()
	for _, tt := range []struct {
		name, answer string
		want         error
		export       bool
	}{
		{"OK", `{"active":true,"client_id":"c1","scope":"system/*.rs"}`, nil, true},
		{"OKMore", `{"active":true,"client_id":"c1","scope":"system/*.rs","username":"x","ext":{"a":[1]},"aud":["x","` + audience1 + `"]}`, nil, true},
		{"NoScope", `{"active":true,"client_id":"c1"}`, nil, false},
		{"Inactive", `{"active":false}`, auth.ErrBadCredential, false},
		{"InactiveWithAll", `{"active":false,"client_id":"c1","scope":"system/*.rs"}`, auth.ErrBadCredential, false},
		{"Empty", `{}`, auth.ErrBadCredential, false},
		{"OtherCase", `{"ACTIVE":true,"client_id":"c1"}`, auth.ErrBadCredential, false},
		{"Expired", fmt.Sprintf(`{"active":true,"client_id":"c1","exp":%d}`, expired), token.ErrExpired, false},
		{"NotYet", `{"active":true,"client_id":"c1","nbf":99999999999}`, token.ErrNotYet, false},
		{"NoClient", `{"active":true,"sub":"x"}`, token.ErrClient, false},
		{"OtherIssuer", `{"active":true,"client_id":"c1","iss":"https://evil"}`, token.ErrIssuer, false},
		{"ActiveTwice", `{"active":false,"active":true,"client_id":"c1"}`, auth.ErrUnavailable, false},
		{"ActiveText", `{"active":"true","client_id":"c1"}`, auth.ErrUnavailable, false},
		{"ExpText", `{"active":true,"client_id":"c1","exp":"x"}`, auth.ErrUnavailable, false},
		{"HTML", `<html>`, auth.ErrUnavailable, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := newIssuer(t)
			server.on("/i", body("%s", tt.answer))
			i, err := NewIntrospection(IntrospectionConfig{Endpoint: server.URL + "/i", Credential: Basic("a", "b"), Client: client(), Issuer: "https://issuer"})
			if err != nil {
				t.Fatal(err)
			}
			p, err := show(t, i, "abc")
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) || mayExport(p, "Patient") != tt.export {
				t.Errorf("%+v, %v", p, err)
			}
			if err == nil && p.Issuer != "https://issuer" {
				t.Errorf("issuer %q", p.Issuer)
			}
		})
	}
}

func TestIntrospectionAudience(t *testing.T) {
	for answer, ok := range map[string]bool{
		`"aud":"` + audience1 + `"`:       true,
		`"aud":["x","` + audience1 + `"]`: true,
		`"aud":"x"`:                       false,
		`"aud":[]`:                        false,
		`"aud":7`:                         false,
		`"x":1`:                           false,
	} {
		server := newIssuer(t)
		server.on("/i", body(`{"active":true,"client_id":"c1",%s}`, answer))
		i, err := NewIntrospection(IntrospectionConfig{Endpoint: server.URL + "/i", Credential: Basic("a", "b"), Client: client(), Audiences: []string{audience1}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := show(t, i, "abc"); (err == nil) != ok {
			t.Errorf("%s: %v", answer, err)
		}
	}
}

func TestIntrospectionRemembers(t *testing.T) {
	server := newIssuer(t)
	now := time.Now()
	var active atomic.Bool
	active.Store(true)
	server.on("/i", func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "id%3A1" || password != "p+w" || r.PostFormValue("token") == "" {
			w.WriteHeader(http.StatusUnauthorized)
		}
		_, _ = fmt.Fprintf(w, `{"active":%v,"client_id":%q,"scope":"system/*.rs","exp":%d}`, active.Load(), r.PostFormValue("token"), now.Add(20*time.Second).Unix())
	})
	i, err := NewIntrospection(IntrospectionConfig{
		Endpoint: server.URL + "/i", Credential: Basic("id:1", "p w"), Client: client(), MaxEntries: 3, Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	asked := func(opaque string, want int32, what string) {
		t.Helper()
		before := server.asked.Load()
		p, err := show(t, i, opaque)
		if active.Load() && (err != nil || p.ClientID != opaque) || !active.Load() && !errors.Is(err, auth.ErrBadCredential) {
			t.Errorf("%s: %+v, %v", what, p, err)
		}
		if got := server.asked.Load() - before; got != want {
			t.Errorf("%s: asked %d times, want %d", what, got, want)
		}
	}
	asked("a", 1, "first")
	asked("a", 0, "again")
	asked("b", 1, "another")
	now = now.Add(20 * time.Second)
	active.Store(false)
	asked("a", 1, "when the token has expired, before the 30s are over")
	asked("a", 0, "inactive, again")
	now = now.Add(5 * time.Second)
	asked("a", 1, "inactive, after 5s")
	now = now.Add(time.Hour)
	for n := range 10 {
		asked(fmt.Sprint("t", n), 1, "many")
	}
	if len(i.entries) != 3 || i.recent.Len() != 3 {
		t.Errorf("%d remembered", len(i.entries))
	}
	for k := range i.entries {
		if strings.Contains(string(k[:]), "t9") {
			t.Error("a token is kept")
		}
	}
	asked("t9", 0, "the last of them")
	asked("t0", 1, "the first of them")
	before := server.asked.Load()
	if _, err := show(t, i, strings.Repeat("a", 20000)); !errors.Is(err, auth.ErrBadCredential) || server.asked.Load() != before {
		t.Errorf("20 kB: %v", err)
	}
}

// TestIntrospectionAway: an endpoint that fails is left alone for a while, and
// one that hangs keeps only its own callers waiting, together.
func TestIntrospectionAway(t *testing.T) {
	server := newIssuer(t)
	now := time.Now()
	server.on("/i", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	i, err := NewIntrospection(IntrospectionConfig{Endpoint: server.URL + "/i", Credential: Basic("a", "b"), Client: client(), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 50 {
		if _, err := show(t, i, fmt.Sprint("t", n)); !errors.Is(err, auth.ErrUnavailable) {
			t.Fatalf("%v", err)
		}
	}
	if n := server.asked.Load(); n != breakAfter {
		t.Errorf("asked %d times", n)
	}
	if i.Ready(t.Context()) == nil {
		t.Error("ready")
	}
	now = now.Add(breakFor)
	arrived, release := make(chan struct{}, 20), make(chan struct{})
	server.on("/i", func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-release
		_, _ = w.Write([]byte(`{"active":true,"client_id":"c1"}`))
	})
	var g sync.WaitGroup
	for range 20 {
		g.Go(func() {
			if p, err := show(t, i, "same"); err != nil || p.ClientID != "c1" {
				t.Errorf("%+v, %v", p, err)
			}
		})
	}
	<-arrived
	close(release)
	g.Wait()
	if i.Ready(t.Context()) != nil {
		t.Error("not ready again")
	}
}

// TestBoundTokens: a token that is bound to a certificate is worth nothing
// without it, and one that is bound to something else is worth nothing here.
func TestBoundTokens(t *testing.T) {
	server := newIssuer(t)
	mine, other := &x509.Certificate{Raw: []byte("mine")}, &x509.Certificate{Raw: []byte("other")}
	sum := sha256.Sum256(mine.Raw)
	thumbprint := base64.RawURLEncoding.EncodeToString(sum[:])
	j, err := NewJWT(JWTConfig{Issuer: server.URL, Audiences: []string{audience1}, JWKSURL: server.URL + "/jwks", Client: client()})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		cnf  any
		cert *x509.Certificate
		ok   bool
	}{
		"OK":             {map[string]any{"x5t#S256": thumbprint}, mine, true},
		"no certificate": {map[string]any{"x5t#S256": thumbprint}, nil, false},
		"another":        {map[string]any{"x5t#S256": thumbprint}, other, false},
		"DPoP":           {map[string]any{"jkt": thumbprint}, mine, false},
		"both":           {map[string]any{"jkt": thumbprint, "x5t#S256": thumbprint}, mine, false},
		"empty":          {map[string]any{}, mine, false},
		"number":         {map[string]any{"x5t#S256": 1}, nil, false},
		"no object":      {"x", mine, false},
	} {
		r := httptest.NewRequest(http.MethodGet, audience1, nil)
		r.TLS = nil
		if tt.cert != nil {
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{tt.cert}}
		}
		r.Header.Set("Authorization", "Bearer "+server.sign(t, map[string]any{"cnf": tt.cnf}))
		if _, err := j.Authenticate(r); (err == nil) != tt.ok || err != nil && !errors.Is(err, auth.ErrBadCredential) {
			t.Errorf("%s, signed: %v", name, err)
		}
		cnf, err := json.Marshal(tt.cnf)
		if err != nil {
			t.Fatal(err)
		}
		if name == "no object" {
			continue // no introspection at all
		}
		server.on("/i", body(`{"active":true,"client_id":"c1","cnf":%s}`, cnf))
		i, err := NewIntrospection(IntrospectionConfig{Endpoint: server.URL + "/i", Credential: Basic("a", "b"), Client: client()})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // asked, and remembered
			if _, err := i.Authenticate(r); (err == nil) != tt.ok || err != nil && !errors.Is(err, auth.ErrBadCredential) {
				t.Errorf("%s, introspected: %v", name, err)
			}
		}
	}
}

func TestPrivateKeyJWT(t *testing.T) {
	server := newIssuer(t)
	key := token.NewSigningKey()
	assertions := token.NewAssertions(token.AssertionPolicy{
		Algorithms: []token.Algorithm{token.ES384}, Audiences: []string{"https://as/token"},
		Client: func(id string) (token.Registration, bool) {
			return token.Registration{Keys: token.PublicKeys(key)}, id == "gw"
		},
		Seen: func(context.Context, string, time.Time) (bool, error) { return false, nil },
	})
	server.on("/i", func(w http.ResponseWriter, r *http.Request) {
		_, err := assertions.Verify(r.Context(), r.PostFormValue("client_assertion"), time.Now())
		_, _ = fmt.Fprintf(w, `{"active":%v,"client_id":"c1"}`, err == nil && r.PostFormValue("token") == "abc")
	})
	i, err := NewIntrospection(IntrospectionConfig{Endpoint: server.URL + "/i", Credential: PrivateKeyJWT("gw", "https://as/token", key), Client: client()})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := show(t, i, "abc"); err != nil || p.ClientID != "c1" {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, c := range map[string]JWTConfig{
		"no audience":          {Issuer: "https://x", Client: client()},
		"no issuer":            {Audiences: []string{"x"}, Client: client()},
		"issuer without a URL": {Issuer: "x", Audiences: []string{"x"}, Client: client()},
		"keys without a URL":   {Issuer: "x", Audiences: []string{"x"}, Client: client(), JWKSURL: "x"},
	} {
		if _, err := NewJWT(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, c := range map[string]IntrospectionConfig{
		"no credential":        {Endpoint: "https://x", Client: client()},
		"endpoint without URL": {Endpoint: "x", Client: client(), Credential: Basic("a", "b")},
		"long memory":          {Endpoint: "https://x", Client: client(), Credential: Basic("a", "b"), TTL: time.Hour},
	} {
		if _, err := NewIntrospection(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
