package bearer

import (
	"container/list"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/singleflight"

	"spillway/auth"
	"spillway/auth/fetch"
	"spillway/auth/token"
)

const (
	maxAnswer = 256 << 10
	maxToken  = 16 << 10
	maxTTL    = time.Minute

	breakAfter = 5               // failures in a row
	breakFor   = 5 * time.Second // during which nobody is asked
)

// A Credential authenticates us: it adds to the form or to the header of a
// request.
type Credential func(ctx context.Context, form url.Values, h http.Header) error

// Basic authenticates with a client id and a secret.
// Source: RFC 6749, 2.3.1.
func Basic(id, secret string) Credential {
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
	value := r.Header.Get("Authorization")
	return func(_ context.Context, _ url.Values, h http.Header) error {
		h.Set("Authorization", value)
		return nil
	}
}

// PrivateKeyJWT authenticates with an assertion that our key signs. audience
// is how the server calls itself in aud, usually its token endpoint.
// Source: RFC 7523, 2.2.
func PrivateKeyJWT(id, audience string, key *token.SigningKey) Credential {
	return func(_ context.Context, form url.Values, _ http.Header) error {
		now := time.Now()
		assertion, err := key.SignAssertion("", map[string]any{
			"iss": id, "sub": id, "aud": audience, "iat": now.Unix(), "exp": now.Add(4 * time.Minute).Unix(), "jti": rand.Text(),
		})
		if err != nil {
			return err
		}
		form.Set("client_id", id)
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		form.Set("client_assertion", assertion)
		return nil
	}
}

// IntrospectionConfig says who is asked about tokens. Endpoint, Credential and
// Client are required.
type IntrospectionConfig struct {
	Endpoint   string
	Credential Credential
	Client     *fetch.Client
	// Issuer, if set, is what iss must be where an answer states it.
	Issuer string
	// Audiences, if any, are what the aud of an answer must have one of.
	Audiences []string
	// TTL is how long an answer is remembered, at most as long as its token is
	// valid. Zero: 30s; at most 1m; negative: not at all.
	TTL time.Duration
	// NegativeTTL is the same for tokens that are not active. Zero: 5s.
	NegativeTTL time.Duration
	// MaxEntries bounds the answers that are remembered. Zero: 10000.
	MaxEntries int

	Now func() time.Time // nil: time.Now
}

// An Introspection asks the issuer about tokens. It implements
// auth.Authenticator.
type Introspection struct {
	c       IntrospectionConfig
	flights singleflight.Group

	mu       sync.Mutex
	entries  map[key]*list.Element // of *entry
	recent   *list.List            // least recently used last
	failures int                   // in a row
	closed   time.Time             // nobody is asked before it
}

// A key is the hash of a token. Tokens themselves are not kept.
type key [sha256.Size]byte

// An entry is one answer.
type entry struct {
	key       key
	principal auth.Principal // of a token that is accepted
	bound     bool           // to certificate, or to nothing that can be confirmed
	cert      string
	err       error // why another is not
	until     time.Time
}

// of returns what the entry says of a request with its token.
func (e *entry) of(r *http.Request) (auth.Principal, error) {
	if e.err == nil && e.bound && !confirmed(r, e.cert) {
		return auth.Principal{}, errBound
	}
	return e.principal, e.err
}

// NewIntrospection returns an Authenticator. It asks nobody yet.
func NewIntrospection(c IntrospectionConfig) (*Introspection, error) {
	if c.Endpoint == "" || c.Credential == nil || c.Client == nil {
		return nil, errors.New("bearer: Endpoint, Credential and Client are required")
	}
	if u, err := url.Parse(c.Endpoint); err != nil || fetch.CheckURL(u, true) != nil {
		return nil, errors.New("bearer: the introspection endpoint must be an absolute URL")
	}
	c.TTL = orDefault(c.TTL, 30*time.Second)
	c.NegativeTTL = orDefault(c.NegativeTTL, 5*time.Second)
	if c.TTL > maxTTL || c.NegativeTTL > maxTTL {
		return nil, fmt.Errorf("bearer: answers are remembered for at most %v: as long, a token that was revoked is accepted", maxTTL)
	}
	if c.MaxEntries == 0 {
		c.MaxEntries = 10000
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Introspection{c: c, entries: make(map[key]*list.Element), recent: list.New()}, nil
}

// RequiresToken implements auth.Authenticator.
func (i *Introspection) RequiresToken() bool { return true }

// Ready returns why no token can be accepted now: the endpoint has failed
// several times in a row.
func (i *Introspection) Ready(context.Context) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.failures >= breakAfter {
		return fmt.Errorf("%w: the introspection endpoint fails", auth.ErrUnavailable)
	}
	return nil
}

// Authenticate implements auth.Authenticator.
func (i *Introspection) Authenticate(r *http.Request) (auth.Principal, error) {
	opaque, err := auth.BearerToken(r.Header)
	if err != nil {
		return auth.Principal{}, err
	}
	if len(opaque) > maxToken {
		return auth.Principal{}, token.ErrShape
	}
	k := key(sha256.Sum256([]byte(opaque)))
	if e := i.remembered(k); e != nil {
		return e.of(r)
	}
	ctx := r.Context()
	flight := i.flights.DoChan(string(k[:]), func() (any, error) {
		e, err := i.ask(context.WithoutCancel(ctx), opaque)
		if err == nil {
			e.key = k
			i.remember(e)
		}
		return e, err
	})
	select {
	case got := <-flight:
		if got.Err != nil {
			return auth.Principal{}, fmt.Errorf("%w: introspection: %w", auth.ErrUnavailable, got.Err)
		}
		return got.Val.(*entry).of(r)
	case <-ctx.Done():
		return auth.Principal{}, fmt.Errorf("%w: %w", auth.ErrUnavailable, ctx.Err())
	}
}

// remembered returns an answer that still holds.
func (i *Introspection) remembered(k key) *entry {
	i.mu.Lock()
	defer i.mu.Unlock()
	element, ok := i.entries[k]
	if !ok {
		return nil
	}
	e := element.Value.(*entry)
	if !i.c.Now().Before(e.until) {
		i.recent.Remove(element)
		delete(i.entries, k)
		return nil
	}
	i.recent.MoveToFront(element)
	return e
}

func (i *Introspection) remember(e *entry) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if old, ok := i.entries[e.key]; ok {
		i.recent.Remove(old)
	}
	i.entries[e.key] = i.recent.PushFront(e)
	for len(i.entries) > i.c.MaxEntries {
		last := i.recent.Back()
		i.recent.Remove(last)
		delete(i.entries, last.Value.(*entry).key)
	}
}

// ask asks, unless the endpoint has failed too often a moment ago.
func (i *Introspection) ask(ctx context.Context, opaque string) (*entry, error) {
	now := i.c.Now()
	i.mu.Lock()
	closed := now.Before(i.closed)
	i.mu.Unlock()
	if closed {
		return nil, errors.New("the endpoint fails, and is left alone for a moment")
	}
	answer, err := i.request(ctx, opaque)
	i.mu.Lock()
	defer i.mu.Unlock()
	if err != nil {
		if i.failures++; i.failures >= breakAfter {
			i.closed = i.c.Now().Add(breakFor)
		}
		return nil, err
	}
	i.failures = 0
	return i.judge(answer, now), nil
}

// An answer is what the endpoint says of a token.
// Source: RFC 7662, 2.2.
type answer struct {
	Active   bool           `json:"active"`
	Scope    string         `json:"scope"`
	ClientID string         `json:"client_id"`
	Issuer   string         `json:"iss"`
	ID       string         `json:"jti"`
	Audience jsontext.Value `json:"aud"`
	Expires  int64          `json:"exp"` // seconds since 1970; 0: not stated
	NotUntil int64          `json:"nbf"`

	Confirmation map[string]jsontext.Value `json:"cnf"`
}

func (i *Introspection) request(ctx context.Context, opaque string) (*answer, error) {
	form := url.Values{"token": {opaque}, "token_type_hint": {"access_token"}}
	h := http.Header{}
	if err := i.c.Credential(ctx, form, h); err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, i.c.Endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, errors.New("the endpoint is malformed")
	}
	r.Header = h
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	got, err := i.c.Client.Do(r, maxAnswer)
	switch {
	case err != nil:
		return nil, err
	case got.Status != http.StatusOK:
		return nil, fmt.Errorf("%s answers with status %d", r.URL.Host, got.Status)
	case !got.IsJSON():
		return nil, fmt.Errorf("%s answers with something that is no JSON", r.URL.Host)
	}
	var a answer
	if json.Unmarshal(got.Body, &a) != nil { // to the letter, and no member twice
		return nil, fmt.Errorf("%s answers with something that is no introspection", r.URL.Host)
	}
	return &a, nil
}

// judge decides what an answer is worth, and for how long.
func (i *Introspection) judge(a *answer, now time.Time) *entry {
	refuse := func(reason error) *entry { return &entry{err: reason, until: now.Add(i.c.NegativeTTL)} }
	expires := time.Time{}
	if a.Expires != 0 {
		expires = time.Unix(a.Expires, 0)
	}
	switch {
	case !a.Active:
		return refuse(auth.ErrBadCredential)
	case !expires.IsZero() && !now.Before(expires):
		return refuse(token.ErrExpired)
	case a.NotUntil != 0 && now.Add(defaultSkew).Before(time.Unix(a.NotUntil, 0)):
		return refuse(token.ErrNotYet)
	case a.ClientID == "":
		return refuse(token.ErrClient)
	case i.c.Issuer != "" && a.Issuer != "" && a.Issuer != i.c.Issuer:
		return refuse(token.ErrIssuer)
	case len(i.c.Audiences) > 0 && !slices.ContainsFunc(audience(a.Audience), func(s string) bool { return slices.Contains(i.c.Audiences, s) }):
		return refuse(token.ErrAudience)
	}
	e := &entry{until: now.Add(i.c.TTL), principal: auth.Principal{
		ClientID: a.ClientID, Issuer: a.Issuer, Grant: granted(a.Scope), TokenID: a.ID, Expires: expires,
	}}
	if !expires.IsZero() && expires.Before(e.until) {
		e.until = expires
	}
	if a.Confirmation != nil {
		e.bound = true
		if len(a.Confirmation) == 1 {
			_ = json.Unmarshal(a.Confirmation["x5t#S256"], &e.cert) // else nothing confirms it
		}
	}
	if e.principal.Issuer == "" {
		e.principal.Issuer = i.c.Issuer
	}
	return e
}

// audience reads aud, a string or a list of them.
func audience(v jsontext.Value) []string {
	var one string
	if json.Unmarshal(v, &one) == nil {
		return []string{one}
	}
	var several []string
	if json.Unmarshal(v, &several) != nil {
		return nil
	}
	return several
}
