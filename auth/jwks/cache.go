package jwks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"spillway/auth"
	"spillway/auth/fetch"
	"spillway/auth/token"
)

// Options say how sets are fetched and kept. Client is required.
type Options struct {
	Client *fetch.Client
	// Lifetime of a set whose answer names none. Zero: 5m.
	Lifetime time.Duration
	// MaxLifetime bounds what an answer may name. Zero: 24h.
	MaxLifetime time.Duration
	// Interval is the least time between two requests to one address. Zero: 5s.
	Interval time.Duration
	// MaxStale is how long beyond its lifetime a set is used while its address
	// gives no other. Zero: not at all.
	MaxStale time.Duration

	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: no log; failures behind which a set is still used
}

// staleWait is how long a request waits for a fresh set when there is a stale
// one that would do.
const staleWait = time.Second

// A Cache keeps sets. It is safe for concurrent use.
type Cache struct {
	o  Options
	mu sync.Mutex // guards at
	at map[string]*Set
}

// New returns an empty cache.
func New(o Options) *Cache {
	for _, d := range []struct {
		value    *time.Duration
		standard time.Duration
	}{{&o.Lifetime, 5 * time.Minute}, {&o.MaxLifetime, 24 * time.Hour}, {&o.Interval, 5 * time.Second}} {
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Cache{o: o, at: make(map[string]*Set)}
}

// At returns the set at an address, which stays in the cache for good: only
// addresses of the configuration, or of an issuer's discovery, may come here.
// It asks nobody yet.
func (c *Cache) At(address string) *Set {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.at[address]
	if !ok {
		s = &Set{o: &c.o, address: address}
		c.at[address] = s
	}
	return s
}

// A Set is the key set at one address. It implements token.Keys.
type Set struct {
	o       *Options
	address string

	mu     sync.Mutex
	keys   token.KeySet
	have   bool      // keys was fetched
	until  time.Time // keys is fresh before it
	asked  time.Time // the last request began
	err    error     // how the last request ended
	flight *flight   // the request under way; nil: none
}

// A flight is one request that everybody waits for who needs its answer.
type flight struct {
	done chan struct{}
	keys token.KeySet
	err  error
}

// Find implements token.Keys.
func (s *Set) Find(ctx context.Context, id string, a token.Algorithm) (token.PublicKey, error) {
	keys, f, err := s.look(ctx, id, a)
	if f == nil {
		if err != nil {
			return token.PublicKey{}, err
		}
		return keys.Find(ctx, id, a)
	}
	usable := err == nil // the keys that are there, if the flight brings nothing
	spare, err := keys.Find(ctx, id, a)
	var patience <-chan time.Time
	if usable && err == nil {
		timer := time.NewTimer(staleWait)
		defer timer.Stop()
		patience = timer.C
	}
	select {
	case <-f.done:
		switch {
		case f.err == nil:
			return f.keys.Find(ctx, id, a)
		case usable:
			return spare, err
		}
		return token.PublicKey{}, unavailable(f.err)
	case <-patience:
		return spare, nil
	case <-ctx.Done():
		return token.PublicKey{}, unavailable(ctx.Err())
	}
}

// look decides what a search needs: the keys that are there, or a flight; with
// a flight, the keys are those to use if it fails, and err says if there are
// none.
func (s *Set) look(ctx context.Context, id string, a token.Algorithm) (token.KeySet, *flight, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.o.Now()
	if s.have && now.Before(s.until) {
		if _, err := s.keys.Find(ctx, id, a); !errors.Is(err, token.ErrKeyNotFound) {
			return s.keys, nil, nil
		}
	}
	err := s.usable(now)
	if s.flight == nil {
		if !s.asked.IsZero() && now.Before(s.asked.Add(s.o.Interval)) && !now.Before(s.asked) {
			return s.keys, nil, err
		}
		s.depart(ctx, now)
	}
	return s.keys, s.flight, err
}

// usable says why the keys that are there must not be used, if they must not.
func (s *Set) usable(now time.Time) error {
	switch {
	case s.have && (now.Before(s.until) || now.Before(s.until.Add(s.o.MaxStale))):
		return nil
	case s.err != nil:
		return unavailable(s.err)
	case s.have: // it must not be kept, and it may be too early to ask again
		return token.ErrKeyNotFound
	}
	return unavailable(errors.New("the key set was not fetched yet"))
}

// depart starts the request. It outlives its first caller, because others wait
// for it too; the client's timeout ends it.
func (s *Set) depart(ctx context.Context, now time.Time) {
	f := &flight{done: make(chan struct{})}
	s.flight, s.asked = f, now
	ctx = context.WithoutCancel(ctx)
	go func() {
		defer close(f.done)
		var lifetime time.Duration
		f.keys, lifetime, f.err = s.fetch(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.flight, s.err = nil, f.err
		if f.err == nil {
			s.keys, s.have, s.until = f.keys, true, now.Add(lifetime) // from before the request: never too long
			return
		}
		if s.usable(s.o.Now()) == nil {
			s.o.Logger.WarnContext(ctx, "a key set was not renewed; the last one is still used", "error", f.err)
		}
	}()
}

func (s *Set) fetch(ctx context.Context) (token.KeySet, time.Duration, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.address, nil)
	if err != nil {
		return token.KeySet{}, 0, errors.New("the address of the key set is malformed")
	}
	r.Header.Set("Accept", "application/json")
	got, err := s.o.Client.Do(r, token.MaxKeySetBytes)
	switch {
	case err != nil:
		return token.KeySet{}, 0, fmt.Errorf("key set: %w", err)
	case got.Status != http.StatusOK:
		return token.KeySet{}, 0, fmt.Errorf("key set: %s answers with status %d", r.URL.Host, got.Status)
	case !got.IsJSON("application/jwk-set+json"):
		return token.KeySet{}, 0, fmt.Errorf("key set: %s answers with something that is no JSON", r.URL.Host)
	}
	keys, err := token.ReadKeySet(got.Body)
	if err != nil {
		return token.KeySet{}, 0, fmt.Errorf("%s: %w", r.URL.Host, err)
	}
	return keys, lifetime(got.Header, s.o.Lifetime, s.o.MaxLifetime), nil
}

// Ready fetches the set if there is none that can be used, and returns why
// there is still none.
func (s *Set) Ready(ctx context.Context) error {
	_, err := s.Find(ctx, "", "") // no key has this id
	if errors.Is(err, auth.ErrUnavailable) {
		return err
	}
	return nil
}

func unavailable(err error) error {
	if errors.Is(err, auth.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", auth.ErrUnavailable, err)
}

// lifetime reads how long an answer may be kept.
// Source: RFC 9111, 5.2.2 and 5.1.
func lifetime(h http.Header, standard, limit time.Duration) time.Duration {
	d := standard
	for directive := range strings.SplitSeq(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch strings.ToLower(name) {
		case "no-store", "no-cache":
			return 0
		case "max-age":
			age, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31)
			if err != nil {
				return 0
			}
			d = time.Duration(age) * time.Second
		}
	}
	d = min(d, limit)
	if age, err := strconv.ParseUint(h.Get("Age"), 10, 31); err == nil {
		d -= time.Duration(age) * time.Second
	}
	return max(d, 0)
}
