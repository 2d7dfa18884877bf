package builtin

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"spillway/auth"
	"spillway/auth/fetch"
	"spillway/auth/jwks"
	"spillway/auth/scope"
	"spillway/auth/smart"
	"spillway/auth/token"
)

const (
	defaultTTL  = 5 * time.Minute
	defaultSkew = 30 * time.Second
	maxSkew     = 2 * time.Minute
	maxTTL      = time.Hour
)

// A Client is one of the configuration.
type Client struct {
	ID string
	// JWKSURL is where the client publishes its keys; JWKS are the keys
	// themselves. One of the two is set. The URL is better: the client can
	// replace its keys without anybody's help.
	JWKSURL string
	JWKS    []byte
	// Scopes that it may be granted, separated by spaces.
	Scopes string
	// Groups that it may export.
	Groups auth.Groups
	// Disabled refuses its assertions, and the access tokens that it has.
	Disabled bool
}

// A Decision is what became of a token request, for the audit. It has no
// secret in it.
type Decision struct {
	Client      string // as stated; nobody has vouched for it unless Granted
	Granted     bool
	Reason      string // why not, in a word of a fixed set
	AssertionID string // jti of the assertion, as stated
	KeyID       string // kid of the assertion, as stated
	TokenID     string // jti of the access token
	Scope       string // as granted
}

// Config is what a Server is built from. Issuer, Audience, TokenURL, Keys,
// Seen and JWKS are required.
type Config struct {
	// Issuer is iss of our access tokens, and Audience their aud: both are the
	// public address of the FHIR base.
	Issuer, Audience string
	// TokenURL is the public address of the token endpoint, and what clients
	// put into aud.
	TokenURL string
	// TokenURLAliases are other addresses of it that aud may have.
	TokenURLAliases []string
	// Keys sign access tokens: the first signs, all of them verify.
	Keys []*token.SigningKey
	// TTL of access tokens. Zero: 5m, which SMART advises not to exceed.
	TTL time.Duration
	// Skew is how far the clocks of clients and replicas may be apart. Zero:
	// 30s; negative: not at all.
	Skew    time.Duration
	Clients []Client
	// JWKS fetches the keys of clients.
	JWKS *jwks.Cache
	// PlainJWKS permits key addresses of http, for development.
	PlainJWKS bool

	// Seen records a key until then, for all replicas, and reports whether it
	// was recorded before. A key has 68 characters of [a-z0-9.]. After an error
	// the assertion is not accepted.
	Seen func(ctx context.Context, key string, until time.Time) (bool, error)
	// Limit says how long the sender of a request must wait; zero: not at all.
	// It is asked before anything is read, with an empty client, and again with
	// the client that was authenticated. Nil: nobody waits.
	Limit func(r *http.Request, client string) time.Duration
	// Observe is told of every decision before it is answered. After an error
	// no token is given. Nil: nobody is told.
	Observe func(r *http.Request, d Decision) error

	Now func() time.Time // nil: time.Now
}

// A Server authenticates clients, gives them tokens and reads these. It is
// safe for concurrent use.
type Server struct {
	c          Config
	assertions *token.Assertions
	access     token.AccessPolicy
	clients    atomic.Pointer[map[string]client]
}

// A client is a Client, read.
type client struct {
	registration token.Registration
	grant        scope.Grant
	groups       auth.Groups
	disabled     bool
}

// New returns a server. All that is wrong with the configuration is reported
// at once.
func New(c Config) (*Server, error) {
	if c.Seen == nil || c.JWKS == nil || len(c.Keys) == 0 || c.Issuer == "" || c.Audience == "" || c.TokenURL == "" {
		return nil, errors.New("builtin: Issuer, Audience, TokenURL, Keys, Seen and JWKS are required")
	}
	if c.TTL == 0 {
		c.TTL = defaultTTL
	}
	if c.Skew == 0 {
		c.Skew = defaultSkew
	}
	if c.TTL < time.Second || c.TTL > maxTTL || c.Skew > maxSkew {
		return nil, fmt.Errorf("builtin: tokens live between %v and %v, and clocks are at most %v apart", time.Second, maxTTL, maxSkew)
	}
	c.Skew = max(c.Skew, 0)
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Server{c: c}
	s.assertions = token.NewAssertions(token.AssertionPolicy{
		Algorithms: []token.Algorithm{token.RS384, token.ES384},
		Audiences:  append([]string{c.TokenURL}, c.TokenURLAliases...),
		Skew:       c.Skew,
		Client: func(id string) (token.Registration, bool) {
			found, ok := s.client(id)
			return found.registration, ok
		},
		Seen: c.Seen,
	})
	s.access = token.AccessPolicy{
		Issuer: c.Issuer, Audiences: []string{c.Audience}, Types: []string{"at+jwt"}, Skew: c.Skew, Keys: token.PublicKeys(c.Keys...),
	}
	for _, k := range c.Keys {
		s.access.Algorithms = append(s.access.Algorithms, k.Algorithm())
	}
	if token.PublicKeys(c.Keys...).Ambiguous() {
		return nil, errors.New("builtin: two signing keys have the same kid")
	}
	if err := s.SetClients(c.Clients); err != nil {
		return nil, err
	}
	return s, nil
}

// SetClients replaces the clients. After an error the former ones stay.
func (s *Server) SetClients(list []Client) error {
	clients := make(map[string]client, len(list))
	var problems []error
	for i, c := range list {
		read, err := s.read(c)
		if err == nil {
			if _, twice := clients[c.ID]; twice {
				err = errors.New("there is another one of this id")
			}
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("builtin: client %d (%q): %w", i+1, c.ID, err))
			continue
		}
		clients[c.ID] = read
	}
	if len(problems) > 0 {
		return errors.Join(problems...)
	}
	s.clients.Store(&clients)
	return nil
}

func (s *Server) read(c Client) (client, error) {
	if c.ID == "" || len(c.ID) > 200 {
		return client{}, errors.New("its id must have 1 to 200 characters")
	}
	scopes, others, err := scope.ParseList(c.Scopes)
	if err != nil {
		return client{}, err
	}
	if len(others) > 0 {
		return client{}, others[0]
	}
	if len(scopes) == 0 {
		return client{}, errors.New("it has no scopes")
	}
	grant, err := scope.NewGrant(scopes)
	if err != nil {
		return client{}, err
	}
	read := client{grant: grant, groups: c.Groups, disabled: c.Disabled}
	switch {
	case (c.JWKSURL == "") == (len(c.JWKS) == 0):
		return client{}, errors.New("it must have the address of its keys, or the keys, and not both")
	case c.JWKSURL != "":
		u, err := url.Parse(c.JWKSURL)
		if err != nil {
			return client{}, errors.New("the address of its keys is malformed")
		}
		if err := fetch.CheckURL(u, s.c.PlainJWKS); err != nil {
			return client{}, fmt.Errorf("address of its keys: %w", err)
		}
		read.registration = token.Registration{Keys: published{s.c.JWKS.At(c.JWKSURL)}, KeySetURL: c.JWKSURL}
	default:
		keys, err := token.ReadKeySet(c.JWKS)
		if err != nil {
			return client{}, err
		}
		if dropped := keys.Dropped(); len(dropped) > 0 {
			return client{}, fmt.Errorf("its keys: %s", dropped[0])
		}
		if keys.Usable() == 0 || keys.Ambiguous() {
			return client{}, errors.New("its keys: there must be at least one, and each must have a kid of its own")
		}
		read.registration = token.Registration{Keys: keys}
	}
	return read, nil
}

// published are the keys that a client publishes. If they are out of reach it
// is the client's fault, and the client is not authenticated.
type published struct{ set *jwks.Set }

func (p published) Find(ctx context.Context, id string, a token.Algorithm) (token.PublicKey, error) {
	key, err := p.set.Find(ctx, id, a)
	if errors.Is(err, auth.ErrUnavailable) {
		return key, token.ErrKeysAway
	}
	return key, err
}

// client returns an enabled client.
func (s *Server) client(id string) (client, bool) {
	c, ok := (*s.clients.Load())[id]
	return c, ok && !c.disabled
}

// Enabled reports whether there is such a client and it is not disabled.
// Exports of others must end.
func (s *Server) Enabled(id string) bool {
	_, ok := s.client(id)
	return ok
}

// Configuration is the discovery document.
func (s *Server) Configuration() smart.Configuration {
	return smart.BackendServices(s.c.TokenURL, string(token.RS384), string(token.ES384))
}

// accessClaims are those of an access token.
// Source: RFC 9068, 2.2.
type accessClaims struct {
	Issuer   string `json:"iss"`
	Audience string `json:"aud"`
	Subject  string `json:"sub"`
	ClientID string `json:"client_id"`
	Scope    string `json:"scope"`
	IssuedAt int64  `json:"iat"`
	Expires  int64  `json:"exp"`
	ID       string `json:"jti"`
}

// issue returns an access token, and its jti.
func (s *Server) issue(clientID, scopes string, now time.Time) (compact, id string, err error) {
	id = rand.Text()
	compact, err = s.c.Keys[0].Sign("at+jwt", accessClaims{
		Issuer: s.c.Issuer, Audience: s.c.Audience, Subject: clientID, ClientID: clientID, Scope: scopes,
		IssuedAt: now.Unix(), Expires: now.Add(s.c.TTL).Unix(), ID: id,
	})
	return compact, id, err
}

// RequiresToken implements auth.Authenticator.
func (s *Server) RequiresToken() bool { return true }

// Authenticate implements auth.Authenticator. What a token grants is cut down
// to what the client may have now, so that a client that was disabled, or has
// lost a scope, has lost it at once.
func (s *Server) Authenticate(r *http.Request) (auth.Principal, error) {
	compact, err := auth.BearerToken(r.Header)
	if err != nil {
		return auth.Principal{}, err
	}
	claims, err := s.access.Verify(r.Context(), compact, s.c.Now())
	if err != nil {
		return auth.Principal{}, err
	}
	id, _ := claims.Text("client_id")
	c, ok := s.client(id)
	if !ok {
		return auth.Principal{}, token.ErrClient
	}
	text, _ := claims.Text("scope")
	scopes, _, err := scope.ParseList(text)
	if err != nil {
		return auth.Principal{}, token.ErrClaims
	}
	grant, err := scope.NewGrant(c.grant.Restrict(scopes))
	if err != nil {
		return auth.Principal{}, token.ErrClaims
	}
	return auth.Principal{
		ClientID: id, Issuer: claims.Issuer, Grant: grant, Groups: c.groups, TokenID: claims.ID, Expires: claims.Expires,
	}, nil
}
