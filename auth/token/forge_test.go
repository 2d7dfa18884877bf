package token

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"sync"
	"testing"
	"time"
)

// The forger signs what no library would sign. It uses the standard library
// alone, so that an error of jwx cannot hide itself.

var b64 = base64.RawURLEncoding

var (
	rsaKey   = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	otherRSA = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	p256     = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	p384     = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) })
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// sign makes a compact token of the bytes as they are.
func sign(header, payload string, key any, a Algorithm) string {
	input := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString([]byte(payload))
	return input + "." + b64.EncodeToString(signature(input, key, a))
}

func signature(input string, key any, a Algorithm) []byte {
	h, digest := digestOf(input, a)
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if a[:2] == "PS" {
			return must(rsa.SignPSS(rand.Reader, k, h, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}))
		}
		return must(rsa.SignPKCS1v15(nil, k, h, digest))
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, k, digest)
		if err != nil {
			panic(err)
		}
		size := (k.Curve.Params().BitSize + 7) / 8
		return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
	case []byte:
		mac := hmac.New(sha256.New, k)
		mac.Write([]byte(input))
		return mac.Sum(nil)
	}
	panic("no such key")
}

func digestOf(input string, a Algorithm) (crypto.Hash, []byte) {
	switch a[2:] {
	case "384":
		d := sha512.Sum384([]byte(input))
		return crypto.SHA384, d[:]
	case "512":
		d := sha512.Sum512([]byte(input))
		return crypto.SHA512, d[:]
	}
	d := sha256.Sum256([]byte(input))
	return crypto.SHA256, d[:]
}

// members encodes an object with changes: nil removes a member.
func members(base, change map[string]any) string {
	m := maps.Clone(base)
	for k, v := range change {
		if m[k] = v; v == nil {
			delete(m, k)
		}
	}
	return string(must(json.Marshal(m)))
}

type m = map[string]any

func jwkOf(key any, id string, more m) m {
	size := func(k *ecdsa.PublicKey) []byte { return make([]byte, (k.Curve.Params().BitSize+7)/8) }
	j := m{"kid": id}
	switch k := key.(type) {
	case *rsa.PublicKey:
		j["kty"], j["n"], j["e"] = "RSA", b64.EncodeToString(k.N.Bytes()), b64.EncodeToString(big.NewInt(int64(k.E)).Bytes())
	case *ecdsa.PublicKey:
		//nolint:staticcheck // the coordinates are what a JWK is made of
		x, y := k.X, k.Y
		j["kty"], j["crv"], j["x"], j["y"] = "EC", k.Curve.Params().Name, b64.EncodeToString(x.FillBytes(size(k))), b64.EncodeToString(y.FillBytes(size(k)))
	case []byte:
		j["kty"], j["k"] = "oct", b64.EncodeToString(k)
	default:
		panic("no such key")
	}
	maps.Copy(j, more)
	return j
}

func setOf(keys ...m) []byte { return must(json.Marshal(m{"keys": keys})) }

func readSet(t testing.TB, keys ...m) KeySet {
	t.Helper()
	s, err := ReadKeySet(setOf(keys...))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

const tokenURL = "https://fhir.example.org/token"

// A world is what an assertion or an access token is checked against.
type world struct {
	keys KeySet
	jku  string
	seen map[string]time.Time
	mu   sync.Mutex
}

func newWorld(t testing.TB, keys ...m) *world {
	if keys == nil {
		keys = []m{jwkOf(&rsaKey().PublicKey, "r", nil), jwkOf(&p384().PublicKey, "e", nil)}
	}
	return &world{keys: readSet(t, keys...), jku: "https://client.example.org/jwks", seen: map[string]time.Time{}}
}

const skew = 30 * time.Second

func (w *world) assertions() *Assertions {
	return NewAssertions(AssertionPolicy{
		Algorithms: []Algorithm{RS384, ES384},
		Audiences:  []string{tokenURL},
		Skew:       skew,
		Client: func(id string) (Registration, bool) {
			return Registration{Keys: w.keys, KeySetURL: w.jku}, id == "c1" || id == "c2"
		},
		Seen: func(_ context.Context, key string, until time.Time) (bool, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			_, ok := w.seen[key]
			w.seen[key] = until
			return ok, nil
		},
	})
}

func (w *world) access() *AccessPolicy {
	return &AccessPolicy{
		Algorithms: []Algorithm{RS384, ES384}, Issuer: "c1", Audiences: []string{tokenURL}, Keys: w.keys, Skew: skew,
	}
}

var (
	header = m{"alg": "RS384", "kid": "r", "typ": "JWT"}
	claims = m{"iss": "c1", "sub": "c1", "aud": tokenURL, "exp": noon.Add(4 * time.Minute).Unix(), "jti": "n-1"}
)

// raw replaces the value of one claim by JSON as it stands.
func raw(name, value string) string {
	return fmt.Sprintf(`%s,%q:%s}`, members(claims, m{name: nil})[:len(members(claims, m{name: nil}))-1], name, value)
}
