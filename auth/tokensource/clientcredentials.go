package tokensource

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"spillway/auth"
	"spillway/auth/fetch"
	"spillway/auth/smart"
	"spillway/auth/token"
)

const (
	assertionLife   = 4 * time.Minute // servers accept 5; their clock may be slow
	unstatedLife    = time.Minute     // of a token whose answer names none
	retryInterval   = 5 * time.Second // between attempts while the server fails
	discoveryPeriod = time.Hour
	maxAnswer       = 256 << 10
	maxAccessToken  = 16 << 10

	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
)

// ClientCredentialsConfig says how tokens are fetched. ClientID, Key, Scope,
// Client, and one of TokenURL and FHIRBase are required.
type ClientCredentialsConfig struct {
	// TokenURL is the token endpoint. Empty: where the discovery document below
	// FHIRBase says.
	TokenURL, FHIRBase string
	ClientID           string
	Key                *token.SigningKey
	// Scope that is asked for: the least that exports need.
	Scope string
	// Audience is the aud of our assertions. Empty: the token endpoint.
	Audience string
	// KeySetURL, if set, is stated as jku: where our keys are published.
	KeySetURL string
	Client    *fetch.Client

	Now func() time.Time // nil: time.Now
}

// ClientCredentials is a Source of access tokens.
type ClientCredentials struct {
	c ClientCredentialsConfig

	mu       sync.Mutex
	value    string    // the header's; empty: none
	early    time.Time // when the next is fetched, while this one is used
	expires  time.Time
	fetched  time.Time
	failed   time.Time // the last attempt that failed ended
	err      error     // how; nil: it did not
	flight   *flight   // the attempt under way
	endpoint string    // as discovered
	found    time.Time
}

// A flight is one attempt that everybody waits for who has no token.
type flight struct {
	done chan struct{}
	err  error
}

// NewClientCredentials returns a Source. It asks nobody yet.
func NewClientCredentials(c ClientCredentialsConfig) (*ClientCredentials, error) {
	if c.ClientID == "" || c.Key == nil || c.Scope == "" || c.Client == nil || (c.TokenURL == "") == (c.FHIRBase == "") {
		return nil, errors.New("tokensource: ClientID, Key, Scope, Client, and one of TokenURL and FHIRBase are required")
	}
	if u, err := url.Parse(c.TokenURL + c.FHIRBase); err != nil || fetch.CheckURL(u, true) != nil {
		return nil, errors.New("tokensource: the token endpoint or the FHIR base must be an absolute URL")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &ClientCredentials{c: c}, nil
}

// Authorize implements Source. Its error wraps auth.ErrUnavailable.
func (s *ClientCredentials) Authorize(ctx context.Context, h http.Header) error {
	for {
		value, f, err := s.look(ctx)
		switch {
		case err != nil:
			return err
		case f == nil:
			h.Set("Authorization", value)
			return nil
		}
		select {
		case <-f.done:
			if f.err != nil {
				return f.err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// look returns a token that can be used, or the attempt to wait for.
func (s *ClientCredentials) look(ctx context.Context) (string, *flight, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.c.Now()
	usable := s.value != "" && now.Before(s.expires)
	if usable && now.Before(s.early) {
		return s.value, nil, nil
	}
	if s.flight == nil {
		waiting := s.err != nil && now.Before(s.failed.Add(retryInterval)) && !now.Before(s.failed)
		if waiting && !usable {
			return "", nil, s.err
		}
		if !waiting {
			s.depart(ctx)
		}
	}
	if usable {
		return s.value, nil, nil
	}
	return "", s.flight, nil
}

// depart starts an attempt. It outlives its first caller, because others wait
// for it too; the client's timeout ends it.
func (s *ClientCredentials) depart(ctx context.Context) {
	f := &flight{done: make(chan struct{})}
	s.flight = f
	ctx = context.WithoutCancel(ctx)
	go func() {
		defer close(f.done)
		began := s.c.Now()
		value, life, err := s.request(ctx, began)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.flight, s.err = nil, nil
		if err != nil {
			f.err = fmt.Errorf("%w: access token for the upstream: %w", auth.ErrUnavailable, err)
			s.err, s.failed = f.err, s.c.Now()
			return
		}
		s.value, s.fetched = value, began
		s.early, s.expires = began.Add(life*4/5), began.Add(life)
	}()
}

// Refused implements Source. A token is given up once; one that is refused as
// soon as it was fetched is not what is wrong.
func (s *ClientCredentials) Refused(h http.Header) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case h.Get("Authorization") != s.value: // another request was faster
		return true
	case s.c.Now().Sub(s.fetched) < retryInterval:
		return false
	}
	s.value = ""
	return true
}

// String tells whose credential it is.
func (s *ClientCredentials) String() string { return "access token of " + s.c.ClientID }

// GoString is String.
func (s *ClientCredentials) GoString() string { return s.String() }

// tokenURL returns the token endpoint.
func (s *ClientCredentials) tokenURL(ctx context.Context, now time.Time) (string, error) {
	if s.c.TokenURL != "" {
		return s.c.TokenURL, nil
	}
	s.mu.Lock()
	endpoint, found := s.endpoint, s.found
	s.mu.Unlock()
	if endpoint != "" && now.Sub(found) < discoveryPeriod {
		return endpoint, nil
	}
	document, err := smart.Discover(ctx, s.c.Client, s.c.FHIRBase)
	if err != nil {
		if endpoint != "" {
			return endpoint, nil // it is still there, or the request will say
		}
		return "", err
	}
	if strings.HasPrefix(s.c.FHIRBase, "https:") && !strings.HasPrefix(document.TokenEndpoint, "https:") {
		return "", errors.New("the discovered token endpoint is not one of https")
	}
	s.mu.Lock()
	s.endpoint, s.found = document.TokenEndpoint, now
	s.mu.Unlock()
	return document.TokenEndpoint, nil
}

// assertionClaims are those of our assertion.
type assertionClaims struct {
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	Audience string `json:"aud"`
	Expires  int64  `json:"exp"`
	IssuedAt int64  `json:"iat"`
	ID       string `json:"jti"`
}

// request fetches a token: the header's value, and how long it lives.
func (s *ClientCredentials) request(ctx context.Context, now time.Time) (string, time.Duration, error) {
	endpoint, err := s.tokenURL(ctx, now)
	if err != nil {
		return "", 0, err
	}
	audience := s.c.Audience
	if audience == "" {
		audience = endpoint
	}
	assertion, err := s.c.Key.SignAssertion(s.c.KeySetURL, assertionClaims{
		Issuer: s.c.ClientID, Subject: s.c.ClientID, Audience: audience,
		Expires: now.Add(assertionLife).Unix(), IssuedAt: now.Unix(), ID: rand.Text(),
	})
	if err != nil {
		return "", 0, err
	}
	form := url.Values{
		"grant_type": {"client_credentials"}, "scope": {s.c.Scope},
		"client_assertion_type": {assertionType}, "client_assertion": {assertion},
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return "", 0, errors.New("the token endpoint is malformed")
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	got, err := s.c.Client.Do(r, maxAnswer)
	if err != nil {
		return "", 0, err
	}
	return readToken(r.URL.Host, got)
}

// readToken reads an answer of a token endpoint.
// Source: RFC 6749, 5.
func readToken(host string, got *fetch.Response) (string, time.Duration, error) {
	var answer struct {
		AccessToken string          `json:"access_token"`
		TokenType   string          `json:"token_type"`
		ExpiresIn   json.RawMessage `json:"expires_in"` // a number; some write a string
		Error       string          `json:"error"`
	}
	err := json.Unmarshal(got.Body, &answer)
	switch {
	case got.Status != http.StatusOK && got.Status != http.StatusCreated:
		return "", 0, fmt.Errorf("%s answers with status %d%s", host, got.Status, known(answer.Error))
	case err != nil:
		return "", 0, fmt.Errorf("%s answers with something that is no token", host)
	case !strings.EqualFold(answer.TokenType, "bearer"):
		return "", 0, fmt.Errorf("%s gives a token that is not a bearer token", host)
	case answer.AccessToken == "" || len(answer.AccessToken) > maxAccessToken || !headerValue.MatchString(answer.AccessToken):
		return "", 0, fmt.Errorf("%s gives no token that can be sent", host)
	}
	life := unstatedLife
	if seconds, err := strconv.ParseInt(strings.Trim(string(answer.ExpiresIn), `"`), 10, 32); err == nil && seconds > 0 {
		life = time.Duration(seconds) * time.Second
	}
	return "Bearer " + answer.AccessToken, life, nil
}

// known returns an error code in words, if it is one that the standard has:
// other text of a server is not repeated.
func known(code string) string {
	switch code {
	case "invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope":
		return " (" + code + ")"
	}
	return ""
}
