package token

import "spillway/auth"

// Refused says why a token is not accepted, in a word of a fixed set, for logs
// and audit. It is an auth.ErrBadCredential to errors.Is.
type Refused string

// The reasons.
const (
	ErrShape        Refused = "shape"         // no compact JWS, or too long
	ErrHeader       Refused = "header"        // malformed, or with members that change how a token is read
	ErrAlgorithm    Refused = "algorithm"     // not one of those allowed
	ErrTokenType    Refused = "token type"    // made for another purpose
	ErrClaims       Refused = "claims"        // malformed
	ErrIssuer       Refused = "issuer"        // not the one expected
	ErrSubject      Refused = "subject"       // missing, or not the issuer where it must be
	ErrAudience     Refused = "audience"      // meant for somebody else
	ErrExpired      Refused = "expired"       // no longer valid
	ErrLifetime     Refused = "lifetime"      // valid for longer than is allowed, or issued too long ago
	ErrNotYet       Refused = "not yet"       // issued, or valid only, in the future
	ErrIdentifier   Refused = "identifier"    // jti missing or too long
	ErrClient       Refused = "client"        // unknown or disabled
	ErrKeySetURL    Refused = "jku"           // not the registered address of the keys
	ErrKeyNotFound  Refused = "key"           // no key of this id and type
	ErrKeysAway     Refused = "keys away"     // the client's own keys are out of reach
	ErrKeyAmbiguous Refused = "ambiguous key" // several keys of this id and type
	ErrSignature    Refused = "signature"
	ErrReplayed     Refused = "replayed"
)

// Error returns the reason, with the name of the package before it.
func (r Refused) Error() string { return "token: refused: " + string(r) }

// Is makes every reason an auth.ErrBadCredential.
func (r Refused) Is(target error) bool { return target == auth.ErrBadCredential }
