//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spillway/auth/token"
	"spillway/test/testenv"
)

// A smartClient is a client of SMART Backend Services.
type smartClient struct {
	id     string
	scopes string
	key    *token.SigningKey
	pem    string // file of its private key
}

// newSMARTClient makes a client with a key of one of the two kinds.
func newSMARTClient(t *testing.T, id, scopes string, alg token.Algorithm, key any) *smartClient {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	c := &smartClient{id: id, scopes: scopes, pem: filepath.Join(t.TempDir(), id+".pem")}
	if err := os.WriteFile(c.pem, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if c.key, err = token.ReadSigningKey(text, "", alg); err != nil {
		t.Fatal(err)
	}
	return c
}

// yaml is the client in the configuration.
func (c *smartClient) yaml() string {
	return fmt.Sprintf("      - {id: %s, scopes: '%s', groups: ['*'], jwks: '%s'}\n", c.id, c.scopes, token.PublicJSON(c.key))
}

// token gets an access token and returns the header that carries it.
func (c *smartClient) token(t *testing.T, endpoint string) string {
	t.Helper()
	assertion, err := c.key.SignAssertion("", map[string]any{
		"iss": c.id, "sub": c.id, "aud": endpoint, "jti": rand.Text(), "exp": time.Now().Add(time.Minute).Unix(),
	})
	if err != nil {
		t.Fatal(err)
	}
	form := url.Values{
		"grant_type": {"client_credentials"}, "scope": {c.scopes}, "client_assertion": {assertion},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
	}
	r := ask(t, http.MethodPost, endpoint, form.Encode(), "Content-Type: application/x-www-form-urlencoded").mustBe(t, http.StatusOK)
	var got struct {
		Token   string `json:"access_token"`
		Type    string `json:"token_type"`
		Expires int    `json:"expires_in"`
		Scope   string `json:"scope"`
	}
	if err := json.Unmarshal(r.body, &got); err != nil || got.Token == "" || !strings.EqualFold(got.Type, "bearer") || got.Expires <= 0 || got.Scope != c.scopes {
		t.Fatalf("the answer of the token endpoint: %v, type %q, %d s, scope %q", err, got.Type, got.Expires, got.Scope)
	}
	return "Authorization: Bearer " + got.Token
}

// Exports with SMART Backend Services: what a client gets that may read
// everything, what one gets that may read little, and what others do not get.
func TestAuthorization(t *testing.T) {
	base, held := server.ready(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	all := newSMARTClient(t, "registry", "system/*.rs", token.RS384, rsaKey)
	narrow := newSMARTClient(t, "quality", "system/Patient.rs system/Encounter.read", token.ES384, ecKey)
	audit := filepath.Join(t.TempDir(), "audit.log")
	g := serve(t, settings{upstream: base, extra: "auth:\n  mode: builtin\n  builtin:\n    clients:\n" + all.yaml() + narrow.yaml() +
		"audit: {file: " + audit + "}\n"})

	var discovered struct {
		Token        string   `json:"token_endpoint"`
		Capabilities []string `json:"capabilities"`
	}
	for _, at := range []string{g.base, strings.TrimSuffix(g.base, "/fhir")} {
		r := ask(t, http.MethodGet, at+"/.well-known/smart-configuration", "").mustBe(t, http.StatusOK)
		if err := json.Unmarshal(r.body, &discovered); err != nil || !strings.HasPrefix(discovered.Token, g.base) {
			t.Fatalf("discovery: %v %s", err, r.body)
		}
	}
	whole, little := all.token(t, discovered.Token), narrow.token(t, discovered.Token)

	kickOff := func(credential, query string) reply {
		headers := []string{acceptFHIR, respondAsync}
		if credential != "" {
			headers = append(headers, credential)
		}
		return ask(t, http.MethodGet, g.base+"/$export"+query, "", headers...)
	}
	end := func(credential, status string) reply {
		t.Helper()
		for deadline := time.Now().Add(runTime); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
			if r := ask(t, http.MethodGet, status, "", credential); r.status != http.StatusAccepted {
				return r.mustBe(t, http.StatusOK)
			}
		}
		t.Fatalf("the export did not end within %s", runTime)
		return reply{}
	}
	read := func(credential string, manifest []byte) *exported {
		t.Helper()
		e := readExport(t, manifest, func(url string) []byte {
			return ask(t, http.MethodGet, url, "", credential).mustBe(t, http.StatusOK).body
		})
		if e.manifest.RequiresAccessToken == nil || !*e.manifest.RequiresAccessToken {
			t.Error("requiresAccessToken is not true")
		}
		return e
	}

	t.Run("strangers", func(t *testing.T) {
		for _, credential := range []string{"", "Authorization: Bearer invented", whole + "x"} {
			r := kickOff(credential, "").mustBe(t, http.StatusUnauthorized)
			mustBeOutcome(t, r)
			if !strings.HasPrefix(r.header.Get("WWW-Authenticate"), "Bearer") {
				t.Errorf("WWW-Authenticate: %q", r.header.Get("WWW-Authenticate"))
			}
		}
	})

	t.Run("a client that may read everything", func(t *testing.T) {
		status := g.statusURL(t, kickOff(whole, "").mustBe(t, http.StatusAccepted))
		e := read(whole, end(whole, status).body)
		e.mustEqual(t, held)
		file := e.manifest.Output[0].URL
		for what, address := range map[string]string{"status": status, "file": file} {
			ask(t, http.MethodGet, address, "").mustBe(t, http.StatusUnauthorized)
			foreign := ask(t, http.MethodGet, address, "", little).mustBe(t, http.StatusNotFound)
			none := ask(t, http.MethodGet, strings.Replace(address, strings.Split(address, "/")[5], strings.Repeat("a", 26), 1), "", little)
			if none.status != foreign.status || !bytes.Equal(none.body, foreign.body) {
				t.Errorf("%s: that of another is %d %s, one that does not exist %d %s", what, foreign.status, foreign.body, none.status, none.body)
			}
		}
		ask(t, http.MethodDelete, status, "", little).mustBe(t, http.StatusNotFound)
		ask(t, http.MethodDelete, status, "", whole).mustBe(t, http.StatusAccepted)
		ask(t, http.MethodGet, status, "", whole).mustBe(t, http.StatusNotFound)
	})

	t.Run("a client that may read little", func(t *testing.T) {
		mustBeOutcome(t, kickOff(little, "?_type=Patient,Observation").mustBe(t, http.StatusForbidden))
		status := g.statusURL(t, kickOff(little, "").mustBe(t, http.StatusAccepted))
		read(little, end(little, status).body).mustEqual(t, held.of("Patient", "Encounter"))
	})

	t.Run("a client of others", func(t *testing.T) {
		fetch, err := exec.LookPath("smart-fetch")
		if err != nil {
			testenv.Skip(t, "smart-fetch", "make services installs it with Python")
		}
		for _, c := range []*smartClient{all, narrow} {
			types := "Patient,Encounter"
			if c == all {
				types += ",Condition"
			}
			out := filepath.Join(t.TempDir(), c.id)
			ctx, cancel := context.WithTimeout(t.Context(), runTime)
			said, err := exec.CommandContext(ctx, fetch, "bulk", "--fhir-url", g.base, "--smart-client-id", c.id, "--smart-key", c.pem,
				"--no-default-filters", "--type", types, out).CombinedOutput()
			cancel()
			if err != nil {
				t.Fatalf("%s: %v\n%s", c.id, err, said)
			}
			got, lines := fetched(t, out)
			want := held.of(strings.Split(types, ",")...)
			if lines != want.len() {
				t.Errorf("%s: %d lines, want %d", c.id, lines, want.len())
			}
			for _, byID := range want {
				for _, r := range byID {
					if !got[r.Type+"/"+r.ID] {
						t.Fatalf("%s: %s is missing", c.id, r.Type)
					}
				}
			}
		}
	})

	if r := spillway(t, "audit", "verify", audit); r.code != 0 {
		t.Errorf("the audit: %s%s", r.stdout, r.stderr)
	}
}

// fetched reads what smart-fetch has left: "Type/id" of each resource, and the
// number of lines.
func fetched(t *testing.T, dir string) (map[string]bool, int) {
	t.Helper()
	found, lines := make(map[string]bool), 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(d.Name(), ".ndjson") || d.Name() == "log.ndjson" || strings.Contains(path, "error") {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		var in io.Reader = f
		if strings.HasSuffix(path, ".gz") {
			if in, err = gzip.NewReader(f); err != nil {
				return err
			}
		}
		scanner := bufio.NewScanner(in)
		scanner.Buffer(nil, 16<<20)
		for scanner.Scan() {
			var r struct{ ResourceType, ID string }
			if err := json.Unmarshal(scanner.Bytes(), &r); err != nil {
				return err
			}
			found[r.ResourceType+"/"+r.ID] = true
			lines++
		}
		return scanner.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return found, lines
}
