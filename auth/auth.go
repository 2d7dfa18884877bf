package auth

import (
	"errors"
	"net/http"
)

// Errors of an Authenticator. Test with errors.Is. None of them says why a
// credential was not accepted: the caller could be an attacker.
var (
	// ErrNoCredential: the request carries nothing that could say who asks.
	ErrNoCredential = errors.New("auth: no credential")
	// ErrBadCredential: the credential is malformed, expired, revoked, or not ours.
	ErrBadCredential = errors.New("auth: credential not accepted")
	// ErrUnavailable: it cannot be decided now, because keys or an
	// introspection endpoint are out of reach. Wrapped around the cause.
	ErrUnavailable = errors.New("auth: cannot be decided now")
)

// A Principal is who asks. The zero value is the nameless client of None.
type Principal struct {
	// ClientID names the client; exports belong to it. Empty where the gateway
	// does not authenticate.
	ClientID string
}

// An Authenticator finds out who sent a request. It is safe for concurrent
// use, reads headers and the connection only, and writes nothing.
type Authenticator interface {
	// Authenticate returns the sender of r, or one of the errors above.
	Authenticate(r *http.Request) (Principal, error)
	// RequiresToken reports whether requests must carry an access token. It is
	// what manifests say in requiresAccessToken.
	RequiresToken() bool
}

// None returns the Authenticator that takes everybody for the same nameless
// client, whatever credential the request carries.
func None() Authenticator { return none{} }

type none struct{}

func (none) Authenticate(*http.Request) (Principal, error) { return Principal{}, nil }

func (none) RequiresToken() bool { return false }
