package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/auth"
	"spillway/auth/audit"
	"spillway/auth/bearer"
	"spillway/auth/builtin"
	"spillway/auth/fetch"
	"spillway/auth/jwks"
	"spillway/auth/mtls"
	"spillway/auth/smart"
	"spillway/auth/token"
	"spillway/cmd/spillway/internal/config"
	"spillway/gateway"
	"spillway/jobs"
)

// An access is who may ask for exports, by auth.mode. It is safe for concurrent
// use, and takes a changed list of clients while it is used.
type access struct {
	discovery http.Handler                // nil: passed through
	token     http.Handler                // nil: none
	tokenURL  string                      // where else tokens are fetched; empty: nobody said
	ready     func(context.Context) error // nil: at any time
	issuer    string                      // of the tokens that we give; empty: none

	current atomic.Pointer[auth.Authenticator]
	results *prometheus.CounterVec

	// change puts other clients in place; after an error the former ones stay.
	change func(a *config.Auth) error
}

// accessNeeds is what an access takes from the rest of the process.
type accessNeeds struct {
	public   *url.URL     // FHIR base as clients see it
	store    jobs.Store   // remembers which assertions were used
	upstream http.Handler // answers discovery where we have nothing to say
	record   *recorder
	metrics  prometheus.Registerer
	log      *slog.Logger
}

// openAccess builds what auth.mode says. It asks nobody yet.
func openAccess(c *config.Config, n accessNeeds) (*access, error) {
	a := &access{change: func(*config.Auth) error { return nil }}
	a.results = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "spillway_auth_requests_total",
		Help: "Requests that were authenticated, by result: accepted, no credential, malformed, refused, unavailable (it could not be decided).",
	}, []string{"result"})
	if err := n.metrics.Register(a.results); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	var err error
	switch c.Auth.Mode {
	case config.ModeJWT:
		err = a.openJWT(c, n)
	case config.ModeIntrospection:
		err = a.openIntrospection(c, n)
	case config.ModeBuiltin:
		err = a.openBuiltin(c, n)
	case config.ModeMTLS:
		err = a.openMTLS(c)
	default:
		a.use(auth.None())
	}
	if err != nil {
		return nil, usageError("auth.%s: %w", c.Auth.Mode, err)
	}
	return a, nil
}

func (a *access) use(as auth.Authenticator) { a.current.Store(&as) }

// passed is what goes through, without the tokens that we gave ourselves: they are
// for us, and the upstream could use them here. Those of others are the caller's
// affair.
func (a *access) passed(upstream http.Handler) http.Handler {
	if a.issuer == "" {
		return upstream
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if compact, err := auth.BearerToken(r.Header); err == nil {
			all := []token.Algorithm{token.RS384, token.ES256, token.ES384, token.ES512}
			if t, err := token.Parse(compact, all); err == nil && t.Claims.Issuer == a.issuer {
				r = r.WithContext(r.Context())
				r.Header = r.Header.Clone()
				r.Header.Del("Authorization")
			}
		}
		upstream.ServeHTTP(w, r)
	})
}

// RequiresToken implements auth.Authenticator.
func (a *access) RequiresToken() bool { return (*a.current.Load()).RequiresToken() }

// Authenticate implements auth.Authenticator.
func (a *access) Authenticate(r *http.Request) (auth.Principal, error) {
	p, err := (*a.current.Load()).Authenticate(r)
	a.results.WithLabelValues(resultOf(err)).Inc()
	return p, err
}

// resultOf names the result of an Authenticator, out of a few.
func resultOf(err error) string {
	switch {
	case err == nil:
		return "accepted"
	case errors.Is(err, auth.ErrNoCredential):
		return "no credential"
	case errors.Is(err, auth.ErrMalformed):
		return "malformed"
	case errors.Is(err, auth.ErrUnavailable):
		return "unavailable"
	}
	return "refused"
}

// outside returns a client for servers that the operator has named.
func outside(key, caFile string, addresses ...string) (*fetch.Client, error) {
	secure, err := authorities(key, caFile)
	if err != nil {
		return nil, err
	}
	return fetch.New(fetch.Options{Private: true, Plain: plainSomewhere(addresses...), TLS: secure}), nil
}

// plainSomewhere reports whether one of the addresses is of http. Config has
// checked where that is allowed.
func plainSomewhere(addresses ...string) bool {
	for _, address := range addresses {
		if u, err := url.Parse(address); err == nil && u.Scheme == "http" {
			return true
		}
	}
	return false
}

// exactly turns a duration for which 0 means none into one for which it means
// the default.
func exactly(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

func (a *access) openJWT(c *config.Config, n accessNeeds) error {
	j := &c.Auth.JWT
	client, err := outside("auth.jwt.ca_file", j.CAFile, j.Issuer, j.JWKSURL)
	if err != nil {
		return err
	}
	verifier, err := bearer.NewJWT(bearer.JWTConfig{
		Issuer: j.Issuer, Audiences: j.Audiences, JWKSURL: j.JWKSURL, Algorithms: j.Algorithms,
		ClientClaims: j.ClientClaims, ScopeClaims: j.ScopeClaims, Skew: exactly(j.Skew), MaxAge: j.MaxAge,
		Interval: j.Interval, MaxStale: exactly(j.MaxStale), Client: client, Logger: n.log,
	})
	if err != nil {
		return err
	}
	a.ready = verifier.Ready
	switch {
	case j.TokenURL != "":
		a.discovery, a.tokenURL = smart.Handler(pointer(j.TokenURL)), j.TokenURL
	case j.JWKSURL == "":
		a.discovery = discovering(verifier, n.upstream)
	}
	a.restrict(verifier, &c.Auth)
	return nil
}

// pointer is the discovery document of a server whose tokens another one gives.
func pointer(tokenURL string) smart.Configuration {
	return smart.BackendServices(tokenURL, string(token.RS384), string(token.ES384))
}

// discovering serves the discovery document as soon as the issuer's token
// endpoint is known. An issuer without one leaves it to the upstream.
func discovering(j *bearer.JWT, upstream http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		address, err := j.TokenEndpoint(r.Context())
		switch {
		case err != nil:
			w.Header().Set("Retry-After", "30")
			w.Header().Set("Cache-Control", "no-store")
			w.WriteHeader(http.StatusServiceUnavailable)
		case address == "":
			upstream.ServeHTTP(w, r)
		default:
			smart.Handler(pointer(address)).ServeHTTP(w, r)
		}
	})
}

func (a *access) openIntrospection(c *config.Config, n accessNeeds) error {
	i := &c.Auth.Introspection
	client, err := outside("auth.introspection.ca_file", i.CAFile, i.Endpoint)
	if err != nil {
		return err
	}
	credential := bearer.Basic(i.ClientID, i.Secret)
	if i.Key != nil {
		audience := i.KeyAudience
		if audience == "" {
			audience = i.Endpoint
		}
		credential = bearer.PrivateKeyJWT(i.ClientID, audience, i.Key)
	}
	asker, err := bearer.NewIntrospection(bearer.IntrospectionConfig{
		Endpoint: i.Endpoint, Credential: credential, Client: client, Issuer: i.Issuer, Audiences: i.Audiences,
		TTL: exactly(i.TTL), NegativeTTL: exactly(i.NegativeTTL),
	})
	if err != nil {
		return err
	}
	a.ready = asker.Ready
	if i.TokenURL != "" {
		a.discovery, a.tokenURL = smart.Handler(pointer(i.TokenURL)), i.TokenURL
	}
	a.restrict(asker, &c.Auth)
	return nil
}

// restrict applies what the configuration says of clients for which others vouch.
func (a *access) restrict(base auth.Authenticator, c *config.Auth) {
	a.change = func(c *config.Auth) error {
		policies := make(map[string]auth.Policy, len(c.Clients))
		for _, client := range c.Clients {
			policies[client.ID] = auth.Policy{Groups: client.Groups, Disabled: client.Disabled}
		}
		a.use(auth.Restrict(base, policies, auth.Policy{Groups: c.Groups}))
		return nil
	}
	_ = a.change(c) // it never fails
}

func (a *access) openMTLS(c *config.Config) error {
	a.change = func(c *config.Auth) error {
		list := make([]mtls.Client, 0, len(c.MTLS.Clients))
		for _, client := range c.MTLS.Clients {
			list = append(list, mtls.Client{
				ID: client.ID, Fingerprint: client.Fingerprint, Subject: client.Subject, DNS: client.DNS, URI: client.URI, Email: client.Email,
				Scopes: client.Scopes, Groups: client.Groups, Disabled: client.Disabled,
			})
		}
		as, err := mtls.New(list, nil)
		if err == nil {
			a.use(as)
		}
		return err
	}
	return a.change(&c.Auth)
}

func (a *access) openBuiltin(c *config.Config, n accessNeeds) error {
	b := &c.Auth.Builtin
	secure, err := authorities("auth.builtin.ca_file", b.CAFile)
	if err != nil {
		return err
	}
	keys := b.Keys
	if len(keys) == 0 {
		keys = []*token.SigningKey{token.NewSigningKey()}
	}
	decisions := newTokenDecisions(c, n.record)
	if err := n.metrics.Register(decisions.requests); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	base := n.public.String()
	s, err := builtin.New(builtin.Config{
		Issuer: base, Audience: base, TokenURL: base + gateway.TokenPath, TokenURLAliases: b.TokenURLAliases,
		Keys: keys, TTL: b.TTL, Skew: exactly(b.Skew), Clients: builtinClients(&c.Auth),
		JWKS: jwks.New(jwks.Options{
			Client: fetch.New(fetch.Options{Private: b.PrivateJWKS, Plain: b.PlainJWKS, TLS: secure}), Logger: n.log,
		}),
		PlainJWKS: b.PlainJWKS, Seen: seen(n.store), Limit: decisions.limit, Observe: decisions.observe,
	})
	if err != nil {
		return err
	}
	a.use(s)
	a.discovery, a.token = smart.Handler(s.Configuration()), s.TokenHandler()
	a.issuer = base
	a.change = func(c *config.Auth) error { return s.SetClients(builtinClients(c)) }
	return nil
}

func builtinClients(c *config.Auth) []builtin.Client {
	list := make([]builtin.Client, 0, len(c.Builtin.Clients))
	for _, client := range c.Builtin.Clients {
		list = append(list, builtin.Client{
			ID: client.ID, JWKSURL: client.JWKSURL, JWKS: client.JWKS, Scopes: client.Scopes, Groups: client.Groups, Disabled: client.Disabled,
		})
	}
	return list
}

// clockSpread is how far the clocks of replicas may be apart without one of them
// accepting an assertion that the record of another has just forgotten.
const clockSpread = 2 * time.Minute

// seen remembers which assertions were used, for all processes of the store.
func seen(store jobs.Store) func(context.Context, string, time.Time) (bool, error) {
	return func(ctx context.Context, key string, until time.Time) (bool, error) {
		_, first, err := store.Swap(ctx, key, 0, nil, max(time.Until(until), 0)+clockSpread)
		return !first, err
	}
}

// addressShare is how much more an address may ask for than a client: many
// clients can be behind one.
const addressShare = 10

// tokenDecisions bound token requests, and are told of every decision.
type tokenDecisions struct {
	record             *recorder
	trusted            []netip.Prefix
	clients, addresses gateway.Throttle
	requests           *prometheus.CounterVec
}

func newTokenDecisions(c *config.Config, record *recorder) *tokenDecisions {
	d := &tokenDecisions{record: record, trusted: c.Server.TrustedProxies, requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "spillway_token_requests_total", Help: "Requests for access tokens, by result: granted, or why not.",
	}, []string{"result"})}
	if n := float64(c.Limits.Tokens); n > 0 {
		d.clients, d.addresses = gateway.NewThrottle(gateway.Rate{PerMinute: n}), gateway.NewThrottle(gateway.Rate{PerMinute: n * addressShare})
	}
	return d
}

// limit says how long the sender of a token request must wait.
func (d *tokenDecisions) limit(r *http.Request, client string) time.Duration {
	if client == "" {
		return d.addresses.Take(gateway.Neighbourhood(r, d.trusted), time.Now())
	}
	return d.clients.Take(client, time.Now())
}

// observe records a decision. A token that cannot be recorded is not given.
func (d *tokenDecisions) observe(r *http.Request, decision builtin.Decision) error {
	d.requests.WithLabelValues(tokenResult(decision)).Inc()
	if decision.Reason == "limit" {
		return nil // a flood must not become one of the record
	}
	e := gateway.EventOf(r, d.trusted, audit.KindToken, audit.OutcomeRefused)
	e.Client, e.AssertionID, e.KeyID, e.TokenID = decision.Client, decision.AssertionID, decision.KeyID, decision.TokenID
	e.Reason, e.Scope = decision.Reason, decision.Scope
	if decision.Granted {
		e.Outcome, e.Reason = audit.OutcomeDone, ""
	}
	return d.record.record(r.Context(), e)
}

// tokenResult is a label for a decision, out of the set that builtin and token
// have words for.
func tokenResult(d builtin.Decision) string {
	if d.Granted {
		return "granted"
	}
	return d.Reason
}

// reminders are what the operator should be reminded of while the process runs.
func reminders(c *config.Config) []string {
	if !c.Auth.AllowAnonymous {
		return nil
	}
	return []string{"auth.mode is none and auth.allow_anonymous true: whoever reaches " + c.Server.Listen + " can export everything"}
}
