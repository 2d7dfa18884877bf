package main

import (
	"bytes"
	"compress/flate"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"spillway/auth/token"
	"spillway/cmd/spillway/internal/config"
	"spillway/test/fakefhir"
)

// What must be nowhere but in the files of an export, and in answers of the
// upstream that pass through. The ids of a patient and a Group may also stand in
// the request of a job.
const (
	canaryFamily   = "Zanzibarovna"
	canaryMRN      = "MRN-7731-CANARY"
	canaryPatient  = "canary-patient-7731"
	canaryGroup    = "canary-group-7731"
	canaryCode     = "canary-code-7731"   // in filters and searches
	canaryWords    = "canary diagnostics" // of the upstream
	canaryUpstream = "canary-upstream-secret"
	canaryRecord   = "canary-record-key-that-is-long-enough"
)

// lockedBuffer is a log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A canaryWorld is a whole gateway with two clients, that keeps everything it
// says anywhere.
type canaryWorld struct {
	*running
	fhir    *fakefhir.Server
	redis   *miniredis.Miniredis
	dir     string
	log     *lockedBuffer
	out     *lockedBuffer
	key     *token.SigningKey
	secrets []string     // tokens and assertions that were made
	told    lockedBuffer // answers of ours that are errors, and their headers
}

func newCanaryWorld(t *testing.T) *canaryWorld {
	t.Helper()
	w := &canaryWorld{redis: miniredis.RunT(t), dir: t.TempDir(), log: &lockedBuffer{}, out: &lockedBuffer{}, key: token.NewSigningKey()}
	w.fhir = fakefhir.New(few())
	upstream := httptest.NewServer(w.fhir)
	t.Cleanup(upstream.Close)
	for path, body := range map[string]string{
		"Patient/" + canaryPatient: `{"resourceType":"Patient","id":"` + canaryPatient + `","name":[{"family":"` + canaryFamily + `"}],"identifier":[{"value":"` + canaryMRN + `"}]}`,
		"Observation/canary-obs":   `{"resourceType":"Observation","id":"canary-obs","status":"final","code":{"text":"` + canaryFamily + `"},"subject":{"reference":"Patient/` + canaryPatient + `"}}`,
		"Group/" + canaryGroup: `{"resourceType":"Group","id":"` + canaryGroup + `","type":"person","actual":true,"member":[{"entity":{"reference":"Patient/` +
			canaryPatient + `"}}]}`,
	} {
		r, _ := http.NewRequest(http.MethodPut, upstream.URL+"/fhir/"+path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/fhir+json")
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode > 299 {
			t.Fatalf("PUT %s: %s", path, answer.Status)
		}
	}
	write := func(name, text string) string {
		path := filepath.Join(w.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	signing := write("signing.pem", pemOfNewKey(t))
	jwks := write("client.jwks", string(token.PublicJSON(w.key)))
	file := write("spillway.yaml", fmt.Sprintf(`
upstream: {url: %s/fhir, settle: 0s, auth: {mode: header, header: {name: X-Api-Key, value_file: %s}}}
server: {listen: "127.0.0.1:0", admin_listen: "127.0.0.1:0"}
store: {redis: {url: "redis://%s", record_key_file: %s}}
storage: {disk: {path: %s, min_free: 1KiB}}
audit: {sinks: [file, stdout], file: %s}
auth:
  mode: builtin
  builtin:
    signing_key_files: [%s]
    clients:
      - {id: first, jwks_file: %[8]s, scopes: system/*.rs, groups: [%[9]s]}
      - {id: second, jwks_file: %[8]s, scopes: system/Patient.rs}
export: {max_active: 10}
log: {level: debug, format: json}
`, upstream.URL, write("upstream.secret", canaryUpstream), w.redis.Addr(), write("record.key", canaryRecord), filepath.Join(w.dir, "files"),
		filepath.Join(w.dir, "audit.log"), signing, jwks, canaryGroup))
	cfg, err := config.Load(config.Input{File: file, Serve: true})
	if err != nil {
		t.Fatal(err)
	}
	s, err := newServer(t.Context(), cfg, halves{web: true, work: true}, w.out, newLogger(w.log, "debug", "json"))
	if err != nil {
		t.Fatal(err)
	}
	w.running = runServer(t, s)
	w.health(t, http.StatusOK)
	return w
}

// ask sends a request of lines "METHOD path" and headers, keeps what would be
// told to a stranger, and returns status, headers and body.
func (w *canaryWorld) ask(t *testing.T, request, body string) (*http.Response, string) {
	t.Helper()
	answer, got := w.through(t, request, body)
	for name, values := range answer.Header {
		fmt.Fprintln(&w.told, name, values)
	}
	if answer.StatusCode > 299 {
		fmt.Fprintf(&w.told, "%s\n", got)
	}
	return answer, got
}

// through is ask for what passes through: there the upstream's words come back.
func (w *canaryWorld) through(t *testing.T, request, body string) (*http.Response, string) {
	t.Helper()
	lines := strings.Split(request, "\n")
	method, target, _ := strings.Cut(lines[0], " ")
	if strings.HasPrefix(target, "/") {
		target = w.publicURL.String() + target
	}
	r, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	answer, err := w.client.Do(r)
	if err != nil {
		return &http.Response{}, "" // cut off, on purpose
	}
	defer answer.Body.Close()
	got, _ := io.ReadAll(answer.Body)
	return answer, string(got)
}

// token asks for one with an assertion, which change may spoil.
func (w *canaryWorld) token(t *testing.T, client string, change func(claims map[string]any)) string {
	t.Helper()
	endpoint := w.publicURL.String() + "/auth/token"
	claims := map[string]any{"iss": client, "sub": client, "aud": endpoint, "jti": fmt.Sprint("canary-jti-", len(w.secrets)), "exp": time.Now().Add(time.Minute).Unix()}
	if change != nil {
		change(claims)
	}
	assertion, err := w.key.SignAssertion("", claims)
	if err != nil {
		t.Fatal(err)
	}
	w.secrets = append(w.secrets, assertion)
	form := url.Values{
		"grant_type": {"client_credentials"}, "scope": {"system/*.rs"}, "client_assertion": {assertion},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
	}.Encode()
	answer, body := w.ask(t, "POST "+endpoint+"\nContent-Type: application/x-www-form-urlencoded", form)
	if replay, _ := w.ask(t, "POST "+endpoint+"\nContent-Type: application/x-www-form-urlencoded", form); replay.StatusCode == http.StatusOK {
		t.Error("an assertion was accepted twice")
	}
	var got struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil || answer.StatusCode != http.StatusOK {
		return ""
	}
	w.secrets = append(w.secrets, got.Token)
	return "\nAuthorization: Bearer " + got.Token
}

// wait polls a status until it is not 202, and returns its status and manifest.
// An export that takes long, because it tries again and again, is deleted.
func (w *canaryWorld) wait(t *testing.T, credential, status string) (int, bulkManifest) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		answer, body := w.ask(t, "GET "+status+credential, "")
		if time.Now().After(deadline) {
			w.ask(t, "DELETE "+status+credential, "")
		}
		if answer.StatusCode != http.StatusAccepted && answer.StatusCode != http.StatusTooManyRequests || time.Now().After(deadline) {
			var m bulkManifest
			_ = json.Unmarshal([]byte(body), &m)
			return answer.StatusCode, m
		}
	}
}

// Names, numbers, tokens and secrets stand in the files of an export and
// nowhere else, whatever goes well or wrong (T47, T48, T54).
func TestCanaries(t *testing.T) {
	w := newCanaryWorld(t)
	const kickOff = "\nAccept: application/fhir+json\nPrefer: respond-async"
	first, second := w.token(t, "first", nil), w.token(t, "second", nil)
	export := func(credential, request, body string) (int, bulkManifest) {
		more := kickOff
		if body != "" {
			more += "\nContent-Type: application/fhir+json"
		}
		answer, _ := w.ask(t, request+more+credential, body)
		if answer.StatusCode != http.StatusAccepted {
			return answer.StatusCode, bulkManifest{}
		}
		location := answer.Header.Get("Content-Location")
		w.ask(t, "GET "+location+second, "")
		w.ask(t, "DELETE "+location+second, "")
		return w.wait(t, credential, location)
	}

	// Refused in every way.
	w.token(t, "stranger", nil)
	w.token(t, "first", func(c map[string]any) { c["exp"] = 0 })
	w.token(t, "first", func(c map[string]any) { c["aud"] = "https://" + canaryWords + ".example" })
	forged := "\nAuthorization: Bearer " + strings.TrimPrefix(first, "\nAuthorization: Bearer ")[:40] + canaryCode
	for _, credential := range []string{"", forged, "\nAuthorization: Basic Y2FuYXJ5LXBhdGllbnQtNzczMQ==", first + first} {
		w.ask(t, "GET /Patient/$export?_typeFilter=Patient?name="+canaryFamily+kickOff+credential, "")
	}
	w.ask(t, "GET /$export?_type=Observation&_typeFilter=Observation?code="+canaryCode+kickOff+second, "")
	w.ask(t, "GET /Group/"+canaryGroup+"/$export"+kickOff+second, "")
	w.ask(t, "GET /$export?unknown="+canaryFamily+kickOff+first, "")
	w.ask(t, "GET /$bulk-status/"+canaryPatient+first, "")
	w.ask(t, "GET /Patient/"+canaryPatient+"/$export"+first, "")

	// What goes well: every level, filters, patients.
	for _, request := range []string{
		"GET /$export?_type=Patient,Observation", "GET /Group/" + canaryGroup + "/$export",
		"GET /$export?_type=Observation&_typeFilter=Observation?code=" + canaryCode + "," + canaryMRN,
	} {
		status, m := export(first, request, "")
		if status != http.StatusOK {
			t.Fatalf("%s: %d", request, status)
		}
		found := false
		for _, f := range m.Output {
			answer, body := w.ask(t, "GET "+f.URL+first, "")
			found = found || strings.Contains(body, canaryFamily)
			if answer.StatusCode != http.StatusOK {
				t.Errorf("%s: %s", f.URL, answer.Status)
			}
			w.ask(t, "GET "+f.URL+second, "")
			w.ask(t, "GET "+f.URL+first+"\nRange: bytes=9-3", "")
		}
		if !found && !strings.Contains(request, "typeFilter") {
			t.Errorf("%s: the canary is not in the output, so this test proves nothing", request)
		}
	}
	status, _ := export(first, "POST /Patient/$export", `{"resourceType":"Parameters","parameter":[{"name":"patient","valueReference":{"reference":"Patient/`+canaryPatient+`"}}]}`)
	if status != http.StatusOK {
		t.Errorf("patients: %d", status)
	}

	// What passes through, and what the upstream does to it and to exports.
	w.through(t, "GET /Patient?name="+canaryFamily+"&identifier="+canaryMRN+"\nAuthorization: Bearer "+canaryCode, "")
	outcome := `{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"exception","diagnostics":"` + canaryWords + " " + canaryFamily + " " + canaryMRN + `"}]}`
	types := []string{"Patient", "Observation", "Condition", "Encounter", "Procedure", "Immunization", "DiagnosticReport", "MedicationRequest", "Practitioner", "Organization"}
	var faults []fakefhir.Fault
	for i, do := range []fakefhir.Do{
		{Status: &fakefhir.Status{Code: 400, Body: outcome}}, {Status: &fakefhir.Status{Code: 401, Body: outcome, Header: http.Header{"Www-Authenticate": {`Bearer realm="` + canaryWords + `"`}}}},
		{Status: &fakefhir.Status{Code: 404, Body: outcome}}, {Status: &fakefhir.Status{Code: 302, Header: http.Header{"Location": {"http://127.0.0.1:1/" + canaryCode}}}},
		{Status: &fakefhir.Status{Code: 200, Body: `{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Patient","id":"` + canaryPatient + `","name":"` + canaryFamily}},
		{Status: &fakefhir.Status{Code: 200, Body: `<html>` + canaryFamily}}, {OutcomeWith200: true}, {ForeignNext: "http://127.0.0.1:9/" + canaryCode}, {WrongType: true}, {OutcomeEntry: true},
	} {
		faults = append(faults, fakefhir.Fault{Match: fakefhir.Match{Type: types[i], Kind: fakefhir.KindSearch}, Do: do})
	}
	w.fhir.Script(faults...)
	var exports sync.WaitGroup
	for _, typ := range types {
		exports.Go(func() {
			w.through(t, "GET /"+typ+"?name="+canaryFamily+"&identifier="+canaryMRN+"\nAuthorization: Bearer "+canaryCode, "")
			export(first, "GET /$export?_type="+typ, "")
		})
	}
	exports.Wait()
	w.fhir.Reset()
	_, metrics := w.get(t, w.admin, "/metrics")
	_, stacks := w.get(t, w.admin, "/debug/pprof/goroutine?debug=2")
	w.stop(t)

	// Everywhere else.
	all := []string{canaryFamily, canaryMRN, canaryCode, canaryWords, canaryUpstream, canaryRecord, "Y2FuYXJ5"}
	ids := []string{canaryPatient, canaryGroup, "canary-obs"}
	look := func(place, text string, words ...[]string) {
		t.Helper()
		if text == "" {
			t.Errorf("%s is empty", place)
		}
		for _, list := range words {
			for _, word := range list {
				if at := strings.Index(text, word); at >= 0 {
					t.Errorf("%s: %q in %.300s", place, word, text[max(0, at-150):])
				}
			}
		}
	}
	// A token is its signature, too, and what it says.
	var tokens []string
	for _, s := range w.secrets {
		parts := strings.Split(s, ".")
		tokens = append(tokens, parts[1], parts[len(parts)-1])
	}
	logged := w.log.String()
	if _, rest, ok := strings.Cut(logged, `"configuration in effect"`); ok { // which names the Groups of clients
		_, logged, _ = strings.Cut(rest, "\n")
	}
	look("the log", logged, all, ids, tokens)
	look("the metrics", metrics, all, ids, tokens)
	look("the stacks", stacks, all, ids, tokens)
	look("what strangers were told", strings.ReplaceAll(w.told.String(), canaryPatient+"/$export", ""), all, tokens)
	audited, err := os.ReadFile(filepath.Join(w.dir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	look("the audit", strings.ReplaceAll(string(audited), `"group":"`+canaryGroup+`"`, ""), all, ids, tokens)
	look("the audit of standard output", strings.ReplaceAll(w.out.String(), `"group":"`+canaryGroup+`"`, ""), all, ids, tokens)
	look("the store", redisText(t, w.redis), []string{canaryFamily, canaryWords, canaryUpstream, canaryRecord}, tokens)
	err = filepath.WalkDir(filepath.Join(w.dir, "files"), func(path string, _ fs.DirEntry, err error) error {
		for _, word := range append(all, ids...) {
			if strings.Contains(path, word) {
				t.Errorf("the name %s holds %q", path, word)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// pemOfNewKey is a private key of P-384.
func pemOfNewKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// redisText is all that a Redis holds, inflated.
func redisText(t *testing.T, r *miniredis.Miniredis) string {
	t.Helper()
	var b strings.Builder
	value := func(s string) {
		for at := range len(s) { // a packed value may stand anywhere in another
			if s[at] != 1 {
				continue
			}
			plain, _ := io.ReadAll(flate.NewReader(strings.NewReader(s[at+1:])))
			b.Write(plain)
		}
		b.WriteString(s + "\n")
	}
	for _, key := range r.Keys() {
		value(key)
		switch r.Type(key) {
		case "string":
			s, _ := r.Get(key)
			value(s)
		case "hash":
			fields, _ := r.HKeys(key)
			for _, f := range fields {
				value(f)
				value(r.HGet(key, f))
			}
		case "list":
			l, _ := r.List(key)
			for _, s := range l {
				value(s)
			}
		case "zset":
			members, _ := r.ZMembers(key)
			for _, s := range members {
				value(s)
			}
		}
	}
	return b.String()
}
