package token

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"

	"spillway/auth"
)

// maxAssertionLife is how far ahead the expiry of an assertion may lie.
// Source: SMART App Launch, "Authentication JWT Claims".
const maxAssertionLife = 5 * time.Minute

// Verify checks the signature, with the token's algorithm and this key.
func (t *Token) Verify(key PublicKey) error {
	if !key.fits(t.Algorithm) {
		return ErrSignature
	}
	if _, err := jws.Verify([]byte(t.compact), jws.WithCompact(), jws.WithKey(jwa.SignatureAlgorithm(t.Algorithm), key.key)); err != nil {
		return ErrSignature
	}
	return nil
}

// A Registration is what a client has registered for its authentication.
type Registration struct {
	Keys      Keys
	KeySetURL string // where the keys are; empty: they were registered themselves
}

// An AssertionPolicy says which client assertions are accepted. All of its
// fields but Skew are required.
type AssertionPolicy struct {
	// Algorithms that may sign.
	Algorithms []Algorithm
	// Audiences are the addresses by which clients know the token endpoint. One
	// of them must be in aud, to the letter.
	Audiences []string
	// Skew is how far the clocks of clients may be from ours.
	Skew time.Duration
	// Client returns the registration of a client, and false for one that is
	// unknown or disabled.
	Client func(id string) (Registration, bool)
	// Seen records a key until then, for all replicas, and reports whether it
	// was recorded before. If it cannot tell, it returns an error, and the
	// assertion is not accepted.
	Seen func(ctx context.Context, key string, until time.Time) (bool, error)
}

// Assertions verifies client assertions by a policy. It is safe for concurrent
// use.
type Assertions struct {
	policy AssertionPolicy
	decoys [2]PublicKey // RSA and EC: nobody signs with them
}

// NewAssertions returns a verifier of client assertions.
func NewAssertions(p AssertionPolicy) *Assertions {
	modulus := make([]byte, minRSABits/8)
	_, _ = rand.Read(modulus) // never fails
	modulus[0] |= 0x80
	modulus[len(modulus)-1] |= 1
	return &Assertions{policy: p, decoys: [2]PublicKey{
		{key: &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: minRSAExponent}},
		NewSigningKey().public,
	}}
}

// Verify returns what an assertion states if all of it is in order. Whatever
// is wrong with one is Refused; auth.ErrUnavailable says that it could not be
// decided. Claims that come with an error are nobody's word.
func (a *Assertions) Verify(ctx context.Context, compact string, now time.Time) (Claims, error) {
	p := &a.policy
	t, err := Parse(compact, p.Algorithms)
	if err != nil {
		return Claims{}, err
	}
	c := t.Claims
	switch {
	case !typeIs(t.Type, "", "JWT", "client-authentication+jwt"):
		return c, ErrTokenType
	case !plain(c.Issuer, maxNameBytes):
		return c, ErrIssuer
	case c.Subject != c.Issuer:
		return c, ErrSubject
	}
	if err := a.signature(ctx, t); err != nil {
		return c, err
	}
	if err := within(c, now, p.Skew); err != nil {
		return c, err
	}
	switch {
	case !intersects(c.Audience, p.Audiences):
		return c, ErrAudience
	case c.Expires.After(now.Add(maxAssertionLife + p.Skew)): // measured against now: iat is the client's word
		return c, ErrLifetime
	case !plain(c.ID, maxNameBytes):
		return c, ErrIdentifier
	}
	seen, err := p.Seen(ctx, replayKey(c), c.Expires.Add(p.Skew)) // last, so that nobody else can fill the record
	switch {
	case err != nil:
		return c, fmt.Errorf("%w: record of used assertions: %w", auth.ErrUnavailable, err)
	case seen:
		return c, ErrReplayed
	}
	return c, nil
}

// signature checks a token against the keys of its client. Where there is no
// key, a decoy is used in its place, so that it takes as long to refuse a
// stranger as to refuse a bad signature.
func (a *Assertions) signature(ctx context.Context, t *Token) error {
	key, err := PublicKey{}, error(ErrClient)
	client, known := a.policy.Client(t.Claims.Issuer)
	switch {
	case known && t.KeySetURL != "" && t.KeySetURL != client.KeySetURL:
		err = ErrKeySetURL
	case known:
		key, err = client.Keys.Find(ctx, t.KeyID, t.Algorithm)
	}
	if err == nil {
		return t.Verify(key)
	}
	for _, decoy := range a.decoys {
		_ = t.Verify(decoy) // only the one of the right type does any work
	}
	return err
}

// replayKey names an assertion by its issuer and jti: "jti." and 64 hex digits.
func replayKey(c Claims) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d|%s|%s", len(c.Issuer), c.Issuer, c.ID))
	return "jti." + hex.EncodeToString(sum[:])
}

// An AccessPolicy says which access tokens of an issuer are accepted.
// Algorithms, Issuer, Audiences and Keys are required.
type AccessPolicy struct {
	Algorithms []Algorithm
	Issuer     string   // iss, to the letter
	Audiences  []string // one of them must be in aud, to the letter
	Keys       Keys
	// Types that the header may state; nil: none at all, JWT and at+jwt.
	Types []string
	// Skew is how far the issuer's clock may be from ours.
	Skew time.Duration
	// MaxAge is how long ago a token may have been issued; zero: as long as it
	// has not expired.
	MaxAge time.Duration
}

// Verify returns what an access token states if all of it is in order.
func (p *AccessPolicy) Verify(ctx context.Context, compact string, now time.Time) (Claims, error) {
	t, err := Parse(compact, p.Algorithms)
	if err != nil {
		return Claims{}, err
	}
	c := t.Claims
	types := p.Types
	if types == nil {
		types = []string{"", "JWT", "at+jwt"}
	}
	switch {
	case t.KeySetURL != "": // the keys are where the issuer says, not where a token does
		return c, ErrKeySetURL
	case !typeIs(t.Type, types...) || isOtherToken(c):
		return c, ErrTokenType
	case c.Issuer == "" || c.Issuer != p.Issuer:
		return c, ErrIssuer
	case !intersects(c.Audience, p.Audiences):
		return c, ErrAudience
	}
	key, err := p.Keys.Find(ctx, t.KeyID, t.Algorithm)
	if err != nil {
		return c, err
	}
	if err := t.Verify(key); err != nil {
		return c, err
	}
	if err := within(c, now, p.Skew); err != nil {
		return c, err
	}
	// One that does not say when it was issued is as old as can be.
	if p.MaxAge > 0 && !c.IssuedAt.After(now.Add(-p.MaxAge-p.Skew)) {
		return c, ErrLifetime
	}
	return c, nil
}

// within reports whether a token is valid now.
func within(c Claims, now time.Time, skew time.Duration) error {
	switch {
	case !c.Expires.After(now.Add(-skew)):
		return ErrExpired
	case c.NotBefore.After(now.Add(skew)), c.IssuedAt.After(now.Add(skew)):
		return ErrNotYet
	}
	return nil
}

// isOtherToken recognises the ID tokens and refresh tokens of OpenID
// providers, which are signed with the same keys.
func isOtherToken(c Claims) bool {
	if c.Has("at_hash", "c_hash", "s_hash") {
		return true
	}
	kind, ok := c.Text("typ")
	return ok && !strings.EqualFold(kind, "Bearer") && !strings.EqualFold(kind, "at+jwt")
}

// typeIs compares a header's typ without regard to case and to the prefix that
// may be left out.
// Source: RFC 7515, 4.1.9.
func typeIs(typ string, allowed ...string) bool {
	const prefix = "application/"
	if len(typ) > len(prefix) && strings.EqualFold(typ[:len(prefix)], prefix) {
		typ = typ[len(prefix):]
	}
	return slices.ContainsFunc(allowed, func(a string) bool { return strings.EqualFold(a, typ) })
}

func intersects(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return s != "" && slices.Contains(b, s) })
}
