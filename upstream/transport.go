package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	dialTimeout    = 10 * time.Second
	idleTimeout    = 25 * time.Second // below the keep-alive of usual proxies
	maxHeaderBytes = 1 << 20          // of a response, informational ones included
	maxOutcome     = 64 << 10         // of the body of a refusal
)

var (
	errNoHeaders = errors.New("upstream: no headers in time")
	errLinkLocal = errors.New("upstream: link-local address")
)

// newTransport makes the connections to host. It takes no proxy from the
// environment, follows nothing, inflates nothing and dials no link-local
// address (where clouds keep their metadata), unless host is one itself. secure
// may be nil.
func newTransport(host string, secure *tls.Config) *http.Transport {
	if secure == nil {
		secure = &tls.Config{}
	}
	secure = secure.Clone()
	secure.MinVersion = max(secure.MinVersion, tls.VersionTLS12)
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}
	if addr, err := netip.ParseAddr(host); err != nil || !linkLocal(addr) {
		dialer.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			if ap, err := netip.ParseAddrPort(address); err == nil && linkLocal(ap.Addr()) {
				return errLinkLocal
			}
			return nil
		}
	}
	return &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        secure,
		TLSHandshakeTimeout:    dialTimeout,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		ReadBufferSize:         32 << 10,
	}
}

// wrapped is a transport with our credential added to requests.
func wrapped(wrap func(http.RoundTripper) (http.RoundTripper, error), t *http.Transport) (http.RoundTripper, error) {
	if wrap == nil {
		return t, nil
	}
	return wrap(t)
}

func linkLocal(a netip.Addr) bool { return a.Unmap().IsLinkLocalUnicast() }

// A request is what the client wants to know. It is sent as often as it takes.
type request struct {
	kind    string // the label of its metrics
	op      string // kind and type, for errors
	method  string
	url     *url.URL
	form    string      // body of a POST, already encoded
	next    bool        // the address came from a next link
	begun   bool        // continues what was begun; see Search.Begun
	strikes int         // how many failures are borne while the upstream answers others
	direct  int         // past the upstream's store of searches, with at most so many results; 0: as usual
	shrink  func() bool // makes it ask for less, and reports whether it could; may be nil
}

// A reply is an answer with status 200.
type reply struct {
	header         http.Header
	sent, received time.Time // by Config.Now: before sending, after the headers
	body           *body
}

// exchange performs one attempt at r, which has been tried or has failed since
// a time. use reads the reply's body to its end, or to where it is at fault. The
// error is a *RequestError, a stopped from use, the context's, or one of the
// governor: a *PauseError or an awayError.
func (c *Client) exchange(ctx context.Context, r *request, since time.Time, use func(*reply) error) error {
	t, err := c.governor.acquire(ctx, r.errand(flowOf(ctx), since))
	if err != nil {
		return err
	}
	v := verdict{requestKind: r.kind, op: r.op}
	var turn sync.Once
	over := func(v verdict) { turn.Do(func() { c.governor.release(t, v) }) }
	c.metrics.begin()
	defer func() {
		c.metrics.end(r.kind, v)
		over(v)
	}()
	err = c.attempt(ctx, r, use, &v, over)
	if failed, ok := err.(*RequestError); ok {
		v.kind, v.failure = failed.Kind, failed
	}
	v.whole = err == nil
	return err
}

// errand is what the governor must know of r, which has been tried or has
// failed since a time. The statement takes no slot: it is asked for once in
// ten minutes, and the gateway's own routes wait for it. What Learn asks is
// asked at any hour, so that a gateway can start at any.
func (r *request) errand(flow string, since time.Time) errand {
	return errand{
		free: r.kind == kindMetadata, anytime: r.kind == kindMetadata || r.kind == kindProbe,
		begun: r.begun, since: since, flow: flow,
	}
}

// attempt calls over as soon as the answer is here, which may be before use has
// read all of it.
func (c *Client) attempt(ctx context.Context, r *request, use func(*reply) error, v *verdict, over func(verdict)) error {
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := time.AfterFunc(c.cfg.Timeout, func() { cancel(errNoHeaders) })
	defer patience.Stop()

	re := reply{sent: c.cfg.Now()}
	began := time.Now()
	resp, err := c.sender.RoundTrip(c.newRequest(inner, r))
	v.latency = time.Since(began)
	re.received = c.cfg.Now()
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return c.unreached(inner, r, err)
	}
	patience.Stop()
	defer resp.Body.Close()
	v.status = resp.StatusCode
	c.vital.note(resp.StatusCode)
	c.governor.heard(resp.StatusCode)
	re.header = resp.Header
	re.body = newBody(resp, cancel, c.cfg.Timeout, c.cfg.PageBytes, &c.buffers)
	defer re.body.release(&c.buffers)
	if resp.StatusCode != http.StatusOK {
		return c.refused(r, resp, &re, v)
	}
	early, wire := *v, re.body.wire
	re.body.readAhead(&c.buffers, func() {
		early.whole, early.latency, early.bytes = true, early.latency+wire.waited, wire.bytes
		over(early)
	})
	defer func() { // also when use panics
		cancel(nil)
		re.body.end()
	}()
	err = use(&re)
	if err != nil {
		cancel(nil)
	}
	re.body.end()
	v.latency += re.body.waited()
	v.bytes = re.body.bytes
	if err == nil {
		return nil
	}
	if stop, ok := err.(stopped); ok {
		return stop
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return unreadable(inner, r, re.body, err)
}

func (c *Client) newRequest(ctx context.Context, r *request) *http.Request {
	h := http.Header{
		"Accept":          {"application/fhir+json"},
		"Accept-Encoding": {"gzip"},
		"Cache-Control":   {"no-cache"},
		"Prefer":          {"handling=strict"},
		"User-Agent":      {"spillway/" + c.cfg.Version},
	}
	if r.direct > 0 {
		h.Set("Cache-Control", "no-store, max-results="+strconv.Itoa(r.direct))
	}
	if c.bareAccept.Load() {
		h.Del("Accept")
	}
	if c.unstrict.Load() {
		h.Del("Prefer")
	}
	req := &http.Request{Method: r.method, URL: r.url, Host: r.url.Host, Header: h, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	if r.method == http.MethodPost {
		h.Set("Content-Type", "application/x-www-form-urlencoded")
		req.ContentLength = int64(len(r.form))
		req.Body = io.NopCloser(strings.NewReader(r.form))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(r.form)), nil }
	}
	for name, values := range c.cfg.Header {
		h[http.CanonicalHeaderKey(name)] = values
	}
	if host := h.Get("Host"); host != "" {
		req.Host = host
		h.Del("Host")
	}
	return req.WithContext(ctx)
}

// dropAccept reacts to a 406: from now on no Accept header is sent, as some
// servers refuse the FHIR one. It reports whether that is new.
func (c *Client) dropAccept() bool { return c.bareAccept.CompareAndSwap(false, true) }

// refused makes an error of an answer that is not 200.
func (c *Client) refused(r *request, resp *http.Response, re *reply, v *verdict) error {
	e := &RequestError{Op: r.op, Status: resp.StatusCode, Kind: KindStatus}
	switch status := resp.StatusCode; {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		e.Kind = KindAuth
	case r.next && (status == http.StatusNotFound || status == http.StatusGone):
		e.Kind = KindGone
	case status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable:
		v.retryAfter = retryAfter(resp.Header, c.cfg.Now())
		if status == http.StatusTooManyRequests || v.retryAfter > 0 {
			e.Kind = KindThrottled
		}
	case status >= 300 && status < 400 && resp.Header.Get("Location") != "":
		if to, err := r.url.Parse(resp.Header.Get("Location")); err == nil {
			e.Err = errors.New("a redirect to " + printable(origin(to)))
		}
	}
	re.body.limit = maxOutcome
	if b, err := io.ReadAll(re.body); err == nil {
		e.Issues = outcomeIssues(b)
	}
	v.latency += re.body.waited()
	return e
}
