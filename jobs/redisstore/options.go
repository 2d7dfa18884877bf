package redisstore

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"spillway/jobs"
)

const defaultPrefix = "spillway"

// Options say which Redis, and how to reach it.
type Options struct {
	// URL is redis://HOST:PORT/DB, rediss:// (the same over TLS) or
	// unix:///PATH?db=DB, each with an optional USER:PASSWORD@. With
	// ?addr=HOST:PORT, once or more often, for further nodes it is a Redis
	// Cluster; with ?master_name=NAME the addresses are those of Sentinels, who
	// are asked where that master is. sentinel_username and sentinel_password
	// are for the Sentinels themselves.
	URL string
	// Username and Password are used instead of those in the URL. Empty: those
	// of the URL, if any.
	Username, Password string
	// KeyPrefix begins all keys. Empty: spillway. Stores with different
	// prefixes do not see each other.
	KeyPrefix string
	// CAFile holds the certificates that the server's must go back to; empty:
	// those of the system. CertFile and KeyFile are the client's; empty: none.
	CAFile, CertFile, KeyFile string
	// AllowInsecure permits plain text without authentication to an address
	// that is not of this machine.
	AllowInsecure bool
	Limits        jobs.Limits
	// RecordKey authenticates the records, so that who can write to Redis
	// cannot change what an export may read, whose it is and which bytes are its
	// files. All processes of a store need the same; MinRecordKey bytes at least.
	// Nil: records are taken as they are.
	RecordKey []byte
	// Shift is added to the server's clock, for tests. Nil: 0.
	Shift func() time.Duration
	// Logger takes what go-redis says, at debug level. That has one for the
	// whole process: the one of the latest Open. Nil: slog.Default.
	Logger *slog.Logger
}

// An address is a URL, understood.
type address struct {
	network            string // tcp or unix
	hosts              []string
	cluster            bool
	master             string // name that the Sentinels at hosts know it by
	db                 int
	tls                bool
	username, password string
	sentinelUsername   string
	sentinelPassword   string
	prefix             string // "{prefix}:"
}

// ParseURL says what is wrong with the URL of a Redis, without connecting. It
// never shows a password.
func ParseURL(s string) error {
	_, err := parse(s)
	return err
}

func parse(s string) (*address, error) {
	u, err := url.Parse(s)
	if err != nil { // which would show it, and a password with it
		return nil, errors.New("not a URL; write redis://HOST:PORT/DB, rediss://… for TLS, or unix:///PATH (%-encode special characters in a password)")
	}
	a := &address{network: "tcp", username: u.User.Username()}
	a.password, _ = u.User.Password()
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("what follows the ? is malformed")
	}
	db := strings.TrimPrefix(u.Path, "/")
	switch u.Scheme {
	case "redis", "rediss":
		a.tls = u.Scheme == "rediss"
		if u.Host == "" {
			return nil, fmt.Errorf("names no host; write %s://HOST:PORT/DB", u.Scheme)
		}
		a.hosts = append(a.hosts, net.JoinHostPort(cmp.Or(u.Hostname(), "localhost"), cmp.Or(u.Port(), "6379")))
	case "unix":
		a.network, a.hosts = "unix", []string{u.Path}
		db = query.Get("db")
		if u.Host != "" || u.Path == "" {
			return nil, errors.New("names no socket; write unix:///PATH, with three slashes")
		}
	default:
		return nil, fmt.Errorf("unknown scheme %q; write redis://HOST:PORT/DB, rediss://… for TLS, or unix:///PATH", u.Scheme)
	}
	if db != "" {
		if a.db, err = strconv.Atoi(db); err != nil || a.db < 0 {
			return nil, fmt.Errorf("the database must be a number such as 0, not %q", db)
		}
	}
	for name, values := range query {
		switch {
		case name == "addr" && a.network == "tcp":
			for _, v := range values {
				host, port, err := net.SplitHostPort(v)
				if err != nil || host == "" || port == "" {
					return nil, fmt.Errorf("addr=%s: write HOST:PORT", v)
				}
				a.hosts = append(a.hosts, v)
			}
		case name == "master_name" && a.network == "tcp":
			a.master = query.Get(name)
		case name == "sentinel_username":
			a.sentinelUsername = query.Get(name)
		case name == "sentinel_password":
			a.sentinelPassword = query.Get(name)
		case name == "db" && a.network == "unix":
		default:
			return nil, fmt.Errorf("unknown parameter %q; known are addr (of a further node of a Redis Cluster, or Sentinel), master_name (for Sentinel), sentinel_username, sentinel_password, and db with unix://", name)
		}
	}
	a.cluster = a.master == "" && len(a.hosts) > 1
	if a.cluster && a.db != 0 {
		return nil, errors.New("a Redis Cluster has the database 0 only; leave it out")
	}
	return a, nil
}

// remote returns an address that is not of this machine, or "".
func (a *address) remote() string {
	if a.network == "unix" {
		return ""
	}
	for _, h := range a.hosts {
		host, _, _ := net.SplitHostPort(h)
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return h
		}
	}
	return ""
}

// tlsConfig reads the files of o. It returns nil where there is no TLS.
func (a *address) tlsConfig(o Options) (*tls.Config, error) {
	if !a.tls {
		if o.CAFile != "" || o.CertFile != "" || o.KeyFile != "" {
			return nil, errors.New("there are TLS files, but the URL begins with redis:// or unix://; write rediss:// to use TLS")
		}
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("the CA file cannot be read: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", o.CAFile)
		}
	}
	if o.CertFile != "" || o.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("the client certificate and its key cannot be read: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// connect returns a connection with room for some exchanges at once. It does
// not dial yet. Repeating is left to Store.do, which knows what may be repeated.
func (a *address) connect(t *tls.Config, poolSize int) *connection {
	c := redis.Options{
		Network: a.network, Addr: a.hosts[0], DB: a.db, Username: a.username, Password: a.password, TLSConfig: t,
		MaxRetries: -1, DialerRetries: 1, DialTimeout: time.Second, ReadTimeout: callTimeout, WriteTimeout: callTimeout,
		ContextTimeoutEnabled: true, PoolSize: poolSize, PoolTimeout: callTimeout, PipelinePoolSize: -1,
		DisableIdentity: true, MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	switch {
	case a.cluster:
		return &connection{cluster: redis.NewClusterClient(&redis.ClusterOptions{
			Addrs: a.hosts, Username: c.Username, Password: c.Password, TLSConfig: t,
			MaxRedirects: -1, MaxRetries: c.MaxRetries, DialerRetries: c.DialerRetries, DialTimeout: c.DialTimeout,
			ReadTimeout: c.ReadTimeout, WriteTimeout: c.WriteTimeout, ContextTimeoutEnabled: true,
			PoolSize: poolSize, PoolTimeout: c.PoolTimeout, PipelinePoolSize: -1,
			DisableIdentity: true, MaintNotificationsConfig: c.MaintNotificationsConfig,
		})}
	case a.master != "":
		return &connection{single: redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: a.master, SentinelAddrs: a.hosts, SentinelUsername: a.sentinelUsername, SentinelPassword: a.sentinelPassword,
			DB: a.db, Username: c.Username, Password: c.Password, TLSConfig: t,
			MaxRetries: c.MaxRetries, DialerRetries: c.DialerRetries, DialTimeout: c.DialTimeout,
			ReadTimeout: c.ReadTimeout, WriteTimeout: c.WriteTimeout, ContextTimeoutEnabled: true,
			PoolSize: poolSize, PoolTimeout: c.PoolTimeout, PipelinePoolSize: -1, DisableIdentity: true,
		})}
	}
	return &connection{single: redis.NewClient(&c)}
}
