package bearer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/sync/singleflight"

	"spillway/auth"
	"spillway/auth/fetch"
	"spillway/auth/jwks"
	"spillway/auth/token"
)

const (
	maxDiscovery      = 256 << 10
	discoveryLifetime = time.Hour
)

// A discovered is the key set of an issuer that says itself where it is. It
// implements token.Keys.
type discovered struct {
	issuer    string
	addresses []string
	client    *fetch.Client
	cache     *jwks.Cache
	interval  time.Duration
	now       func() time.Time
	logger    *slog.Logger
	flights   singleflight.Group

	mu    sync.Mutex
	set   *jwks.Set // nil: not found yet
	token string    // the issuer's token endpoint; empty: it names none
	found time.Time
	asked time.Time
	err   error // how the last search ended
}

func newDiscovered(c JWTConfig, cache *jwks.Cache) (*discovered, error) {
	list, err := addresses(c.Issuer)
	if err != nil {
		return nil, err
	}
	logger := c.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &discovered{
		issuer: c.Issuer, addresses: list, client: c.Client, cache: cache, now: c.Now, logger: logger,
		interval: min(orDefault(c.Interval, defaultInterval), 5*time.Second),
	}, nil
}

// Find implements token.Keys.
func (d *discovered) Find(ctx context.Context, id string, a token.Algorithm) (token.PublicKey, error) {
	set, err := d.where(ctx)
	if err != nil {
		return token.PublicKey{}, err
	}
	return set.Find(ctx, id, a)
}

// Ready returns why there are no keys.
func (d *discovered) Ready(ctx context.Context) error {
	set, err := d.where(ctx)
	if err != nil {
		return err
	}
	return set.Ready(ctx)
}

// where returns the set. One that is known is used while the document is read
// again.
func (d *discovered) where(ctx context.Context) (*jwks.Set, error) {
	d.mu.Lock()
	now := d.now()
	set, err := d.set, d.err
	fresh := set != nil && now.Before(d.found.Add(discoveryLifetime))
	early := !d.asked.IsZero() && now.Before(d.asked.Add(d.interval)) && !now.Before(d.asked)
	d.mu.Unlock()
	if fresh {
		return set, nil
	}
	if early && err != nil { // otherwise a search is under way
		if set != nil {
			return set, nil
		}
		return nil, fmt.Errorf("%w: %w", auth.ErrUnavailable, err)
	}
	flight := d.flights.DoChan("", func() (any, error) { return d.search(context.WithoutCancel(ctx), now) })
	if set != nil {
		return set, nil
	}
	select {
	case got := <-flight:
		if got.Err != nil {
			return nil, fmt.Errorf("%w: %w", auth.ErrUnavailable, got.Err)
		}
		return got.Val.(*jwks.Set), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", auth.ErrUnavailable, ctx.Err())
	}
}

// search reads the document, from the first of its addresses that has one.
func (d *discovered) search(ctx context.Context, now time.Time) (*jwks.Set, error) {
	var address, tokens string
	var err error
	for _, at := range d.addresses {
		if address, tokens, err = d.read(ctx, at); !errors.Is(err, errNotThere) {
			break
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked, d.err = now, err
	if err != nil {
		if d.set != nil {
			d.logger.WarnContext(ctx, "the issuer's discovery document was not read again; the last one is still used", "error", err)
		}
		return nil, err
	}
	d.set, d.token, d.found = d.cache.At(address), tokens, now
	return d.set, nil
}

var errNotThere = errors.New("discovery: there is no such document")

// tokenEndpoint returns where the issuer gives tokens; empty: it does not say.
func (d *discovered) tokenEndpoint(ctx context.Context) (string, error) {
	if _, err := d.where(ctx); err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.token, nil
}

// read returns the address of the keys, and that of the token endpoint.
func (d *discovered) read(ctx context.Context, at string) (keys, tokens string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return "", "", errors.New("discovery: the issuer is malformed")
	}
	r.Header.Set("Accept", "application/json")
	got, err := d.client.Do(r, maxDiscovery)
	switch {
	case err != nil:
		return "", "", fmt.Errorf("discovery: %w", err)
	case got.Status == http.StatusNotFound:
		return "", "", errNotThere
	case got.Status != http.StatusOK:
		return "", "", fmt.Errorf("discovery: %s answers with status %d", r.URL.Host, got.Status)
	}
	var document struct {
		Issuer        string `json:"issuer"`
		JWKSURI       string `json:"jwks_uri"`
		TokenEndpoint string `json:"token_endpoint"`
	}
	if json.Unmarshal(got.Body, &document) != nil {
		return "", "", fmt.Errorf("discovery: %s answers with something that is no such document", r.URL.Host)
	}
	if document.Issuer != d.issuer {
		return "", "", errors.New("discovery: the document is that of another issuer")
	}
	// Keys of an issuer that is reached by https are fetched by https.
	u, err := url.Parse(document.JWKSURI)
	if err != nil || fetch.CheckURL(u, r.URL.Scheme == "http") != nil {
		return "", "", errors.New("discovery: the document names no address of keys that can be used")
	}
	if u, err := url.Parse(document.TokenEndpoint); err != nil || fetch.CheckURL(u, r.URL.Scheme == "http") != nil {
		document.TokenEndpoint = ""
	}
	return document.JWKSURI, document.TokenEndpoint, nil
}
