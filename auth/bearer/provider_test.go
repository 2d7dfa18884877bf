package bearer

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"spillway/auth"
	"spillway/auth/fetch"
	"spillway/auth/scope"
)

const audience1 = "https://fhir.example.org/fhir"

// A provider is a certified OpenID provider, not ours, with the storage of its
// own examples. What is changed is who its clients are.
type provider struct {
	*httptest.Server
	asked atomic.Int32 // for introspection
}

// A registry is the storage, with two clients for machines and one gateway.
type registry struct {
	*storage.Storage
	issued map[string]op.TokenRequest // by token id; tests are sequential
}

// A machine is a client: its tokens are signed, or opaque.
type machine struct {
	op.Client
	id     string
	signed bool
}

func (m machine) GetID() string { return m.id }
func (m machine) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeClientCredentials}
}
func (m machine) AccessTokenType() op.AccessTokenType {
	if m.signed {
		return op.AccessTokenTypeJWT
	}
	return op.AccessTokenTypeBearer
}
func (machine) ClockSkew() time.Duration { return 0 }
func (machine) RestrictAdditionalAccessTokenScopes() func([]string) []string {
	return func(scopes []string) []string { return scopes }
}

func (r registry) ClientCredentials(_ context.Context, id, secret string) (op.Client, error) {
	if secret != "secret of "+id {
		return nil, errors.New("wrong secret")
	}
	return machine{id: id, signed: id != "opaque"}, nil
}

func (r registry) ClientCredentialsTokenRequest(_ context.Context, id string, scopes []string) (op.TokenRequest, error) {
	aud := audience1
	if id == "elsewhere" {
		aud = "https://another.example.org"
	}
	return &oidc.JWTTokenRequest{Subject: id, Audience: []string{aud}, Scopes: scopes}, nil
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

func (r registry) SetIntrospectionFromToken(_ context.Context, response *oidc.IntrospectionResponse, id, _, _ string) error {
	request, ok := r.issued[id]
	if !ok {
		return errors.New("unknown or revoked")
	}
	response.Scope, response.ClientID, response.Audience = request.GetScopes(), request.GetSubject(), request.GetAudience()
	response.JWTID = id
	response.Expiration = oidc.FromTime(time.Now().Add(5 * time.Minute))
	return nil
}

func startProvider(t *testing.T) (*provider, registry) {
	t.Helper()
	p := &provider{}
	r := registry{issued: map[string]op.TokenRequest{}}
	var handler http.Handler
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.Contains(req.URL.Path, "introspect") {
			p.asked.Add(1)
		}
		handler.ServeHTTP(w, req)
	}))
	t.Cleanup(p.Close)
	r.Storage = storage.NewStorage(storage.NewUserStore(p.URL))
	var err error
	handler, err = op.NewProvider(&op.Config{CryptoKey: sha256.Sum256([]byte("test")), CryptoKeyId: "k"}, r, op.StaticIssuer(p.URL),
		op.WithAllowInsecure(), op.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	return p, r
}

// token gets a token of a client the way that it does.
func (p *provider) token(t *testing.T, id, scopes string) string {
	t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {scopes}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.URL+"/oauth/token", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(id, url.QueryEscape("secret of "+id))
	got, err := p.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	b, err := io.ReadAll(got.Body)
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err != nil || json.Unmarshal(b, &answer) != nil || answer.AccessToken == "" {
		t.Fatalf("no token: %d %s", got.StatusCode, b)
	}
	return answer.AccessToken
}

func client() *fetch.Client {
	return fetch.New(fetch.Options{Plain: true, Private: true, Timeout: 2 * time.Second})
}

func show(t *testing.T, a auth.Authenticator, token string) (auth.Principal, error) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, audience1+"/$export", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	return a.Authenticate(r)
}

func mayExport(p auth.Principal, typ string) bool {
	return p.Grant.Allows(typ, scope.Read|scope.Search).All
}

// TestJWTOfARealProvider: discovery, keys and tokens are all the provider's.
func TestJWTOfARealProvider(t *testing.T) {
	p, _ := startProvider(t)
	j, err := NewJWT(JWTConfig{Issuer: p.URL, Audiences: []string{audience1}, Client: client()})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Ready(t.Context()); err != nil {
		t.Fatal("not ready:", err)
	}
	if got, err := j.TokenEndpoint(t.Context()); err != nil || got != p.URL+"/oauth/token" {
		t.Errorf("token endpoint %q, %v", got, err)
	}
	signed := p.token(t, "signed", "system/Patient.rs openid system/Observation.read")
	got, err := show(t, j, signed)
	if err != nil || got.ClientID != "signed" || got.Issuer != p.URL || got.TokenID == "" || got.Expires.Before(time.Now()) ||
		!mayExport(got, "Patient") || !mayExport(got, "Observation") || mayExport(got, "Condition") {
		t.Errorf("%+v, %v", got, err)
	}
	for name, token := range map[string]string{
		"for another audience": p.token(t, "elsewhere", "system/*.rs"),
		"opaque":               p.token(t, "opaque", "system/*.rs"),
		"changed":              signed[:len(signed)-2] + "AA",
	} {
		if got, err := show(t, j, token); !errors.Is(err, auth.ErrBadCredential) || got.ClientID != "" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	other, _ := startProvider(t)
	if _, err := show(t, j, other.token(t, "signed", "system/*.rs")); !errors.Is(err, auth.ErrBadCredential) {
		t.Errorf("of another provider: %v", err)
	}
	if got, err := show(t, j, p.token(t, "signed", "openid")); err != nil || !got.Grant.Empty() {
		t.Errorf("without a system scope: %+v, %v", got, err)
	}
	p.Close()
	if got, err := show(t, j, signed); err != nil || got.ClientID != "signed" {
		t.Errorf("the provider is away, its keys are known: %v", err)
	}
}

// TestIntrospectionByARealProvider: opaque and signed tokens, asked about as
// the gateway.
func TestIntrospectionByARealProvider(t *testing.T) {
	p, r := startProvider(t)
	now := time.Now()
	config := IntrospectionConfig{
		Endpoint: p.URL + "/oauth/introspect", Credential: Basic("gateway", "s3:cr%t"), Client: client(),
		Audiences: []string{audience1}, Now: func() time.Time { return now },
	}
	i, err := NewIntrospection(config)
	if err != nil {
		t.Fatal(err)
	}
	opaque := p.token(t, "opaque", "system/Patient.rs")
	for range 5 {
		got, err := show(t, i, opaque)
		if err != nil || got.ClientID != "opaque" || got.TokenID == "" || !mayExport(got, "Patient") || mayExport(got, "Observation") {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	if n := p.asked.Load(); n != 1 {
		t.Errorf("asked %d times about one token", n)
	}
	if got, err := show(t, i, p.token(t, "signed", "system/*.rs")); err != nil || got.ClientID != "signed" {
		t.Errorf("signed: %+v, %v", got, err)
	}
	if _, err := show(t, i, "2YotnFZFEjr1zCsicMWpAA"); !errors.Is(err, auth.ErrBadCredential) {
		t.Errorf("unknown: %v", err)
	}
	if _, err := show(t, i, p.token(t, "elsewhere", "system/*.rs")); !errors.Is(err, auth.ErrBadCredential) {
		t.Errorf("for another audience: %v", err)
	}
	clear(r.issued) // the provider revokes all
	if _, err := show(t, i, opaque); err != nil {
		t.Errorf("revoked, and still remembered: %v", err)
	}
	now = now.Add(30 * time.Second)
	if _, err := show(t, i, opaque); !errors.Is(err, auth.ErrBadCredential) {
		t.Errorf("revoked: %v", err)
	}
	config.Credential = Basic("gateway", "wrong")
	if i, err = NewIntrospection(config); err != nil {
		t.Fatal(err)
	}
	if _, err := show(t, i, opaque); !errors.Is(err, auth.ErrUnavailable) || strings.Contains(err.Error(), "wrong") {
		t.Errorf("with a wrong secret of ours: %v", err)
	}
}
