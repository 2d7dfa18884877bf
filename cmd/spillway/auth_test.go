package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"spillway/auth/audit"
	"spillway/auth/smart"
	"spillway/cmd/spillway/internal/config"
	"spillway/jobs"
	"spillway/test/testenv"
)

// configured is a gateway before an upstream, on any free ports and with its files
// in a folder of the test, which is configured by more YAML.
func configured(t *testing.T, upstream, yaml string, more ...config.Flag) *config.Config {
	t.Helper()
	c, err := config.Load(authInput(t, upstream, yaml, more...))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func authInput(t *testing.T, upstream, yaml string, more ...config.Flag) config.Input {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "spillway.yaml")
	put(t, file, yaml)
	return config.Input{File: file, Serve: true, Flags: append([]config.Flag{
		{Name: "a", Key: config.KeyURL, Value: upstream},
		{Name: "b", Key: config.KeyListen, Value: "127.0.0.1:0"},
		{Name: "c", Key: config.KeyAdminListen, Value: "127.0.0.1:0"},
		{Name: "d", Key: config.KeyBoltPath, Value: filepath.Join(dir, "jobs.db")},
		{Name: "e", Key: config.KeyDiskPath, Value: filepath.Join(dir, "files")},
		{Name: "f", Key: config.KeyMinFree, Value: "1KiB"},
		{Name: "g", Key: config.KeySettle, Value: "0s"},
		{Name: "h", Key: config.KeyAuditFile, Value: filepath.Join(dir, "audit.jsonl")},
	}, more...)}
}

func put(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A backend is a client of SMART Backend Services. It signs with a library that
// is not ours.
type backend struct {
	id     string
	alg    jose.SignatureAlgorithm
	key    crypto.Signer
	jwks   string // its public keys
	scope  string // that it asks for
	skewed time.Duration
}

// newBackend makes a client with a key for RS384 or ES384.
func newBackend(t *testing.T, id string, alg jose.SignatureAlgorithm, scope string) *backend {
	t.Helper()
	b := &backend{id: id, alg: alg, scope: scope}
	var err error
	if alg == jose.RS384 {
		b.key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		b.key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: b.key.Public(), KeyID: "k1", Algorithm: string(alg), Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	b.jwks = string(set)
	return b
}

// assertion authenticates the client at a token endpoint.
func (b *backend) assertion(t testing.TB, audience, kid string) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: b.alg, Key: b.key}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", kid))
	if err != nil {
		t.Fatal(err)
	}
	claims, err := json.Marshal(map[string]any{
		"iss": b.id, "sub": b.id, "aud": audience, "exp": time.Now().Add(4*time.Minute + b.skewed).Unix(), "jti": rand.Text(),
	})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

// A tokenAnswer is what a token endpoint says.
type tokenAnswer struct {
	status int
	Token  string `json:"access_token"`
	Scope  string `json:"scope"`
	Error  string `json:"error"`
}

// present shows an assertion to a token endpoint.
func present(t testing.TB, endpoint, assertion, scope string) tokenAnswer {
	t.Helper()
	answer, err := http.PostForm(endpoint, url.Values{
		"grant_type": {"client_credentials"}, "scope": {scope},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {assertion},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	a := tokenAnswer{status: answer.StatusCode}
	if err := json.NewDecoder(answer.Body).Decode(&a); err != nil {
		t.Fatal(err)
	}
	return a
}

// token finds the token endpoint and gets a token there.
func (b *backend) token(t testing.TB, base string) string {
	t.Helper()
	a := present(t, tokenEndpoint(t, base), b.assertion(t, tokenEndpoint(t, base), "k1"), b.scope)
	if a.status != http.StatusOK || a.Token == "" {
		t.Fatalf("%s gets no token: %+v", b.id, a)
	}
	return a.Token
}

func tokenEndpoint(t testing.TB, base string) string {
	t.Helper()
	answer, err := http.Get(base + smart.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var found smart.Configuration
	if err := json.NewDecoder(answer.Body).Decode(&found); err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("discovery: %s, %v", answer.Status, err)
	}
	return found.TokenEndpoint
}

// carrying is a transport that adds a header to each request.
type carrying struct {
	name, value string
	next        http.RoundTripper
}

func (c carrying) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(c.name, c.value)
	return c.next.RoundTrip(r)
}

// with is a client of the gateway that carries a token.
func (r *running) with(token string) *bulkClient {
	return &bulkClient{base: r.publicURL.String(), http: &http.Client{Transport: carrying{"Authorization", "Bearer " + token, r.client.Transport}}}
}

// ask returns the status of an answer.
func (b *bulkClient) ask(t testing.TB, method, address string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "application/fhir+json")
	r.Header.Set("Prefer", "respond-async")
	answer, err := b.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, answer.Body)
	_ = answer.Body.Close()
	return answer.StatusCode
}

// whole does what clients do, from kick-off to DELETE, and returns the addresses
// and how many resources of each type came.
func (b *bulkClient) whole(t *testing.T, query string) (status string, files []string, counts map[string]int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	status, err := b.kickOff(ctx, query)
	if err != nil {
		t.Fatal(err)
	}
	m, err := b.wait(ctx, status, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(m.raw), `"requiresAccessToken":`) {
		t.Errorf("manifest: %s", m.raw)
	}
	counts = make(map[string]int64)
	for _, f := range m.Output {
		if _, err := b.download(ctx, f, t.TempDir(), func(int) {}); err != nil {
			t.Fatal(err)
		}
		counts[f.Type] += f.Count
		files = append(files, f.URL)
	}
	return status, files, counts
}

// builtinYAML is a gateway that knows some clients.
func builtinYAML(more string, clients ...*backend) string {
	var b strings.Builder
	b.WriteString("limits: {tokens_per_minute: 0}\nauth:\n  mode: builtin\n  builtin:\n" + more + "    clients:\n")
	for _, c := range clients {
		fmt.Fprintf(&b, "      - {id: %s, scopes: '%s', groups: ['*'], purpose: testing, jwks: %s}\n", c.id, c.scope, c.jwks)
	}
	return b.String()
}

// TestBuiltin: from discovery to DELETE, with keys of both kinds; what one client
// has begun does not exist for the other.
func TestBuiltin(t *testing.T) {
	_, url := fake(t, few())
	rsa := newBackend(t, "rsa", jose.RS384, "system/Patient.rs system/Observation.rs")
	ec := newBackend(t, "ec", jose.ES384, "system/*.read")
	input := authInput(t, url, builtinYAML("", rsa, ec))
	c, err := config.Load(input)
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, c, halves{web: true, work: true})
	r.health(t, http.StatusOK)
	base := r.publicURL.String()

	nobody := r.bulk()
	if got := nobody.ask(t, http.MethodGet, base+"/$export"); got != http.StatusUnauthorized {
		t.Errorf("without a token: %d", got)
	}
	if got := r.with("x.y.z").ask(t, http.MethodGet, base+"/$export"); got != http.StatusUnauthorized {
		t.Errorf("with a token of nobody: %d", got)
	}
	client := r.with(rsa.token(t, base))
	if got := client.ask(t, http.MethodGet, base+"/$export?_type=Patient,Condition"); got != http.StatusForbidden {
		t.Errorf("a type without a scope: %d", got)
	}
	status, files, counts := client.whole(t, "?_type=Patient,Observation")
	if counts["Patient"] != 3 || counts["Observation"] == 0 {
		t.Errorf("exported %v", counts)
	}
	other := r.with(ec.token(t, base))
	for _, address := range append(files, status) {
		for name, c := range map[string]*bulkClient{"nobody": nobody, "another client": other} {
			want := map[string]int{"nobody": http.StatusUnauthorized, "another client": http.StatusNotFound}[name]
			if got := c.ask(t, http.MethodGet, address); got != want {
				t.Errorf("%s at %s: %d, want %d", name, strings.TrimPrefix(address, base), got, want)
			}
		}
	}
	if got := other.ask(t, http.MethodDelete, status); got != http.StatusNotFound {
		t.Errorf("another client deletes: %d", got)
	}
	if got := client.ask(t, http.MethodDelete, status); got != http.StatusAccepted {
		t.Errorf("DELETE: %d", got)
	}
	if got := client.ask(t, http.MethodGet, status); got != http.StatusNotFound {
		t.Errorf("after it: %d", got)
	}
	if _, _, counts := other.whole(t, "?_type=Patient,Condition"); counts["Patient"] != 3 {
		t.Errorf("the other exported %v", counts)
	}

	_, metrics := r.get(t, r.admin, "/metrics")
	for _, line := range []string{`spillway_token_requests_total{result="granted"} 2`, `spillway_auth_requests_total{result="no credential"}`, "spillway_audit_failures_total 0"} {
		if !strings.Contains(metrics, line) {
			t.Errorf("/metrics lacks %s", line)
		}
	}
	r.stop(t)
	events, text := recorded(t, c.Audit.File)
	for _, want := range []string{"start done", "token done", "kickoff refused", "kickoff done", "manifest done", "download done", "stop done"} {
		if events[want] == 0 {
			t.Errorf("the record has no %q: %v", want, events)
		}
	}
	if !strings.Contains(text, `"purpose":"testing"`) || strings.Contains(text, "eyJ") {
		t.Errorf("the record: %s", text)
	}
	if got := spillway(t.Context(), "audit", "verify", c.Audit.File); got.status != 0 || !strings.HasPrefix(got.out, "whole: ") {
		t.Errorf("%+v", got)
	}
}

// recorded counts the events of a record, which must be whole.
func recorded(t *testing.T, file string) (map[string]int, string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := (&audit.Verifier{}).Verify(strings.NewReader(string(text))); err != nil {
		t.Errorf("the record: %v", err)
	}
	events := make(map[string]int)
	for line := range strings.Lines(string(text)) {
		var e audit.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		events[string(e.Kind)+" "+string(e.Outcome)]++
	}
	return events, string(text)
}

// signingKey makes a file with a key of ours.
func signingKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "signing.pem")
	put(t, file, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	return file
}

// TestReplayAcrossReplicas: an assertion that one replica has accepted is used up
// for the other, and a token of one is good at the other.
func TestReplayAcrossReplicas(t *testing.T) {
	redis := testenv.Redis(t)
	client := newBackend(t, "a", jose.ES384, "system/Patient.rs")
	yaml := builtinYAML("    signing_key_files: ["+signingKey(t)+"]\n    token_url_aliases: [https://bulk.example.org/token]\n", client) +
		"server: {public_url: 'https://bulk.example.org/fhir'}\nstore: {redis: {url: '" + redis.URL() + "'}}\n"
	_, upstream := fake(t, few())
	replica := func() *running {
		dir := t.TempDir()
		put(t, filepath.Join(dir, "spillway.yaml"), yaml)
		cfg, err := config.Load(config.Input{File: filepath.Join(dir, "spillway.yaml"), Serve: true, Flags: []config.Flag{
			{Name: "a", Key: config.KeyURL, Value: upstream}, {Name: "b", Key: config.KeyListen, Value: "127.0.0.1:0"},
			{Name: "c", Key: config.KeyAdminListen, Value: "127.0.0.1:0"}, {Name: "d", Key: config.KeyAuditFile, Value: filepath.Join(dir, "audit.jsonl")},
			{Name: "e", Key: config.KeyDiskPath, Value: filepath.Join(dir, "files")}, {Name: "f", Key: config.KeyMinFree, Value: "1KiB"},
		}})
		if err != nil {
			t.Fatal(err)
		}
		return start(t, cfg, halves{web: true})
	}
	one, two := replica(), replica()
	at := func(r *running) string { return "http://" + r.public.Addr().String() + "/fhir/auth/token" }

	assertion := client.assertion(t, "https://bulk.example.org/fhir/auth/token", "k1")
	first := present(t, at(one), assertion, client.scope)
	if first.status != http.StatusOK {
		t.Fatalf("at the first replica: %+v", first)
	}
	if again := present(t, at(two), assertion, client.scope); again.status != http.StatusUnauthorized || again.Error != "invalid_client" {
		t.Errorf("at the second replica again: %+v", again)
	}
	there := &bulkClient{http: &http.Client{Transport: carrying{"Authorization", "Bearer " + first.Token, http.DefaultTransport}}}
	if got := there.ask(t, http.MethodGet, "http://"+two.public.Addr().String()+"/fhir/$export?_type=Patient"); got != http.StatusAccepted {
		t.Errorf("its token at the second replica: %d", got)
	}

	// The same assertion a hundred times at both.
	racing := client.assertion(t, "https://bulk.example.org/token", "k1")
	var granted atomic.Int32
	var g sync.WaitGroup
	for i := range 100 {
		g.Go(func() {
			if present(t, at([]*running{one, two}[i%2]), racing, client.scope).status == http.StatusOK {
				granted.Add(1)
			}
		})
	}
	g.Wait()
	if n := granted.Load(); n != 1 {
		t.Errorf("one assertion gave %d tokens", n)
	}

	redis.Stop()
	if down := present(t, at(one), client.assertion(t, "https://bulk.example.org/token", "k1"), client.scope); down.status != http.StatusServiceUnavailable {
		t.Errorf("without the record of what was used: %+v", down)
	}
}

// TestRandomKids: whoever makes up ids of keys does not make us ask a client's
// server for them again and again.
func TestRandomKids(t *testing.T) {
	client := newBackend(t, "a", jose.ES384, "system/Patient.rs")
	var asked atomic.Int32
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, client.jwks)
	}))
	defer keys.Close()
	_, url := fake(t, few())
	r := start(t, configured(t, url, "limits: {tokens_per_minute: 0}\nauth:\n  mode: builtin\n  builtin:\n    allow_plain_jwks: true\n    allow_private_jwks: true\n    clients:\n"+
		"      - {id: a, scopes: 'system/Patient.rs', jwks_url: '"+keys.URL+"'}\n"), halves{web: true})
	endpoint := tokenEndpoint(t, r.publicURL.String())
	began := time.Now()
	for i := range 1000 {
		if got := present(t, endpoint, client.assertion(t, endpoint, fmt.Sprint("made up ", i)), client.scope); got.status != http.StatusUnauthorized || got.Error != "invalid_client" {
			t.Fatalf("%+v", got)
		}
	}
	// One at the beginning, and one in each interval of five seconds.
	if most := int32(2 + time.Since(began)/(5*time.Second)); asked.Load() > most {
		t.Errorf("the keys were asked for %d times in %v", asked.Load(), time.Since(began))
	}
	if got := present(t, endpoint, client.assertion(t, endpoint, "k1"), client.scope); got.status != http.StatusOK {
		t.Errorf("the right key after all: %+v", got)
	}
}

// TestTokenFlood: with the limits of the default somebody who asks without pause
// is told to wait, and the record does not grow with it.
func TestTokenFlood(t *testing.T) {
	client := newBackend(t, "a", jose.ES384, "system/Patient.rs")
	_, url := fake(t, few())
	cfg := configured(t, url, strings.Replace(builtinYAML("", client), "tokens_per_minute: 0", "tokens_per_minute: 2", 1))
	r := start(t, cfg, halves{web: true})
	endpoint := tokenEndpoint(t, r.publicURL.String())
	answers := make(map[int]int)
	for range 50 {
		answers[present(t, endpoint, "nonsense", client.scope).status]++
	}
	if answers[http.StatusUnauthorized] < 10 || answers[http.StatusTooManyRequests] < 30 {
		t.Errorf("answers: %v", answers)
	}
	r.stop(t)
	if events, _ := recorded(t, cfg.Audit.File); events["token refused"] != answers[http.StatusUnauthorized] {
		t.Errorf("events: %v", events)
	}
}

// TestReload: a client that is disabled has no token, no access and no export any
// more; a wrong file changes nothing; other keys wait for a restart.
func TestReload(t *testing.T) {
	_, upstream := fake(t, few())
	a, b := newBackend(t, "a", jose.ES384, "system/Patient.rs"), newBackend(t, "b", jose.ES384, "system/Patient.rs")
	input := authInput(t, upstream, builtinYAML("", a))
	cfg, err := config.Load(input)
	if err != nil {
		t.Fatal(err)
	}
	var log syncBuffer
	s, err := newServer(t.Context(), cfg, halves{web: true, work: true}, io.Discard, newLogger(&log, "info", "text"))
	if err != nil {
		t.Fatal(err)
	}
	s.reloader = newReloader(s, input)
	s.reloader.every = time.Hour // only when the test says so
	r := runServer(t, s)
	r.health(t, http.StatusOK)
	base := r.publicURL.String()
	client := r.with(a.token(t, base))
	status, _, _ := client.whole(t, "?_type=Patient")

	put(t, input.File, builtinYAML("", a)+"      - {id: c}\n")
	s.reloader.reload(t.Context(), true)
	if !strings.Contains(log.String(), "auth.builtin.clients[1]") || client.ask(t, http.MethodGet, status) != http.StatusOK {
		t.Errorf("a wrong file: %s", log.String())
	}

	put(t, input.File, strings.Replace(builtinYAML("", a, b), "{id: a,", "{id: a, disabled: true,", 1)+"export: {window: 5000}\n")
	s.reloader.reload(t.Context(), true)
	if !strings.Contains(log.String(), "auth.builtin.clients[0].disabled") || !strings.Contains(log.String(), "keys=export.window") {
		t.Errorf("the log does not tell what was changed: %s", log.String())
	}
	if got := client.ask(t, http.MethodGet, status); got != http.StatusUnauthorized {
		t.Errorf("a token of a disabled client: %d", got)
	}
	endpoint := tokenEndpoint(t, base)
	if got := present(t, endpoint, a.assertion(t, endpoint, "k1"), a.scope); got.status != http.StatusUnauthorized {
		t.Errorf("a disabled client gets %+v", got)
	}
	if _, _, counts := r.with(b.token(t, base)).whole(t, "?_type=Patient"); counts["Patient"] != 3 {
		t.Errorf("the new client exported %v", counts)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		all, err := r.engine.store.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(ownersOf(all), func(owner string) bool { return strings.HasPrefix(owner, "a@") }) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the exports of a disabled client stay")
		}
	}
	r.stop(t)
	if events, _ := recorded(t, cfg.Audit.File); events["change done"] != 1 {
		t.Errorf("events: %v", events)
	}
}

func ownersOf(all []*jobs.Job) (owners []string) {
	for _, j := range all {
		owners = append(owners, j.Owner)
	}
	return owners
}
