package config

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"spillway/auth/token"
)

// checkUpstreamAuth reads the secrets of our credential for the upstream and
// reports what contradicts itself.
func (l *loader) checkUpstreamAuth() {
	u := &l.config.Upstream
	a, t := &u.Auth, &u.TLS
	const jwt = "upstream.auth.private_key_jwt"
	l.sections("upstream.auth", a.Mode, ModeHeader, ModeBasic, ModePrivateKeyJWT)
	if a.Mode == ModeHeader {
		l.fromFile("upstream.auth.header.value_file", a.valueFile, "upstream.auth.header.value", &a.HeaderValue)
	}
	if a.Mode == ModeBasic {
		l.fromFile("upstream.auth.basic.password_file", a.passwordFile, "upstream.auth.basic.password", &a.Password)
	}
	if a.Mode == ModePrivateKeyJWT && a.keyFile != "" {
		a.Key = l.signingKey(jwt+".key_file", a.keyFile, a.keyID, a.algorithm)
	}
	a.PassThrough = a.passThrough == "gateway"
	plain := u.URL != nil && u.URL.Scheme == "http" && !loopbackHost(u.URL.Hostname()) && !a.AllowPlainHTTP
	var header error
	if a.Mode == ModeHeader && a.HeaderName != "" {
		header = checkHeader(a.HeaderName, a.HeaderValue)
	}
	for _, r := range []rule{
		{a.Mode == ModeHeader && a.HeaderName == "", "upstream.auth.header.name", "is required, such as X-Api-Key"},
		{header != nil, "upstream.auth.header.value", fmt.Sprint(header)},
		{l.lacks(a.Mode == ModeHeader, a.HeaderValue, "upstream.auth.header.value_file"), "upstream.auth.header.value_file", "is required, or value with ${NAME}"},
		{a.Mode == ModeBasic && a.User == "", "upstream.auth.basic.user", "is required"},
		{l.lacks(a.Mode == ModeBasic, a.Password, "upstream.auth.basic.password_file"), "upstream.auth.basic.password_file", "is required, or password with ${NAME}"},
		{a.Mode == ModePrivateKeyJWT && a.ClientID == "", jwt + ".client_id", "is required: the id under which the authorisation server of the upstream knows this gateway"},
		{a.Mode == ModePrivateKeyJWT && a.keyFile == "", jwt + ".key_file", "is required: the private key in PEM whose public half that server knows"},
		{a.Mode == ModePrivateKeyJWT && a.Scope == "", jwt + ".scope", "must not be empty; system/*.rs is what exports of everything need"},
		{
			a.Mode != ModeNone && a.Mode != ModeMTLS && plain, KeyURL,
			"is one of http on another machine, and upstream.auth.mode " + a.Mode + " would send a credential there in the clear; " +
				"use https, or set upstream.auth.allow_plain_http: true where the network in between is safe",
		},
		{
			plainHTTP(a.TokenURL) && !a.AllowPlainHTTP, jwt + ".token_url",
			"is one of http on another machine; use https, or set upstream.auth.allow_plain_http: true where the network in between is safe",
		},
		{(t.CertFile == "") != (t.KeyFile == ""), KeyUpstreamTLS, "needs both cert_file and key_file, or neither"},
		{a.Mode == ModeMTLS && t.CertFile == "", "upstream.tls.cert_file", "is required with upstream.auth.mode mtls"},
		{
			a.Mode == ModeNone && t.CertFile != "", "upstream.tls.cert_file",
			"is a credential, and upstream.auth.mode is none; set that to mtls",
		},
		{
			t != nil && *t != (TLS{}) && u.URL != nil && u.URL.Scheme == "http", KeyUpstreamTLS,
			"is for an upstream.url of https",
		},
		{
			a.Mode != ModeNone && a.Mode != ModeMTLS && a.Mode != ModeHeader && u.Header.Get("Authorization") != "" ||
				a.Mode == ModeHeader && u.Header.Get(a.HeaderName) != "",
			KeyHeaders, "sets the header that upstream.auth sets; remove one of them",
		},
	} {
		l.rule(r)
	}
	if plain && a.Mode == ModeNone {
		for name := range u.Header {
			if looksSecret(name) {
				l.warn(l.place(KeyHeaders), name+" goes over http to another machine, where it can be read on the way")
				break
			}
		}
	}
}

// checkAuth reads the secrets of the mode and reports what contradicts itself.
func (l *loader) checkAuth() {
	c := l.config
	a, s := &c.Auth, &c.Server
	l.sections("auth", a.Mode, ModeJWT, ModeIntrospection, ModeBuiltin, ModeMTLS)
	public := publicPlain(c)
	for _, r := range []rule{
		{
			!loopback(s.Listen) && !a.Enforces() && !a.AllowAnonymous && !l.reported(KeyAuthMode), KeyListen,
			fmt.Sprintf("%s can be reached from other machines, and with auth.mode none everybody there could export everything; "+
				"listen on 127.0.0.1 behind a proxy that authenticates, or set auth.allow_anonymous: true", s.Listen),
		},
		{
			a.AllowAnonymous && a.Enforces(), "auth.allow_anonymous",
			"contradicts auth.mode " + a.Mode + ", with which nobody is anonymous; remove it",
		},
		{
			c.Upstream.Auth.PassThrough && !a.Enforces(), "upstream.passthrough_auth",
			"is gateway, and with auth.mode none everybody would use the upstream with the credential of the gateway; choose an auth.mode, or set it to caller",
		},
		{
			c.Upstream.Auth.PassThrough && c.Upstream.Auth.Mode == ModeNone, "upstream.passthrough_auth",
			"is gateway, and upstream.auth.mode none has no credential to send",
		},
		{
			a.Enforces() && public != "" && !a.AllowPlainHTTP, "server.public_url",
			"is " + public + ": clients would send their credentials in the clear; configure server.tls, or write the https address of the " +
				"proxy that terminates TLS, or set auth.allow_plain_http: true where the network in between is safe",
		},
		{s.ClientCAFile != "" && s.CertFile == "", KeyClientCA, "is for connections of TLS; set server.tls.cert_file and key_file too"},
	} {
		l.rule(r)
	}
	switch a.Mode {
	case ModeNone:
		if at, set := l.given("authorization"); set {
			at.Key = "authorization"
			l.add(at, "restricts clients, and with auth.mode none nobody is told apart; choose an auth.mode, or remove it")
		}
	case ModeJWT:
		l.checkJWT()
	case ModeIntrospection:
		l.checkIntrospection()
	case ModeBuiltin:
		l.checkBuiltin()
	case ModeMTLS:
		l.checkMTLS()
	}
	if a.Mode == ModeBuiltin || a.Mode == ModeMTLS {
		for _, key := range []string{KeyClients, "authorization.groups"} {
			if at, set := l.given(key); set {
				at.Key = key
				l.add(at, fmt.Sprintf("is for clients for which another server vouches; those of auth.mode %s stand in auth.%[1]s.clients", a.Mode))
			}
		}
	}
	l.checkClients()
}

func (l *loader) checkJWT() {
	j := &l.config.Auth.JWT
	for _, r := range []rule{
		{j.Issuer == "" && !l.reported("auth.jwt.issuer"), "auth.jwt.issuer", "is required: iss of the tokens, to the letter, such as https://idp.example.org/realms/fhir"},
		{len(j.Audiences) == 0 && !l.reported("auth.jwt.audience"), "auth.jwt.audience", "is required: how the issuer calls this server in aud; without it tokens that were made for others would be accepted"},
		{len(j.Algorithms) == 0, "auth.jwt.algorithms", "must not be empty"},
		{len(j.ClientClaims) == 0, "auth.jwt.client_claims", "must not be empty"},
		{len(j.ScopeClaims) == 0, "auth.jwt.scope_claims", "must not be empty"},
		{plainHTTP(j.Issuer), "auth.jwt.issuer", plainText},
		{plainHTTP(j.JWKSURL), "auth.jwt.jwks_url", plainText},
	} {
		l.rule(r)
	}
}

// plainText is said of addresses of http whose answers decide who may read.
const plainText = "is one of http on another machine, so whoever is in between could answer in its place; use https"

func (l *loader) checkIntrospection() {
	i := &l.config.Auth.Introspection
	l.fromFile("auth.introspection.client_secret_file", i.secretFile, "auth.introspection.client_secret", &i.Secret)
	if i.keyFile != "" {
		i.Key = l.signingKey("auth.introspection.key_file", i.keyFile, "", "")
	}
	for _, r := range []rule{
		{i.Endpoint == "" && !l.reported("auth.introspection.endpoint"), "auth.introspection.endpoint", "is required: where tokens are asked about, such as https://idp.example.org/introspect"},
		{i.ClientID == "", "auth.introspection.client_id", "is required: the id under which the endpoint knows this gateway"},
		{
			l.lacks(i.keyFile == "", i.Secret, "auth.introspection.client_secret_file"), "auth.introspection.client_secret_file",
			"is required, or client_secret with ${NAME}, or key_file",
		},
		{i.Secret != "" && i.keyFile != "", "auth.introspection.key_file", "stands beside a client secret; remove one of them"},
		{plainHTTP(i.Endpoint), "auth.introspection.endpoint", plainText},
	} {
		l.rule(r)
	}
	if len(i.Audiences) == 0 {
		l.warn(l.place("auth.introspection"), "names no audience, so every active token of the issuer with system scopes is accepted, for whatever server it was made")
	}
}

func (l *loader) checkBuiltin() {
	b, shared := &l.config.Auth.Builtin, l.config.Store.Redis.URL != ""
	const keys = "auth.builtin.signing_key_files"
	ids := make(map[string]bool)
	for _, path := range b.keyFiles {
		k := l.signingKey(keys, path, "", "")
		if k == nil {
			continue
		}
		if ids[k.ID()] {
			l.add(l.place(keys), "names one key twice")
		}
		ids[k.ID()] = true
		b.Keys = append(b.Keys, k)
	}
	if shared && l.config.Server.PublicURL == nil {
		l.warn(l.place("server.public_url"), "is in the tokens of auth.mode builtin, so without it replicas do not accept those of each other")
	}
	l.rule(rule{
		shared && len(b.keyFiles) == 0, keys,
		"is required with store.redis: every replica must accept the tokens of the others, so give all of them the same key " +
			"(openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out signing.pem)",
	})
	for _, c := range b.Clients {
		if c.jwksFile != "" {
			l.keySetFile(c)
		}
		at := l.place(c.section)
		given := 0
		for _, set := range []bool{c.JWKSURL != "", len(c.JWKS) > 0 || c.jwksFile != "", l.reported(c.section + ".jwks"), l.reported(c.section + ".jwks_url")} {
			if set {
				given++
			}
		}
		switch u, _ := url.Parse(c.JWKSURL); {
		case given == 0:
			l.add(at, "needs jwks_url, jwks or jwks_file: the public keys of the client")
		case c.JWKSURL != "" && (len(c.JWKS) > 0 || c.jwksFile != ""):
			l.add(at, "has both an address of keys and the keys; remove one")
		case u.Scheme == "http" && !b.PlainJWKS:
			at.Key += ".jwks_url"
			l.add(at, "is one of http, so whoever is in between could put keys of his own there; use https, or set auth.builtin.allow_plain_jwks: true for a trial")
		}
		l.needsScopes(c)
	}
	if len(b.Clients) == 0 && !l.reported(KeyBuiltinClients) {
		l.warn(l.place(KeyBuiltinClients), "is empty, so nobody can get a token")
	}
}

func (l *loader) keySetFile(c *Client) {
	at := l.place(c.section + ".jwks_file")
	if len(c.JWKS) > 0 {
		l.add(at, "stands beside jwks; remove one of them")
		return
	}
	text, err := l.public(c.jwksFile)
	if err == nil {
		err = checkKeySet([]byte(text))
	}
	l.report(at, err)
	c.JWKS = []byte(text)
}

func (l *loader) needsScopes(c *Client) {
	if c.Scopes == "" && !l.reported(c.section+".scopes") {
		at := l.place(c.section)
		at.Key += ".scopes"
		l.add(at, "is required: what the client may be granted, such as system/Patient.rs system/Group.rs, or system/*.rs")
	}
}

func (l *loader) checkMTLS() {
	c := l.config
	pinned := !slices.ContainsFunc(c.Auth.MTLS.Clients, func(c *Client) bool { return c.Fingerprint == "" })
	for _, r := range []rule{
		{c.Server.CertFile == "", "server.tls.cert_file", "is required with auth.mode mtls, since clients show their certificates in TLS to this process itself"},
		{
			c.Server.ClientCAFile == "" && !pinned, KeyClientCA,
			"is required with auth.mode mtls: the authorities that have signed the certificates of clients; only clients with a fingerprint can do without",
		},
	} {
		l.rule(r)
	}
	for _, m := range c.Auth.MTLS.Clients {
		sum, err := hex.DecodeString(strings.ReplaceAll(m.Fingerprint, ":", ""))
		at := l.place(m.section)
		switch {
		case m.Fingerprint != "" && (err != nil || len(sum) != 32):
			at.Key += ".fingerprint"
			l.add(at, "has not 64 hexadecimal digits; openssl x509 -noout -fingerprint -sha256 -in client.pem writes it")
		case m.Fingerprint+m.Subject+m.DNS+m.URI+m.Email == "":
			l.add(at, "needs fingerprint, subject, dns, uri or email: which certificate is the client's")
		}
		l.needsScopes(m)
	}
	if len(c.Auth.MTLS.Clients) == 0 && !l.reported(KeyMTLSClients) {
		l.warn(l.place(KeyMTLSClients), "is empty, so nobody may export")
	}
}

// checkClients reports ids that are missing or stand twice.
func (l *loader) checkClients() {
	seen := make(map[string]bool)
	for _, c := range l.config.Auth.Everybody() {
		at := l.place(c.section)
		at.Key += ".id"
		switch {
		case c.ID == "" && !l.reported(at.Key):
			l.add(at, "is required")
		case len(c.ID) > 200:
			l.add(at, "has more than 200 characters")
		case seen[c.ID] && c.ID != "":
			l.add(at, fmt.Sprintf("%q is that of another client too", c.ID))
		}
		seen[c.ID] = true
	}
}

// checkAudit decides which sinks there are and what their failure means.
func (l *loader) checkAudit() {
	c := l.config
	a := &c.Audit
	enforcing := c.Auth.Enforces()
	if _, set := l.given("audit.sinks"); !set && (enforcing || l.isGiven(KeyAuditFile)) {
		a.sinks = []string{"file"}
	}
	for _, s := range a.sinks {
		switch s {
		case "file":
			a.File = a.path
		case "stdout":
			a.Stdout = true
		default:
			l.add(l.place("audit.sinks"), fmt.Sprintf("%q is not allowed here; want file, stdout", s))
		}
	}
	if a.keyFile != "" {
		text, err := l.private(a.keyFile)
		if err == nil && len(text) < 32 {
			err = fmt.Errorf("the file %s is shorter than 32 bytes; make it with openssl rand -hex 32", a.keyFile)
		}
		l.report(l.place(KeyAuditKey), err)
		a.Key = []byte(text)
	}
	for _, r := range []rule{
		{!a.On() && l.isGiven(KeyAuditFile), KeyAuditFile, "has no effect, since audit.sinks does not name file"},
		{!a.On() && a.keyFile != "", KeyAuditKey, "has no effect without audit.sinks"},
		{!a.On() && a.failure != "", "audit.on_failure", "has no effect without audit.sinks"},
		{a.File != "" && c.Storage.Bucket.URL == "" && inside(a.File, c.Storage.DiskPath), KeyAuditFile, "lies in storage.disk.path, which holds files of exports only"},
	} {
		l.rule(r)
	}
	a.Deny = a.failure == "deny" || a.failure == "" && enforcing
	if enforcing && !a.On() {
		l.warn(l.place("audit.sinks"), "is empty, so nothing records who got what")
	}
}

// sections reports those that belong to another mode than the one chosen.
func (l *loader) sections(prefix, mode string, modes ...string) {
	if l.reported(prefix + ".mode") {
		return
	}
	for _, m := range modes {
		if at, set := l.given(prefix + "." + m); set && m != mode {
			at.Key = prefix + "." + m
			l.add(at, fmt.Sprintf("is for %s.mode %s, and the mode is %s; change the mode, or remove the section", prefix, m, mode))
		}
	}
}

func (l *loader) isGiven(key string) bool {
	_, ok := l.places[key]
	return ok
}

// lacks reports whether a secret is needed and missing, and nothing was said of
// its file yet.
func (l *loader) lacks(needed bool, value, fileKey string) bool {
	return needed && value == "" && !l.reported(fileKey)
}

// fromFile reads a secret that stands in a file.
func (l *loader) fromFile(fileKey, path, valueKey string, value *string) {
	switch {
	case path == "":
	case *value != "":
		l.add(l.place(fileKey), "stands beside "+valueKey+"; remove one of them")
	default:
		var err error
		*value, err = l.secret(path)
		l.report(l.place(fileKey), err)
	}
}

// signingKey reads a private key; nil: it cannot be used, which was reported.
func (l *loader) signingKey(key, path, id string, a token.Algorithm) *token.SigningKey {
	text, err := l.private(path)
	if err != nil {
		l.report(l.place(key), err)
		return nil
	}
	k, err := token.ReadSigningKey([]byte(text), id, a)
	if err != nil {
		l.add(l.place(key), fmt.Sprintf("%s: %s", path, strings.TrimPrefix(err.Error(), "token: ")))
		return nil
	}
	return k
}

// publicPlain returns the address by which clients reach us if it is one of
// plain HTTP on another machine, or else "".
func publicPlain(c *Config) string {
	s := &c.Server
	switch {
	case s.PublicURL != nil && s.PublicURL.Scheme == "http" && !loopbackHost(s.PublicURL.Hostname()):
		return s.PublicURL.Redacted()
	case s.PublicURL == nil && s.CertFile == "" && !loopback(s.Listen):
		return "http://" + s.Listen
	}
	return ""
}

// plainHTTP reports whether an address is one of http on another machine.
func plainHTTP(address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.Scheme == "http" && !loopbackHost(u.Hostname())
}

func loopbackHost(host string) bool {
	return loopback(net.JoinHostPort(cmp.Or(host, "none"), "0"))
}
