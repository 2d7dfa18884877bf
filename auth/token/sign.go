package token

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
)

// A SigningKey signs tokens of ours: access tokens, and assertions by which we
// authenticate. It does not print itself.
type SigningKey struct {
	algorithm Algorithm
	private   crypto.Signer
	public    PublicKey
	jwk       json.RawMessage
}

// String tells which key it is, not what it is.
func (k *SigningKey) String() string { return "key " + k.public.id }

// GoString is String.
func (k *SigningKey) GoString() string { return k.String() }

// ID returns the kid: the one given, or else the key's thumbprint of RFC 7638.
func (k *SigningKey) ID() string { return k.public.id }

// Algorithm returns what the key signs with.
func (k *SigningKey) Algorithm() Algorithm { return k.algorithm }

// NewSigningKey makes a key for ES384 of this process alone.
func NewSigningKey() *SigningKey {
	private, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err == nil {
		var k *SigningKey
		if k, err = newSigningKey(private, "", ES384); err == nil {
			return k
		}
	}
	panic("token: a fresh key cannot be used: " + err.Error()) // impossible
}

// ReadSigningKey reads an unencrypted private key in PEM: PKCS #8, SEC 1 or
// PKCS #1. An RSA key of 2048 bits or more signs with RS384 (or, if it is
// given, with another algorithm for RSA keys), an EC key with the algorithm of
// its curve. id becomes the kid; empty: the thumbprint.
func ReadSigningKey(pemBytes []byte, id string, a Algorithm) (*SigningKey, error) {
	block, rest := pem.Decode(pemBytes)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("token: expected one private key in PEM, and nothing else")
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, errors.New("token: the PEM block is no unencrypted private key")
	}
	if err != nil {
		return nil, errors.New("token: the private key is malformed") // the cause might tell of it
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("token: the private key is neither RSA nor EC")
	}
	return newSigningKey(signer, id, a)
}

func newSigningKey(private crypto.Signer, id string, a Algorithm) (*SigningKey, error) {
	if !sound(private.Public()) {
		return nil, fmt.Errorf("token: a signing key is RSA with %d to %d bits, or EC on P-256, P-384 or P-521", minRSABits, maxRSABits)
	}
	k := &SigningKey{private: private, public: PublicKey{key: private.Public()}}
	switch public := private.Public().(type) {
	case *rsa.PublicKey:
		if k.algorithm = a; a == "" {
			k.algorithm = RS384
		}
	case *ecdsa.PublicKey:
		k.algorithm = curveAlgorithm(public)
		if a != "" && a != k.algorithm {
			return nil, fmt.Errorf("token: a key on this curve signs with %s only", k.algorithm)
		}
	}
	if !k.public.fits(k.algorithm) {
		return nil, fmt.Errorf("token: the key cannot sign with the algorithm asked for")
	}
	key, err := jwk.FromRaw(private.Public())
	if err != nil {
		return nil, fmt.Errorf("token: public key: %w", err)
	}
	if id == "" {
		sum, err := key.Thumbprint(crypto.SHA256)
		if err != nil {
			return nil, fmt.Errorf("token: public key: %w", err)
		}
		id = base64.RawURLEncoding.EncodeToString(sum)
	}
	if !plain(id, maxNameBytes) {
		return nil, errors.New("token: the kid is empty, too long or has control characters")
	}
	k.public.id, k.public.algorithm = id, k.algorithm
	for name, value := range map[string]any{"kid": id, "alg": string(k.algorithm), "use": "sig"} {
		if err := key.Set(name, value); err != nil {
			return nil, fmt.Errorf("token: public key: %w", err)
		}
	}
	if k.jwk, err = json.Marshal(key); err != nil {
		return nil, fmt.Errorf("token: public key: %w", err)
	}
	return k, nil
}

// Sign returns a token of this header type with the claims as its payload,
// which must encode as a JSON object.
func (k *SigningKey) Sign(typ string, claims any) (string, error) {
	return k.sign(map[string]any{"kid": k.public.id, "typ": typ}, claims)
}

// SignAssertion returns a token for authenticating as a client. keySetURL is
// where the keys of the client are published; empty: it is not stated.
func (k *SigningKey) SignAssertion(keySetURL string, claims any) (string, error) {
	header := map[string]any{"kid": k.public.id, "typ": "JWT"}
	if keySetURL != "" {
		header["jku"] = keySetURL
	}
	return k.sign(header, claims)
}

func (k *SigningKey) sign(header map[string]any, claims any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("token: claims: %w", err)
	}
	h := jws.NewHeaders()
	for name, value := range header {
		if err := h.Set(name, value); err != nil {
			return "", fmt.Errorf("token: header: %w", err)
		}
	}
	compact, err := jws.Sign(payload, jws.WithKey(jwa.SignatureAlgorithm(k.algorithm), k.private, jws.WithProtectedHeaders(h)))
	if err != nil {
		return "", fmt.Errorf("token: sign: %w", err)
	}
	return string(compact), nil
}

// PublicKeys returns the set of the public halves, to verify with.
func PublicKeys(keys ...*SigningKey) KeySet {
	var s KeySet
	for _, k := range keys {
		s.keys = append(s.keys, entry{id: k.public.id, kind: k.algorithm.keyType(), public: k.public, usable: true})
	}
	return s
}

// PublicJSON returns the set of the public halves as a JSON web key set, to
// publish.
func PublicJSON(keys ...*SigningKey) []byte {
	list := make([]json.RawMessage, len(keys))
	for i, k := range keys {
		list[i] = k.jwk
	}
	b, err := json.Marshal(map[string]any{"keys": list})
	if err != nil {
		panic("token: a key that was encoded before: " + err.Error()) // impossible
	}
	return b
}
