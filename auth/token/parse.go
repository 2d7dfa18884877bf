package token

import (
	"encoding/base64"
	"regexp"
	"slices"
	"strings"
	"time"
)

// What a token may measure at most.
const (
	maxTokenBytes = 16 << 10
	maxNameBytes  = 256 // of a kid, a jti, an issuer or a subject
	maxURLBytes   = 2048
)

// An Algorithm signs tokens. Only those listed here exist: nothing symmetric,
// and no "none".
// Source: RFC 7518, 3.1.
type Algorithm string

// The algorithms.
const (
	RS256 Algorithm = "RS256"
	RS384 Algorithm = "RS384"
	RS512 Algorithm = "RS512"
	PS256 Algorithm = "PS256"
	PS384 Algorithm = "PS384"
	PS512 Algorithm = "PS512"
	ES256 Algorithm = "ES256"
	ES384 Algorithm = "ES384"
	ES512 Algorithm = "ES512"
)

// ParseAlgorithm returns s as an Algorithm, and false if it is none.
func ParseAlgorithm(s string) (Algorithm, bool) {
	a := Algorithm(s)
	return a, a.keyType() != ""
}

// keyType returns the kty that fits the algorithm.
func (a Algorithm) keyType() string {
	switch a {
	case RS256, RS384, RS512, PS256, PS384, PS512:
		return "RSA"
	case ES256, ES384, ES512:
		return "EC"
	}
	return ""
}

// A Token was read and is well-formed. Nobody has vouched for it before Verify
// has returned nil.
type Token struct {
	Algorithm Algorithm
	KeyID     string
	Type      string // the header's typ; empty if there is none
	KeySetURL string // the header's jku; empty if there is none
	Claims    Claims

	compact string
}

// Claims are what a token states. Instants are zero where they are not stated.
type Claims struct {
	Issuer    string
	Subject   string
	Audience  []string
	Expires   time.Time // exp; always set
	NotBefore time.Time // nbf
	IssuedAt  time.Time // iat
	ID        string    // jti
	KeyID     string    // the header's kid, for the audit

	all object
}

// Text returns a claim that is a string; false if it is missing or none.
func (c Claims) Text(name string) (string, bool) { return c.all.text(name) }

// Texts returns a claim that is a string or a list of strings.
func (c Claims) Texts(name string) ([]string, bool) { return c.all.texts(name) }

// Has reports whether any of the claims is stated.
func (c Claims) Has(names ...string) bool { return c.all.has(names...) }

// Confirmation returns the certificate that the token is bound to, as the
// SHA-256 of it in base64url. bound without a certificate: the token is bound
// to something else.
// Source: RFC 8705, 3.1.
func (c Claims) Confirmation() (certificate string, bound bool) {
	if !c.Has("cnf") {
		return "", false
	}
	o, err := readObject(c.all["cnf"])
	if err != nil || len(o) != 1 {
		return "", true
	}
	certificate, _ = o.text("x5t#S256")
	return certificate, true
}

var compactForm = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

// Parse reads a token in the compact serialisation, signed with one of the
// algorithms, and believes none of it.
//
// It refuses headers that name a key, or that change how the token must be
// read: crit, b64, jwk, x5u, x5c, zip, cty. Members that stand twice, at any
// depth, an expiry that is missing, zero, negative, a fraction or a string, and
// encodings that are not the canonical one are refused too.
func Parse(compact string, algorithms []Algorithm) (*Token, error) {
	if len(compact) > maxTokenBytes || !compactForm.MatchString(compact) {
		return nil, ErrShape
	}
	parts := strings.Split(compact, ".")
	var decoded [3][]byte
	for i, part := range parts {
		b, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil {
			return nil, ErrShape
		}
		decoded[i] = b
	}
	t := &Token{compact: compact}
	if err := t.readHeader(decoded[0], algorithms); err != nil {
		return nil, err
	}
	if err := t.Claims.read(decoded[1]); err != nil {
		return nil, err
	}
	t.Claims.KeyID = t.KeyID
	return t, nil
}

func (t *Token) readHeader(b []byte, algorithms []Algorithm) error {
	h, err := readObject(b)
	if err != nil || h.has("crit", "b64", "jwk", "x5u", "x5c", "zip", "cty") {
		return ErrHeader
	}
	name, ok := h.text("alg")
	if t.Algorithm = Algorithm(name); !ok || t.Algorithm.keyType() == "" || !slices.Contains(algorithms, t.Algorithm) {
		return ErrAlgorithm
	}
	if t.KeyID, ok = h.text("kid"); !ok || !plain(t.KeyID, maxNameBytes) {
		return ErrHeader
	}
	if t.Type, ok = h.text("typ"); !ok && h.has("typ") {
		return ErrHeader
	}
	if t.KeySetURL, ok = h.text("jku"); !ok && h.has("jku") || ok && !plain(t.KeySetURL, maxURLBytes) {
		return ErrHeader
	}
	return nil
}

func (c *Claims) read(b []byte) error {
	o, err := readObject(b)
	if err != nil {
		return ErrClaims
	}
	c.all = o
	for _, claim := range []struct {
		name string
		into *string
	}{{"iss", &c.Issuer}, {"sub", &c.Subject}, {"jti", &c.ID}} {
		s, ok := o.text(claim.name)
		if !ok && o.has(claim.name) || ok && !plain(s, maxURLBytes) {
			return ErrClaims
		}
		*claim.into = s
	}
	audience, ok := o.texts("aud")
	if !ok && o.has("aud") {
		return ErrClaims
	}
	c.Audience = audience
	for _, claim := range []struct {
		name string
		into *time.Time
	}{{"exp", &c.Expires}, {"nbf", &c.NotBefore}, {"iat", &c.IssuedAt}} {
		if *claim.into, ok = o.instant(claim.name); !ok {
			return ErrClaims
		}
	}
	if c.Expires.IsZero() {
		return ErrClaims
	}
	return nil
}

// plain reports whether s has 1 to limit bytes and no control character.
func plain(s string, limit int) bool {
	return s != "" && len(s) <= limit && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f })
}
