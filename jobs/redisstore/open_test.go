package redisstore_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spillway/jobs/redisstore"
	"spillway/test/testenv"
)

const secret = "s3cret-password"

// refusedBy opens a store that must not open, and wants these parts in the error.
func refusedBy(t *testing.T, o redisstore.Options, parts ...string) {
	t.Helper()
	began := time.Now()
	s, err := redisstore.Open(t.Context(), o)
	if err == nil {
		_ = s.Close()
		t.Errorf("Open succeeded, want an error with %q", parts)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("Open = %v; want %q in it", err, p)
		}
	}
	if strings.Contains(err.Error(), secret) {
		t.Errorf("the error shows the password: %v", err)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("Open took %v", took)
	}
}

// warned opens a store and wants these parts in its warnings; none: no warning.
func warned(t *testing.T, o redisstore.Options, parts ...string) {
	t.Helper()
	s := open(t, o)
	all := strings.Join(s.Warnings(), "\n")
	if len(parts) == 0 && all != "" {
		t.Errorf("warnings: %s; want none", all)
	}
	for _, p := range parts {
		if !strings.Contains(all, p) {
			t.Errorf("warnings: %q; want %q in them", all, p)
		}
	}
	if strings.Contains(all, secret) {
		t.Errorf("a warning shows the password: %s", all)
	}
	j := planned(t, s, 1)
	claim(t, s)
	if err := s.Remove(t.Context(), j.ID); err != nil {
		t.Error(err)
	}
}

func TestParseURL(t *testing.T) {
	for _, good := range []string{
		"redis://localhost", "redis://localhost:6379/0", "rediss://user:p%40ss@redis.example.org:6380/3", "redis://[::1]:6379",
		"unix:///run/redis.sock", "unix://user:pass@/run/redis.sock?db=2",
		"redis://h1:1?addr=h2:2&addr=h3:3", "rediss://h1?addr=h2:2", "redis://s1:26379?master_name=exports&addr=s2:26379&sentinel_password=x",
		"redis://s1:26379/4?master_name=exports",
	} {
		if err := redisstore.ParseURL(good); err != nil {
			t.Errorf("ParseURL(%s) = %v", good, err)
		}
	}
	for bad, part := range map[string]string{
		"":                                  "scheme",
		"localhost:6379":                    "scheme",
		"http://localhost:6379":             "scheme",
		"redis://":                          "host",
		"redis:///0":                        "host",
		"redis://:" + secret + "@/0":        "host",
		"redis://localhost/zero":            "database",
		"redis://localhost/-1":              "database",
		"redis://localhost/0/1":             "database",
		"redis://localhost:port":            "not a URL",
		"redis://u:" + secret + "%zz@h":     "not a URL",
		"redis://h?addr=h2":                 "addr",
		"redis://h?addr=:1":                 "addr",
		"redis://h/1?addr=h2:2":             "Cluster",
		"redis://h?adr=h2:1":                "adr",
		"redis://h?password=" + secret:      "unknown parameter",
		"unix://run/redis.sock":             "three slashes",
		"unix:///run/redis.sock?addr=h2:2":  "addr",
		"redis://h?addr=h2:2;addr=h3:3":     "malformed",
		"redis://u:" + secret + "@h/x":      "database",
		"redis://u:" + secret + "@h?addr=/": "addr",
	} {
		if err := redisstore.ParseURL(bad); err == nil || !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), secret) {
			t.Errorf("ParseURL(%s) = %v; want %q in it, and no password", bad, err, part)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	r := testenv.Redis(t)
	guarded := testenv.Redis(t, "--requirepass", secret)
	page := httptest.NewServer(http.NotFoundHandler())
	defer page.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = gone.Close()
	for name, c := range map[string]struct {
		o     redisstore.Options
		parts []string
	}{
		"NoServer":       {redisstore.Options{URL: "redis://" + gone.Addr().String()}, []string{gone.Addr().String(), "connections"}},
		"NoSocket":       {redisstore.Options{URL: "unix://" + filepath.Join(t.TempDir(), "sock")}, []string{"connections"}},
		"NoHost":         {redisstore.Options{URL: "redis://nowhere.invalid", AllowInsecure: true}, []string{"nowhere.invalid"}},
		"NoAnswer":       {redisstore.Options{URL: "redis://" + silent.Addr().String()}, []string{"in time"}},
		"NotRedis":       {redisstore.Options{URL: "redis://" + page.Listener.Addr().String()}, []string{"as Redis does"}},
		"NoTLS":          {redisstore.Options{URL: "rediss://" + r.Addr}, []string{"TLS"}},
		"NoDatabase":     {redisstore.Options{URL: r.URL() + "/99"}, []string{"database 99"}},
		"NoPassword":     {redisstore.Options{URL: guarded.URL()}, []string{"password"}},
		"WrongPassword":  {redisstore.Options{URL: guarded.URL(), Password: secret + "x"}, []string{"refuses", "password"}},
		"WrongUser":      {redisstore.Options{URL: guarded.URL(), Username: "nobody", Password: secret}, []string{"refuses"}},
		"Plain":          {redisstore.Options{URL: "redis://192.0.2.1:6379"}, []string{"192.0.2.1", "rediss://"}},
		"PlainCluster":   {redisstore.Options{URL: "redis://localhost:1?addr=192.0.2.1:6379"}, []string{"192.0.2.1"}},
		"NoCluster":      {redisstore.Options{URL: r.URL() + "?addr=" + r.Addr}, []string{"Cluster"}},
		"NoSentinel":     {redisstore.Options{URL: r.URL() + "?master_name=exports"}, []string{"Sentinel", "exports"}},
		"Prefix":         {redisstore.Options{URL: r.URL(), KeyPrefix: "a{b}"}, []string{"prefix"}},
		"TLSFilesOnly":   {redisstore.Options{URL: r.URL(), CAFile: "ca.pem"}, []string{"rediss://"}},
		"NoCAFile":       {redisstore.Options{URL: "rediss://" + r.Addr, CAFile: filepath.Join(t.TempDir(), "ca.pem")}, []string{"CA file", "ca.pem"}},
		"NoCertificates": {redisstore.Options{URL: "rediss://" + r.Addr, CertFile: "no.pem"}, []string{"client certificate"}},
	} {
		t.Run(name, func(t *testing.T) { refusedBy(t, c.o, c.parts...) })
	}
	warned(t, redisstore.Options{URL: guarded.URL(), Password: secret}, "on disk")
	warned(t, redisstore.Options{URL: "redis://:" + secret + "@" + guarded.Addr}, "on disk")
}

func TestOpenChecksSettings(t *testing.T) {
	r := testenv.Redis(t)
	o := redisstore.Options{URL: r.URL()}
	warned(t, o, "keeps nothing on disk", "appendonly yes")
	r.CLI("CONFIG", "SET", "save", "3600 1 300 100")
	warned(t, o, "60 minutes", "appendonly yes")
	r.CLI("CONFIG", "SET", "appendonly", "yes")
	warned(t, o)
	r.CLI("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	warned(t, o) // it never comes to that
	r.CLI("CONFIG", "SET", "maxmemory", "100mb")
	refusedBy(t, o, "maxmemory-policy allkeys-lru", "noeviction")
	r.CLI("CONFIG", "SET", "maxmemory-policy", "noeviction")
	warned(t, o)

	replica := testenv.Redis(t, "--replicaof", strings.ReplaceAll(r.Addr, ":", " "))
	refusedBy(t, redisstore.Options{URL: replica.URL()}, "replica")
	sentinel := testenv.RedisSentinel(t, "exports", r)
	refusedBy(t, redisstore.Options{URL: sentinel.URL()}, "master_name")
	refusedBy(t, redisstore.Options{URL: sentinel.URL() + "?master_name=other"}, "other")
}

func TestOpenChecksPermissions(t *testing.T) {
	r := testenv.Redis(t, "--appendonly", "yes")
	acl := func(rules ...string) redisstore.Options {
		r.CLI(append([]string{"ACL", "SETUSER", "spill", "reset", "on", ">" + secret}, rules...)...)
		return redisstore.Options{URL: r.URL(), Username: "spill", Password: secret}
	}
	// What the messages advise is enough.
	warned(t, acl("~{spillway}:*", "+@all", "-@admin", "-@dangerous", "+info"))
	// As many managed services have it.
	warned(t, acl("~*", "+@all", "-@admin", "-@dangerous"), "INFO is not permitted", "noeviction")
	r.CLI("CONFIG", "SET", "appendonly", "no")
	warned(t, acl("~*", "+@all", "-@admin", "-@dangerous", "+info"), "CONFIG is not permitted")
	refusedBy(t, acl("~{spillway}:*", "+@all", "-xadd"), "XADD")
	refusedBy(t, acl("~{spillway}:*", "+@all", "-zrangebyscore"), "ZRANGEBYSCORE")
	refusedBy(t, acl("~{spillway}:*", "+@all", "-xread"), "XREAD")
	refusedBy(t, acl("~{spillway}:*", "+@all", "-@scripting"), "permit")
	refusedBy(t, acl("~other:*", "+@all"), "{spillway}:*")
	refusedBy(t, acl("~{spillway}:*", "+@all", "off"), "refuses")
}

func TestOpenChecksCluster(t *testing.T) {
	t.Parallel()
	c := testenv.RedisCluster(t)
	refusedBy(t, redisstore.Options{URL: c[0].URL()}, "Cluster", "addr=")
	warned(t, redisstore.Options{URL: c.URL()}, c[0].Addr, c[1].Addr, c[2].Addr)
	c[2].CLI("CONFIG", "SET", "maxmemory", "100mb")
	c[2].CLI("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
	refusedBy(t, redisstore.Options{URL: c.URL()}, c[2].Addr, "noeviction")
}

// certificates writes an authority, and a certificate of it, to files.
func certificates(t *testing.T) (ca, cert, key string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &own.PublicKey, own)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(own)
	if err != nil {
		t.Fatal(err)
	}
	cert = write("cert.pem", "CERTIFICATE", der)
	return cert, cert, write("key.pem", "EC PRIVATE KEY", raw)
}

func TestTLS(t *testing.T) {
	ca, cert, key := certificates(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	secure := listener.Addr().String()
	_ = listener.Close()
	_, port, _ := net.SplitHostPort(secure)
	testenv.Redis(t, "--appendonly", "yes", "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca)
	refusedBy(t, redisstore.Options{URL: "rediss://" + secure}, "CA file")
	refusedBy(t, redisstore.Options{URL: "rediss://" + secure, CAFile: ca}, "client certificate")
	refusedBy(t, redisstore.Options{URL: "redis://" + secure}, "rediss://")
	refusedBy(t, redisstore.Options{URL: "rediss://" + strings.Replace(secure, "127.0.0.1", "localhost", 1), CAFile: ca, CertFile: cert, KeyFile: key}, "certificate", "fit")
	warned(t, redisstore.Options{URL: "rediss://" + secure, CAFile: ca, CertFile: cert, KeyFile: key})
}

func TestUnixSocket(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "redis.sock")
	testenv.Redis(t, "--appendonly", "yes", "--unixsocket", sock)
	warned(t, redisstore.Options{URL: "unix://" + sock + "?db=3"})
}
