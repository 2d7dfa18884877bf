// Package mtls knows clients by the certificates of their connections.
//
//	New  certificates → clients; the result is an auth.Authenticator
//
// The listener must ask for certificates, and verify those that it gets against
// the operator's authorities (tls.VerifyClientCertIfGiven, or
// tls.RequireAndVerifyClientCert). A client that is known by a fingerprint may
// also have a certificate of no known authority, where the listener takes any
// (tls.RequestClientCert): the connection proves that it holds the key.
//
// Nothing asks whether a certificate was revoked: a client is taken out by
// Disabled, or by a short life of its certificates. The names of a certificate
// are its alternative names and its whole subject, never the common name alone.
package mtls

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"spillway/auth"
	"spillway/auth/scope"
)

// A Client is one of the configuration. A certificate is that of the client if
// all that is set of Fingerprint, Subject, DNS, URI and Email applies; at least
// one is.
type Client struct {
	ID string
	// Fingerprint is the SHA-256 of the certificate in hexadecimal, with or
	// without colons.
	Fingerprint string
	// Subject is the whole subject as RFC 2253 writes it, such as
	// CN=export,O=Example.
	Subject string
	// DNS, URI and Email are alternative names, to the letter; DNS names
	// without regard to case.
	DNS, URI, Email string

	Scopes   string // separated by spaces
	Groups   auth.Groups
	Disabled bool
}

// An Authenticator finds clients by their certificates.
type Authenticator struct {
	clients []client
	now     func() time.Time
}

type client struct {
	Client
	grant scope.Grant
}

// New returns an Authenticator. All that is wrong with the clients is reported
// at once. now may be nil: time.Now.
func New(list []Client, now func() time.Time) (*Authenticator, error) {
	if now == nil {
		now = time.Now
	}
	a := &Authenticator{now: now}
	var problems []error
	for i, c := range list {
		read, err := readClient(c)
		if err == nil && slices.ContainsFunc(a.clients, func(o client) bool { return o.ID == c.ID }) {
			err = errors.New("there is another one of this id")
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("mtls: client %d (%q): %w", i+1, c.ID, err))
			continue
		}
		a.clients = append(a.clients, read)
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return a, nil
}

func readClient(c Client) (client, error) {
	c.Fingerprint = strings.ToLower(strings.ReplaceAll(c.Fingerprint, ":", ""))
	sum, err := hex.DecodeString(c.Fingerprint)
	switch {
	case c.ID == "":
		return client{}, errors.New("it has no id")
	case c.Fingerprint == "" && c.Subject == "" && c.DNS == "" && c.URI == "" && c.Email == "":
		return client{}, errors.New("nothing says which certificate is its own")
	case c.Fingerprint != "" && (err != nil || len(sum) != sha256.Size):
		return client{}, errors.New("the fingerprint must have 64 hexadecimal digits")
	}
	scopes, others, err := scope.ParseList(c.Scopes)
	if err != nil {
		return client{}, err
	}
	if len(others) > 0 {
		return client{}, others[0]
	}
	if len(scopes) == 0 {
		return client{}, errors.New("it has no scopes")
	}
	grant, err := scope.NewGrant(scopes)
	return client{c, grant}, err
}

// RequiresToken implements auth.Authenticator.
func (a *Authenticator) RequiresToken() bool { return false }

// Authenticate implements auth.Authenticator.
func (a *Authenticator) Authenticate(r *http.Request) (auth.Principal, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return auth.Principal{}, auth.ErrNoCredential
	}
	leaf := r.TLS.PeerCertificates[0]
	if now := a.now(); now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) { // a connection may outlive it
		return auth.Principal{}, fmt.Errorf("%w: the certificate is not valid now", auth.ErrBadCredential)
	}
	verified := len(r.TLS.VerifiedChains) > 0
	var found *client
	for i := range a.clients {
		c := &a.clients[i]
		if !c.has(leaf) || !verified && c.Fingerprint == "" {
			continue
		}
		if found != nil {
			return auth.Principal{}, fmt.Errorf("%w: the certificate is that of two clients", auth.ErrBadCredential)
		}
		found = c
	}
	if found == nil || found.Disabled {
		return auth.Principal{}, fmt.Errorf("%w: the certificate is that of no client", auth.ErrBadCredential)
	}
	return auth.Principal{ClientID: found.ID, Grant: found.grant, Groups: found.Groups, Expires: leaf.NotAfter}, nil
}

// has reports whether a certificate is the client's.
func (c *client) has(leaf *x509.Certificate) bool {
	sum := sha256.Sum256(leaf.Raw)
	return (c.Fingerprint == "" || c.Fingerprint == hex.EncodeToString(sum[:])) &&
		(c.Subject == "" || c.Subject == leaf.Subject.String()) &&
		(c.DNS == "" || slices.ContainsFunc(leaf.DNSNames, func(n string) bool { return strings.EqualFold(n, c.DNS) })) &&
		(c.Email == "" || slices.Contains(leaf.EmailAddresses, c.Email)) &&
		(c.URI == "" || slices.ContainsFunc(leaf.URIs, func(u *url.URL) bool { return u.String() == c.URI }))
}
