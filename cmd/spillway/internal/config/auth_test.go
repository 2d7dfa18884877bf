package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spillway/auth"
	"spillway/auth/token"
)

// files makes what configurations name: keys of ours, keys of a client, secrets.
func files(t *testing.T) {
	t.Helper()
	t.Chdir(t.TempDir())
	for _, name := range []string{"signing.pem", "next.pem", "open.pem"} {
		key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		write(t, name, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	}
	write(t, "client.jwks.json", string(token.PublicJSON(token.NewSigningKey())))
	write(t, "other.jwks.json", string(token.PublicJSON(token.NewSigningKey())))
	write(t, "secret.txt", "tell-nobody\n")
	write(t, "audit.key", strings.Repeat("0123456789abcdef", 4))
	write(t, "short.key", "0123")
	if err := os.Chmod("open.pem", 0o644); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// read loads text beside the files.
func read(t *testing.T, text string, environ ...string) (*Config, error) {
	t.Helper()
	write(t, "spillway.yaml", text)
	return Load(Input{File: "spillway.yaml", Serve: true, Environ: environ})
}

const (
	withJWT     = minimal + "auth:\n  mode: jwt\n  jwt: {issuer: 'https://idp.example.org', audience: [us]}\n"
	withAsking  = minimal + "auth:\n  mode: introspection\n  introspection: {endpoint: 'https://idp.example.org/i', client_id: gw, client_secret_file: secret.txt, audience: [us]}\n"
	withBuiltin = minimal + "auth:\n  mode: builtin\n  builtin:\n    clients:\n"
	withMTLS    = minimal + "server: {tls: {cert_file: c.pem, key_file: k.pem, client_ca_file: ca.pem}}\nauth:\n  mode: mtls\n  mtls:\n    clients:\n"
	client      = "      - {id: a, scopes: 'system/*.rs', jwks_file: client.jwks.json}\n"
	certified   = "      - {id: a, scopes: 'system/*.rs', dns: a.example.org}\n"
)

// TestContradictions: what does not fit together does not start, and what is
// said tells what to do.
func TestContradictions(t *testing.T) {
	files(t)
	for _, test := range []struct {
		name, yaml string
		env        []string
		want       string // all messages
	}{
		// Modes.
		{name: "ErrNobodyTold", yaml: minimal + "server: {listen: '0.0.0.0:8088'}\n",
			want: "spillway.yaml:3: server.listen: 0.0.0.0:8088 can be reached from other machines, and with auth.mode none everybody there could export everything; listen on 127.0.0.1 behind a proxy that authenticates, or set auth.allow_anonymous: true"},
		{name: "ErrAnonymousWithMode", yaml: withJWT + "  allow_anonymous: true\n",
			want: "spillway.yaml:6: auth.allow_anonymous: contradicts auth.mode jwt, with which nobody is anonymous; remove it"},
		{name: "ErrSectionOfOtherMode", yaml: minimal + "auth:\n  builtin:\n    token_ttl: 1m\n",
			want: "spillway.yaml:4: auth.builtin: is for auth.mode builtin, and the mode is none; change the mode, or remove the section"},
		{name: "ErrSectionOfOtherModeByEnvironment", yaml: minimal, env: []string{"SPILLWAY_AUTH_JWT_ISSUER=https://idp.example.org"},
			want: "SPILLWAY_AUTH_JWT_ISSUER: is for auth.mode jwt, and the mode is none; change the mode, or remove the section"},
		{name: "ErrMode", yaml: minimal + "auth: {mode: jwks}\n",
			want: "spillway.yaml:3: auth.mode: \"jwks\" is not allowed here; want none, jwt, introspection, builtin, mtls"},
		{name: "ErrRightsOfNobody", yaml: minimal + "authorization: {groups: [a]}\n",
			want: "spillway.yaml:3: authorization: restricts clients, and with auth.mode none nobody is told apart; choose an auth.mode, or remove it"},
		{name: "ErrRightsTwice", yaml: withBuiltin + client + "authorization: {clients: [{id: a}]}\n",
			want: "spillway.yaml:8: authorization.clients: is for clients for which another server vouches; those of auth.mode builtin stand in auth.builtin.clients\n" +
				"spillway.yaml:8: authorization.clients[0].id: \"a\" is that of another client too"},
		{name: "ErrPlainHTTP", yaml: "server: {listen: '0.0.0.0:8088'}\n" + withJWT,
			want: "spillway.yaml:1: server.public_url: is http://0.0.0.0:8088: clients would send their credentials in the clear; configure server.tls, or write the https address of the proxy that terminates TLS, or set auth.allow_plain_http: true where the network in between is safe"},
		{name: "ErrPlainPublic", yaml: "server: {public_url: 'http://bulk.example.org/fhir'}\n" + withJWT,
			want: "spillway.yaml:1: server.public_url: is http://bulk.example.org/fhir: clients would send their credentials in the clear; configure server.tls, or write the https address of the proxy that terminates TLS, or set auth.allow_plain_http: true where the network in between is safe"},

		// jwt.
		{name: "ErrNoIssuerNoAudience", yaml: minimal + "auth: {mode: jwt}\n",
			want: "spillway.yaml:3: auth.jwt.issuer: is required: iss of the tokens, to the letter, such as https://idp.example.org/realms/fhir\n" +
				"spillway.yaml:3: auth.jwt.audience: is required: how the issuer calls this server in aud; without it tokens that were made for others would be accepted"},
		{name: "ErrPlainIssuer", yaml: minimal + "auth: {mode: jwt, jwt: {issuer: 'http://idp.example.org', audience: [us]}}\n",
			want: "spillway.yaml:3: auth.jwt.issuer: is one of http on another machine, so whoever is in between could answer in its place; use https"},
		{name: "ErrPlainKeys", yaml: withJWT + "  jwt2: {}\n",
			want: "spillway.yaml:6: auth.jwt2: unknown key; did you mean jwt?"},
		{name: "ErrSymmetric", yaml: strings.Replace(withJWT, "audience: [us]", "audience: [us], algorithms: [RS256, HS256]", 1),
			want: "spillway.yaml:5: auth.jwt.algorithms: \"HS256\" signs nothing here; want RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512"},
		{name: "ErrNoAlgorithm", yaml: strings.Replace(withJWT, "audience: [us]", "audience: [us], algorithms: []", 1),
			want: "spillway.yaml:5: auth.jwt.algorithms: must not be empty"},
		{name: "ErrSkew", yaml: strings.Replace(withJWT, "audience: [us]", "audience: [us], clock_skew: 1h", 1),
			want: "spillway.yaml:5: auth.jwt.clock_skew: 1h is out of range; allowed is 0s to 2m0s"},
		{name: "ErrAddress", yaml: strings.Replace(withJWT, "audience: [us]", "audience: [us], jwks_url: 'ftp://x/y'", 1),
			want: "spillway.yaml:5: auth.jwt.jwks_url: is no address that can be asked; write it such as https://auth.example.org/token, without user and fragment"},

		// introspection.
		{name: "ErrAskingWithoutAll", yaml: minimal + "auth: {mode: introspection, introspection: {audience: [us]}}\n",
			want: "spillway.yaml:3: auth.introspection.endpoint: is required: where tokens are asked about, such as https://idp.example.org/introspect\n" +
				"spillway.yaml:3: auth.introspection.client_id: is required: the id under which the endpoint knows this gateway\n" +
				"spillway.yaml:3: auth.introspection.client_secret_file: is required, or client_secret with ${NAME}, or key_file"},
		{name: "ErrSecretAndKey", yaml: strings.Replace(withAsking, "audience", "key_file: signing.pem, audience", 1),
			want: "spillway.yaml:5: auth.introspection.key_file: stands beside a client secret; remove one of them"},
		{name: "ErrSecretTwice", yaml: strings.Replace(withAsking, "audience", "client_secret: '${S}', audience", 1), env: []string{"S=hidden"},
			want: "spillway.yaml:5: auth.introspection.client_secret_file: stands beside auth.introspection.client_secret; remove one of them"},

		// builtin.
		{name: "ErrSharedWithoutKey", yaml: withBuiltin + client + "store: {redis: {url: 'redis://localhost'}}\nstorage: {bucket: {url: 's3://x?region=a'}}\n",
			want: "spillway.yaml:5: auth.builtin.signing_key_files: is required with store.redis: every replica must accept the tokens of the others, so give all of them the same key (openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out signing.pem)"},
		{name: "ErrOpenKey", yaml: strings.Replace(withBuiltin, "    clients", "    signing_key_files: [open.pem]\n    clients", 1) + client,
			want: "spillway.yaml:6: auth.builtin.signing_key_files: the file open.pem can be read or changed by everybody; take that right away (chmod o= open.pem)"},
		{name: "ErrNoKey", yaml: strings.Replace(withBuiltin, "    clients", "    signing_key_files: [secret.txt]\n    clients", 1) + client,
			want: "spillway.yaml:6: auth.builtin.signing_key_files: secret.txt: expected one private key in PEM, and nothing else"},
		{name: "ErrKeyTwice", yaml: strings.Replace(withBuiltin, "    clients", "    signing_key_files: [signing.pem, signing.pem]\n    clients", 1) + client,
			want: "spillway.yaml:6: auth.builtin.signing_key_files: names one key twice"},
		{name: "ErrClients", yaml: withBuiltin + "      - {}\n      - {id: b, scopes: 'user/*.rs', jwks_file: absent}\n      - {id: b, scope: x}\n      - b\n      - {id: c, scopes: system/Patient.rs, jwks_url: 'http://c.example.org/jwks'}\n",
			want: "spillway.yaml:7: auth.builtin.clients[0]: needs jwks_url, jwks or jwks_file: the public keys of the client\n" +
				"spillway.yaml:7: auth.builtin.clients[0].scopes: is required: what the client may be granted, such as system/Patient.rs system/Group.rs, or system/*.rs\n" +
				"spillway.yaml:7: auth.builtin.clients[0].id: is required\n" +
				"spillway.yaml:8: auth.builtin.clients[1].scopes: has one that is no system scope, or malformed; write them such as system/Patient.rs system/Group.rs\n" +
				"spillway.yaml:8: auth.builtin.clients[1].jwks_file: cannot read the file: open absent: no such file or directory\n" +
				"spillway.yaml:9: auth.builtin.clients[2].scope: unknown key; did you mean scopes?\n" +
				"spillway.yaml:9: auth.builtin.clients[2]: needs jwks_url, jwks or jwks_file: the public keys of the client\n" +
				"spillway.yaml:9: auth.builtin.clients[2].scopes: is required: what the client may be granted, such as system/Patient.rs system/Group.rs, or system/*.rs\n" +
				"spillway.yaml:9: auth.builtin.clients[2].id: \"b\" is that of another client too\n" +
				"spillway.yaml:10: auth.builtin.clients[3]: want a section with keys of its own, such as {id: …}\n" +
				"spillway.yaml:11: auth.builtin.clients[4].jwks_url: is one of http, so whoever is in between could put keys of his own there; use https, or set auth.builtin.allow_plain_jwks: true for a trial"},
		{name: "ErrClientsNoList", yaml: minimal + "auth: {mode: builtin, builtin: {clients: {id: a}}}\n",
			want: "spillway.yaml:3: auth.builtin.clients: want a list of sections, each with a dash before it"},
		{name: "ErrClientsByEnvironment", yaml: withBuiltin + client, env: []string{"SPILLWAY_AUTH_BUILTIN_CLIENTS=a"},
			want: "SPILLWAY_AUTH_BUILTIN_CLIENTS: auth.builtin.clients is a list of sections, which can only stand in the file"},
		{name: "ErrSymmetricKey", yaml: withBuiltin + "      - {id: a, scopes: 'system/*.rs', jwks: {keys: [{kty: oct, kid: k, k: AAAA}]}}\n",
			want: "spillway.yaml:7: auth.builtin.clients[0].jwks: has a key that cannot be used: key 1 is private or symmetric"},
		{name: "ErrTwoPlacesOfKeys", yaml: withBuiltin + "      - {id: a, scopes: 'system/*.rs', jwks_url: 'https://a.example.org/k', jwks_file: client.jwks.json}\n",
			want: "spillway.yaml:7: auth.builtin.clients[0]: has both an address of keys and the keys; remove one"},
		{name: "ErrGroup", yaml: withBuiltin + "      - {id: a, scopes: 'system/*.rs', jwks_file: client.jwks.json, groups: [a, ../b]}\n",
			want: "spillway.yaml:7: auth.builtin.clients[0].groups: \"../b\" is no id of a Group; write ids, or \"*\" for all"},

		// mtls.
		{name: "ErrCertificatesWithoutTLS", yaml: minimal + "auth:\n  mode: mtls\n  mtls:\n    clients:\n" + certified,
			want: "spillway.yaml:1: server.tls.cert_file: is required with auth.mode mtls, since clients show their certificates in TLS to this process itself\n" +
				"spillway.yaml:1: server.tls.client_ca_file: is required with auth.mode mtls: the authorities that have signed the certificates of clients; only clients with a fingerprint can do without"},
		{name: "ErrCertificateOfNobody", yaml: withMTLS + "      - {id: a, scopes: 'system/*.rs'}\n      - {id: b, scopes: 'system/*.rs', fingerprint: 12}\n",
			want: "spillway.yaml:8: auth.mtls.clients[0]: needs fingerprint, subject, dns, uri or email: which certificate is the client's\n" +
				"spillway.yaml:9: auth.mtls.clients[1].fingerprint: has not 64 hexadecimal digits; openssl x509 -noout -fingerprint -sha256 -in client.pem writes it"},
		{name: "ErrClientCAWithoutTLS", yaml: minimal + "server: {tls: {client_ca_file: ca.pem}}\n",
			want: "spillway.yaml:3: server.tls.client_ca_file: is for connections of TLS; set server.tls.cert_file and key_file too"},

		// Our own credential.
		{name: "ErrPassThroughForNobody", yaml: minimal + "  passthrough_auth: gateway\n  auth: {mode: basic, basic: {user: u, password_file: secret.txt}}\n",
			want: "spillway.yaml:3: upstream.passthrough_auth: is gateway, and with auth.mode none everybody would use the upstream with the credential of the gateway; choose an auth.mode, or set it to caller"},
		{name: "ErrPassThroughOfNothing", yaml: strings.Replace(withJWT, "auth:", "  passthrough_auth: gateway\nauth:", 1),
			want: "spillway.yaml:3: upstream.passthrough_auth: is gateway, and upstream.auth.mode none has no credential to send"},
		{name: "ErrBasicOverHTTP", yaml: "upstream:\n  url: http://fhir.example.org/fhir\n  auth: {mode: basic, basic: {user: u, password_file: secret.txt}}\n",
			want: "spillway.yaml:2: upstream.url: is one of http on another machine, and upstream.auth.mode basic would send a credential there in the clear; use https, or set upstream.auth.allow_plain_http: true where the network in between is safe"},
		{name: "ErrTokenOverHTTP", yaml: minimal + "  auth: {mode: private_key_jwt, private_key_jwt: {token_url: 'http://a.example.org/token', client_id: gw, key_file: signing.pem}}\n",
			want: "spillway.yaml:3: upstream.auth.private_key_jwt.token_url: is one of http on another machine; use https, or set upstream.auth.allow_plain_http: true where the network in between is safe"},
		{name: "ErrNothingOfACredential", yaml: minimal + "  auth: {mode: private_key_jwt}\n",
			want: "spillway.yaml:3: upstream.auth.private_key_jwt.client_id: is required: the id under which the authorisation server of the upstream knows this gateway\n" +
				"spillway.yaml:3: upstream.auth.private_key_jwt.key_file: is required: the private key in PEM whose public half that server knows"},
		{name: "ErrAlgorithmOfOtherKey", yaml: minimal + "  auth: {mode: private_key_jwt, private_key_jwt: {client_id: gw, key_file: signing.pem, algorithm: RS384}}\n",
			want: "spillway.yaml:3: upstream.auth.private_key_jwt.key_file: signing.pem: a key on this curve signs with ES384 only"},
		{name: "ErrHeaderTwice", yaml: minimal + "  headers: {Authorization: '${T}'}\n  auth: {mode: basic, basic: {user: u, password_file: secret.txt}}\n", env: []string{"T=x"},
			want: "spillway.yaml:3: upstream.headers: sets the header that upstream.auth sets; remove one of them"},
		{name: "ErrHeader", yaml: minimal + "  auth: {mode: header, header: {name: Host, value: '${T}'}}\n", env: []string{"T=x"},
			want: "spillway.yaml:3: upstream.auth.header.value: Host cannot be set: the export sets it itself"},
		{name: "ErrCertificateWithoutMode", yaml: minimal + "  tls: {cert_file: c.pem, key_file: k.pem}\n",
			want: "spillway.yaml:3: upstream.tls.cert_file: is a credential, and upstream.auth.mode is none; set that to mtls"},
		{name: "ErrModeWithoutCertificate", yaml: minimal + "  auth: {mode: mtls}\n",
			want: "spillway.yaml:1: upstream.tls.cert_file: is required with upstream.auth.mode mtls"},
		{name: "ErrTLSOverHTTP", yaml: "upstream:\n  url: http://localhost:1/fhir\n  tls: {ca_file: ca.pem}\n",
			want: "spillway.yaml:3: upstream.tls: is for an upstream.url of https"},
		{name: "ErrCredentialOfOtherMode", yaml: minimal + "  auth: {mode: header, header: {name: X-Key, value_file: secret.txt}, basic: {user: u}}\n",
			want: "spillway.yaml:3: upstream.auth.basic: is for upstream.auth.mode basic, and the mode is header; change the mode, or remove the section"},

		// Listener and audit.
		{name: "ErrTrustsEverybody", yaml: minimal + "server: {trusted_proxies: [0.0.0.0/0]}\n",
			want: "spillway.yaml:3: server.trusted_proxies: \"0.0.0.0/0\" is every address; whoever is trusted can pretend to be anybody"},
		{name: "ErrProxy", yaml: minimal + "server: {trusted_proxies: [balancer]}\n",
			want: "spillway.yaml:3: server.trusted_proxies: \"balancer\" is neither an address nor a network; write it such as 10.0.0.7 or 10.0.0.0/8"},
		{name: "ErrOldTLS", yaml: minimal + "server: {tls: {min_version: '1.1'}}\n",
			want: "spillway.yaml:3: server.tls.min_version: \"1.1\" is not allowed here; want 1.2, 1.3"},
		{name: "ErrSink", yaml: minimal + "audit: {sinks: [syslog]}\n",
			want: "spillway.yaml:3: audit.sinks: \"syslog\" is not allowed here; want file, stdout"},
		{name: "ErrAuditKey", yaml: minimal + "audit: {sinks: [stdout], key_file: short.key}\n",
			want: "spillway.yaml:3: audit.key_file: the file short.key is shorter than 32 bytes; make it with openssl rand -hex 32"},
		{name: "ErrAuditOfNothing", yaml: minimal + "audit: {on_failure: deny}\n",
			want: "spillway.yaml:3: audit.on_failure: has no effect without audit.sinks"},
		{name: "ErrAuditAmongExports", yaml: minimal + "audit: {file: spillway-data/files/a}\n",
			want: "spillway.yaml:3: audit.file: lies in storage.disk.path, which holds files of exports only"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := read(t, test.yaml, test.env...)
			got := fmt.Sprint(err)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("messages (-want +got):\n%s", diff)
			}
			if strings.Contains(got, "hidden") || strings.Contains(got, "tell-nobody") {
				t.Errorf("a secret is told: %s", got)
			}
		})
	}
}

// TestModes: each mode as it is meant to be written, and what is shown of it.
func TestModes(t *testing.T) {
	files(t)
	for _, test := range []struct {
		name, yaml string
		env        []string
		check      func(*Config) bool
		shows      []string // lines of the effective configuration
		warnings   []string
	}{
		{name: "None", yaml: minimal, check: func(c *Config) bool { return !c.Auth.Enforces() && !c.Audit.On() && !c.Audit.Deny }},
		{
			name: "JWT", yaml: withJWT + "authorization:\n  groups: [\"*\"]\n  clients:\n    - {id: a, groups: [g1, Group/g2], disabled: true, purpose: research}\n",
			check: func(c *Config) bool {
				return c.Auth.JWT.Audiences[0] == "us" && c.Auth.Groups.All && c.Auth.Clients[0].Disabled && c.Auth.Clients[0].Purpose == "research" &&
					cmp.Equal(c.Auth.Clients[0].Groups, auth.Groups{IDs: []string{"g1", "g2"}}) && c.Audit.Deny && c.Audit.File == "spillway-data/audit.jsonl"
			},
			shows: []string{"authorization.clients[0].groups: g1, g2", "authorization.groups: *", "authorization.clients: 1"},
		},
		{
			name: "Introspection", yaml: withAsking,
			check: func(c *Config) bool { return c.Auth.Introspection.Secret == "tell-nobody" },
			shows: []string{"auth.introspection.client_secret: (set)", "auth.introspection.client_secret_file: secret.txt"},
		},
		{
			name: "IntrospectionWithKey", yaml: minimal + "auth: {mode: introspection, introspection: {endpoint: 'https://i.example.org/i', client_id: gw, key_file: signing.pem}}\n",
			check:    func(c *Config) bool { return c.Auth.Introspection.Key.Algorithm() == token.ES384 },
			warnings: []string{"spillway.yaml:3: auth.introspection: names no audience, so every active token of the issuer with system scopes is accepted, for whatever server it was made"},
		},
		{
			name: "Builtin",
			yaml: strings.Replace(withBuiltin, "    clients", "    signing_key_files: [signing.pem, next.pem]\n    token_ttl: 2m\n    clients", 1) + client +
				"      - id: b\n        jwks_url: https://b.example.org/jwks.json\n        scopes: system/Patient.rs system/Group.rs\n        groups: [g]\n" +
				"      - id: c\n        scopes: ${SCOPES}\n        jwks: " + inline(t) + "\naudit: {sinks: [file, stdout], key_file: audit.key, on_failure: warn}\n",
			env: []string{"SCOPES=system/Patient.read"},
			check: func(c *Config) bool {
				b := &c.Auth.Builtin
				return len(b.Keys) == 2 && len(b.Clients) == 3 && b.Clients[1].JWKSURL == "https://b.example.org/jwks.json" && b.Clients[1].Groups.IDs[0] == "g" &&
					len(b.Clients[2].JWKS) > 0 && b.Clients[2].Scopes == "system/Patient.read" && c.Audit.Stdout && len(c.Audit.Key) == 64 && !c.Audit.Deny
			},
			shows: []string{"auth.builtin.clients: 3", "auth.builtin.clients[1].jwks_url: https://b.example.org/jwks.json", "auth.builtin.signing_key_files: signing.pem, next.pem"},
		},
		{
			name: "BuiltinShared", yaml: "store: {redis: {url: 'redis://localhost'}}\nstorage: {bucket: {url: 's3://x?region=a'}}\n" + strings.Replace(withBuiltin, "    clients", "    signing_key_files: [signing.pem]\n    clients", 1) + client,
			check: func(c *Config) bool { return len(c.Auth.Builtin.Keys) == 1 },
			warnings: []string{
				"spillway.yaml:1: server.public_url: is not set, so each process names its own address in its answers; replicas behind a load balancer must name that of the balancer",
				"spillway.yaml:1: server.public_url: is in the tokens of auth.mode builtin, so without it replicas do not accept those of each other",
			},
		},
		{
			name: "MTLS", yaml: withMTLS + certified,
			check: func(c *Config) bool {
				return c.Auth.MTLS.Clients[0].DNS == "a.example.org" && c.Server.ClientCAFile == "ca.pem"
			},
		},
		{
			name:  "MTLSByFingerprint",
			yaml:  strings.Replace(withMTLS, ", client_ca_file: ca.pem", "", 1) + "      - {id: a, scopes: 'system/*.rs', fingerprint: '" + strings.Repeat("AB:", 31) + "AB'}\n",
			check: func(c *Config) bool { return c.Server.ClientCAFile == "" },
		},
		{
			name: "PrivateKeyJWT", yaml: strings.Replace(withJWT, "auth:", "  passthrough_auth: gateway\n  auth:\n    mode: private_key_jwt\n    private_key_jwt: {client_id: gw, key_file: signing.pem, key_id: k1, scope: system/Patient.rs}\nauth:", 1),
			check: func(c *Config) bool {
				a := &c.Upstream.Auth
				return a.PassThrough && a.Key.ID() == "k1" && a.Scope == "system/Patient.rs" && a.TokenURL == ""
			},
		},
		{
			name: "Basic", yaml: minimal + "  auth: {mode: basic, basic: {user: u, password: '${P}'}}\n", env: []string{"P=tell-nobody"},
			check: func(c *Config) bool { return c.Upstream.Auth.Password == "tell-nobody" },
			shows: []string{"upstream.auth.basic.password: (set)"},
		},
		{
			name: "SecretInTheFile", yaml: minimal + "  auth: {mode: basic, basic: {user: u, password: tell-nobody}}\n",
			check:    func(c *Config) bool { return c.Upstream.Auth.Password == "tell-nobody" },
			warnings: []string{"spillway.yaml:3: upstream.auth.basic.password: a secret stands in the file itself; write ${NAME}, or name a file with password_file"},
		},
		{
			name: "HeaderOverHTTP", yaml: "upstream:\n  url: http://fhir.example.org\n  headers: {X-Api-Key: '${K}'}\n", env: []string{"K=x"},
			check:    func(c *Config) bool { return true },
			warnings: []string{"spillway.yaml:3: upstream.headers: X-Api-Key goes over http to another machine, where it can be read on the way"},
		},
		{
			name: "Proxies", yaml: minimal + "server: {trusted_proxies: [10.1.2.3, 'fd00::/8', 10.9.0.0/16]}\n",
			check: func(c *Config) bool { return len(c.Server.TrustedProxies) == 3 },
			shows: []string{"server.trusted_proxies: 10.1.2.3/32, fd00::/8, 10.9.0.0/16"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := read(t, test.yaml, test.env...)
			if err != nil {
				t.Fatal(err)
			}
			shown := c.String()
			if !test.check(c) {
				t.Errorf("got:\n%s", shown)
			}
			for _, line := range test.shows {
				if !strings.Contains("\n"+shown, "\n"+line+"\n") {
					t.Errorf("lacks the line %q:\n%s", line, shown)
				}
			}
			if strings.Contains(shown, "tell-nobody") || strings.Contains(shown, "0123456789abcdef") {
				t.Errorf("shows a secret:\n%s", shown)
			}
			if diff := cmp.Diff(test.warnings, c.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

// inline is a key set as it is pasted into YAML.
func inline(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("client.jwks.json")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestDifferences: what takes effect at once, and what does not.
func TestDifferences(t *testing.T) {
	files(t)
	before, err := read(t, withBuiltin+client)
	if err != nil {
		t.Fatal(err)
	}
	after, err := read(t, strings.Replace(withBuiltin, "upstream:", "log: {level: debug}\nupstream:", 1)+
		strings.Replace(client, "client.jwks", "other.jwks", 1)+"      - {id: b, disabled: true, scopes: 'system/*.rs', jwks_file: client.jwks.json}\n")
	if err != nil {
		t.Fatal(err)
	}
	live, restart := before.Differences(after)
	wantLive := "auth.builtin.clients, auth.builtin.clients[0].jwks, auth.builtin.clients[0].jwks_file, auth.builtin.clients[1].disabled, auth.builtin.clients[1].groups, " +
		"auth.builtin.clients[1].id, auth.builtin.clients[1].jwks, auth.builtin.clients[1].jwks_file, auth.builtin.clients[1].jwks_url, auth.builtin.clients[1].purpose, auth.builtin.clients[1].scopes"
	if got := strings.Join(live, ", "); got != wantLive {
		t.Errorf("at once: %s", got)
	}
	if got := strings.Join(restart, ", "); got != "log.level" {
		t.Errorf("at the next start: %s", got)
	}
	mixed := before.WithClients(after)
	if live, restart = mixed.Differences(after); len(live) > 0 || len(restart) != 1 || len(mixed.Auth.Everybody()) != 2 || mixed.Log.Level != "info" {
		t.Errorf("the mixture differs in %v, %v", live, restart)
	}
	if before.Digest() == mixed.Digest() {
		t.Error("the digest does not change")
	}
}

// TestSecretFiles: paths are relative to the working directory, like all others.
func TestSecretFiles(t *testing.T) {
	files(t)
	if _, err := ReadPrivate(filepath.Join(".", "signing.pem")); err != nil {
		t.Error(err)
	}
}
