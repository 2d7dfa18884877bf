package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"spillway/cmd/spillway/internal/config"
	"spillway/test/fakefhir"
)

// A guarded is a FHIR server that wants to see a credential.
type guarded struct {
	http.Handler
	accepts func(r *http.Request) bool

	mu   sync.Mutex
	seen []string // the Authorization of each request with a path below it
}

func (g *guarded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	g.seen = append(g.seen, r.Header.Get("Authorization"))
	g.mu.Unlock()
	if !g.accepts(r) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="inside"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	g.Handler.ServeHTTP(w, r)
}

// carried reports whether a request came with a credential that begins so.
func (g *guarded) carried(prefix string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.seen {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return false
}

// A tokenServer is the authorisation server of an upstream. It checks assertions
// with the public keys that the gateway publishes, by a library that is not ours.
type tokenServer struct {
	*httptest.Server
	keys    func() jose.JSONWebKeySet
	issued  atomic.Int32
	refused atomic.Bool
	current atomic.Value // string
}

func newTokenServer(t *testing.T) *tokenServer {
	t.Helper()
	s := &tokenServer{}
	s.current.Store("")
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		signed, err := jose.ParseSigned(r.FormValue("client_assertion"), []jose.SignatureAlgorithm{jose.ES384})
		var claims struct{ Iss, Sub, Aud, Jti string }
		if err == nil {
			set := s.keys()
			keys := set.Key(signed.Signatures[0].Header.KeyID)
			var payload []byte
			if len(keys) != 1 {
				err = os.ErrNotExist
			} else if payload, err = signed.Verify(keys[0]); err == nil {
				err = json.Unmarshal(payload, &claims)
			}
		}
		if err != nil || s.refused.Load() || claims.Iss != "gw" || claims.Sub != "gw" || claims.Aud != s.URL+"/token" || claims.Jti == "" ||
			r.FormValue("grant_type") != "client_credentials" || r.FormValue("scope") != "system/*.rs" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error": "invalid_client"}`)
			return
		}
		token := "inner-" + string(rune('a'+s.issued.Add(1)))
		s.current.Store(token)
		_, _ = io.WriteString(w, `{"access_token": "`+token+`", "token_type": "bearer", "expires_in": 300}`)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *tokenServer) accepts(r *http.Request) bool {
	token := s.current.Load().(string)
	return token != "" && r.Header.Get("Authorization") == "Bearer "+token
}

// TestUpstreamPrivateKeyJWT: exports read the upstream with a token that was
// fetched once; what goes through has the caller's credential and nothing of ours,
// unless that is wanted.
func TestUpstreamPrivateKeyJWT(t *testing.T) {
	tokens := newTokenServer(t)
	inner := &guarded{Handler: fakefhir.New(few()), accepts: tokens.accepts}
	upstream := httptest.NewServer(inner)
	defer upstream.Close()
	key := signingKey(t)
	text, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	credential := "upstream:\n  auth:\n    mode: private_key_jwt\n    private_key_jwt: {client_id: gw, key_file: " + key + ", token_url: '" + tokens.URL + "/token', key_id: k7}\n"
	client := newBackend(t, "a", jose.ES384, "system/Patient.rs")
	var base string
	tokens.keys = func() (set jose.JSONWebKeySet) {
		answer, err := http.Get(base + "/auth/jwks")
		if err != nil {
			return set
		}
		defer answer.Body.Close()
		_ = json.NewDecoder(answer.Body).Decode(&set)
		return set
	}

	cfg := configured(t, upstream.URL+"/fhir", credential+builtinYAML("", client))
	s, err := newServer(t.Context(), cfg, halves{web: true, work: true}, io.Discard, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	base = s.publicURL.String()
	r := runServer(t, s)
	r.health(t, http.StatusOK)
	exporting := r.with(client.token(t, base))
	if _, _, counts := exporting.whole(t, "?_type=Patient"); counts["Patient"] != 3 {
		t.Errorf("exported %v", counts)
	}
	if n := tokens.issued.Load(); n != 1 {
		t.Errorf("%d tokens were fetched", n)
	}
	// A caller's own credential goes through, is refused, and learns of the
	// upstream's challenge, which is meant for it.
	if got := r.with("callers-own").ask(t, http.MethodGet, base+"/Patient?_count=1"); got != http.StatusUnauthorized || !inner.carried("Bearer callers-own") {
		t.Errorf("the caller's own credential: %d", got)
	}
	if got := r.bulk().ask(t, http.MethodGet, base+"/Patient?_count=1"); got != http.StatusUnauthorized {
		t.Errorf("nobody reads with our credential: %d", got)
	}
	// The token that we gave is for us: the upstream, which could use it here,
	// never sees it.
	if got := exporting.ask(t, http.MethodGet, base+"/Patient?_count=1"); got != http.StatusUnauthorized || inner.carried("Bearer eyJ") {
		t.Errorf("a token of ours goes through: %d", got)
	}
	_, metrics := r.get(t, r.admin, "/metrics")
	if !strings.Contains(metrics, `spillway_upstream_credential_total{result="given"}`) {
		t.Error("/metrics does not count our credential")
	}

	// With passthrough_auth: gateway the caller's stays here, and ours goes.
	cfg = configured(t, upstream.URL+"/fhir", strings.Replace(credential, "upstream:\n", "upstream:\n  passthrough_auth: gateway\n", 1)+builtinYAML("", client))
	if s, err = newServer(t.Context(), cfg, halves{web: true}, io.Discard, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	base = s.publicURL.String()
	r = runServer(t, s)
	r.health(t, http.StatusOK)
	inner.mu.Lock()
	inner.seen = nil
	inner.mu.Unlock()
	through := r.with(client.token(t, base))
	for name, test := range map[string]struct {
		client *bulkClient
		method string
		path   string
		want   int
	}{
		"within the scopes":    {through, http.MethodGet, "/Patient?_count=1", http.StatusOK},
		"outside of them":      {through, http.MethodGet, "/Observation?_count=1", http.StatusForbidden},
		"a write":              {through, http.MethodDelete, "/Patient/1", http.StatusForbidden},
		"without a token":      {r.bulk(), http.MethodGet, "/Patient?_count=1", http.StatusUnauthorized},
		"a transaction":        {through, http.MethodPost, "/", http.StatusForbidden},
		"a token of elsewhere": {r.with("x.y.z"), http.MethodGet, "/Patient?_count=1", http.StatusUnauthorized},
	} {
		if got := test.client.ask(t, test.method, base+test.path); got != test.want {
			t.Errorf("through with ours, %s: %d, want %d", name, got, test.want)
		}
	}
	if inner.carried("Bearer eyJ") || !inner.carried("Bearer inner-") {
		t.Error("the upstream sees tokens of ours for clients")
	}
	tokens.current.Store("another")
	if got := through.ask(t, http.MethodGet, base+"/Patient?_count=1"); got != http.StatusBadGateway {
		t.Errorf("our credential is refused: %d", got)
	}

	// The command does the same with the same file.
	t.Chdir(t.TempDir())
	put(t, "spillway.yaml", credential)
	command := []string{"export", "--config", "spillway.yaml", "--upstream", upstream.URL + "/fhir", "--settle", "0s", "--type", "Patient", "--out", "out", "--quiet"}
	if got := spillway(t.Context(), command...); got.status != 0 {
		t.Errorf("export: %+v", got)
	}
	check := spillway(t.Context(), "check", "--config", "spillway.yaml", "--upstream", upstream.URL+"/fhir")
	if check.status != 0 || !strings.Contains(check.out, "upstream's token  answers") || !strings.Contains(check.out, "private_key_jwt") {
		t.Errorf("check: %+v", check)
	}
	tokens.refused.Store(true)
	check = spillway(t.Context(), "check", "--config", "spillway.yaml", "--upstream", upstream.URL+"/fhir")
	if check.status != exitFailed || !strings.Contains(check.err, "401 (invalid_client)") || strings.Contains(check.err+check.out, string(text)) {
		t.Errorf("check without a token: %+v", check)
	}
}

// TestUpstreamMTLS: our certificate is for exports, and for nobody who goes through.
func TestUpstreamMTLS(t *testing.T) {
	trusted := newAuthority(t)
	_, cert, key := trusted.client(t, "gateway.example.org")
	pool := x509.NewCertPool()
	pool.AddCert(trusted.certificate)
	upstream := httptest.NewUnstartedServer(&guarded{Handler: fakefhir.New(few()), accepts: func(r *http.Request) bool { return len(r.TLS.PeerCertificates) == 1 }})
	upstream.TLS = &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool}
	upstream.StartTLS()
	defer upstream.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	put(t, ca, pemOf(upstream.Certificate()))
	r := start(t, configured(t, upstream.URL+"/fhir", "upstream:\n  auth: {mode: mtls}\n  tls: {cert_file: "+cert+", key_file: "+key+", ca_file: "+ca+"}\n"), halves{web: true, work: true})
	r.health(t, http.StatusOK)
	if _, _, counts := r.bulk().whole(t, "?_type=Patient"); counts["Patient"] != 3 {
		t.Errorf("exported %v", counts)
	}
	if got := r.bulk().ask(t, http.MethodGet, r.publicURL.String()+"/Patient?_count=1"); got != http.StatusUnauthorized {
		t.Errorf("what goes through carries our certificate: %d", got)
	}
}

// TestCertificateIsRenewed: a new certificate is used without a restart.
func TestCertificateIsRenewed(t *testing.T) {
	cert, key, _ := certificate(t)
	cfg := gatewayConfig(t, "http://127.0.0.1:1/fhir", config.Flag{Name: "x", Key: "server.tls.cert_file", Value: cert}, config.Flag{Name: "y", Key: "server.tls.key_file", Value: key})
	secure, pair, err := serverTLS(cfg, slog.New(slog.DiscardHandler))
	if err != nil || secure.MinVersion != tls.VersionTLS12 {
		t.Fatal(err)
	}
	first, err := secure.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	if pair.Expires().Before(time.Now()) || first.Leaf == nil {
		t.Error("the certificate does not tell when it ends")
	}
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := serverTLS(cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "server.tls: ") || !strings.Contains(err.Error(), "chmod o=") {
		t.Errorf("a key that everybody can read: %v", err)
	}
}
