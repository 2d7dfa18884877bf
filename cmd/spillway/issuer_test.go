package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"spillway/auth/smart"
)

// A registry is the storage of the provider's own examples, with machines as its
// clients, whose ids say what kind of token they get.
type registry struct {
	*storage.Storage
	issued map[string]op.TokenRequest // by token id; tests are sequential
}

type machine struct {
	op.Client
	id string
}

func (m machine) GetID() string { return m.id }
func (m machine) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeClientCredentials}
}
func (m machine) AccessTokenType() op.AccessTokenType {
	if strings.HasPrefix(m.id, "opaque") {
		return op.AccessTokenTypeBearer
	}
	return op.AccessTokenTypeJWT
}
func (machine) ClockSkew() time.Duration { return 0 }
func (machine) RestrictAdditionalAccessTokenScopes() func([]string) []string {
	return func(scopes []string) []string { return scopes }
}

func (r registry) ClientCredentials(_ context.Context, id, _ string) (op.Client, error) {
	return machine{id: id}, nil
}

func (r registry) ClientCredentialsTokenRequest(_ context.Context, id string, scopes []string) (op.TokenRequest, error) {
	return &oidc.JWTTokenRequest{Subject: id, Audience: []string{"spillway"}, Scopes: scopes}, nil
}

func (r registry) CreateAccessToken(ctx context.Context, request op.TokenRequest) (string, time.Time, error) {
	id, expires, err := r.Storage.CreateAccessToken(ctx, request)
	r.issued[id] = request
	return id, expires, err
}

func (r registry) GetPrivateClaimsFromScopes(_ context.Context, _, _ string, scopes []string) (map[string]any, error) {
	return map[string]any{"scope": strings.Join(scopes, " ")}, nil
}

func (r registry) AuthorizeClientIDSecret(_ context.Context, id, secret string) error {
	if id != "gateway" || secret != "s3:cr%t" {
		return errors.New("not the gateway")
	}
	return nil
}

func (r registry) SetIntrospectionFromToken(_ context.Context, answer *oidc.IntrospectionResponse, id, _, _ string) error {
	request, ok := r.issued[id]
	if !ok {
		return errors.New("unknown or revoked")
	}
	answer.Scope, answer.ClientID, answer.Audience, answer.JWTID = request.GetScopes(), request.GetSubject(), request.GetAudience(), id
	answer.Expiration = oidc.FromTime(time.Now().Add(5 * time.Minute))
	return nil
}

// startIssuer runs a certified OpenID provider that is not ours.
func startIssuer(t *testing.T) *httptest.Server {
	t.Helper()
	var handler http.Handler
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	t.Cleanup(issuer.Close)
	r := registry{Storage: storage.NewStorage(storage.NewUserStore(issuer.URL)), issued: map[string]op.TokenRequest{}}
	var err error
	handler, err = op.NewProvider(&op.Config{CryptoKey: sha256.Sum256([]byte("test")), CryptoKeyId: "k"}, r, op.StaticIssuer(issuer.URL),
		op.WithAllowInsecure(), op.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	return issuer
}

// machineToken gets a token of a client at a token endpoint.
func machineToken(t *testing.T, endpoint, id, scopes string) string {
	t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {scopes}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(id, "any")
	got, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(got.Body).Decode(&answer); err != nil || answer.AccessToken == "" {
		t.Fatalf("no token: %s, %v", got.Status, err)
	}
	return answer.AccessToken
}

// TestJWT: the tokens of a provider that is not ours, found by our own discovery
// document.
func TestJWT(t *testing.T) {
	issuer := startIssuer(t)
	_, upstream := fake(t, few())
	cfg := configured(t, upstream, "auth:\n  mode: jwt\n  jwt: {issuer: '"+issuer.URL+"', audience: [spillway]}\n"+
		"authorization: {clients: [{id: former, disabled: true}, {id: grouped, groups: [g1]}]}\n")
	r := start(t, cfg, halves{web: true, work: true})
	if h := r.health(t, http.StatusOK); h.Checks["auth"] != "ok" {
		t.Errorf("checks: %v", h.Checks)
	}
	base := r.publicURL.String()
	endpoint := tokenEndpoint(t, base)
	if want := issuer.URL + "/oauth/token"; endpoint != want {
		t.Errorf("our discovery leads to %s, want %s", endpoint, want)
	}
	client := r.with(machineToken(t, endpoint, "signed", "system/Patient.rs openid"))
	if _, _, counts := client.whole(t, "?_type=Patient"); counts["Patient"] != 3 {
		t.Errorf("exported %v", counts)
	}
	for name, test := range map[string]struct {
		client, scopes, path string
		want                 int
	}{
		"type without a scope":  {"signed", "system/Patient.rs", "/$export?_type=Observation", http.StatusForbidden},
		"no system scope":       {"signed", "openid", "/$export", http.StatusForbidden},
		"opaque":                {"opaque", "system/*.rs", "/$export", http.StatusUnauthorized},
		"disabled here":         {"former", "system/*.rs", "/$export", http.StatusUnauthorized},
		"group of nobody":       {"signed", "system/*.rs", "/Group/g1/$export", http.StatusNotFound},
		"group of another":      {"grouped", "system/*.rs", "/Group/g2/$export", http.StatusNotFound},
		"search goes through":   {"signed", "openid", "/Patient?_count=1", http.StatusOK},
		"not even for metadata": {"former", "openid", "/metadata", http.StatusOK},
	} {
		if got := r.with(machineToken(t, endpoint, test.client, test.scopes)).ask(t, http.MethodGet, base+test.path); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
	issuer.Close()
	if got := client.ask(t, http.MethodGet, base+"/$export?_type=Patient"); got != http.StatusAccepted {
		t.Errorf("the issuer is away, its keys are known: %d", got)
	}
}

// TestJWTAway: a gateway whose issuer is away starts, is not ready, and lets nobody
// in; what goes through goes on.
func TestJWTAway(t *testing.T) {
	_, upstream := fake(t, few())
	cfg := configured(t, upstream, "auth:\n  mode: jwt\n  jwt: {issuer: 'http://127.0.0.1:1', audience: [spillway]}\n")
	r := start(t, cfg, halves{web: true})
	h := r.health(t, http.StatusServiceUnavailable)
	for deadline := time.Now().Add(30 * time.Second); h.Checks["upstream"] != "ok" && time.Now().Before(deadline); h = r.health(t, http.StatusServiceUnavailable) {
	}
	if h.Checks["upstream"] != "ok" || h.Checks["auth"] == "ok" || h.Status != "not ready" {
		t.Errorf("%+v", h)
	}
	base := r.publicURL.String()
	client := r.with("eyJhbGciOiJFUzM4NCIsImtpZCI6ImEifQ.eyJpc3MiOiJodHRwOi8vMTI3LjAuMC4xOjEiLCJhdWQiOiJzcGlsbHdheSIsImV4cCI6NDA3MDkwODgwMH0.AAAA")
	for path, want := range map[string]int{"/$export": http.StatusServiceUnavailable, "/Patient?_count=1": http.StatusOK, smart.Path: http.StatusServiceUnavailable} {
		if got := client.ask(t, http.MethodGet, base+path); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
}

// TestIntrospection: opaque tokens, about which the provider is asked.
func TestIntrospection(t *testing.T) {
	issuer := startIssuer(t)
	_, upstream := fake(t, few())
	yaml := "auth:\n  mode: introspection\n  introspection: {endpoint: '" + issuer.URL + "/oauth/introspect', client_id: gateway, client_secret: 's3:cr%t', audience: [spillway], token_url: '" + issuer.URL + "/oauth/token'}\n"
	r := start(t, configured(t, upstream, yaml), halves{web: true, work: true})
	r.health(t, http.StatusOK)
	base := r.publicURL.String()
	endpoint := tokenEndpoint(t, base)
	if _, _, counts := r.with(machineToken(t, endpoint, "opaque", "system/Patient.rs")).whole(t, "?_type=Patient"); counts["Patient"] != 3 {
		t.Errorf("exported %v", counts)
	}
	if got := r.with("made-up").ask(t, http.MethodGet, base+"/$export"); got != http.StatusUnauthorized {
		t.Errorf("a token of nobody: %d", got)
	}
	file := filepath.Join(t.TempDir(), "spillway.yaml")
	put(t, file, "upstream: {url: '"+upstream+"'}\n"+yaml)
	t.Chdir(t.TempDir())
	if got := spillway(t.Context(), "check", "--config", file); got.status != 0 || !strings.Contains(got.out, "introspection  answers") {
		t.Errorf("check: %+v", got)
	}
	put(t, file, "upstream: {url: '"+upstream+"'}\n"+strings.Replace(yaml, "s3:cr%t", "wrong", 1))
	if got := spillway(t.Context(), "check", "--config", file); got.status != exitFailed || !strings.Contains(got.err, "auth.introspection: ") || strings.Contains(got.err, "wrong") {
		t.Errorf("check with a wrong secret: %+v", got)
	}
}

// An authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	file        string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{file: filepath.Join(t.TempDir(), "ca.pem")}
	a.certificate, a.key = &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: rand.Text()},
	}, ecKey(t)
	der, err := x509.CreateCertificate(rand.Reader, a.certificate, a.certificate, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	put(t, a.file, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return a
}

func ecKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// client returns a certificate for a name, and the files of it.
func (a *authority) client(t *testing.T, name string) (pair tls.Certificate, cert, key string) {
	t.Helper()
	private := ecKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, private.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "client.pem"), filepath.Join(dir, "client.key")
	put(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	put(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	if pair, err = tls.LoadX509KeyPair(cert, key); err != nil {
		t.Fatal(err)
	}
	return pair, cert, key
}

// TestMTLS: clients that are known by their certificates.
func TestMTLS(t *testing.T) {
	_, upstream := fake(t, few())
	cert, key, pool := certificate(t)
	trusted, stranger := newAuthority(t), newAuthority(t)
	cfg := configured(t, upstream, "server: {tls: {cert_file: "+cert+", key_file: "+key+", client_ca_file: "+trusted.file+"}}\n"+
		"auth:\n  mode: mtls\n  mtls:\n    clients:\n      - {id: a, scopes: 'system/Patient.rs', dns: a.example.org}\n      - {id: b, scopes: 'system/*.rs', dns: b.example.org, disabled: true}\n")
	r := start(t, cfg, halves{web: true, work: true})
	r.health(t, http.StatusOK)
	as := func(pairs ...tls.Certificate) *bulkClient {
		secure := &tls.Config{RootCAs: pool}
		if len(pairs) > 0 { // shown whatever authorities the server names
			secure.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pairs[0], nil }
		}
		return &bulkClient{base: r.publicURL.String(), http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: secure}}}
	}
	a, _, _ := trusted.client(t, "a.example.org")
	b, _, _ := trusted.client(t, "b.example.org")
	c, _, _ := trusted.client(t, "c.example.org")
	status, _, counts := as(a).whole(t, "?_type=Patient")
	if counts["Patient"] != 3 {
		t.Errorf("exported %v", counts)
	}
	base := r.publicURL.String()
	for name, test := range map[string]struct {
		client *bulkClient
		path   string
		want   int
	}{
		"without a certificate": {as(), "/$export", http.StatusUnauthorized},
		"disabled":              {as(b), "/$export", http.StatusUnauthorized},
		"of no client":          {as(c), "/$export", http.StatusUnauthorized},
		"type without a scope":  {as(a), "/$export?_type=Observation", http.StatusForbidden},
		"goes through":          {as(), "/Patient?_count=1", http.StatusOK},
	} {
		if got := test.client.ask(t, http.MethodGet, base+test.path); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
	if got := as().ask(t, http.MethodGet, status); got != http.StatusUnauthorized {
		t.Errorf("status without a certificate: %d", got)
	}
	evil, _, _ := stranger.client(t, "a.example.org")
	if answer, err := as(evil).http.Get(base + "/$export"); err == nil {
		_ = answer.Body.Close()
		t.Errorf("a certificate of another authority: %s", answer.Status)
	}
	_, metrics := r.get(t, r.admin, "/metrics")
	if !strings.Contains(metrics, `spillway_certificate_expiry_timestamp_seconds{certificate="server"} 1.`) {
		t.Error("/metrics does not tell when the certificate ends")
	}
}

func pemOf(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}
