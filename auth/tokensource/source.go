package tokensource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"

	"spillway/auth/token"
)

// A Source has a credential. It is safe for concurrent use.
type Source interface {
	// Authorize sets the credential among the headers of a request.
	Authorize(ctx context.Context, h http.Header) error
	// Refused is told that the upstream did not accept the credential in h. It
	// reports whether Authorize will set another one, so that one more attempt
	// makes sense.
	Refused(h http.Header) bool
}

// What a header may be.
// Source: RFC 9110, 5.1 and 5.5.
var (
	headerName  = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
	headerValue = regexp.MustCompile(`^[\x21-\x7e\x80-\x{10ffff}](?:[\t\x20-\x7e\x80-\x{10ffff}]*[\x21-\x7e\x80-\x{10ffff}])?$`)
)

// A fixed credential is a header that does not change.
type fixed struct{ name, value string }

// Header sets a header to a value.
func Header(name, value string) (Source, error) {
	if !headerName.MatchString(name) || !headerValue.MatchString(value) {
		return nil, errors.New("tokensource: the name or the value of the header is not a valid one")
	}
	return fixed{name, value}, nil
}

// Basic sets a user and a password.
// Source: RFC 7617.
func Basic(user, password string) Source {
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(user, password)
	return fixed{"Authorization", r.Header.Get("Authorization")}
}

func (f fixed) Authorize(_ context.Context, h http.Header) error {
	h.Set(f.name, f.value)
	return nil
}

func (fixed) Refused(http.Header) bool { return false }

// String tells the header's name only.
func (f fixed) String() string { return "credential in " + f.name }

// GoString is String.
func (f fixed) GoString() string { return f.String() }

// ErrForeign says that a request was not made because it would have taken the
// credential to another server than the upstream.
var ErrForeign = errors.New("tokensource: the request is not for the upstream")

// A transport adds a credential.
type transport struct {
	source       Source
	scheme, host string
	next         http.RoundTripper
}

// Transport returns a RoundTripper that adds the credential to requests for
// the origin of base, and makes no others. base must be of https, or of this
// machine, unless plain is set: then the operator has said that the network in
// between is safe.
func Transport(source Source, base *url.URL, plain bool, next http.RoundTripper) (http.RoundTripper, error) {
	if base.Scheme != "https" && !plain && !loopback(base.Hostname()) {
		return nil, errors.New("tokensource: a credential is not sent over plain http to another machine")
	}
	return &transport{source: source, scheme: base.Scheme, host: base.Host, next: next}, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != t.scheme || !sameHost(r.URL, t.scheme, t.host) {
		closeBody(r.Body)
		return nil, ErrForeign
	}
	first, err := t.authorized(r, r.Body)
	if err != nil {
		return nil, err
	}
	got, err := t.next.RoundTrip(first)
	if err != nil || got.StatusCode != http.StatusUnauthorized || !t.source.Refused(first.Header) {
		return got, err
	}
	var body io.ReadCloser
	if r.Body != nil && r.Body != http.NoBody {
		if r.GetBody == nil {
			return got, nil
		}
		if body, err = r.GetBody(); err != nil {
			return got, nil
		}
	}
	second, err := t.authorized(r, body)
	if err != nil {
		return got, nil // the first answer tells more
	}
	closeBody(got.Body)
	return t.next.RoundTrip(second)
}

func (t *transport) authorized(r *http.Request, body io.ReadCloser) (*http.Request, error) {
	clone := r.Clone(r.Context())
	clone.Body = body
	if err := t.source.Authorize(r.Context(), clone.Header); err != nil {
		closeBody(body)
		return nil, err
	}
	return clone, nil
}

func closeBody(b io.Closer) {
	if b != nil {
		_ = b.Close() // nothing more is read from it
	}
}

// sameHost compares with the port that the scheme implies.
func sameHost(u *url.URL, scheme, host string) bool {
	return withPort(u.Host, scheme) == withPort(host, scheme)
}

func withPort(host, scheme string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	if scheme == "http" {
		return host + ":80"
	}
	return host + ":443"
}

// KeysHandler publishes the public halves of keys as a JSON web key set, by
// GET and HEAD.
func KeysHandler(keys ...*token.SigningKey) http.Handler {
	body := token.PublicJSON(keys...)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		h.Set("Content-Type", "application/json")
		h.Set("Content-Length", strconv.Itoa(len(body)))
		h.Set("Cache-Control", fmt.Sprintf("max-age=%d", 300))
		h.Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(http.StatusOK)
		if r.Method == http.MethodGet {
			_, _ = w.Write(body) // fails only when the client has gone
		}
	})
}
