package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/upstream/fhir"
)

// A ProxyConfig says where the pass-through leads.
type ProxyConfig struct {
	// Upstream is the FHIR base behind us; see Config.URL.
	Upstream *url.URL
	// Aliases are other addresses of it, as they may stand in Location headers.
	Aliases []*url.URL
	// PublicURL is the FHIR base as clients see it. Nil: the root of whatever
	// address they use.
	PublicURL *url.URL
	// TLS and Wrap are those of Config.
	TLS  *tls.Config
	Wrap func(http.RoundTripper) (http.RoundTripper, error)
	// Ours says that they add a credential of ours: that of the caller is dropped,
	// and when the upstream refuses ours, the caller is told 502, and not whom
	// it would have to convince. Whoever sets it must have checked that the caller
	// may do what it asks for.
	Ours bool
	// TrustedProxies are those whose X-Forwarded-For is passed on, with their own
	// address behind it. That of others is dropped.
	TrustedProxies []netip.Prefix
	// Timeout bounds the wait for response headers, once the request is sent.
	// Zero means 60s. Bodies may take as long as they like.
	Timeout time.Duration
	// Observe is called for each request as it was sent to the upstream, with
	// the status that came, 0 if none, and the time until the headers were
	// there. It may be nil, and is meant for Client.ObservePassThrough.
	Observe func(r *http.Request, status int, wait time.Duration)
	// Registerer takes the metrics; nil means that none are kept.
	Registerer prometheus.Registerer
	// Logger is told when the upstream does not answer. Nil means slog.Default().
	Logger *slog.Logger
}

// NewProxy returns the pass-through. It takes every request under PublicURL's
// path to the same place under Upstream's, with method, path, query, headers
// and body as they are, and streams both ways. What it changes:
//
//   - hop-by-hop headers and those that speak for a proxy or hide another
//     method or path are dropped, and X-Forwarded-For, -Host and -Proto set;
//   - Location and Content-Location that lead to the upstream lead to PublicURL;
//   - TRACE, CONNECT, WebSockets and paths with dot segments are refused;
//   - an upstream that is away becomes 502 or 504 with an OperationOutcome.
//
// If the upstream breaks off in the middle of a body, the client's connection
// is broken off too, by panicking with http.ErrAbortHandler.
//
// It panics if an address in c cannot be used or a metric not be registered;
// see New, which returns the same as an error.
func NewProxy(c ProxyConfig) http.Handler {
	to, err := newPlace(c.Upstream, c.Aliases)
	if err != nil {
		panic(err)
	}
	p := &proxy{to: to, public: &url.URL{}, ours: c.Ours, trusted: c.TrustedProxies, observe: c.Observe, log: c.Logger}
	if c.PublicURL != nil {
		if p.public, err = cleanBase(c.PublicURL); err != nil {
			panic("server.public_url: " + err.Error())
		}
	}
	if p.metrics, err = newProxyMetrics(c.Registerer); err != nil {
		panic(err)
	}
	if p.log == nil {
		p.log = slog.Default()
	}
	t := newTransport(to.base.Hostname(), c.TLS)
	t.ResponseHeaderTimeout = or(c.Timeout, 60*time.Second)
	t.ExpectContinueTimeout = time.Second
	p.transport = t
	if p.sender, err = wrapped(c.Wrap, t); err != nil {
		panic(err)
	}
	p.forward = &httputil.ReverseProxy{
		Rewrite:        p.rewrite,
		Transport:      p,
		FlushInterval:  -1,
		BufferPool:     new(buffers),
		ModifyResponse: p.answered,
		ErrorHandler:   p.unanswered,
		ErrorLog:       log.New(io.Discard, "", 0), // its words may quote what the upstream sent
	}
	return p
}

type proxy struct {
	to        place
	public    *url.URL // no trailing slash; empty if none was configured
	ours      bool
	trusted   []netip.Prefix
	transport *http.Transport
	sender    http.RoundTripper // transport, with our credential added, if any
	forward   *httputil.ReverseProxy
	observe   func(r *http.Request, status int, wait time.Duration)
	metrics   proxyMetrics
	log       *slog.Logger
}

// CloseIdleConnections drops the connections that no request uses.
func (p *proxy) CloseIdleConnections() { p.transport.CloseIdleConnections() }

// RoundTrip sends a request to the upstream and measures how long that lets it
// wait.
func (p *proxy) RoundTrip(r *http.Request) (*http.Response, error) {
	began := time.Now()
	resp, err := p.sender.RoundTrip(r)
	wait, status := time.Since(began), 0
	if err == nil {
		status = resp.StatusCode
	}
	if r.Context().Err() == nil { // else the client left, and nothing is known
		p.metrics.waited(wait)
		if p.observe != nil {
			p.observe(r, status, wait)
		}
	}
	return resp, err
}

// A passage is what the hands of the proxy tell each other about one request.
type passage struct {
	target string        // the escaped path to ask the upstream for
	body   io.ReadCloser // the client's
	broken atomic.Bool   // the client's body could not be read to its end
}

// passageKey is the context key of the *passage.
type passageKey struct{}

// Read reads the client's body.
func (p *passage) Read(b []byte) (int, error) {
	n, err := p.body.Read(b)
	if err != nil && err != io.EOF {
		p.broken.Store(true)
	}
	return n, err
}

// Close closes the client's body.
func (p *passage) Close() error { return p.body.Close() }

// ServeHTTP passes one request through.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &recorder{ResponseWriter: w}
	p.metrics.begin()
	defer p.metrics.end(r, rec)
	p.pass(rec, r)
	rec.whole = true
}

func (p *proxy) pass(rec *recorder, r *http.Request) {
	switch {
	case r.Method == http.MethodTrace, r.Method == http.MethodConnect:
		refuse(rec, http.StatusMethodNotAllowed, fhir.IssueNotSupported, "This method is not passed through.")
		return
	case hasToken(r.Header["Upgrade"], "websocket"):
		refuse(rec, http.StatusNotImplemented, fhir.IssueNotSupported, "WebSockets are not passed through.")
		return
	case hasDotSegments(r.URL.Path):
		refuse(rec, http.StatusBadRequest, fhir.IssueInvalid, "The path has dot segments.")
		return
	}
	rest, ok := cutBase(rawPath(r), p.public.Path)
	if !ok {
		refuse(rec, http.StatusNotFound, fhir.IssueNotFound, "This path is not below the FHIR base.")
		return
	}
	// Other upgrades, such as Java's attempt at h2c, may be left unanswered.
	// ReverseProxy would pass them on.
	here := &passage{target: p.to.base.EscapedPath() + rest, body: r.Body}
	out := r.WithContext(context.WithValue(r.Context(), passageKey{}, here))
	if r.Body != nil {
		out.Body = here
	}
	if _, ok := r.Header["Upgrade"]; ok {
		out.Header = r.Header.Clone()
		out.Header.Del("Upgrade")
	}
	p.forward.ServeHTTP(rec, out)
}

// bufferBytes is what a body is passed on through.
const bufferBytes = 32 << 10

// buffers lets answers share them, one after the other.
type buffers struct{ pool sync.Pool }

// Get returns a buffer for one body.
func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[bufferBytes]byte); ok {
		return p[:]
	}
	return make([]byte, bufferBytes)
}

// Put takes a buffer back.
func (b *buffers) Put(p []byte) { b.pool.Put((*[bufferBytes]byte)(p)) }

// rewrite addresses the outgoing request.
func (p *proxy) rewrite(pr *httputil.ProxyRequest) {
	here := pr.In.Context().Value(passageKey{}).(*passage)
	out := pr.Out
	out.URL = outgoingURL(p.to.base, here.target, pr.In.URL)
	out.Host = p.to.base.Host
	for name := range out.Header {
		if spoofable(name) {
			delete(out.Header, name)
		}
	}
	// "Connection: Authorization" must not take the credential away.
	if v, ok := pr.In.Header["Authorization"]; ok {
		out.Header["Authorization"] = v
	}
	if p.ours {
		for _, name := range []string{"Authorization", "Proxy-Authorization", "Cookie"} {
			delete(out.Header, name)
		}
	}
	if chain, ok := pr.In.Header["X-Forwarded-For"]; ok && p.trusts(pr.In.RemoteAddr) {
		out.Header["X-Forwarded-For"] = chain
	}
	pr.SetXForwarded()
	if p.public.Host != "" {
		out.Header.Set("X-Forwarded-Host", p.public.Host)
		out.Header.Set("X-Forwarded-Proto", p.public.Scheme)
	}
}

// errRefused says that the upstream does not accept our own credential.
var errRefused = errors.New("upstream: our credential was refused")

// answered looks at what came. Headers that lead to the upstream lead to us.
func (p *proxy) answered(resp *http.Response) error {
	if p.ours && (resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden) {
		return errRefused
	}
	for _, name := range []string{"Location", "Content-Location"} {
		for i, v := range resp.Header[name] {
			resp.Header[name][i] = p.publicLocation(v)
		}
	}
	return nil
}

// unanswered writes the answer when the upstream gave none.
func (p *proxy) unanswered(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // nobody listens any more
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		refuse(w, http.StatusRequestEntityTooLarge, fhir.IssueTooLong, "The request body is too large.")
		return
	}
	if here := r.Context().Value(passageKey{}).(*passage); here.broken.Load() {
		refuse(w, http.StatusBadRequest, fhir.IssueIncomplete, "The request body broke off.")
		return
	}
	text, _ := connectionText(err, p.to.base.Host)
	if errors.Is(err, errRefused) {
		text = "the upstream refuses the credential of the gateway"
	}
	status, code, answer := http.StatusBadGateway, fhir.IssueTransient, "The FHIR server behind this gateway cannot be reached."
	var slow interface{ Timeout() bool }
	if errors.As(err, &slow) && slow.Timeout() {
		status, code, answer = http.StatusGatewayTimeout, fhir.IssueTimeout, "The FHIR server behind this gateway did not answer in time."
		text = "no answer in time"
	}
	p.log.LogAttrs(r.Context(), slog.LevelWarn, "pass-through request was not answered",
		slog.String("method", methodLabel(r.Method)), slog.String("reason", text))
	refuse(w, status, code, answer)
}

// refuse answers with an OperationOutcome of our own.
func refuse(w http.ResponseWriter, status int, code fhir.IssueCode, text string) {
	h := w.Header()
	h.Set("Content-Type", "application/fhir+json;charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	// The client may be gone; there is nobody else to tell.
	_, _ = w.Write(fhir.Outcome(fhir.Issue{Severity: fhir.SeverityError, Code: code, Diagnostics: text}))
}

// trusts reports whether a peer is a proxy that says where requests come from.
func (p *proxy) trusts(peer string) bool {
	at, err := netip.ParseAddrPort(peer)
	if err != nil {
		return false
	}
	address := at.Addr().Unmap().WithZone("")
	return slices.ContainsFunc(p.trusted, func(t netip.Prefix) bool { return t.Contains(address) })
}

// spoofable reports whether a header, in any spelling, claims to come from a
// proxy, or hides another method or path than the request has.
func spoofable(name string) bool {
	if name == "" || !strings.ContainsRune("fFvVxX", rune(name[0])) {
		return false // so for most; what follows costs memory
	}
	name = strings.ToLower(strings.ReplaceAll(name, "_", "-"))
	switch name {
	case "forwarded", "via", "x-real-ip", "x-http-method", "x-http-method-override", "x-method-override",
		"x-original-url", "x-original-uri", "x-original-host", "x-rewrite-url":
		return true
	}
	return strings.HasPrefix(name, "x-forwarded-")
}

func hasToken(values []string, token string) bool {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}
