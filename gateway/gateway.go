package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"

	"spillway/auth"
	"spillway/auth/audit"
	"spillway/auth/smart"
	"spillway/jobs"
	"spillway/storage"
	"spillway/upstream/fhir"
)

// Config is what a gateway is built from. PublicURL, Upstream, Jobs, Storage
// and Auth are required.
type Config struct {
	// PublicURL is the FHIR base as clients see it, without query and fragment,
	// such as http://127.0.0.1:8088/fhir. Only paths below its path are served.
	PublicURL *url.URL
	// Upstream answers all that is not ours.
	Upstream http.Handler
	// Capabilities returns what the upstream's statement says, for checking
	// types and search parameters. Nil: they are not checked.
	Capabilities func(ctx context.Context) (*fhir.Capabilities, error)
	// Referenced are types outside of the Patient compartment that exports of
	// Groups and patients can hold where what they export refers to them.
	Referenced []string
	// Group reads a Group of the upstream, for kick-offs. Nil, or an error: that
	// there is none, or none that may be read, is only found by the export.
	Group   func(ctx context.Context, id string) (resource []byte, found bool, err error)
	Jobs    jobs.Store
	Storage storage.Store
	Auth    auth.Authenticator

	// Links makes URLs of the files that were composed into one object, with
	// which clients fetch them from the storage itself. Nil: all go through
	// the gateway.
	Links storage.Linker
	// LinkTTL is how long such a URL holds. Zero is the same as no Links.
	LinkTTL time.Duration

	// Discovery serves our SMART configuration, below the FHIR base and below the
	// host. Nil: such requests are passed through.
	Discovery http.Handler
	// Token is the token endpoint, at TokenPath below the FHIR base. Nil: there
	// is none.
	Token http.Handler
	// TokenURL is where access tokens are fetched, for the capability statement.
	// Empty: the address of Token, if there is one.
	TokenURL string
	// KeySet serves the public keys by which the upstream knows us, at KeySetPath
	// below the FHIR base. Nil: there are none.
	KeySet http.Handler

	// Enabled reports whether a client, by its id, may still have exports. Those
	// of others end. Nil: every client may.
	Enabled func(client string) bool
	// Unchecked lets scopes count whose queries cannot be evaluated here, so that
	// the upstream alone enforces them.
	Unchecked bool
	// PassThroughGrant lets only those requests through that the grant of their
	// sender permits, and takes their Authorization away: Upstream adds a
	// credential of ours. Batches, transactions and operations are refused.
	PassThroughGrant bool

	// Audit keeps the record of who got what; it returns nil once an event is
	// kept. Nil: nobody does.
	Audit func(ctx context.Context, e audit.Event) error
	// AuditDeny refuses what cannot be recorded: kick-offs, manifests and files.
	AuditDeny bool
	// AuditDigest stands for lists that must not be in the record; it is
	// audit.Log.Digest. Nil: only their length is there.
	AuditDigest func(values ...string) string

	// Limits bound what one client may ask for.
	Limits Limits
	// TrustedProxies are those whose X-Forwarded-For is believed: it says whom
	// audit and limits are about. None: nobody's.
	TrustedProxies []netip.Prefix

	// RequireAccept refuses kick-offs whose Accept does not name
	// application/fhir+json.
	RequireAccept bool
	// RequirePreferAsync refuses kick-offs without Prefer: respond-async.
	RequirePreferAsync bool

	Now        func() time.Time      // nil: time.Now
	Registerer prometheus.Registerer // nil: no metrics
	Logger     *slog.Logger          // nil: no log
}

// server is the handler that New returns.
type server struct {
	Config
	site    site
	base    string // PublicURL without trailing slash
	router  http.Handler
	passOn  http.HandlerFunc
	logger  *slog.Logger
	now     func() time.Time
	metrics *metrics
	limits  *limits
	merged  mergeCache
}

// New returns the gateway as a handler, to be mounted at the root of its
// listener. It starts nothing.
func New(c Config) (http.Handler, error) {
	if c.PublicURL == nil || c.Upstream == nil || c.Jobs == nil || c.Storage == nil || c.Auth == nil {
		return nil, errors.New("gateway: PublicURL, Upstream, Jobs, Storage and Auth are required")
	}
	u := c.PublicURL
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Opaque != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("gateway: the public URL must be an absolute http or https URL without user, query and fragment")
	}
	path := strings.TrimRight(u.EscapedPath(), "/")
	if strings.ContainsAny(path, "{}%;\\") {
		return nil, errors.New("gateway: the path of the public URL must consist of plain characters")
	}
	s := &server{
		Config: c,
		site: site{
			host: u.Host, base: path,
			discovery: c.Discovery != nil, token: c.Token != nil, keySet: c.KeySet != nil,
		},
		base:    u.Scheme + "://" + u.Host + path,
		logger:  c.Logger,
		now:     c.Now,
		metrics: newMetrics(),
		limits:  newLimits(c.Limits),
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if err := s.metrics.register(c.Registerer); err != nil {
		return nil, fmt.Errorf("gateway: metrics: %w", err)
	}
	if c.Token != nil || c.Discovery != nil {
		s.merged.smart = &fhir.SMART{TokenURL: c.TokenURL}
		if c.TokenURL == "" && c.Token != nil {
			s.merged.smart.TokenURL = s.base + TokenPath
		}
	}
	s.router = s.routes()
	s.passOn = s.answer(s.passThrough)
	return s, nil
}

// The routes that are ours, below the public path, as metrics and logs show them.
const (
	routeSystemExport  = "/$export"
	routePatientExport = "/Patient/$export"
	routeGroupExport   = "/Group/{id}/$export"
	routeStatus        = "/$bulk-status/{id}"
	routeFile          = "/$bulk-files/{id}/{name}"
	routeMetadata      = "/metadata"
	routeDiscovery     = smart.Path
)

// routes maps canonical paths to handlers. Only what classify calls ours comes
// here, with a canonical path and a method that the route has.
func (s *server) routes() http.Handler {
	router := mux.NewRouter().SkipClean(true)
	handle := func(route string, h func(http.ResponseWriter, *http.Request) error) {
		router.Handle(s.site.base+route, s.answer(h))
	}
	handle(routeSystemExport, s.kickOffAt(jobs.LevelSystem))
	handle(routePatientExport, s.kickOffAt(jobs.LevelPatient))
	handle(routeGroupExport, s.kickOffAt(jobs.LevelGroup))
	handle(routeStatus, s.status)
	handle(routeFile, s.file)
	handle(routeMetadata, s.metadata)
	handle(routeDiscovery, s.discovery)
	router.Handle(routeDiscovery, s.answer(s.discovery))
	handle(TokenPath, serving(s.Token))
	handle(KeySetPath, serving(s.KeySet))
	router.NotFoundHandler = s.answer(func(http.ResponseWriter, *http.Request) error { return noSuchExport() })
	return router
}

// ServeHTTP classifies the request and has it answered.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v := s.site.classify(r.Method, r.URL)
	o := &observed{ResponseWriter: w, route: v.label()}
	defer s.observe(o, r, time.Now())
	switch v.kind {
	case passThrough:
		s.passOn(o, r)
	case ours:
		canonical := *r.URL
		canonical.Path, canonical.RawPath = v.path, ""
		clone := r.WithContext(r.Context())
		clone.URL = &canonical
		s.router.ServeHTTP(o, clone)
	default:
		s.writeProblem(o, r, v.problem)
	}
}

// statusURL is the address of an export's status. Only here it is built.
func (s *server) statusURL(id jobs.ID) string {
	return s.base + "/$bulk-status/" + string(id)
}

// fileURL is the address of a file of an export. Only here it is built.
func (s *server) fileURL(id jobs.ID, f jobs.File) string {
	return s.base + "/$bulk-files/" + string(id) + "/" + url.PathEscape(f.Name)
}
