package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"spillway/auth"
	"spillway/auth/fetch"
	"spillway/auth/scope"
	"spillway/auth/token"
)

// Keys of authorization that other packages mention.
const (
	KeyAuthMode       = "auth.mode"
	KeyBuiltinClients = "auth.builtin.clients"
	KeyMTLSClients    = "auth.mtls.clients"
	KeyClients        = "authorization.clients"
	KeyClientCA       = "server.tls.client_ca_file"
	KeyUpstreamAuth   = "upstream.auth"
	KeyUpstreamTLS    = "upstream.tls"
	KeyAuditFile      = "audit.file"
	KeyAuditKey       = "audit.key_file"
)

// authKeys are the keys of authorization, of our credential for the upstream,
// of limits and of the audit, bound to the fields of c.
func authKeys(c *Config) []key {
	return slices.Concat(upstreamAuthKeys(c), listenerKeys(c), inboundKeys(c), clientKeys(c), auditKeys(c))
}

func upstreamAuthKeys(c *Config) []key {
	a, t := &c.Upstream.Auth, &c.Upstream.TLS
	return []key{
		choice("upstream.auth.mode", &a.Mode, []string{ModeNone, ModeHeader, ModeBasic, ModePrivateKeyJWT, ModeMTLS}, nil),
		text("upstream.auth.header.name", &a.HeaderName),
		secret("upstream.auth.header.value", &a.HeaderValue),
		text("upstream.auth.header.value_file", &a.valueFile),
		text("upstream.auth.basic.user", &a.User),
		secret("upstream.auth.basic.password", &a.Password),
		text("upstream.auth.basic.password_file", &a.passwordFile),
		web("upstream.auth.private_key_jwt.token_url", &a.TokenURL),
		text("upstream.auth.private_key_jwt.client_id", &a.ClientID),
		text("upstream.auth.private_key_jwt.key_file", &a.keyFile),
		text("upstream.auth.private_key_jwt.key_id", &a.keyID),
		parsed("upstream.auth.private_key_jwt.algorithm", &a.algorithm, parseAlgorithm, showAlgorithm),
		text("upstream.auth.private_key_jwt.scope", &a.Scope),
		text("upstream.auth.private_key_jwt.audience", &a.Audience),
		web("upstream.auth.private_key_jwt.jwks_url", &a.KeySetURL),
		text("upstream.auth.private_key_jwt.ca_file", &a.CAFile),
		flag("upstream.auth.allow_plain_http", &a.AllowPlainHTTP),
		choice("upstream.passthrough_auth", &a.passThrough, []string{"caller", "gateway"}, nil),
		text("upstream.tls.ca_file", &t.CAFile),
		text("upstream.tls.cert_file", &t.CertFile),
		text("upstream.tls.key_file", &t.KeyFile),
		text("upstream.tls.server_name", &t.ServerName),
	}
}

func listenerKeys(c *Config) []key {
	s, l := &c.Server, &c.Server.Limits
	return []key{
		choice("server.tls.min_version", &s.MinVersion, []string{"1.2", "1.3"}, nil),
		text(KeyClientCA, &s.ClientCAFile),
		prefixes("server.trusted_proxies", &s.TrustedProxies),
		size("server.limits.header_bytes", &l.HeaderBytes, 8<<10, 1<<20),
		size("server.limits.body_bytes", &l.BodyBytes, 0, 1<<40),
		number("server.limits.connections", &l.Connections, 1, 1_000_000),
		duration("server.limits.read_header_timeout", &l.ReadHeader, time.Second, 10*time.Minute),
		duration("server.limits.idle_timeout", &l.Idle, time.Second, time.Hour),
		duration("server.limits.stall_timeout", &l.Stall, 5*time.Second, time.Hour),
	}
}

func inboundKeys(c *Config) []key {
	a, j, i, b := &c.Auth, &c.Auth.JWT, &c.Auth.Introspection, &c.Auth.Builtin
	return []key{
		choice(KeyAuthMode, &a.Mode, []string{ModeNone, ModeJWT, ModeIntrospection, ModeBuiltin, ModeMTLS}, nil),
		flag("auth.allow_anonymous", &a.AllowAnonymous),
		flag("auth.allow_plain_http", &a.AllowPlainHTTP),

		web("auth.jwt.issuer", &j.Issuer),
		words("auth.jwt.audience", &j.Audiences),
		web("auth.jwt.jwks_url", &j.JWKSURL),
		web("auth.jwt.token_url", &j.TokenURL),
		algorithms("auth.jwt.algorithms", &j.Algorithms),
		words("auth.jwt.client_claims", &j.ClientClaims),
		words("auth.jwt.scope_claims", &j.ScopeClaims),
		duration("auth.jwt.clock_skew", &j.Skew, 0, 2*time.Minute),
		duration("auth.jwt.max_token_age", &j.MaxAge, 0, 24*time.Hour),
		duration("auth.jwt.refresh_interval", &j.Interval, time.Second, time.Hour),
		duration("auth.jwt.max_stale", &j.MaxStale, 0, 24*time.Hour),
		text("auth.jwt.ca_file", &j.CAFile),

		web("auth.introspection.endpoint", &i.Endpoint),
		web("auth.introspection.issuer", &i.Issuer),
		words("auth.introspection.audience", &i.Audiences),
		web("auth.introspection.token_url", &i.TokenURL),
		text("auth.introspection.client_id", &i.ClientID),
		secret("auth.introspection.client_secret", &i.Secret),
		text("auth.introspection.client_secret_file", &i.secretFile),
		text("auth.introspection.key_file", &i.keyFile),
		text("auth.introspection.key_audience", &i.KeyAudience),
		duration("auth.introspection.cache_ttl", &i.TTL, 0, time.Minute),
		duration("auth.introspection.negative_ttl", &i.NegativeTTL, 0, time.Minute),
		text("auth.introspection.ca_file", &i.CAFile),

		webs("auth.builtin.token_url_aliases", &b.TokenURLAliases),
		words("auth.builtin.signing_key_files", &b.keyFiles),
		duration("auth.builtin.token_ttl", &b.TTL, time.Second, time.Hour),
		duration("auth.builtin.clock_skew", &b.Skew, 0, 2*time.Minute),
		flag("auth.builtin.allow_plain_jwks", &b.PlainJWKS),
		flag("auth.builtin.allow_private_jwks", &b.PrivateJWKS),
		text("auth.builtin.ca_file", &b.CAFile),
	}
}

func clientKeys(c *Config) []key {
	a := &c.Auth
	common := func(section string, c *Client) []key {
		c.section = section
		return []key{
			text(section+".id", &c.ID),
			flag(section+".disabled", &c.Disabled),
			groups(section+".groups", &c.Groups),
			text(section+".purpose", &c.Purpose),
		}
	}
	return []key{
		recordsOf(KeyBuiltinClients, &a.Builtin.Clients, func(section string, c *Client) []key {
			return append(common(section, c),
				scopes(section+".scopes", &c.Scopes),
				web(section+".jwks_url", &c.JWKSURL),
				keySet(section+".jwks", &c.JWKS),
				text(section+".jwks_file", &c.jwksFile),
			)
		}),
		recordsOf(KeyMTLSClients, &a.MTLS.Clients, func(section string, c *Client) []key {
			return append(common(section, c),
				scopes(section+".scopes", &c.Scopes),
				text(section+".fingerprint", &c.Fingerprint),
				text(section+".subject", &c.Subject),
				text(section+".dns", &c.DNS),
				text(section+".uri", &c.URI),
				text(section+".email", &c.Email),
			)
		}),
		groups("authorization.groups", &a.Groups),
		recordsOf(KeyClients, &a.Clients, common),
		flag("authorization.unchecked_queries", &a.Unchecked),
	}
}

func auditKeys(c *Config) []key {
	l, a := &c.Limits, &c.Audit
	return []key{
		number("limits.kick_offs_per_minute", &l.KickOffs, 0, 1_000_000),
		number("limits.polls_per_minute", &l.Polls, 0, 1_000_000),
		number("limits.downloads_per_minute", &l.Downloads, 0, 10_000_000),
		number("limits.tokens_per_minute", &l.Tokens, 0, 1_000_000),
		number("limits.unfinished_exports", &l.Unfinished, 0, 100_000),

		words("audit.sinks", &a.sinks),
		path(KeyAuditFile, &a.path),
		text(KeyAuditKey, &a.keyFile),
		choice("audit.on_failure", &a.failure, []string{"", "deny", "warn"}, nil),
	}
}

// web is an address of the web that is asked, or compared to the letter.
func web(name string, p *string) key {
	k := text(name, p)
	k.scalar = func(v string) error {
		if v != "" {
			if err := checkWeb(v); err != nil {
				return err
			}
		}
		*p = v
		return nil
	}
	return k
}

func checkWeb(v string) error {
	u, err := url.Parse(v)
	if err != nil || fetch.CheckURL(u, true) != nil {
		return errors.New("is no address that can be asked; write it such as https://auth.example.org/token, without user and fragment")
	}
	return nil
}

// words is a list of plain texts.
func words(name string, p *[]string) key {
	return key{
		name: name,
		list: func(values []string) error {
			for _, v := range values {
				if strings.TrimSpace(v) != v || v == "" {
					return fmt.Errorf("%q is empty, or has spaces around it", v)
				}
			}
			*p = values
			return nil
		},
		show: func() string { return strings.Join(*p, ", ") },
	}
}

func webs(name string, p *[]string) key {
	k := words(name, p)
	k.list = func(values []string) error {
		for _, v := range values {
			if err := checkWeb(v); err != nil {
				return fmt.Errorf("%q %w", v, err)
			}
		}
		*p = values
		return nil
	}
	return k
}

func prefixes(name string, p *[]netip.Prefix) key {
	return key{
		name: name,
		list: func(values []string) error {
			var all []netip.Prefix
			for _, v := range values {
				prefix, err := parsePrefix(v)
				if err != nil {
					return err
				}
				all = append(all, prefix)
			}
			*p = all
			return nil
		},
		show: func() string { return showPrefixes(*p) },
	}
}

// parsePrefix reads an address, or a network such as 10.0.0.0/8.
func parsePrefix(v string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(v)
	if a, wrong := netip.ParseAddr(v); wrong == nil {
		prefix, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	switch {
	case err != nil:
		return prefix, fmt.Errorf("%q is neither an address nor a network; write it such as 10.0.0.7 or 10.0.0.0/8", v)
	case prefix.Bits() == 0:
		return prefix, fmt.Errorf("%q is every address; whoever is trusted can pretend to be anybody", v)
	}
	return prefix.Masked(), nil
}

func algorithms(name string, p *[]token.Algorithm) key {
	return key{
		name: name,
		list: func(values []string) error {
			var all []token.Algorithm
			for _, v := range values {
				a, err := parseAlgorithm(v)
				if err != nil {
					return err
				}
				all = append(all, a)
			}
			*p = all
			return nil
		},
		show: func() string {
			var all []string
			for _, a := range *p {
				all = append(all, string(a))
			}
			return strings.Join(all, ", ")
		},
	}
}

func parseAlgorithm(v string) (token.Algorithm, error) {
	a, ok := token.ParseAlgorithm(v)
	if !ok && v != "" {
		return "", fmt.Errorf("%q signs nothing here; want RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512", v)
	}
	return a, nil
}

func showAlgorithm(a token.Algorithm) string { return string(a) }

// groups is a list of ids of Group resources; "*" stands for all.
func groups(name string, p *auth.Groups) key {
	return key{
		name: name,
		list: func(values []string) error {
			var g auth.Groups
			for _, v := range values {
				v = strings.TrimPrefix(v, "Group/")
				switch {
				case v == "*":
					g.All = true
				case v == "" || len(v) > 64 || strings.Trim(strings.ToLower(v), "abcdefghijklmnopqrstuvwxyz0123456789.-") != "":
					return fmt.Errorf("%q is no id of a Group; write ids, or \"*\" for all", v)
				default:
					g.IDs = append(g.IDs, v)
				}
			}
			*p = g
			return nil
		},
		show: func() string {
			if p.All {
				return "*"
			}
			return strings.Join(p.IDs, ", ")
		},
	}
}

// scopes are system scopes with spaces between them.
func scopes(name string, p *string) key {
	k := text(name, p)
	k.scalar = func(v string) error {
		list, others, err := scope.ParseList(v)
		switch {
		case err != nil:
			return errors.New("has too many scopes")
		case len(others) > 0:
			return errors.New("has one that is no system scope, or malformed; write them such as system/Patient.rs system/Group.rs")
		case len(list) == 0:
			return errors.New("is empty; write scopes such as system/Patient.rs system/Group.rs, or system/*.rs")
		}
		if _, err := scope.NewGrant(list); err != nil {
			return errors.New("has too many queries")
		}
		*p = v
		return nil
	}
	return k
}

// keySet is a JSON web key set, as a text or as a section.
func keySet(name string, p *[]byte) key {
	return key{
		name: name,
		json: func(b []byte) error {
			if err := checkKeySet(b); err != nil {
				return err
			}
			*p = b
			return nil
		},
		show: func() string {
			if len(*p) == 0 {
				return ""
			}
			sum := sha256.Sum256(*p)
			return "sha256:" + hex.EncodeToString(sum[:8])
		},
	}
}

// checkKeySet says what is wrong with the keys of a client.
func checkKeySet(b []byte) error {
	set, err := token.ReadKeySet(b)
	if err != nil {
		return errors.New("is no JSON web key set; write it such as {\"keys\": [{\"kty\": \"EC\", …}]}")
	}
	switch dropped := set.Dropped(); {
	case len(dropped) > 0:
		return fmt.Errorf("has a key that cannot be used: %s", dropped[0])
	case set.Usable() == 0:
		return errors.New("has no key in it")
	case set.Ambiguous():
		return errors.New("has two keys of one kid")
	}
	return nil
}
