package fetch

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
)

const (
	defaultTimeout = 5 * time.Second
	maxHeaderBytes = 32 << 10
	maxConnections = 64 // to one server
)

// ErrForbidden says that a request was not made, because its address is one
// that must not be asked.
var ErrForbidden = errors.New("the address is not allowed")

// Options say which servers may be asked. The zero value suits addresses that
// clients supply: https, and public addresses only.
type Options struct {
	// Private permits addresses of private networks and of this machine, for
	// servers that the operator has named. Link-local addresses, which serve
	// the secrets of cloud machines, are never permitted.
	Private bool
	// Plain permits http.
	Plain bool
	// Timeout of a request with its answer. Zero: 5s.
	Timeout time.Duration
	// TLS holds authorities and client certificates. Nil: the system's, none.
	// Versions below 1.2 are never spoken.
	TLS *tls.Config
}

// A Client makes requests. It is safe for concurrent use.
type Client struct {
	plain   bool
	timeout time.Duration
	http    *http.Client
}

// New returns a client.
func New(o Options) *Client {
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.TLS != nil {
		config = o.TLS.Clone()
		config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	}
	dialer := &net.Dialer{Timeout: o.Timeout, Control: func(_, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil || !allowed(to.Addr(), o.Private) {
			return ErrForbidden
		}
		return nil
	}}
	return &Client{plain: o.Plain, timeout: o.Timeout, http: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSClientConfig:        config,
			TLSHandshakeTimeout:    o.Timeout,
			DisableCompression:     true,
			MaxConnsPerHost:        maxConnections,
			MaxIdleConnsPerHost:    maxConnections / 4,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: maxHeaderBytes,
		},
	}}
}

// A Response is an answer, read whole.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// IsJSON reports whether the answer says that it is JSON, or one of the other
// media types named.
func (r *Response) IsJSON(others ...string) bool {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return false
	}
	for _, m := range append(others, "application/json") {
		if media == m {
			return true
		}
	}
	return false
}

// Do makes a request and reads its answer, of at most limit bytes. An error
// names the host, and nothing else of the request.
func (c *Client) Do(r *http.Request, limit int64) (*Response, error) {
	response, err := c.do(r, limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.URL.Host, err)
	}
	return response, nil
}

func (c *Client) do(r *http.Request, limit int64) (*Response, error) {
	if err := CheckURL(r.URL, c.plain); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), c.timeout)
	defer cancel()
	got, err := c.http.Do(r.WithContext(ctx))
	if err != nil {
		return nil, bare(err)
	}
	defer got.Body.Close()
	if encoding := got.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return nil, errors.New("the answer is compressed, which was not asked for")
	}
	body, err := io.ReadAll(io.LimitReader(got.Body, limit+1))
	switch {
	case err != nil:
		return nil, bare(err)
	case int64(len(body)) > limit:
		return nil, fmt.Errorf("the answer is larger than %d bytes", limit)
	}
	return &Response{Status: got.StatusCode, Header: got.Header, Body: body}, nil
}

// bare takes the URL off an error.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// CheckURL says what is wrong with an address that is to be asked: it must be
// absolute, of https (or http, if plain), without user and fragment.
func CheckURL(u *url.URL, plain bool) error {
	switch {
	case u.Scheme != "https" && (u.Scheme != "http" || !plain):
		return fmt.Errorf("%w: it must begin with https", ErrForbidden)
	case u.Hostname() == "" || u.Opaque != "":
		return fmt.Errorf("%w: it must be absolute", ErrForbidden)
	case u.User != nil || u.Fragment != "":
		return fmt.Errorf("%w: it must have no user and no fragment", ErrForbidden)
	}
	return nil
}

// Networks that are no place for a server of somebody else's, and that netip
// has no word for.
// Source: IANA IPv4 and IPv6 Special-Purpose Address Registries.
var special = [...]netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // carrier NAT
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("192.88.99.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"),        // IPv4-compatible
	netip.MustParsePrefix("64:ff9b::/96"), // translated to IPv4
	netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("100::/64"),
	netip.MustParsePrefix("2001::/23"), // Teredo and others
	netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("2002::/16"), // 6to4
	netip.MustParsePrefix("3fff::/20"),
	netip.MustParsePrefix("fec0::/10"),
}

// metadata6 is where AWS serves the secrets of a machine over IPv6.
var metadata6 = [...]netip.Addr{netip.MustParseAddr("fd00:ec2::254")}

// allowed reports whether a connection to the address may be made.
func allowed(a netip.Addr, private bool) bool {
	a = a.Unmap().WithZone("")
	switch {
	case !a.IsValid(), a.IsUnspecified(), a.IsMulticast(), a.IsLinkLocalUnicast(), a == metadata6[0]:
		return false
	case private:
		return true
	case a.IsLoopback(), a.IsPrivate():
		return false
	}
	for _, p := range special {
		if p.Contains(a) {
			return false
		}
	}
	return true
}
