package config

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // a container without a system has no time zones

	"spillway/jobs/redisstore"
	"spillway/upstream"
)

// A rule is what no single key can know.
type rule struct {
	bad  bool
	key  string // the key under which it is reported
	text string
}

// check reports what is wrong with the whole.
func (l *loader) check(in Input) {
	c := l.config
	if in.File == "" && in.URLFlag != "" {
		if _, set := l.places[KeyURL]; !set {
			l.places[KeyURL] = Problem{Source: in.URLFlag}
		}
	}
	for _, r := range []rule{
		{c.Upstream.URL == nil && !l.reported(KeyURL), KeyURL, "is required; write it such as https://fhir.example.org/fhir"},
		{c.Upstream.ResourceBytes > c.Upstream.PageBytes, "upstream.resource_bytes", "is larger than upstream.page_bytes, which holds the resource"},
	} {
		l.rule(r)
	}
	_, c.Upstream.SettleSet = l.places[KeySettle]
	r := &l.config.Store.Redis
	l.fromFile("store.redis.password_file", r.passwordFile, "store.redis.password", &r.Password)
	l.recordKey()
	l.hours()
	l.checkUpstreamAuth()
	if in.Serve {
		l.checkServe()
		l.checkAuth()
		l.checkAudit()
	}
}

// hours reads when exports may send requests, which takes two keys.
func (l *loader) hours() {
	u := &l.config.Upstream
	zone, err := time.LoadLocation(u.TimeZone)
	if err != nil || u.TimeZone == "" {
		l.add(l.place(KeyTimeZone), fmt.Sprintf("%q is no time zone; write it such as UTC, Europe/Berlin or Local", u.TimeZone))
		return
	}
	if u.Hours, err = upstream.ParseHours(u.HoursText, zone); err != nil {
		l.add(l.place(KeyHours), err.Error())
	}
}

func (l *loader) checkServe() {
	c := l.config
	s := &c.Server
	for _, r := range []rule{
		{
			s.Listen == s.AdminListen && !strings.HasSuffix(s.Listen, ":0"),
			KeyAdminListen, "is the address of server.listen; metrics and profiling need one of their own",
		},
		{(s.CertFile == "") != (s.KeyFile == ""), "server.tls", "needs both cert_file and key_file, or neither"},
		{
			(c.Store.Redis.CertFile == "") != (c.Store.Redis.KeyFile == ""), "store.redis",
			"needs both cert_file and key_file, or neither",
		},
		{
			c.Upstream.URL != nil && samePlace(c.Upstream.URL, s.Listen), KeyURL,
			"is the address of server.listen; the gateway would call itself",
		},
		{
			c.Store.Redis.URL == "" && c.Storage.Bucket.URL == "" && inside(c.Store.BoltPath, c.Storage.DiskPath), KeyBoltPath,
			"lies in storage.disk.path, which holds files of exports only",
		},
		{
			s.PublicURL != nil && strings.ContainsAny(s.PublicURL.EscapedPath(), "{}%;\\"), "server.public_url",
			"must have a path of plain characters",
		},
	} {
		l.rule(r)
	}
	l.checkOne("store.redis", "store.bolt", KeyRedisURL, c.Store.Redis.URL, "redis://localhost:6379/0")
	l.checkOne("storage.bucket", "storage.disk", KeyBucketURL, c.Storage.Bucket.URL, "s3://my-exports?region=eu-central-1")
	if c.Store.Redis.URL != "" && c.Storage.Bucket.URL == "" {
		l.warn(l.place(KeyRedisURL), "is used with storage.disk, so every process that uses this Redis needs the same folder at storage.disk.path; otherwise use storage.bucket")
	}
	if c.Store.Redis.URL != "" && s.PublicURL == nil {
		l.warn(l.place("server.public_url"), "is not set, so each process names its own address in its answers; replicas behind a load balancer must name that of the balancer")
	}
	if c.Export.MaxActivePerClient > 0 && !c.Auth.Enforces() {
		l.warn(l.place(KeyPerClient), "has no effect with auth.mode none, which does not tell clients apart")
	}
	if host, _, err := net.SplitHostPort(s.Listen); err == nil && s.PublicURL == nil {
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			l.warn(l.place(KeyListen), "stands for every address of this machine, so that links in answers may not work elsewhere; set server.public_url")
		}
	}
	if !loopback(s.AdminListen) {
		l.warn(l.place(KeyAdminListen), "can be reached from other machines; it serves metrics and profiling to everybody")
	}
}

// checkOne reports a choice that was made twice or not to its end: chosen is a
// section that takes the place of another, url the key of its address.
func (l *loader) checkOne(chosen, other, url, address, example string) {
	at, set := l.given(chosen)
	if !set {
		return
	}
	if address == "" && !l.reported(url) {
		at.Key = url
		l.add(at, "is required; write it such as "+example)
	}
	if _, both := l.given(other); both {
		at.Key = chosen
		l.add(at, "stands beside "+other+"; only one of them can be used, so remove the other")
	}
}

// given returns where a section, or the first key of it, was set.
func (l *loader) given(section string) (Problem, bool) {
	for _, k := range slices.Sorted(maps.Keys(l.places)) {
		if k == section || strings.HasPrefix(k, section+".") {
			return l.places[k], true
		}
	}
	return Problem{}, false
}

// recordKey reads the key that authenticates the records in Redis.
func (l *loader) recordKey() {
	const key = "store.redis.record_key_file"
	r := &l.config.Store.Redis
	if r.recordKeyFile == "" {
		return
	}
	text, err := l.secret(r.recordKeyFile)
	if err == nil && len(text) < redisstore.MinRecordKey {
		err = fmt.Errorf("holds fewer than %d bytes; make one with: openssl rand -hex 32", redisstore.MinRecordKey)
	}
	r.RecordKey = []byte(text)
	l.report(l.place(key), err)
}

// rule reports one rule, if it is broken.
func (l *loader) rule(r rule) {
	if r.bad {
		l.add(l.place(r.key), r.text)
	}
}

// place returns where a key was set, or else the section it is missing from.
func (l *loader) place(key string) Problem {
	for k := key; ; k = k[:strings.LastIndexByte(k, '.')] {
		if at, ok := l.places[k]; ok {
			at.Key = key
			return at
		}
		if !strings.Contains(k, ".") {
			break
		}
	}
	at := Problem{Source: l.file, Key: key}
	if l.file != "" {
		at.Line = 1
	}
	return at
}

// reported says whether a key has a problem already.
func (l *loader) reported(key string) bool {
	for _, p := range l.problems {
		if p.Key == key {
			return true
		}
	}
	return false
}

// samePlace reports whether u leads to the address that is listened on.
func samePlace(u *url.URL, listen string) bool {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	actual := u.Port()
	if actual == "" {
		actual = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	local := loopback(net.JoinHostPort(u.Hostname(), "0")) && loopback(listen)
	return actual == port && (strings.EqualFold(u.Hostname(), host) || local)
}

// inside reports whether path lies in or under folder, by their names alone.
func inside(path, folder string) bool {
	a, errA := filepath.Abs(path)
	b, errB := filepath.Abs(folder)
	if errA != nil || errB != nil {
		return false
	}
	rel, err := filepath.Rel(b, a)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}
