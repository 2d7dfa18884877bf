package token

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"strings"
	"testing"
	"time"

	"spillway/auth"
)

// reference is the assertion check written a second time, with the standard
// library alone. It returns whether an assertion may be accepted.
func reference(compact string) bool {
	parts := strings.Split(compact, ".")
	if len(parts) != 3 || len(compact) > 16384 || strings.ContainsAny(compact, "\r\n") {
		return false
	}
	head, ok1 := referenceObject(parts[0])
	body, ok2 := referenceObject(parts[1])
	sig, err := b64.Strict().DecodeString(parts[2])
	if !ok1 || !ok2 || err != nil {
		return false
	}
	for _, name := range []string{"crit", "b64", "jwk", "x5u", "x5c", "zip", "cty", "jku"} {
		if _, ok := head[name]; ok {
			return false
		}
	}
	if typ, ok := head["typ"]; ok && typ != "JWT" {
		return false
	}
	input := parts[0] + "." + parts[1]
	switch {
	case head["alg"] == "RS384" && head["kid"] == "r":
		h, digest := digestOf(input, RS384)
		if rsa.VerifyPKCS1v15(&rsaKey().PublicKey, h, digest, sig) != nil {
			return false
		}
	case head["alg"] == "ES384" && head["kid"] == "e":
		_, digest := digestOf(input, ES384)
		if len(sig) != 96 || !ecdsa.Verify(&p384().PublicKey, digest, new(big.Int).SetBytes(sig[:48]), new(big.Int).SetBytes(sig[48:])) {
			return false
		}
	default:
		return false
	}
	exp, ok := body["exp"].(json.Number)
	seconds, err := exp.Int64()
	if !ok || err != nil || strings.ContainsAny(exp.String(), ".eE-") ||
		seconds <= noon.Add(-skew).Unix() || seconds > noon.Add(5*time.Minute+skew).Unix() {
		return false
	}
	jti, ok := body["jti"].(string)
	return ok && jti != "" && body["iss"] == "c1" && body["sub"] == "c1" && body["aud"] == tokenURL
}

// referenceObject refuses members twice by counting what a decoder keeps.
func referenceObject(part string) (map[string]any, bool) {
	b, err := b64.Strict().DecodeString(part)
	if err != nil {
		return nil, false
	}
	var o map[string]any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if d.Decode(&o) != nil || o == nil {
		return nil, false
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, false
	}
	names, depth := 0, 0
	d = json.NewDecoder(bytes.NewReader(b))
	for expectName := true; ; {
		tok, err := d.Token()
		if err != nil {
			break
		}
		switch delim, _ := tok.(json.Delim); {
		case delim == '{' || delim == '[':
			depth++
		case delim == '}' || delim == ']':
			depth--
			expectName = depth == 1
		case depth == 1 && expectName:
			names++
			expectName = false
		case depth == 1:
			expectName = true
		}
	}
	return o, names == len(o)
}

// FuzzAssertion signs whatever header and payload the fuzzer thinks of with the
// right key, and also tries the text as it is. What is accepted must be what
// the reference accepts.
func FuzzAssertion(f *testing.F) {
	f.Add(members(header, nil), members(claims, nil), "")
	f.Add(`{"alg":"ES384","kid":"e"}`, members(claims, nil), "")
	f.Add(`{"alg":"ES384","kid":"e","crit":[]}`, raw("exp", "0"), "a.b.c")
	f.Add(`{"alg":"none"}`, `{"iss":"c1","iss":"c1"}`, "e30.e30.AA")
	f.Add(`{"alg":"RS384","kid":"r","typ":"jwt"}`, raw("exp", "1.7e9"), "..")
	f.Add(members(header, m{"jku": "https://client.example.org/jwks"}), raw("aud", `["x"]`), "")
	a := newWorld(f).assertions()
	a.policy.Seen = func(context.Context, string, time.Time) (bool, error) { return false, nil }
	f.Fuzz(func(t *testing.T, head, body, text string) {
		tokens := []string{text, sign(head, body, rsaKey(), RS384)}
		if strings.Contains(head, "ES384") { // rarely: these signatures are random, which leads the fuzzer astray
			tokens = append(tokens, sign(head, body, p384(), ES384))
		}
		for _, token := range tokens {
			_, err := a.Verify(t.Context(), token, noon)
			if err != nil && !errors.Is(err, auth.ErrBadCredential) {
				t.Fatalf("unexpected error %v", err)
			}
			if want := reference(token); err == nil && !want && !knownLatitude(token) {
				t.Fatalf("accepted %q / %q, which the reference refuses", head, body)
			}
		}
		// What the reference accepts of the plain form must pass too.
		if token := tokens[1]; reference(token) && json.Valid([]byte(head)) {
			if _, err := a.Verify(t.Context(), token, noon); err != nil && !stricter(head, body) {
				t.Fatalf("refused %q / %q with %v, which the reference accepts", head, body, err)
			}
		}
	})
}

// knownLatitude: forms that are accepted on purpose and that the reference
// does not know: other spellings of typ, a registered jku, a list in aud.
func knownLatitude(token string) bool {
	p, err := Parse(token, []Algorithm{RS384, ES384})
	return err == nil && (p.Type != "JWT" || p.KeySetURL != "" || len(p.Claims.Audience) != 1) && p.Claims.ID != ""
}

// stricter: what this package refuses beyond the reference: nested members
// twice, control characters, text that is not UTF-8, long names, instants that
// are not right.
func stricter(head, body string) bool {
	for _, s := range []string{head, body} {
		o, err := readObject([]byte(s))
		if err != nil || o.has("iat", "nbf") {
			return true
		}
		if jti, ok := o.text("jti"); ok && !plain(jti, maxNameBytes) {
			return true
		}
	}
	return false
}

// FuzzReadKeySet: no input makes a key that is unsound, and every limit holds.
func FuzzReadKeySet(f *testing.F) {
	f.Add(setOf(jwkOf(&rsaKey().PublicKey, "r", nil), jwkOf(&p384().PublicKey, "e", m{"alg": "ES384"})))
	f.Add(setOf(jwkOf([]byte("k"), "s", nil), m{"kty": "RSA", "kid": "x", "n": "AQAB", "e": "AQAB"}))
	f.Add([]byte(`{"keys":[{"kty":"EC","kid":"a","crv":"P-384","x":"AA","y":""}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ReadKeySet(b)
		if err != nil {
			return
		}
		if len(b) > MaxKeySetBytes || len(s.keys) > MaxKeys {
			t.Fatal("limits passed")
		}
		for _, e := range s.keys {
			if e.usable && (!sound(e.public.key) || e.id == "") {
				t.Fatalf("usable but unsound: %+v", e)
			}
		}
	})
}
