package config

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"time"

	"spillway/auth"
	"spillway/auth/token"
)

// The values of auth.mode.
const (
	ModeNone          = "none"
	ModeJWT           = "jwt"
	ModeIntrospection = "introspection"
	ModeBuiltin       = "builtin"
	ModeMTLS          = "mtls"
)

// The values of upstream.auth.mode; ModeNone and ModeMTLS are others.
const (
	ModeHeader        = "header"
	ModeBasic         = "basic"
	ModePrivateKeyJWT = "private_key_jwt"
)

// Auth is who may export. Of the sections only that of Mode has been set.
type Auth struct {
	Mode           string
	AllowAnonymous bool // none on an address that others can reach
	AllowPlainHTTP bool // clients may reach us by plain HTTP from other machines

	JWT           JWT
	Introspection Introspection
	Builtin       Builtin
	MTLS          MTLS

	// Groups and Clients restrict whom an issuer vouches for (jwt and
	// introspection). Groups are those of clients that are not listed.
	Groups  auth.Groups
	Clients []*Client
	// Unchecked lets scopes count whose queries the upstream alone enforces.
	Unchecked bool
}

// Enforces reports whether clients are authenticated.
func (a *Auth) Enforces() bool { return a.Mode != ModeNone }

// JWT is the issuer of signed tokens. Fields as in bearer.JWTConfig.
type JWT struct {
	Issuer                    string
	Audiences                 []string
	JWKSURL                   string // "": discovered
	TokenURL                  string // "": discovered, or not known
	Algorithms                []token.Algorithm
	ClientClaims, ScopeClaims []string
	Skew, MaxAge              time.Duration // MaxAge 0: none
	Interval, MaxStale        time.Duration
	CAFile                    string
}

// Introspection is whom each token is shown to. One of Secret and Key is set.
type Introspection struct {
	Endpoint         string
	Issuer           string
	Audiences        []string
	TokenURL         string // "": not known
	ClientID, Secret string
	Key              *token.SigningKey
	KeyAudience      string // aud of our assertions; "": Endpoint
	TTL, NegativeTTL time.Duration
	CAFile           string

	secretFile, keyFile string
}

// Builtin is our own authorisation server.
type Builtin struct {
	TokenURLAliases []string
	Keys            []*token.SigningKey // none: one of this process
	TTL, Skew       time.Duration
	PlainJWKS       bool // clients' keys may be at http addresses
	PrivateJWKS     bool // and at addresses of private networks
	CAFile          string
	Clients         []*Client

	keyFiles []string
}

// MTLS is clients that are known by their certificates.
type MTLS struct{ Clients []*Client }

// A Client is one that the configuration knows. Which fields can be set depends
// on the mode.
type Client struct {
	ID       string
	Purpose  string // of its exports, for the audit
	Disabled bool
	Groups   auth.Groups
	Scopes   string // builtin and mtls

	JWKSURL string // builtin: this or JWKS
	JWKS    []byte

	Fingerprint, Subject, DNS, URI, Email string // mtls

	section  string // auth.builtin.clients[0]
	jwksFile string
}

// Limits are what one client may ask for. 0: without limit.
type Limits struct {
	KickOffs, Polls, Downloads, Tokens int // a minute
	Unfinished                         int // exports that have not ended
}

// Audit is where the record of who got what goes.
type Audit struct {
	File   string // "": not to a file
	Stdout bool
	Key    []byte // of the hashes; nil: none
	Deny   bool   // what cannot be recorded must not happen

	sinks            []string
	path             string
	keyFile, failure string
}

// On reports whether there is a record.
func (a *Audit) On() bool { return a.File != "" || a.Stdout }

// UpstreamAuth is our own credential for the upstream.
type UpstreamAuth struct {
	Mode                    string
	HeaderName, HeaderValue string
	User, Password          string
	TokenURL                string // "": discovered at the upstream
	ClientID                string
	Key                     *token.SigningKey
	Scope                   string
	Audience                string // "": the token endpoint
	KeySetURL               string // jku; "": not stated
	CAFile                  string // for the token endpoint; "": that of the upstream
	AllowPlainHTTP          bool
	// PassThrough adds the credential to what goes through, in place of the
	// caller's.
	PassThrough bool

	valueFile, passwordFile, keyFile, keyID string
	algorithm                               token.Algorithm
	passThrough                             string
}

// TLS is how the upstream is connected to. Empty fields: as usual.
type TLS struct{ CAFile, CertFile, KeyFile, ServerName string }

// ServerLimits bound what the public listener takes.
type ServerLimits struct {
	HeaderBytes int64
	BodyBytes   int64 // of what goes through; 0: any
	Connections int
	// ReadHeader is how long the headers of a request may take, and Idle how
	// long a connection may stay open without one. Stall is how long a client
	// may take nothing of an answer, or send nothing of a body.
	ReadHeader, Idle, Stall time.Duration
}

// Everybody returns all clients that the configuration knows, of whatever mode.
func (a *Auth) Everybody() []*Client {
	return slices.Concat(a.Builtin.Clients, a.MTLS.Clients, a.Clients)
}

// Digest stands for the configuration in effect, secrets left out.
func (c *Config) Digest() string {
	sum := sha256.Sum256([]byte(c.String()))
	return hex.EncodeToString(sum[:])
}

// WithClients returns c with the clients and their rights of o in place.
func (c *Config) WithClients(o *Config) *Config {
	mixed := *c
	mixed.Auth.Builtin.Clients, mixed.Auth.MTLS.Clients = o.Auth.Builtin.Clients, o.Auth.MTLS.Clients
	mixed.Auth.Groups, mixed.Auth.Clients = o.Auth.Groups, o.Auth.Clients
	mixed.keys = slices.Clone(c.keys)
	for i, k := range mixed.keys {
		if j := slices.IndexFunc(o.keys, func(other key) bool { return other.name == k.name }); j >= 0 && reloadable(k.name) {
			mixed.keys[i] = o.keys[j]
		}
	}
	return &mixed
}

// reloadable are the sections that take effect without a restart.
func reloadable(key string) bool {
	for _, section := range []string{KeyBuiltinClients, KeyMTLSClients, KeyClients, "authorization.groups"} {
		if strings.HasPrefix(key, section) {
			return true
		}
	}
	return false
}

// Differences returns the names of the keys that differ in o: those that can
// take effect at once, and those that need a restart. That one secret took the
// place of another is not seen.
func (c *Config) Differences(o *Config) (live, restart []string) {
	values := func(c *Config) map[string]string {
		all := make(map[string]string)
		for _, k := range c.everyKey() {
			all[k.name] = k.show()
		}
		return all
	}
	before, after := values(c), values(o)
	differ := func(name string) {
		if reloadable(name) {
			live = append(live, name)
		} else {
			restart = append(restart, name)
		}
	}
	for name, v := range before {
		if w, ok := after[name]; !ok || v != w {
			differ(name)
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			differ(name)
		}
	}
	slices.Sort(live)
	slices.Sort(restart)
	return live, restart
}

func showPrefixes(all []netip.Prefix) string {
	var texts []string
	for _, p := range all {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, ", ")
}
