package mtls

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"spillway/auth"
	"spillway/auth/scope"
)

// An authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{}
	made := a.make(t, func(c *x509.Certificate) {
		c.Subject.CommonName, c.IsCA, c.BasicConstraintsValid, c.KeyUsage = "CA", true, true, x509.KeyUsageCertSign
	})
	a.key, a.cert = made.PrivateKey.(*ecdsa.PrivateKey), made.Leaf
	return a
}

// make returns a certificate, signed by the authority or, if it has no
// certificate, by itself.
func (a *authority) make(t *testing.T, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	uri, _ := url.Parse("spiffe://example.org/export")
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		Subject:  pkix.Name{CommonName: "export", Organization: []string{"Example"}},
		DNSNames: []string{"export.example.org"}, URIs: []*url.URL{uri}, EmailAddresses: []string{"export@example.org"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if change != nil {
		change(template)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func fingerprint(c tls.Certificate) string {
	sum := sha256.Sum256(c.Leaf.Raw)
	return hex.EncodeToString(sum[:])
}

// ask makes a real connection with the certificate, and returns whom the
// Authenticator finds behind it.
func ask(t *testing.T, a auth.Authenticator, ca *authority, mode tls.ClientAuthType, certs ...tls.Certificate) (auth.Principal, error) {
	t.Helper()
	var p auth.Principal
	var found error
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { p, found = a.Authenticate(r) }))
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	s.TLS = &tls.Config{ClientAuth: mode, ClientCAs: pool, MinVersion: tls.VersionTLS12}
	s.StartTLS()
	defer s.Close()
	c := s.Client()
	c.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if len(certs) == 0 {
			return &tls.Certificate{}, nil
		}
		return &certs[0], nil
	}
	got, err := c.Get(s.URL)
	if err != nil {
		return auth.Principal{}, err
	}
	_ = got.Body.Close()
	return p, found
}

func TestClientsAreFound(t *testing.T) {
	ca := newAuthority(t)
	cert := ca.make(t, nil)
	print := fingerprint(cert)
	colons := strings.ToUpper(print[:2]) + ":" + strings.ToUpper(print[2:])
	for name, tt := range map[string]struct {
		client Client
		ok     bool
	}{
		"URI":                  {Client{URI: "spiffe://example.org/export"}, true},
		"DNS":                  {Client{DNS: "EXPORT.example.org"}, true},
		"Email":                {Client{Email: "export@example.org"}, true},
		"Subject":              {Client{Subject: "CN=export,O=Example"}, true},
		"Fingerprint":          {Client{Fingerprint: print}, true},
		"FingerprintColons":    {Client{Fingerprint: colons}, true},
		"All":                  {Client{Fingerprint: print, DNS: "export.example.org", Subject: "CN=export,O=Example"}, true},
		"OneOfThemWrong":       {Client{Fingerprint: print, DNS: "other.example.org"}, false},
		"CommonNameAlone":      {Client{Subject: "CN=export"}, false},
		"CommonNameAsDNS":      {Client{DNS: "export"}, false},
		"URIPrefix":            {Client{URI: "spiffe://example.org/exp"}, false},
		"OtherFingerprint":     {Client{Fingerprint: strings.Repeat("ab", 32)}, false},
		"Disabled":             {Client{DNS: "export.example.org", Disabled: true}, false},
		"EmailAsSubstring":     {Client{Email: "export@example"}, false},
		"WildcardIsNoWildcard": {Client{DNS: "*.example.org"}, false},
	} {
		tt.client.ID, tt.client.Scopes, tt.client.Groups = "c1", "system/Patient.rs", auth.Groups{IDs: []string{"7"}}
		a, err := New([]Client{tt.client}, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		p, err := ask(t, a, ca, tls.RequireAndVerifyClientCert, cert)
		if !tt.ok {
			if !errors.Is(err, auth.ErrBadCredential) || p.ClientID != "" {
				t.Errorf("%s: %+v, %v", name, p, err)
			}
			continue
		}
		if err != nil || p.ClientID != "c1" || !p.Groups.Allows("7") || !p.Grant.Allows("Patient", scope.Read|scope.Search).All || !p.Expires.Equal(cert.Leaf.NotAfter) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

func TestHandshakes(t *testing.T) {
	ca, foreign := newAuthority(t), newAuthority(t)
	byName := Client{ID: "name", DNS: "export.example.org", Scopes: "system/*.rs"}
	a, err := New([]Client{byName}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if a.RequiresToken() {
		t.Error("manifests would ask for a token")
	}
	if _, err := ask(t, a, ca, tls.VerifyClientCertIfGiven); !errors.Is(err, auth.ErrNoCredential) {
		t.Errorf("without a certificate: %v", err)
	}
	if _, err := a.Authenticate(httptest.NewRequest(http.MethodGet, "/", nil)); !errors.Is(err, auth.ErrNoCredential) {
		t.Errorf("without TLS: %v", err)
	}
	if p, err := ask(t, a, ca, tls.RequestClientCert, foreign.make(t, nil)); !errors.Is(err, auth.ErrBadCredential) || p.ClientID != "" {
		t.Errorf("name of a foreign authority: %+v, %v", p, err)
	}
	if p, err := ask(t, a, ca, tls.VerifyClientCertIfGiven, foreign.make(t, nil)); err == nil || p.ClientID != "" {
		t.Errorf("name of a foreign authority, verified: %+v, %v", p, err)
	}
	self := (&authority{}).make(t, nil)
	if a, err = New([]Client{{ID: "pinned", Fingerprint: fingerprint(self), Scopes: "system/*.rs"}}, nil); err != nil {
		t.Fatal(err)
	}
	if p, err := ask(t, a, ca, tls.RequestClientCert, self); err != nil || p.ClientID != "pinned" {
		t.Errorf("pinned: %+v, %v", p, err)
	}
	if p, err := ask(t, a, ca, tls.RequestClientCert, (&authority{}).make(t, nil)); !errors.Is(err, auth.ErrBadCredential) {
		t.Errorf("another one with the same names: %+v, %v", p, err)
	}
	for _, now := range []time.Time{self.Leaf.NotAfter.Add(time.Second), self.Leaf.NotBefore.Add(-time.Second)} {
		if a, err = New([]Client{{ID: "pinned", Fingerprint: fingerprint(self), Scopes: "system/*.rs"}}, func() time.Time { return now }); err != nil {
			t.Fatal(err)
		}
		if _, err := ask(t, a, ca, tls.RequestClientCert, self); !errors.Is(err, auth.ErrBadCredential) {
			t.Errorf("at %v: %v", now, err)
		}
	}
	cert := ca.make(t, nil)
	if a, err = New([]Client{byName, {ID: "other", Email: "export@example.org", Scopes: "system/*.rs"}}, nil); err != nil {
		t.Fatal(err)
	}
	if p, err := ask(t, a, ca, tls.RequireAndVerifyClientCert, cert); !errors.Is(err, auth.ErrBadCredential) || p.ClientID != "" {
		t.Errorf("of two clients: %+v, %v", p, err)
	}
}

func TestClientsOfTheConfiguration(t *testing.T) {
	good := Client{ID: "a", DNS: "x", Scopes: "system/*.rs"}
	for name, c := range map[string]Client{
		"no id":              {DNS: "x", Scopes: "system/*.rs"},
		"nothing to match":   {ID: "b", Scopes: "system/*.rs"},
		"short fingerprint":  {ID: "b", Fingerprint: "ab", Scopes: "system/*.rs"},
		"no hex fingerprint": {ID: "b", Fingerprint: strings.Repeat("x", 64), Scopes: "system/*.rs"},
		"no scopes":          {ID: "b", DNS: "x"},
		"malformed scopes":   {ID: "b", DNS: "x", Scopes: "system/*.sr"},
		"twice":              good,
	} {
		if _, err := New([]Client{good, c}, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
