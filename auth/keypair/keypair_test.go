package keypair

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// write makes a pair of files, with a serial number to know it by.
func write(t *testing.T, dir string, serial int64, mode os.FileMode) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"example.com"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert": {Type: "CERTIFICATE", Bytes: der}, "key": {Type: "PRIVATE KEY", Bytes: private}} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(block), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(time.Duration(serial) * time.Second) // distinct, whatever the file system keeps
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRenewal(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, 1, 0o600)
	now := time.Now()
	var log bytes.Buffer
	p, err := Open(filepath.Join(dir, "cert"), filepath.Join(dir, "key"), func() time.Time { return now }, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) != 1 {
			t.Error("no client certificate came")
		}
	}))
	s.TLS = &tls.Config{GetCertificate: p.ForServer, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12}
	s.StartTLS()
	defer s.Close()
	// The certificate of a connection that is made now.
	serial := func() int64 {
		t.Helper()
		c, err := tls.Dial("tcp", s.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, GetClientCertificate: p.ForClient, ServerName: "example.com"})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if got := serial(); got != 1 {
		t.Errorf("at first: %d", got)
	}
	write(t, dir, 2, 0o600)
	if got := serial(); got != 1 {
		t.Errorf("before the next look: %d", got)
	}
	now = now.Add(every)
	if got := serial(); got != 2 {
		t.Errorf("after it: %d", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "cert"), []byte("half a cert"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		now = now.Add(every)
		if got := serial(); got != 2 {
			t.Errorf("while the renewal is half done: %d", got)
		}
	}
	if n := strings.Count(log.String(), "cannot be used"); n != 1 || strings.Contains(log.String(), dir) {
		t.Errorf("log: %s", &log)
	}
	write(t, dir, 3, 0o600)
	now = now.Add(every)
	if got := serial(); got != 3 || !p.Expires().After(now) {
		t.Errorf("after the renewal: %d", got)
	}
}

func TestFilesAreChecked(t *testing.T) {
	open := func(dir string) error {
		_, err := Open(filepath.Join(dir, "cert"), filepath.Join(dir, "key"), nil, nil)
		return err
	}
	dir := t.TempDir()
	if err := open(dir); err == nil || strings.Contains(err.Error(), dir) {
		t.Errorf("without files: %v", err)
	}
	write(t, dir, 1, 0o644)
	if err := open(dir); err == nil {
		t.Error("a key that everybody can read was accepted")
	}
	write(t, dir, 1, 0o640)
	if err := open(dir); err != nil {
		t.Error(err)
	}
	write(t, dir, 2, 0o600)
	other := t.TempDir()
	write(t, other, 3, 0o600)
	if _, err := Open(filepath.Join(dir, "cert"), filepath.Join(other, "key"), nil, nil); err == nil {
		t.Error("a key of another certificate was accepted")
	}
	if _, err := Authorities(filepath.Join(dir, "cert")); err != nil {
		t.Error(err)
	}
	if _, err := Authorities(filepath.Join(dir, "key")); err == nil {
		t.Error("a key was taken for an authority")
	}
	if _, err := Authorities(filepath.Join(dir, "none")); err == nil {
		t.Error("no file was taken for an authority")
	}
}
