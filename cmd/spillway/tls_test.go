package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spillway/cmd/spillway/internal/config"
)

func TestServeTLS(t *testing.T) {
	_, url := fake(t, few())
	cert, key, pool := certificate(t)
	flags := []config.Flag{{Name: "x", Key: "server.tls.cert_file", Value: cert}, {Name: "y", Key: "server.tls.key_file", Value: key}}
	r := start(t, gatewayConfig(t, url, flags...), halves{web: true, work: true})
	if got, want := r.publicURL.String(), "https://"+r.public.Addr().String()+"/fhir"; got != want {
		t.Errorf("public URL %s, want %s", got, want)
	}
	for _, test := range []struct {
		version uint16
		ok      bool
	}{{tls.VersionTLS13, true}, {tls.VersionTLS12, true}, {tls.VersionTLS11, false}} {
		client := &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: pool, MinVersion: test.version, MaxVersion: test.version},
		}}
		answer, err := client.Get(r.publicURL.String() + "/Patient?_count=1")
		if (err == nil) != test.ok {
			t.Errorf("%s: %v", tls.VersionName(test.version), err)
		}
		if err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode != http.StatusOK {
				t.Errorf("%s: %s", tls.VersionName(test.version), answer.Status)
			}
		}
	}
	flags[1].Value = cert
	if _, err := newServer(t.Context(), gatewayConfig(t, url, flags...), halves{web: true}, io.Discard, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "server.tls: ") {
		t.Errorf("a key that is none: %v", err)
	}
}

// certificate makes one for 127.0.0.1 and returns its files.
func certificate(t *testing.T) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool = x509.NewCertPool()
	if parsed, err := x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	} else {
		pool.AddCert(parsed)
	}
	return cert, key, pool
}
