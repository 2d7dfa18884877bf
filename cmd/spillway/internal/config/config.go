package config

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"spillway/auth/token"
	"spillway/jobs/export"
	"spillway/upstream"
	"spillway/upstream/profile"
)

// Config is a valid configuration. Sizes are bytes, paths are relative to the
// working directory.
type Config struct {
	Upstream Upstream
	Server   Server
	Export   Export
	Store    Store
	Storage  Storage
	Auth     Auth
	Limits   Limits
	Audit    Audit
	Log      Log

	// Warnings are sentences for the log: what is allowed but seldom wanted.
	Warnings []string

	keys []key
}

// Upstream is the FHIR server behind the gateway.
type Upstream struct {
	URL         *url.URL    // FHIR base; never nil
	Aliases     []*url.URL  // other addresses by which it names itself
	Header      http.Header // sent with the export's own requests only; holds secrets
	ProfileName string      // "auto", the name of a built-in profile or the path of one
	// Profile is what is known of such servers; nil: chosen by what it says of itself.
	Profile        *profile.Profile
	Settle         time.Duration  // how late the upstream may show what it has stamped; may be 0
	SettleSet      bool           // Settle was configured; else the profile's counts
	Timeout        time.Duration  // of one request
	MaxConcurrency int            // requests at once
	PageSize       int            // resources asked for at once
	MaxOutage      time.Duration  // how long an upstream that answers nothing is waited for
	Hours          upstream.Hours // when exports may send requests; zero: always
	HoursText      string         // Hours as written
	TimeZone       string         // in which Hours are meant, such as Europe/Berlin
	PageBytes      int64          // largest page that is read
	ResourceBytes  int64          // largest resource that is read
	Auth           UpstreamAuth   // our credential
	TLS            TLS
}

// Server is the two listeners.
type Server struct {
	Listen      string // host:port
	AdminListen string // host:port; metrics, health, profiling
	// PublicURL is the FHIR base as clients see it. Nil: the address that was
	// listened on and the path of the upstream; see Config.PublicURL.
	PublicURL          *url.URL
	CertFile, KeyFile  string // both or none
	RequireAccept      bool
	RequirePreferAsync bool
	Drain              time.Duration // how long requests are still taken after a SIGTERM
	ShutdownGrace      time.Duration // how long downloads may go on after that
	MinVersion         string        // of TLS: 1.2 or 1.3
	ClientCAFile       string        // "": certificates of clients are not verified
	// TrustedProxies are those whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
	Limits         ServerLimits
}

// Export is how exports are performed.
type Export struct {
	Window    int64         // resources that a window should hold at most
	FileSize  int64         // uncompressed size at which a file is closed
	Retention time.Duration // how long an ended export and its files are kept
	MaxActive int           // exports running at once
	// MaxActivePerClient is how many of one client run at once; 0: no limit of
	// its own.
	MaxActivePerClient int
	Workers            int // units of work at once; never 0
	// Cohorts is how what belongs to certain patients is found.
	Cohorts string
	// Referenced are the types that exports of Groups hold where what they
	// export refers to them. SinceNewMembers lets an export of a Group with
	// _since hold the older data of those who joined it since.
	Referenced      []string
	SinceNewMembers bool
}

// Store is where jobs are recorded: in Redis if it has a URL, or else in a file.
type Store struct {
	BoltPath string
	Redis    Redis
}

// Redis is a store that many processes share.
type Redis struct {
	URL                string // "": none; may hold a password
	Username, Password string // instead of those in URL; empty: the URL's
	KeyPrefix          string
	CAFile             string // "": those of the system
	CertFile, KeyFile  string // of the client; both or none
	AllowInsecure      bool   // plain text without authentication off loopback

	// RecordKey authenticates records, the same for all processes. Nil: none does.
	RecordKey []byte

	passwordFile, recordKeyFile string // read by Load
}

// Storage is where files are kept: in a bucket if it has a URL, or else in a folder.
type Storage struct {
	DiskPath string
	MinFree  int64 // free space below which nothing new is written
	Packed   bool  // on disk segments lie one after another in few files
	Bucket   Bucket
}

// Bucket is object storage.
type Bucket struct {
	URL     string        // "": none
	Presign time.Duration // how long links to files hold; 0: files go through the gateway
}

// Log is what is said of the run, and how.
type Log struct {
	Level  string // debug, info, warn, error
	Format string // text, json
}

// Key names that other packages mention.
const (
	KeyURL           = "upstream.url"
	KeyHeaders       = "upstream.headers"
	KeyProfile       = "upstream.profile"
	KeySettle        = "upstream.settle"
	KeyTimeout       = "upstream.timeout"
	KeyConcurrency   = "upstream.max_concurrency"
	KeyPageSize      = "upstream.page_size"
	KeyReferenced    = "export.referenced"
	KeyNewMembers    = "export.since_new_members"
	KeyHours         = "upstream.hours"
	KeyTimeZone      = "upstream.time_zone"
	KeyListen        = "server.listen"
	KeyAdminListen   = "server.admin_listen"
	KeyDrain         = "server.drain"
	KeyShutdownGrace = "server.shutdown_grace"
	KeyPerClient     = "export.max_active_per_client"
	KeyBoltPath      = "store.bolt.path"
	KeyRedisURL      = "store.redis.url"
	KeyRedisPrefix   = "store.redis.key_prefix"
	KeyDiskPath      = "storage.disk.path"
	KeyMinFree       = "storage.disk.min_free"
	KeyBucketURL     = "storage.bucket.url"
	KeyPresign       = "storage.bucket.presign"
)

func defaults() *Config {
	return &Config{
		Upstream: Upstream{
			Header: http.Header{}, ProfileName: "auto", Settle: 5 * time.Second, Timeout: time.Minute,
			MaxConcurrency: 8, PageSize: 1000, MaxOutage: 5 * time.Minute, TimeZone: "UTC",
			PageBytes: 256 << 20, ResourceBytes: 16 << 20,
			Auth: UpstreamAuth{Mode: ModeNone, Scope: "system/*.rs", passThrough: "caller"},
		},
		Server: Server{
			Listen: "127.0.0.1:8088", AdminListen: "127.0.0.1:8089",
			RequireAccept: true, RequirePreferAsync: true,
			Drain: 3 * time.Second, ShutdownGrace: 30 * time.Second, MinVersion: "1.2",
			Limits: ServerLimits{
				HeaderBytes: 32 << 10, Connections: 10_000, ReadHeader: 10 * time.Second, Idle: 2 * time.Minute, Stall: 2 * time.Minute,
			},
		},
		Export:  Export{Window: 10_000, FileSize: 1 << 30, Retention: 24 * time.Hour, MaxActive: 4, Cohorts: string(export.CohortsAuto), Referenced: export.ReferencedTypes()},
		Store:   Store{BoltPath: "spillway-data/jobs.db", Redis: Redis{KeyPrefix: "spillway"}},
		Storage: Storage{DiskPath: "spillway-data/files", MinFree: 1 << 30},
		Auth: Auth{
			Mode: ModeNone,
			JWT: JWT{
				Algorithms:   []token.Algorithm{token.RS256, token.RS384, token.ES256, token.ES384},
				ClientClaims: []string{"client_id", "azp", "cid"}, ScopeClaims: []string{"scope", "scp"},
				Skew: 30 * time.Second, Interval: 30 * time.Second, MaxStale: time.Hour,
			},
			Introspection: Introspection{TTL: 30 * time.Second, NegativeTTL: 5 * time.Second},
			Builtin:       Builtin{TTL: 5 * time.Minute, Skew: 30 * time.Second},
		},
		Limits: Limits{KickOffs: 600, Polls: 6000, Downloads: 6000, Tokens: 1200, Unfinished: 100},
		Audit:  Audit{path: "spillway-data/audit.jsonl"},
		Log:    Log{Level: "info", Format: "text"},
	}
}

// PublicURL returns the FHIR base as clients see it, given the address that
// the public listener has.
func (c *Config) PublicURL(listening net.Addr) *url.URL {
	if c.Server.PublicURL != nil {
		return c.Server.PublicURL
	}
	u := &url.URL{Scheme: "http", Host: listening.String(), Path: c.Upstream.URL.Path, RawPath: c.Upstream.URL.RawPath}
	if c.Server.CertFile != "" {
		u.Scheme = "https"
	}
	// The name that the operator wrote is kept: "localhost" is not 127.0.0.1
	// to a certificate.
	if host, _, err := net.SplitHostPort(c.Server.Listen); err == nil {
		if _, port, err := net.SplitHostPort(listening.String()); err == nil {
			if host == "" {
				host = "localhost"
			}
			u.Host = net.JoinHostPort(host, port)
		}
	}
	return u
}

// String returns every key with its value in effect, one a line, secrets left out.
func (c *Config) String() string {
	var b strings.Builder
	for _, k := range c.everyKey() {
		fmt.Fprintf(&b, "%s: %s\n", k.name, k.show())
	}
	return b.String()
}
