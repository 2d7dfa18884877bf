package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/upstream/fhir"
	"spillway/upstream/profile"
)

// factsAge is how long what was learnt is believed.
const factsAge = 10 * time.Minute

const opMetadata = "GET /metadata"

// A Config says which server is behind us and how it is to be treated.
type Config struct {
	// URL is the FHIR base, http or https, without user, query or fragment. A
	// trailing slash makes no difference. It is the only field without a default.
	URL *url.URL
	// Aliases are other addresses of the same base, as the upstream may name
	// itself in next links. Links to them are rewritten to URL; requests are
	// never sent to them.
	Aliases []*url.URL
	// Header is sent with each of the client's requests and replaces what the
	// client would send under the same name. The pass-through never sees it.
	Header http.Header
	// TLS holds the authorities that the upstream is verified with, and our
	// certificate for it. Nil: those of the system, none.
	TLS *tls.Config
	// Wrap, if set, adds our credential to requests, on their way to the
	// transport that it is given. It reports a credential that cannot be had as a
	// *CredentialError.
	Wrap func(http.RoundTripper) (http.RoundTripper, error)
	// Timeout bounds the wait for a response's headers, and each wait for more
	// of its body. Zero means 60s.
	Timeout time.Duration
	// MaxConcurrency is how many requests may be under way at once at most, of
	// all processes that share the limit; see Share. Zero means 8.
	MaxConcurrency int
	// Hours are when requests may be sent. The zero value means always. What
	// Learn and Capabilities ask is little, and is asked at any time.
	Hours Hours
	// Share lets several processes keep to one limit and one Retry-After. It
	// reads the value that they share, lets update change it, and stores the
	// result if nobody has changed it meanwhile; else it begins again, so
	// update may be called more than once. old is nil if there is no value;
	// now is the clock of the store. Where update returns nil nothing is to be
	// stored. The value has a few kilobytes at most and should be kept for two
	// hours after its last change. Nil means that this process is alone. With
	// Share nothing is sent unless Run runs.
	Share func(ctx context.Context, update func(old []byte, now time.Time) []byte) error
	// Process names this process in the shared value; no other may have the
	// same name at the same time. Required with Share.
	Process string
	// PageSize is the _count that searches ask for. Zero means 1000.
	PageSize int
	// Profile is what is known of the server beside what Learn finds out. Nil: the
	// built-in profile that fits what the server says of itself.
	Profile *profile.Profile
	// MaxOutage is how long an upstream that answers nothing is waited for, once
	// it has answered at all. Zero means 5m.
	MaxOutage time.Duration
	// PageBytes limits one answer, inflated. Zero means 256 MiB.
	PageBytes int64
	// ResourceBytes limits one resource. Zero means 16 MiB.
	ResourceBytes int64
	// Version is told in the User-Agent header. Empty means "devel".
	Version string
	// Registerer takes the metrics; nil means that none are kept.
	Registerer prometheus.Registerer
	// Logger is told of retries. Nil means slog.Default().
	Logger *slog.Logger
	// Now is our wall clock, which the upstream's Date is compared with. Nil
	// means time.Now. Waits do not depend on it.
	Now func() time.Time
}

func (c Config) withDefaults() Config {
	c.Timeout = or(c.Timeout, 60*time.Second)
	c.MaxConcurrency = or(c.MaxConcurrency, 8)
	c.PageSize = or(c.PageSize, 1000)
	c.MaxOutage = or(c.MaxOutage, 5*time.Minute)
	c.PageBytes = or(c.PageBytes, 256<<20)
	c.ResourceBytes = or(c.ResourceBytes, 16<<20)
	if c.Version == "" {
		c.Version = "devel"
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

func or[T int | int64 | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

// A Client asks one upstream on behalf of exports. Its methods may be called
// concurrently; all of them share one limit of requests under way and one
// Retry-After. Any of them may fail with a *PauseError. A visit function that is given to a method must not call the
// client, since its request may hold a turn while it runs.
type Client struct {
	cfg       Config
	place     place
	transport *http.Transport
	sender    http.RoundTripper // transport, with our credential added
	governor  *governor
	pages     pageSizes
	vital     *vital
	metrics   clientMetrics
	log       *slog.Logger
	buffers   bodyPools
	scratch   sync.Pool // of *fhir.Scratch

	bareAccept   atomic.Bool  // the upstream refuses our Accept header
	unstrict     atomic.Bool  // it refuses Prefer: handling=strict
	pageSize     atomic.Int64 // the _count that it accepts; 0: Config.PageSize
	capabilities cell[fhir.Capabilities]
	facts        cell[Facts]
}

// New returns a client for c. It sends nothing yet. The error names the key of
// the configuration that is at fault, or a metric that cannot be registered.
func New(c Config) (*Client, error) {
	c = c.withDefaults()
	p, err := newPlace(c.URL, c.Aliases)
	if err != nil {
		return nil, err
	}
	if c.Share != nil && c.Process == "" {
		return nil, errors.New("upstream: a process that shares the limit must have a name")
	}
	m, err := newClientMetrics(c.Registerer)
	if err != nil {
		return nil, fmt.Errorf("upstream: metrics: %w", err)
	}
	transport := newTransport(p.base.Hostname(), c.TLS)
	sender, err := wrapped(c.Wrap, transport)
	if err != nil {
		return nil, err
	}
	vital := newVital()
	m.governor.pages(c.PageSize)
	return &Client{
		cfg:       c,
		place:     p,
		transport: transport,
		sender:    sender,
		governor:  newGovernor(c, vital, m.governor),
		vital:     vital,
		metrics:   m,
		log:       c.Logger,
	}, nil
}

// CloseIdleConnections drops the connections that no request uses. Without it
// they end by themselves after 25 seconds.
func (c *Client) CloseIdleConnections() { c.transport.CloseIdleConnections() }

// Capabilities returns the upstream's capability statement, at most 10 minutes
// old. Concurrent callers share one request. The result is not to be changed.
func (c *Client) Capabilities(ctx context.Context) (*fhir.Capabilities, error) {
	return c.capabilities.load(ctx, func(ctx context.Context) (*fhir.Capabilities, time.Duration, error) {
		caps, _, err := c.fetchCapabilities(ctx)
		return caps, factsAge, err
	})
}

// fetchCapabilities reads /metadata. The reply's body is spent.
func (c *Client) fetchCapabilities(ctx context.Context) (*fhir.Capabilities, *reply, error) {
	r := &request{
		kind: kindMetadata, op: opMetadata, method: http.MethodGet,
		url: c.place.base.JoinPath("metadata"), strikes: maxStrikes,
	}
	var caps *fhir.Capabilities
	var last *reply
	err := c.do(ctx, r, func(re *reply) error {
		var err error
		caps, err = fhir.ReadCapabilities(re.body)
		last = re
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return caps, last, nil
}

// Read returns one resource as the upstream sent it. The error wraps
// ErrNotFound or ErrGone if that is the answer.
func (c *Client) Read(ctx context.Context, typ, id string) ([]byte, error) {
	return c.read(ctx, typ, id)
}

// ReadVersion is Read of one version. The error wraps ErrGone if that version
// is a deletion.
func (c *Client) ReadVersion(ctx context.Context, typ, id, version string) ([]byte, error) {
	if !fhir.ValidID(version) {
		return nil, errors.New("upstream: read: no valid version")
	}
	return c.read(ctx, typ, id, "_history", version)
}

// read reads the resource at the path below that of typ and id.
func (c *Client) read(ctx context.Context, typ, id string, path ...string) ([]byte, error) {
	if !typeName(typ) || !fhir.ValidID(id) {
		return nil, errors.New("upstream: read: no valid resource type and id")
	}
	r := &request{
		kind: kindRead, op: "read " + typ, method: http.MethodGet,
		url: c.place.base.JoinPath(append([]string{typ, id}, path...)...), strikes: maxStrikes,
	}
	var resource []byte
	err := c.do(ctx, r, func(re *reply) error {
		re.body.limit = c.cfg.ResourceBytes // there is nothing around the resource
		b, h, err := fhir.ReadResource(re.body, c.limits())
		if err != nil {
			return err
		}
		if h.Type != typ || h.ID != id {
			return &RequestError{Op: r.op, Status: http.StatusOK, Kind: KindMalformed,
				Err: errors.New("another resource came than was asked for")}
		}
		resource = b
		return nil
	})
	var failed *RequestError
	if errors.As(err, &failed) && failed.Err == nil {
		switch failed.Status {
		case http.StatusNotFound:
			failed.Err = ErrNotFound
		case http.StatusGone:
			failed.Err = ErrGone
		}
	}
	if err != nil {
		return nil, err
	}
	return resource, nil
}

// limits are those of every body that is read.
func (c *Client) limits() fhir.ScanLimits {
	return fhir.ScanLimits{ResourceBytes: c.cfg.ResourceBytes, PageBytes: c.cfg.PageBytes}
}

// typeName reports whether s looks like a resource type, so that it may stand
// in a path.
func typeName(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i] | 0x20; c < 'a' || c > 'z' {
			return false
		}
	}
	return true
}
