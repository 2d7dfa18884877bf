package config

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"spillway/jobs/export"
	"spillway/jobs/redisstore"
	"spillway/storage/bucket"
	"spillway/upstream/profile"
)

// A key is one thing that can be configured. Exactly one of scalar, list,
// headers, json and records is set; each stores what it is given, or says what is
// wrong with it.
type key struct {
	name    string // section.key
	scalar  func(value string) error
	list    func(values []string) error
	headers func(pairs []pair) error
	json    func(text []byte) error // a JSON document, as a text or as YAML
	records *records
	show    func() string           // the value in effect, without secrets
	secret  func(value string) bool // whether a value holds one; nil: never
}

// A pair is one header, its value read from wherever it stands.
type pair struct{ name, value string }

// keysOf returns every key, bound to the fields of c.
func keysOf(c *Config) []key {
	return slices.Concat(coreKeys(c), authKeys(c))
}

// coreKeys are all but those of authkeys.go.
func coreKeys(c *Config) []key {
	u, s, e := &c.Upstream, &c.Server, &c.Export
	r, b := &c.Store.Redis, &c.Storage.Bucket
	return []key{
		address(KeyURL, &u.URL),
		addresses("upstream.url_aliases", &u.Aliases),
		headers(KeyHeaders, u.Header),
		profiled(KeyProfile, u),
		duration(KeySettle, &u.Settle, 0, time.Hour),
		duration(KeyTimeout, &u.Timeout, 100*time.Millisecond, time.Hour),
		number(KeyConcurrency, &u.MaxConcurrency, 1, 256),
		number(KeyPageSize, &u.PageSize, 1, 100_000),
		duration("upstream.max_outage", &u.MaxOutage, time.Second, 24*time.Hour),
		text(KeyHours, &u.HoursText),
		text(KeyTimeZone, &u.TimeZone),
		size("upstream.page_bytes", &u.PageBytes, 1<<20, 16<<30),
		size("upstream.resource_bytes", &u.ResourceBytes, 64<<10, 1<<30),

		listen(KeyListen, &s.Listen),
		listen(KeyAdminListen, &s.AdminListen),
		optional(address("server.public_url", &s.PublicURL)),
		text("server.tls.cert_file", &s.CertFile),
		text("server.tls.key_file", &s.KeyFile),
		flag("server.require_accept", &s.RequireAccept),
		flag("server.require_prefer_async", &s.RequirePreferAsync),
		duration(KeyDrain, &s.Drain, 0, 10*time.Minute),
		duration(KeyShutdownGrace, &s.ShutdownGrace, time.Second, time.Hour),

		number("export.window", &e.Window, 1, 10_000_000),
		size("export.file_size", &e.FileSize, 1<<10, 1<<40),
		duration("export.retention", &e.Retention, time.Second, 5*365*24*time.Hour),
		number("export.max_active", &e.MaxActive, 1, 1000),
		number(KeyPerClient, &e.MaxActivePerClient, 0, 1000),
		number("export.workers", &e.Workers, 0, 1000),
		choice("export.cohorts", &e.Cohorts, []string{string(export.CohortsAuto), string(export.CohortsBatches), string(export.CohortsScan)}, nil),
		among(KeyReferenced, &e.Referenced, export.ReferencedTypes()),
		flag(KeyNewMembers, &e.SinceNewMembers),

		path(KeyBoltPath, &c.Store.BoltPath),
		service(KeyRedisURL, &r.URL, redisstore.ParseURL),
		text("store.redis.username", &r.Username),
		secret("store.redis.password", &r.Password),
		text("store.redis.password_file", &r.passwordFile),
		text("store.redis.record_key_file", &r.recordKeyFile),
		parsed(KeyRedisPrefix, &r.KeyPrefix, parseKeyPrefix, func(v string) string { return v }),
		text("store.redis.ca_file", &r.CAFile),
		text("store.redis.cert_file", &r.CertFile),
		text("store.redis.key_file", &r.KeyFile),
		flag("store.redis.allow_insecure", &r.AllowInsecure),
		path(KeyDiskPath, &c.Storage.DiskPath),
		size(KeyMinFree, &c.Storage.MinFree, 0, 1<<50),
		service(KeyBucketURL, &b.URL, bucket.ParseURL),
		parsed(KeyPresign, &b.Presign, parsePresign, time.Duration.String),

		choice("log.level", &c.Log.Level, []string{"debug", "info", "warn", "error"}, nil),
		choice("log.format", &c.Log.Format, []string{"text", "json"}, nil),
	}
}

// profiled is the key that names the profile of the upstream.
func profiled(name string, u *Upstream) key {
	k := text(name, &u.ProfileName)
	k.scalar = func(v string) error {
		u.ProfileName, u.Profile = v, nil
		if v == "auto" {
			return nil
		}
		var err error
		u.Profile, err = profile.Named(v)
		if err != nil {
			return fmt.Errorf("%q: %w", v, err)
		}
		return nil
	}
	return k
}

func text(name string, p *string) key {
	return key{name: name, scalar: func(v string) error { *p = v; return nil }, show: func() string { return *p }}
}

// secret is a key whose value is not shown.
func secret(name string, p *string) key {
	k := text(name, p)
	k.secret = func(v string) bool { return v != "" }
	k.show = func() string {
		if *p == "" {
			return ""
		}
		return "(set)"
	}
	return k
}

// service is the address of something that we connect to. check says what is
// wrong with it, without quoting it.
func service(name string, p *string, check func(string) error) key {
	return key{
		name: name,
		scalar: func(v string) error {
			if v == "" {
				return nil
			}
			if err := check(v); err != nil {
				return err
			}
			*p = v
			return nil
		},
		show: func() string { return Redacted(*p) },
		secret: func(v string) bool {
			u, err := url.Parse(v)
			if err != nil {
				return false
			}
			_, set := u.User.Password()
			return set
		},
	}
}

func path(name string, p *string) key {
	k := text(name, p)
	k.scalar = func(v string) error {
		if v == "" || strings.ContainsRune(v, 0) {
			return fmt.Errorf("%q is no path", v)
		}
		*p = v
		return nil
	}
	return k
}

func flag(name string, p *bool) key {
	return parsed(name, p, parseBool, func(v bool) string { return fmt.Sprint(v) })
}

func listen(name string, p *string) key {
	return parsed(name, p, parseListen, func(v string) string { return v })
}

func address(name string, p **url.URL) key {
	return parsed(name, p, parseBase, func(v *url.URL) string {
		if v == nil {
			return ""
		}
		return v.Redacted()
	})
}

// optional lets an empty value stand for the default.
func optional(k key) key {
	read := k.scalar
	k.scalar = func(v string) error {
		if v == "" {
			return nil
		}
		return read(v)
	}
	return k
}

func duration(name string, p *time.Duration, least, most time.Duration) key {
	return parsed(name, p, within(parseDuration, least, most, time.Duration.String), time.Duration.String)
}

func size(name string, p *int64, least, most int64) key {
	return parsed(name, p, within(parseSize, least, most, formatSize), formatSize)
}

func number[T int | int64](name string, p *T, least, most T) key {
	show := func(v T) string { return fmt.Sprint(v) }
	read := func(s string) (T, error) {
		var v T
		// Sscanf alone would stop at the first character that is no digit.
		if n, err := fmt.Sscanf(s, "%d", &v); n != 1 || err != nil || fmt.Sprint(v) != strings.TrimPrefix(s, "+") {
			return 0, fmt.Errorf("%q is no whole number", s)
		}
		return v, nil
	}
	return parsed(name, p, within(read, least, most, show), show)
}

// parsed is a key whose text read turns into a value.
func parsed[T any](name string, p *T, read func(string) (T, error), show func(T) string) key {
	return key{
		name: name,
		scalar: func(text string) error {
			v, err := read(text)
			if err == nil {
				*p = v
			}
			return err
		},
		show: func() string { return show(*p) },
	}
}

// within adds bounds to a reader of values.
func within[T int | int64 | time.Duration](read func(string) (T, error), least, most T, show func(T) string) func(string) (T, error) {
	return func(s string) (T, error) {
		v, err := read(s)
		if err != nil {
			return 0, err
		}
		if v < least || v > most {
			return 0, fmt.Errorf("%s is out of range; allowed is %s to %s", s, show(least), show(most))
		}
		return v, nil
	}
}

// choice is a key with few values. Those in later are understood, but not by
// this version.
func choice(name string, p *string, allowed, later []string) key {
	k := text(name, p)
	k.scalar = func(v string) error {
		switch {
		case slices.Contains(allowed, v):
			*p = v
			return nil
		case slices.Contains(later, v):
			return fmt.Errorf("%q is not available in this version; only %s is", v, strings.Join(allowed, ", "))
		}
		return fmt.Errorf("%q is not allowed here; want %s", v, strings.Join(allowed, ", "))
	}
	return k
}

// among is a list of some of the allowed words; "all" stands for all of them,
// "none" for the empty list.
func among(name string, p *[]string, allowed []string) key {
	k := words(name, p)
	k.list = func(values []string) error {
		switch {
		case slices.Equal(values, []string{"all"}):
			values = allowed
		case slices.Equal(values, []string{"none"}):
			values = nil
		}
		for _, v := range values {
			if !slices.Contains(allowed, v) {
				return fmt.Errorf("%q is not allowed here; want some of %s, or all, or none", v, strings.Join(allowed, ", "))
			}
		}
		*p = values
		return nil
	}
	return k
}

func addresses(name string, p *[]*url.URL) key {
	return key{
		name: name,
		list: func(values []string) error {
			var all []*url.URL
			for _, v := range values {
				u, err := parseBase(v)
				if err != nil {
					return fmt.Errorf("%q %w", v, err)
				}
				all = append(all, u)
			}
			*p = all
			return nil
		},
		show: func() string {
			var all []string
			for _, u := range *p {
				all = append(all, u.Redacted())
			}
			return strings.Join(all, ", ")
		},
	}
}

func headers(name string, h http.Header) key {
	return key{
		name: name,
		headers: func(pairs []pair) error {
			for _, p := range pairs {
				if err := checkHeader(p.name, p.value); err != nil {
					return err
				}
			}
			for _, p := range pairs {
				h.Set(p.name, p.value)
			}
			return nil
		},
		show: func() string {
			var all []string
			for _, k := range slices.Sorted(maps.Keys(h)) {
				all = append(all, k+": (set)")
			}
			return strings.Join(all, ", ")
		},
	}
}
