package redisstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// oldest is the first version of Redis that has every command used here.
const oldest = "6.2"

// Open connects to Redis and checks that jobs can be kept there. Its errors say
// what is wrong and what to do; they name no key of a configuration and no
// password. What is doubtful but not refused is in Warnings.
func Open(ctx context.Context, o Options) (*Store, error) {
	a, err := parse(o.URL)
	if err != nil {
		return nil, err
	}
	if o.Username != "" {
		a.username = o.Username
	}
	if o.Password != "" {
		a.password = o.Password
	}
	prefix := cmp.Or(o.KeyPrefix, defaultPrefix)
	if !regexp.MustCompile(`^[A-Za-z0-9._:-]{1,100}$`).MatchString(prefix) {
		return nil, errors.New("the key prefix needs 1 to 100 letters, digits, '.', '_', ':' or '-'")
	}
	a.prefix = "{" + prefix + "}:"
	if err := checkKey(o.RecordKey); err != nil {
		return nil, err
	}
	s := &Store{
		seal:   seal{o.RecordKey},
		limits: o.Limits.WithDefaults(), shift: o.Shift, prefix: a.prefix,
		idle: idle{position: "0-0"},
	}
	redis.SetLogger(&logger{cmp.Or(o.Logger, slog.Default())})
	if s.shift == nil {
		s.shift = func() time.Duration { return 0 }
	}
	if s.scripts, err = readScripts(); err != nil {
		return nil, err
	}
	t, err := a.tlsConfig(o)
	if err != nil {
		return nil, err
	}
	if remote := a.remote(); remote != "" && !a.tls {
		switch {
		case a.password == "" && !o.AllowInsecure:
			return nil, fmt.Errorf("%s would be used without TLS and without a password, so anybody on the network could read and change exports; "+
				"use rediss:// and a password, or allow it expressly", remote)
		case a.password == "":
			s.warn("Redis at %s is used without TLS and without a password: anybody on the network can read and change exports", remote)
		default:
			s.warn("Redis at %s is used without TLS: the password and all records cross the network in plain text", remote)
		}
	}
	s.main, s.waiting = a.connect(t, mainPool), a.connect(t, 1)
	if err := s.check(ctx, a); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// A logger takes what go-redis has to say, which is for developers: errors that
// matter are returned by it, too.
type logger struct{ log *slog.Logger }

func (l *logger) Printf(ctx context.Context, format string, args ...any) {
	l.log.DebugContext(ctx, "go-redis: "+fmt.Sprintf(format, args...))
}

// mainPool is how many exchanges with Redis a process has at once.
const mainPool = 16

func (s *Store) warn(format string, args ...any) {
	s.warnings = append(s.warnings, fmt.Sprintf(format, args...))
}

// check looks at every master.
func (s *Store) check(ctx context.Context, a *address) error {
	nodes, err := s.masters(ctx)
	if err != nil {
		return explain(a, err)
	}
	for _, c := range nodes {
		if err := s.checkServer(ctx, a, c); err != nil {
			return err
		}
	}
	answer, err := s.run(ctx, s.scripts.check, true, rand.Text())
	if err != nil {
		return explain(a, err)
	}
	for _, refused := range answer[1:] {
		return fmt.Errorf("this user of Redis is not permitted all that is needed (%v); the ACL needs %s", refused, acl(s.prefix))
	}
	if err := s.peek(ctx); err != nil {
		return fmt.Errorf("XREAD: %w", explain(a, err))
	}
	return nil
}

// acl is what a user must be permitted.
func acl(prefix string) string { return "~" + prefix + "* +@all -@admin -@dangerous +info" }

// peek is what Idle does.
func (s *Store) peek(ctx context.Context) error {
	return s.do(ctx, true, func(ctx context.Context, c *redis.Client) error {
		return ignoreNil(c.XRead(ctx, &redis.XReadArgs{Streams: []string{s.key("wake"), "0-0"}, Count: 1, Block: time.Millisecond}).Err())
	})
}

// masters returns the server, or those of a cluster.
func (s *Store) masters(ctx context.Context) (nodes []*redis.Client, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*callTimeout)
	defer cancel()
	if s.main.cluster == nil {
		return []*redis.Client{s.main.single}, s.main.single.Ping(ctx).Err()
	}
	found := make(chan *redis.Client, 1024)
	err = s.main.cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error {
		found <- c
		return c.Ping(ctx).Err()
	})
	close(found)
	for c := range found {
		nodes = append(nodes, c)
	}
	return nodes, err
}

// checkServer looks at one server, as far as it tells.
func (s *Store) checkServer(ctx context.Context, a *address, c *redis.Client) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	name := c.Options().Addr
	text, err := c.Info(ctx).Result()
	if mentions(err, "NOPERM") || err == nil && !strings.Contains(text, "redis_version") {
		s.warn("Redis at %s does not tell about itself (INFO is not permitted): its version, maxmemory-policy and persistence could not be checked; "+
			"it must not evict keys (maxmemory-policy noeviction) and should keep them on disk (appendonly yes)", name)
		return nil
	}
	if err != nil {
		return explain(a, err)
	}
	about := fields(text)
	switch version := about["redis_version"]; {
	case about["redis_mode"] == "sentinel":
		return fmt.Errorf("%s is a Sentinel; add master_name=NAME to the URL to ask it where the master is", name)
	case older(version, oldest):
		return fmt.Errorf("%s is Redis %s; %s or later is needed", name, version, oldest)
	case about["redis_mode"] == "cluster" && !a.cluster:
		return fmt.Errorf("%s belongs to a Redis Cluster; add another of its nodes to the URL: ?addr=HOST:PORT", name)
	case about["role"] == "slave":
		return fmt.Errorf("%s is a replica, which cannot be written to; name the master, or Sentinels with master_name=NAME", name)
	}
	if limit, policy := about["maxmemory"], about["maxmemory_policy"]; limit != "0" && policy != "noeviction" {
		return fmt.Errorf("%s has maxmemory-policy %s, so it would forget jobs and used tokens when it is full; set maxmemory-policy noeviction", name, policy)
	}
	if about["aof_enabled"] != "1" {
		s.warnOfLoss(ctx, c, name)
	}
	return nil
}

// warnOfLoss says what is lost where the append-only file is off.
func (s *Store) warnOfLoss(ctx context.Context, c *redis.Client, name string) {
	config, err := c.ConfigGet(ctx, "save").Result()
	save := strings.Fields(config["save"])
	switch {
	case err != nil:
		s.warn("Redis at %s has no append-only file, and whether it takes snapshots could not be checked (CONFIG is not permitted): "+
			"exports may be lost when it restarts; set appendonly yes", name)
	case len(save) == 0:
		s.warn("Redis at %s keeps nothing on disk: all exports are lost when it restarts; set appendonly yes", name)
	default:
		longest := 0
		for i := 0; i < len(save); i += 2 {
			n, _ := strconv.Atoi(save[i])
			longest = max(longest, n)
		}
		s.warn("Redis at %s takes snapshots only: what happened in up to %d minutes may be lost when it restarts; set appendonly yes", name, (longest+59)/60)
	}
}

// fields reads what INFO says.
func fields(text string) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			all[name] = value
		}
	}
	return all
}

// older compares versions such as 7.0.15.
func older(version, than string) bool {
	have, want := strings.Split(version, "."), strings.Split(than, ".")
	for i, w := range want {
		n, _ := strconv.Atoi(w)
		h := 0
		if i < len(have) {
			h, _ = strconv.Atoi(have[i])
		}
		if h != n {
			return h < n
		}
	}
	return false
}

// explain says what to do about an error of a first contact.
func explain(a *address, err error) error {
	if answer, ok := errors.AsType[redis.Error](err); ok {
		err = answer // without what was made of it on the way
	}
	text := err.Error()
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(text, p) {
				return true
			}
		}
		return false
	}
	where := strings.Join(a.hosts, ", ")
	var what string
	switch {
	case has("WRONGPASS", "invalid password", "without any password configured", "invalid username-password"):
		what = "refuses the user name and password; check both (a user of the ACL needs its name)"
	case has("NOAUTH"):
		what = "wants a password; give one, and a user name if there is an ACL"
	case has("NOPERM"):
		what = fmt.Sprintf("does not permit this user a command or key that is needed; the ACL needs %s", acl(a.prefix))
	case has("DB index is out of range"):
		what = fmt.Sprintf("has no database %d; use a smaller number, or raise its setting \"databases\"", a.db)
	case a.master != "" && has("unknown command", "redis: nil", "No such master", "sentinels specified in configuration are unreachable"):
		what = fmt.Sprintf("does not say as Sentinel where the master %q is; check the name and the addresses", a.master)
	case has("cluster support disabled"):
		what = "is not a Redis Cluster; leave addr= out, or add master_name=NAME if these are Sentinels"
	case has("certificate signed by unknown authority", "certificate is not trusted"):
		what = "has a certificate of an authority that is not known here; give its CA file"
	case has("certificate required", "bad certificate", "unknown certificate authority", "handshake failure"):
		what = "wants a client certificate of an authority that it knows; give certificate and key"
	case has("tls: failed to verify", "x509:"):
		what = "has a certificate that does not fit"
	case has("first record does not look like a TLS handshake"):
		what = "does not speak TLS; write redis:// if it is not meant to"
	case has("no such host"):
		what = "cannot be found: no such host; check the name"
	case has("connection refused", "no such file or directory"):
		what = "does not accept connections; check the address, and that Redis runs"
	case has("LOADING"):
		what = "is still reading its data from disk; try again soon"
	case !replied(err) && errors.Is(err, context.DeadlineExceeded), has("i/o timeout"):
		what = "does not answer in time; check the address, and firewalls between"
		if a.tls {
			what += "; if it does not speak TLS, write redis://"
		}
	case !replied(err) && has("EOF", "connection reset", "can't parse", "invalid"):
		what = "does not answer as Redis does"
		if !a.tls {
			what += "; if it speaks TLS, write rediss://"
		}
	default:
		what = "cannot be used"
	}
	return fmt.Errorf("the Redis at %s %s: %w", where, what, err)
}
