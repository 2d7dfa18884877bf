package auth

import (
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"spillway/auth/scope"
)

// Errors of an Authenticator. Test with errors.Is. None of them tells the
// caller why a credential was not accepted: it could be an attacker. What they
// wrap says it to the log, without anything of the credential.
var (
	// ErrNoCredential: the request carries nothing that could say who asks.
	ErrNoCredential = errors.New("auth: no credential")
	// ErrMalformed: the credential is not one in form, or there are several.
	ErrMalformed = errors.New("auth: malformed credential")
	// ErrBadCredential: the credential is expired, revoked, or not ours.
	ErrBadCredential = errors.New("auth: credential not accepted")
	// ErrUnavailable: it cannot be decided now, because keys or an
	// introspection endpoint are out of reach. Wrapped around the cause.
	ErrUnavailable = errors.New("auth: cannot be decided now")
)

// A Principal is who asks, and what it may do. The zero value is nobody, and
// may do nothing.
type Principal struct {
	// ClientID names the client; exports belong to it. Empty where the gateway
	// does not authenticate.
	ClientID string
	// Issuer is who vouches for the client: the issuer of its token. Empty
	// where there is none.
	Issuer string
	// Grant is what the client may do with which types.
	Grant scope.Grant
	// Groups are those that the client may export.
	Groups Groups
	// TokenID is the jti of the token, for the audit. Empty: it has none.
	TokenID string
	// Expires is when the credential does. Zero: it is not known.
	Expires time.Time
}

// Groups says which Group resources a client may export. The zero value is
// none.
type Groups struct {
	All bool
	IDs []string // ids without "Group/"
}

// Allows reports whether the Group of this id is among them.
func (g Groups) Allows(id string) bool { return g.All || slices.Contains(g.IDs, id) }

// Owner names the principal as the owner of exports: client and issuer together,
// since two issuers may give the same id to different clients. Empty where
// nobody is authenticated.
func (p Principal) Owner() string {
	if p.Issuer == "" {
		return url.QueryEscape(p.ClientID)
	}
	return url.QueryEscape(p.ClientID) + "@" + url.QueryEscape(p.Issuer)
}

// ClientOf returns the client id of an Owner; empty if it is none.
func ClientOf(owner string) string {
	client, _, _ := strings.Cut(owner, "@")
	id, err := url.QueryUnescape(client)
	if err != nil {
		return ""
	}
	return id
}

// An Authenticator finds out who sent a request. It is safe for concurrent
// use, reads headers and the connection only, and writes nothing.
type Authenticator interface {
	// Authenticate returns the sender of r, or one of the errors above. It must
	// be asked at every step of an export: tokens expire, clients are disabled.
	Authenticate(r *http.Request) (Principal, error)
	// RequiresToken reports whether requests must carry an access token. It is
	// what manifests say in requiresAccessToken.
	RequiresToken() bool
}

// None returns the Authenticator that takes everybody for the same nameless
// client, who may do everything, whatever credential the request carries.
func None() Authenticator { return none{} }

type none struct{}

func (none) Authenticate(*http.Request) (Principal, error) {
	return Principal{Grant: scope.Everything(), Groups: Groups{All: true}}, nil
}

func (none) RequiresToken() bool { return false }

// A Policy is what the configuration says of a client for which somebody else
// vouches. The zero value lets it export no Group.
type Policy struct {
	Groups   Groups
	Disabled bool // its credentials are not accepted
}

// Restrict returns an Authenticator that applies a policy to whom a finds:
// that of its client id, or else others.
func Restrict(a Authenticator, policies map[string]Policy, others Policy) Authenticator {
	return restricted{a, policies, others}
}

type restricted struct {
	Authenticator
	policies map[string]Policy
	others   Policy
}

func (r restricted) Authenticate(request *http.Request) (Principal, error) {
	p, err := r.Authenticator.Authenticate(request)
	if err != nil {
		return Principal{}, err
	}
	policy, ok := r.policies[p.ClientID]
	if !ok {
		policy = r.others
	}
	if policy.Disabled {
		return Principal{}, ErrBadCredential
	}
	p.Groups = policy.Groups
	return p, nil
}

// bearerForm is the header of a bearer token.
// Source: RFC 6750, 2.1.
var bearerForm = regexp.MustCompile(`^(?i:bearer) +([A-Za-z0-9._~+/-]+=*)$`)

// BearerToken returns the token of a request. It reads the Authorization
// header alone: a token in a query or a body would end up in logs.
func BearerToken(h http.Header) (string, error) {
	values := h.Values("Authorization")
	switch {
	case len(values) == 0 || len(values) == 1 && values[0] == "":
		return "", ErrNoCredential
	case len(values) > 1:
		return "", ErrMalformed
	}
	if m := bearerForm.FindStringSubmatch(values[0]); m != nil {
		return m[1], nil
	}
	if scheme, _, _ := strings.Cut(values[0], " "); !strings.EqualFold(scheme, "Bearer") {
		return "", ErrNoCredential // a credential of another kind says nothing here
	}
	return "", ErrMalformed
}

// Challenge returns the value of WWW-Authenticate that belongs to an error, for
// Authenticators that require a token; "" if none does. A *scope.RefusedError
// is one of them, with status 403; ErrMalformed has 400, the others 401.
// Source: RFC 6750, 3.
func Challenge(err error) string {
	var refused *scope.RefusedError
	switch {
	case errors.As(err, &refused):
		return `Bearer error="insufficient_scope", scope="` + refused.Scope() + `"`
	case errors.Is(err, ErrNoCredential):
		return `Bearer realm="fhir"`
	case errors.Is(err, ErrMalformed):
		return `Bearer error="invalid_request"`
	case errors.Is(err, ErrBadCredential):
		return `Bearer error="invalid_token"`
	}
	return ""
}
