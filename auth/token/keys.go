package token

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/lestrrat-go/jwx/v2/jwk"
)

// What a set of keys may measure at most, and RSA keys at least.
const (
	MaxKeySetBytes = 64 << 10
	MaxKeys        = 32

	minRSABits     = 2048
	maxRSABits     = 8192 // beyond it a signature costs us more than it costs its sender
	minRSAExponent = 65537

	maxExponentBytes = 6 // in base64url: 32 bits
)

// Keys finds the key that a token says it was signed with.
type Keys interface {
	// Find returns the one key of this id that fits the algorithm. It returns
	// ErrKeyNotFound, ErrKeyAmbiguous, or an error that wraps
	// auth.ErrUnavailable when the keys cannot be had now.
	Find(ctx context.Context, id string, a Algorithm) (PublicKey, error)
}

// A PublicKey verifies signatures. The zero value verifies none.
type PublicKey struct {
	id        string
	algorithm Algorithm // the only one; empty: every one of its type
	key       crypto.PublicKey
}

// A KeySet is a list of public keys: an RFC 7517 set without what must not be
// used. It is immutable. The zero value has no keys.
type KeySet struct {
	keys    []entry
	dropped []string
}

// An entry is one key of a set, usable or not: one that is not usable still
// makes its id ambiguous.
type entry struct {
	id, kind string
	public   PublicKey
	usable   bool
}

// ReadKeySet reads a JSON web key set. A key that must not be used is left
// out, and Dropped says why: symmetric keys, private ones, RSA below 2048 or
// above 8192 bits or with a small exponent, other curves than P-256, P-384 and
// P-521, points that are not on theirs, keys without an id. It is an error if
// the document itself is malformed or too large.
func ReadKeySet(b []byte) (KeySet, error) {
	if len(b) > MaxKeySetBytes {
		return KeySet{}, fmt.Errorf("token: a key set has at most %d bytes", MaxKeySetBytes)
	}
	document, err := readObject(b)
	if err != nil {
		return KeySet{}, fmt.Errorf("token: key set: %w", malformed(err))
	}
	list, ok := document.list("keys")
	if !ok {
		return KeySet{}, fmt.Errorf("token: key set: there is no list of keys")
	}
	if len(list) > MaxKeys {
		return KeySet{}, fmt.Errorf("token: a key set has at most %d keys", MaxKeys)
	}
	var s KeySet
	for i, item := range list {
		o, err := readObject(item)
		if err != nil {
			return KeySet{}, fmt.Errorf("token: key set: key %d: %w", i+1, malformed(err))
		}
		if use, ok := o.text("use"); ok && use != "sig" {
			s.drop(i, "is not for signatures")
			continue
		}
		id, ok := o.text("kid")
		if !ok || !plain(id, maxNameBytes) {
			s.drop(i, "has no usable kid")
			continue
		}
		kind, _ := o.text("kty")
		public, problem := readKey(o, id, kind)
		if problem != "" {
			s.drop(i, problem)
		}
		s.keys = append(s.keys, entry{id: id, kind: kind, public: public, usable: problem == ""})
	}
	return s, nil
}

func (s *KeySet) drop(i int, problem string) {
	s.dropped = append(s.dropped, fmt.Sprintf("key %d %s", i+1, problem))
}

// Dropped says which keys were left out and why, without naming them.
func (s KeySet) Dropped() []string { return slices.Clone(s.dropped) }

// Usable returns the number of keys that can verify signatures.
func (s KeySet) Usable() int {
	n := 0
	for _, e := range s.keys {
		if e.usable {
			n++
		}
	}
	return n
}

// Ambiguous reports whether two keys of one type have the same id, so that
// neither can be found.
func (s KeySet) Ambiguous() bool {
	for i, e := range s.keys {
		if slices.ContainsFunc(s.keys[:i], func(o entry) bool { return o.id == e.id && o.kind == e.kind }) {
			return true
		}
	}
	return false
}

// Find implements Keys.
func (s KeySet) Find(_ context.Context, id string, a Algorithm) (PublicKey, error) {
	var found []entry
	for _, e := range s.keys {
		if e.id == id && e.kind == a.keyType() {
			found = append(found, e)
		}
	}
	switch {
	case len(found) > 1:
		return PublicKey{}, ErrKeyAmbiguous
	case len(found) == 0 || !found[0].usable || !found[0].public.fits(a):
		return PublicKey{}, ErrKeyNotFound
	}
	return found[0].public, nil
}

// privateMembers are those that a public key does not have.
// Source: RFC 7518, 6.2.2, 6.3.2 and 6.4.1.
var privateMembers = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"}

// readKey reads the bare key material of one key, or says what is wrong with it.
func readKey(o object, id, kind string) (PublicKey, string) {
	public := PublicKey{id: id}
	if o.has(privateMembers...) {
		return public, "is private or symmetric"
	}
	if o.has("alg") {
		name, _ := o.text("alg")
		a, ok := ParseAlgorithm(name)
		if !ok || a.keyType() != kind {
			return public, "is for an algorithm that is not offered"
		}
		public.algorithm = a
	}
	if o.has("key_ops") {
		if ops, ok := o.texts("key_ops"); !ok || !slices.Contains(ops, "verify") {
			return public, "is not for verifying"
		}
	}
	var names []string
	switch kind {
	case "RSA":
		names = []string{"kty", "n", "e"}
	case "EC":
		names = []string{"kty", "crv", "x", "y"}
	default:
		return public, "is neither RSA nor EC"
	}
	raw, ok := material(o, names)
	if !ok {
		return public, "is incomplete"
	}
	if public.key = raw; public.key == nil || !sound(raw) {
		return public, "is too weak, too large or not valid"
	}
	return public, ""
}

// material makes a key of the named members alone, so that no other member,
// such as a certificate, is ever looked at.
func material(o object, names []string) (crypto.PublicKey, bool) {
	bare := []byte{'{'}
	for i, name := range names {
		text, ok := o.text(name)
		if !ok || text == "" || name == "e" && len(text) > maxExponentBytes {
			return nil, false
		}
		if i > 0 {
			bare = append(bare, ',')
		}
		bare, _ = jsontext.AppendQuote(bare, name) // they are UTF-8, as the object is
		bare = append(bare, ':')
		bare, _ = jsontext.AppendQuote(bare, text)
	}
	key, err := jwk.ParseKey(append(bare, '}'))
	if err != nil {
		return nil, true
	}
	var raw any
	if err := key.Raw(&raw); err != nil {
		return nil, true
	}
	return raw, true
}

// sound reports whether a key is one that may verify signatures.
func sound(key crypto.PublicKey) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		bits := k.N.BitLen()
		return bits >= minRSABits && bits <= maxRSABits && k.N.Bit(0) == 1 && k.E >= minRSAExponent && k.E&1 == 1
	case *ecdsa.PublicKey:
		if curveAlgorithm(k) == "" {
			return false
		}
		_, err := k.ECDH() // fails if the point is not on its curve
		return err == nil
	}
	return false
}

// fits reports whether signatures of an algorithm may be verified with the key.
func (k PublicKey) fits(a Algorithm) bool {
	if k.algorithm != "" && k.algorithm != a {
		return false
	}
	switch key := k.key.(type) {
	case *rsa.PublicKey:
		return a.keyType() == "RSA"
	case *ecdsa.PublicKey:
		return curveAlgorithm(key) == a
	}
	return false
}

// curveAlgorithm returns the one algorithm of the key's curve.
func curveAlgorithm(k *ecdsa.PublicKey) Algorithm {
	switch k.Curve.Params().Name {
	case "P-256":
		return ES256
	case "P-384":
		return ES384
	case "P-521":
		return ES512
	}
	return ""
}

// malformed keeps what a document holds out of the error.
func malformed(err error) error {
	if err == errNotObject {
		return err
	}
	return fmt.Errorf("malformed JSON, or a member twice")
}
