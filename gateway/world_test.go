package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/flate"
	"github.com/prometheus/client_golang/prometheus"

	"spillway/auth"
	"spillway/auth/scope"
	"spillway/jobs"
	"spillway/jobs/boltstore"
	"spillway/storage"
	"spillway/storage/disk"
	"spillway/upstream"
	"spillway/upstream/fhir"
)

var update = flag.Bool("update", false, "write the golden files anew")

// A world is a gateway before a recording upstream, with the real pass-through,
// the embedded job store and storage on disk, all over HTTP.
type world struct {
	base     string // the public FHIR base
	upstream *upstreamServer
	store    *boltstore.Store
	files    *disk.Store
	clock    *clock
	metrics  *prometheus.Registry
	log      *logBuffer
	busy     sync.WaitGroup // requests whose handler has not returned
}

// logged returns the log once every handler has returned: what is logged and
// counted of a request may come after its answer.
func (w *world) logged() string {
	w.busy.Wait()
	return w.log.String()
}

// newWorld opens a world; change may alter the configuration of its gateway.
func newWorld(t testing.TB, change func(*Config)) *world {
	t.Helper()
	w := &world{
		upstream: newUpstream(t),
		clock:    &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
		metrics:  prometheus.NewRegistry(),
		log:      &logBuffer{},
	}
	dir := t.TempDir()
	var err error
	if w.store, err = boltstore.Open(filepath.Join(dir, "jobs.db"), jobs.Limits{}, boltstore.WithClock(w.clock.Now)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, w.store) })
	if w.files, err = disk.Open(filepath.Join(dir, "files"), disk.Options{MinFree: -1}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, w.files) })

	server := httptest.NewUnstartedServer(nil)
	public, err := url.Parse("http://" + server.Listener.Addr().String() + "/fhir")
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	config := Config{
		PublicURL: public,
		Upstream: upstream.NewProxy(upstream.ProxyConfig{
			Upstream: w.upstream.base, PublicURL: public, Logger: logger,
		}),
		Capabilities: func(context.Context) (*fhir.Capabilities, error) { return testCapabilities(), nil },
		Jobs:         w.store, Storage: w.files, Auth: auth.None(),
		RequireAccept: true, RequirePreferAsync: true,
		Now: w.clock.Now, Registerer: w.metrics, Logger: logger,
	}
	if change != nil {
		change(&config)
	}
	handler, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.busy.Add(1)
		defer w.busy.Done()
		handler.ServeHTTP(rw, r)
	})
	server.Config.ErrorLog = slog.NewLogLogger(logger.Handler(), slog.LevelDebug)
	server.Start()
	t.Cleanup(server.Close)
	w.base = public.String()
	return w
}

func closed(t testing.TB, c io.Closer) {
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func testCapabilities() *fhir.Capabilities {
	token, date, reference := "token", "date", "reference"
	return &fhir.Capabilities{Types: []fhir.TypeCapability{
		{Type: "Patient", SearchParams: []fhir.SearchParam{{Name: "_id", Type: token}, {Name: "gender", Type: token}, {Name: "name", Type: "string"}, {Name: "birthdate", Type: date}}},
		{Type: "Observation", SearchParams: []fhir.SearchParam{
			{Name: "status", Type: token}, {Name: "category", Type: token}, {Name: "code", Type: token}, {Name: "date", Type: date},
			{Name: "patient", Type: reference}, {Name: "subject", Type: reference}, {Name: "_lastUpdated", Type: date}, {Name: "_id", Type: token},
		}},
		{Type: "Condition", SearchParams: []fhir.SearchParam{{Name: "code", Type: token}}},
		{Type: "Encounter", SearchParams: []fhir.SearchParam{{Name: "status", Type: token}}},
		{Type: "Organization", SearchParams: []fhir.SearchParam{{Name: "name", Type: "string"}}},
		{Type: "ActivityDefinition"},
	}}
}

// clock is a movable clock.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// logBuffer is a log that tests read.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// upstreamServer records what reaches it. handler may be set before requests.
type upstreamServer struct {
	base    *url.URL
	handler http.HandlerFunc

	mu      sync.Mutex
	targets []string // "METHOD request-target", as on the wire
	headers []http.Header
}

func newUpstream(t testing.TB) *upstreamServer {
	u := &upstreamServer{handler: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/fhir+json")
		_, _ = io.WriteString(w, `{"resourceType":"Bundle"}`)
	}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		u.targets = append(u.targets, r.Method+" "+r.RequestURI)
		u.headers = append(u.headers, r.Header.Clone())
		u.mu.Unlock()
		u.handler(w, r)
	}))
	t.Cleanup(server.Close)
	var err error
	if u.base, err = url.Parse(server.URL + "/up"); err != nil {
		t.Fatal(err)
	}
	return u
}

func (u *upstreamServer) seen() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]string(nil), u.targets...)
}

func (u *upstreamServer) forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.targets, u.headers = nil, nil
}

// A reply is a response, read to its end.
type reply struct {
	*http.Response
	body []byte
	cut  error // how reading the body ended, nil if as announced
}

// issue returns the one issue of an OperationOutcome.
func (r *reply) issue(t testing.TB) fhir.Issue {
	t.Helper()
	issues, err := fhir.ReadOutcome(r.body)
	if err != nil || len(issues) != 1 {
		t.Fatalf("no OperationOutcome with one issue: %v, %q", err, r.body)
	}
	return issues[0]
}

// send writes a request as it stands, with the lines after the first as
// headers and body, and reads the response. Line ends are those of Go source.
func (w *world) send(t testing.TB, request string) *reply {
	t.Helper()
	head, body, _ := strings.Cut(request, "\n\n")
	line, headers, _ := strings.Cut(head, "\n")
	host := strings.TrimSuffix(strings.TrimPrefix(w.base, "http://"), "/fhir")
	conn, err := net.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	raw := line + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n"
	if headers != "" {
		raw += strings.ReplaceAll(headers, "\n", "\r\n") + "\r\n"
	}
	if body != "" && !strings.Contains(headers, "chunked") {
		raw += fmt.Sprintf("Content-Length: %d\r\n", len(body))
	}
	go func() { _, _ = io.WriteString(conn, raw+"\r\n"+body) }() // the server may answer before it has read all
	method, _, _ := strings.Cut(line, " ")
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	defer func() { _ = response.Body.Close() }()
	r := &reply{Response: response}
	r.body, r.cut = io.ReadAll(response.Body)
	return r
}

// get sends a request to an absolute URL below the base.
func (w *world) get(t testing.TB, method, address, headers string) *reply {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	request := method + " " + u.RequestURI()
	if headers != "" {
		request += "\n" + headers
	}
	return w.send(t, request)
}

const kickOffHeaders = "Accept: application/fhir+json\nPrefer: respond-async"

// kickOff starts an export and returns it with the address of its status.
func (w *world) kickOff(t testing.TB, target string) (jobs.ID, string) {
	t.Helper()
	r := w.send(t, "GET "+target+"\n"+kickOffHeaders)
	status := r.Header.Get("Content-Location")
	id, ok := jobs.ParseID(status[strings.LastIndexByte(status, '/')+1:])
	if r.StatusCode != http.StatusAccepted || !ok {
		t.Fatalf("kick-off: %s, Content-Location %q, %s", r.Status, status, r.body)
	}
	return id, status
}

// plan completes the plan of the oldest waiting export, with slices of weights.
func (w *world) plan(t testing.TB, slices ...jobs.Unit) {
	t.Helper()
	w.complete(t, jobs.Result{
		TransactionTime: w.clock.Now().Add(-time.Second),
		Next:            append(slices, jobs.Unit{ID: "finish", Kind: jobs.UnitFinish}),
	})
}

// complete claims the next unit and completes it.
func (w *world) complete(t testing.TB, r jobs.Result) {
	t.Helper()
	lease, _, err := w.store.Claim(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.Complete(t.Context(), lease, r); err != nil {
		t.Fatal(err)
	}
}

// finished starts an export and lets it end with files.
func (w *world) finished(t testing.TB, target string, files ...jobs.File) (jobs.ID, string) {
	t.Helper()
	id, status := w.kickOff(t, target)
	w.plan(t)
	w.complete(t, jobs.Result{Files: files})
	w.clock.advance(time.Second)
	return id, status
}

// segment stores lines as one segment.
func (w *world) segment(t testing.TB, key string, encoding jobs.Encoding, lines ...string) jobs.Segment {
	t.Helper()
	plain := []byte(strings.Join(lines, "\n") + "\n")
	stored, crc := plain, uint32(0)
	if encoding == jobs.EncodingGzip {
		var b bytes.Buffer
		z, err := jobs.NewGzipWriter(&b, flate.BestSpeed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := z.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		stored, crc = b.Bytes(), z.CRC32()
	}
	w.put(t, key, stored)
	sum, linesSum := sha256.Sum256(stored), sha256.Sum256(plain)
	return jobs.Segment{
		PlainSHA256: hex.EncodeToString(linesSum[:]),
		Key:         key, Kind: jobs.KindOutput, Type: "Patient", Encoding: encoding, Count: int64(len(lines)),
		Size: int64(len(plain)), StoredSize: int64(len(stored)), SHA256: hex.EncodeToString(sum[:]), CRC32: crc,
	}
}

func (w *world) put(t testing.TB, key string, stored []byte) {
	t.Helper()
	object, err := w.files.Create(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := object.Write(stored); err != nil {
		t.Fatal(err)
	}
	if err := object.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func fileOf(name string, segments ...jobs.Segment) jobs.File {
	f := jobs.File{Name: name, Kind: jobs.KindOutput, Type: "Patient", Segments: segments}
	for _, s := range segments {
		f.Count += s.Count
		f.Size += s.Size
	}
	return f
}

// golden compares with a file under testdata, or writes it with -update.
func golden(t testing.TB, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s:\n got %s\nwant %s", path, got, want)
	}
}

// indented makes JSON readable for golden files.
func indented(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		t.Fatalf("%v: %q", err, b)
	}
	return append(bytes.TrimSpace(out.Bytes()), '\n')
}

// brokenJobs is a job store that cannot be reached: it fails, or it hangs.
type brokenJobs struct {
	jobs.Store
	hang bool
}

func (b brokenJobs) fail(ctx context.Context) error {
	if b.hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return fmt.Errorf("%w: connection refused", jobs.ErrUnavailable)
}

func (b brokenJobs) Create(ctx context.Context, _ *jobs.Job, _ jobs.Unit) error { return b.fail(ctx) }
func (b brokenJobs) Cancel(ctx context.Context, _ jobs.ID) error                { return b.fail(ctx) }
func (b brokenJobs) Get(ctx context.Context, _ jobs.ID) (*jobs.Job, error)      { return nil, b.fail(ctx) }

// brokenStorage is a storage that is full, or fails otherwise.
type brokenStorage struct {
	storage.Store
	err  error
	slow time.Duration // of Ready, whatever its context
}

func (b brokenStorage) Ready(context.Context) error {
	time.Sleep(b.slow)
	return b.err
}

func (b brokenStorage) Open(context.Context, string, int64, int64) (io.ReadCloser, error) {
	return nil, b.err
}

// byHeader authenticates by the header X-Client, for tests of ownership.
type byHeader struct{}

func (byHeader) RequiresToken() bool { return true }

func (byHeader) Authenticate(r *http.Request) (auth.Principal, error) {
	switch client := r.Header.Get("X-Client"); client {
	case "":
		return auth.Principal{}, auth.ErrNoCredential
	case "bad":
		return auth.Principal{}, fmt.Errorf("%w: expired", auth.ErrBadCredential)
	case "unsure":
		return auth.Principal{}, fmt.Errorf("%w: %w", auth.ErrUnavailable, errors.New("no keys"))
	default:
		return auth.Principal{ClientID: client, Grant: scope.Everything(), Groups: auth.Groups{All: true}}, nil
	}
}
