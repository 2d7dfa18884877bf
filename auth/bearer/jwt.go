package bearer

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"spillway/auth"
	"spillway/auth/fetch"
	"spillway/auth/jwks"
	"spillway/auth/scope"
	"spillway/auth/token"
)

const (
	defaultSkew     = 30 * time.Second
	defaultInterval = 30 * time.Second
	defaultMaxStale = time.Hour
)

// JWTConfig says whose tokens are accepted. Issuer, Audiences and Client are
// required.
type JWTConfig struct {
	// Issuer is iss, to the letter.
	Issuer string
	// Audiences are what aud must have one of: how the issuer calls this FHIR
	// server. Tokens of the same issuer for others are refused.
	Audiences []string
	// JWKSURL is where the issuer's keys are. Empty: where its discovery
	// document says.
	JWKSURL string
	// Algorithms that may sign. Nil: RS256, RS384, ES256 and ES384.
	Algorithms []token.Algorithm
	// ClientClaims name the client, and ScopeClaims what it may do; the first
	// that is there counts. Nil: client_id, azp, cid; and scope, scp.
	ClientClaims, ScopeClaims []string
	// Skew is how far the issuer's clock may be from ours. Zero: 30s;
	// negative: not at all.
	Skew time.Duration
	// MaxAge is how long ago a token may have been issued. Zero: until it
	// expires.
	MaxAge time.Duration
	// Interval is the least time between two requests for the issuer's keys.
	// Zero: 30s.
	Interval time.Duration
	// MaxStale is how long keys are used beyond their lifetime while the issuer
	// is out of reach. Zero: 1h; negative: not at all.
	MaxStale time.Duration
	Client   *fetch.Client

	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: no log
}

// A JWT verifies signed access tokens. It implements auth.Authenticator.
type JWT struct {
	policy token.AccessPolicy
	client []string
	scope  []string
	now    func() time.Time
	ready  func(context.Context) error
	token  func(context.Context) (string, error)
}

// NewJWT returns an Authenticator. It asks nobody yet.
func NewJWT(c JWTConfig) (*JWT, error) {
	if c.Issuer == "" || len(c.Audiences) == 0 || c.Client == nil {
		return nil, errors.New("bearer: Issuer, Audiences and Client are required")
	}
	if c.Algorithms == nil {
		c.Algorithms = []token.Algorithm{token.RS256, token.RS384, token.ES256, token.ES384}
	}
	if c.ClientClaims == nil {
		c.ClientClaims = []string{"client_id", "azp", "cid"}
	}
	if c.ScopeClaims == nil {
		c.ScopeClaims = []string{"scope", "scp"}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	cache := jwks.New(jwks.Options{
		Client: c.Client, Interval: orDefault(c.Interval, defaultInterval), MaxStale: orDefault(c.MaxStale, defaultMaxStale),
		Now: c.Now, Logger: c.Logger,
	})
	j := &JWT{client: c.ClientClaims, scope: c.ScopeClaims, now: c.Now, policy: token.AccessPolicy{
		Algorithms: c.Algorithms, Issuer: c.Issuer, Audiences: c.Audiences, Skew: orDefault(c.Skew, defaultSkew), MaxAge: c.MaxAge,
	}}
	if c.JWKSURL != "" {
		if u, err := url.Parse(c.JWKSURL); err != nil || fetch.CheckURL(u, true) != nil {
			return nil, errors.New("bearer: the address of the issuer's keys must be an absolute URL")
		}
		set := cache.At(c.JWKSURL)
		j.policy.Keys, j.ready = set, set.Ready
		j.token = func(context.Context) (string, error) { return "", nil }
		return j, nil
	}
	found, err := newDiscovered(c, cache)
	if err != nil {
		return nil, err
	}
	j.policy.Keys, j.ready, j.token = found, found.Ready, found.tokenEndpoint
	return j, nil
}

// orDefault returns d, the standard for zero, and zero for what is negative.
func orDefault(d, standard time.Duration) time.Duration {
	if d == 0 {
		return standard
	}
	return max(d, 0)
}

// RequiresToken implements auth.Authenticator.
func (j *JWT) RequiresToken() bool { return true }

// Ready returns why no token can be verified now.
func (j *JWT) Ready(ctx context.Context) error { return j.ready(ctx) }

// TokenEndpoint returns where the issuer gives tokens, as its discovery document
// says; empty if it does not, or if it is not asked for one. The error wraps
// auth.ErrUnavailable.
func (j *JWT) TokenEndpoint(ctx context.Context) (string, error) { return j.token(ctx) }

// Authenticate implements auth.Authenticator.
func (j *JWT) Authenticate(r *http.Request) (auth.Principal, error) {
	compact, err := auth.BearerToken(r.Header)
	if err != nil {
		return auth.Principal{}, err
	}
	claims, err := j.policy.Verify(r.Context(), compact, j.now())
	if err != nil {
		return auth.Principal{}, err
	}
	if certificate, bound := claims.Confirmation(); bound && !confirmed(r, certificate) {
		return auth.Principal{}, errBound
	}
	p := auth.Principal{Issuer: claims.Issuer, TokenID: claims.ID, Expires: claims.Expires}
	for _, name := range j.client {
		if p.ClientID, _ = claims.Text(name); p.ClientID != "" {
			break
		}
	}
	if p.ClientID == "" {
		return auth.Principal{}, token.ErrClient
	}
	for _, name := range j.scope {
		if claims.Has(name) {
			list, _ := claims.Texts(name)
			p.Grant = granted(strings.Join(list, " "))
			break
		}
	}
	return p, nil
}

// errBound says that a token came from somebody else than it was made for.
var errBound = fmt.Errorf("%w: bound to another sender", auth.ErrBadCredential)

// confirmed reports whether a request came over a connection with this
// certificate. A token that is bound to anything else cannot be confirmed.
func confirmed(r *http.Request, certificate string) bool {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return false
	}
	sum := sha256.Sum256(r.TLS.PeerCertificates[0].Raw)
	return certificate == base64.RawURLEncoding.EncodeToString(sum[:])
}

// granted is what a list of scopes grants. A list that cannot be understood
// grants nothing.
func granted(list string) scope.Grant {
	scopes, _, err := scope.ParseList(list)
	if err != nil {
		return scope.Grant{}
	}
	grant, err := scope.NewGrant(scopes)
	if err != nil {
		return scope.Grant{}
	}
	return grant
}

// addresses returns where the discovery document of an issuer can be.
// Sources: OpenID Connect Discovery, 4.1; RFC 8414, 3.1.
func addresses(issuer string) ([]string, error) {
	u, err := url.Parse(issuer)
	if err != nil || fetch.CheckURL(u, true) != nil || u.RawQuery != "" {
		return nil, errors.New("bearer: an issuer whose keys are to be found must be an absolute URL; or set the address of its keys")
	}
	path := strings.TrimRight(u.Path, "/")
	return []string{
		fmt.Sprintf("%s://%s%s/.well-known/openid-configuration", u.Scheme, u.Host, path),
		fmt.Sprintf("%s://%s/.well-known/oauth-authorization-server%s", u.Scheme, u.Host, path),
	}, nil
}
