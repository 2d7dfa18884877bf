package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"

	"spillway/upstream/fhir"
)

// unreached makes an error of a round trip that brought no answer. inner is
// the context of the exchange.
func (c *Client) unreached(inner context.Context, r *request, err error) *RequestError {
	e := &RequestError{Op: r.op, Kind: KindUnreachable}
	if errors.Is(context.Cause(inner), errNoHeaders) {
		e.Kind, e.Err = KindTimeout, fmt.Errorf("the upstream did not answer within %s", c.cfg.Timeout)
		return e
	}
	if strings.Contains(err.Error(), "response headers exceeded") { // net/http has no value for it
		e.Kind, e.Err = KindTooLarge, errors.New("the headers of the answer are larger than "+sizeText(maxHeaderBytes))
		return e
	}
	text, permanent := connectionText(err, c.place.base.Host)
	e.Err, e.permanent = errors.New("the upstream cannot be reached: "+text), permanent
	return e
}

// A CredentialError says that our credential for the upstream cannot be had. Err
// holds nothing of it, and no address but the name of a host.
type CredentialError struct{ Err error }

// Error returns the cause.
func (e *CredentialError) Error() string { return "upstream: credential: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *CredentialError) Unwrap() error { return e.Err }

// connectionText words an error of the network without anything that was sent
// or received. permanent says that no waiting will help.
func connectionText(err error, host string) (text string, permanent bool) {
	var (
		dns      *net.DNSError
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
		verify   *tls.CertificateVerificationError
		record   tls.RecordHeaderError
		alert    tls.AlertError
		op       *net.OpError
		ours     *CredentialError
	)
	switch {
	case errors.As(err, &ours):
		return "our credential for it cannot be had: " + ours.Err.Error(), false
	case errors.Is(err, errLinkLocal):
		return "its name leads to a link-local address, which is not asked", true
	case errors.As(err, &dns) && dns.IsNotFound:
		return "there is no such host as " + host, false
	case errors.As(err, &dns):
		return "the name " + host + " cannot be looked up", false
	case errors.As(err, &unknown):
		return "the TLS certificate of " + host + " is signed by an unknown authority; add that authority to the system's trust store, or name its file in SSL_CERT_FILE", true
	case errors.As(err, &hostname):
		return "the TLS certificate is not for " + host, true
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the TLS certificate of " + host + " has expired or is not yet valid", true
	case errors.As(err, &verify), errors.As(err, &invalid):
		return "the TLS certificate of " + host + " cannot be verified", true
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return host + " does not speak TLS there; the address may be one of http, not https", true
	case errors.As(err, &alert):
		return host + " broke off the TLS handshake; it may want a client certificate", true
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused by " + host, false
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "there is no route to " + host, false
	case errors.As(err, &op) && op.Op == "dial" && op.Timeout():
		return host + " did not take the connection within " + dialTimeout.String(), false
	case strings.Contains(err.Error(), "malformed HTTP"):
		return host + " does not speak HTTP there; the address may be one of https, or of something else", true
	}
	return "the connection to " + host + " broke before an answer came", false
}

// unreadable makes an error of a body that could not be used; err is from its
// reader. inner is the context of the exchange.
func unreadable(inner context.Context, r *request, b *body, err error) *RequestError {
	e := &RequestError{Op: r.op, Status: http.StatusOK}
	if kind, text := b.failure(inner); kind != 0 {
		e.Kind, e.Err = kind, errors.New(text)
		e.oversize = kind == KindTooLarge
		return e
	}
	if failed, ok := err.(*RequestError); ok {
		return failed
	}
	switch {
	case errors.Is(err, fhir.ErrTruncated):
		e.Kind = KindTruncated
	case errors.Is(err, fhir.ErrTooLarge):
		e.Kind = KindTooLarge
	case errors.Is(err, fhir.ErrNotBundle), errors.Is(err, fhir.ErrNotResource), errors.Is(err, fhir.ErrNotCapabilities):
		e.Kind = KindNotFHIR
	default:
		e.Kind = KindMalformed
	}
	var bad *fhir.BodyError
	if errors.As(err, &bad) {
		e.Err, e.Issues = bad, bad.Issues
		e.oversize = e.Kind == KindTooLarge && bad.Limit == "body bytes"
	}
	return e
}

// outcomeIssues reads the issues of a refusal's body, if it is an
// OperationOutcome.
func outcomeIssues(b []byte) []fhir.Issue {
	issues, err := fhir.ReadOutcome(b)
	if err != nil {
		return nil
	}
	return issues
}

func sizeText(n int64) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}

// printable guards a text that the upstream had a hand in.
func printable(s string) string {
	if len(s) > 200 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "an unusual address"
	}
	return s
}
