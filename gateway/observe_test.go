package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"spillway/auth"
	"spillway/jobs"
)

func TestNothingSecretIsLogged(t *testing.T) {
	w := newWorld(t, nil)
	f := fileOf("1.Patient.ndjson", w.segment(t, "canaryKey/1", jobs.EncodingGzip, `{"resourceType":"Patient","id":"canaryData"}`))
	id, address := w.finished(t, "/fhir/Group/canaryGroup/$export?_typeFilter=Patient%3Fname%3DcanaryName", f)
	file := w.base + "/$bulk-files/" + string(id) + "/1.Patient.ndjson"
	for _, request := range []string{
		"GET " + address, "GET " + file, "HEAD " + file, "GET " + file + "\nRange: bytes=1-2",
		"GET /fhir/Patient/canaryPath?name=canaryName\nAuthorization: Bearer canaryToken",
		"canaryMethod /fhir/Patient/canaryPath",
		"GET /fhir/Patient/canaryPath/$export?x=canaryName", "GET /fhir/Group/canary_group/$export",
		"GET /fhir/$export?canaryParameter=canaryName\n" + kickOffHeaders,
		"GET /fhir/$bulk-status/canaryID", "GET http://canaryhost.example/fhir/Patient",
		asPost("/fhir/Patient/$export", parametersOf("patient valueReference canaryPatient")),
		asPost("/fhir/Patient/$export", `{"resourceType":"Parameters","parameter":[{"canary`),
		"GET /fhir/metadata?canary=1", "DELETE " + address,
	} {
		w.send(t, request)
	}
	if err := w.files.RemoveAll(t.Context(), "canaryKey/"); err != nil {
		t.Fatal(err)
	}
	again, _ := w.finished(t, "/fhir/$export", f)
	w.get(t, "GET", w.base+"/$bulk-files/"+string(again)+"/1.Patient.ndjson", "")

	log := w.logged()
	for _, secret := range []string{"canary", string(id), string(again)} {
		if strings.Contains(log, secret) {
			t.Errorf("%s is in the log:\n%s", secret, log)
		}
	}
	lines := strings.Split(log, "\n")
	for _, want := range []string{
		"level=INFO msg=request method=GET route=/Group/{id}/$export status=202",
		"level=INFO msg=request method=GET route=/$bulk-files/{id}/{name} status=206 bytes=2",
		"level=DEBUG msg=request method=GET route=pass-through status=200",
		"level=DEBUG msg=request method=other route=pass-through",
		"level=DEBUG msg=request method=GET route=refused status=404",
		"level=DEBUG msg=request method=GET route=/metadata status=200",
		"level=INFO msg=request method=DELETE route=/$bulk-status/{id} status=202",
	} {
		found := false
		for _, line := range lines {
			found = found || strings.Contains(line, want)
		}
		if !found {
			t.Errorf("no line %q in the log:\n%s", want, log)
		}
	}
	w.busy.Wait()
	metrics, err := w.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if all := fmt.Sprint(metrics); strings.Contains(all, "canary") || strings.Contains(all, string(id)) {
		t.Errorf("a secret is in the metrics: %s", all)
	}
}

func TestMetrics(t *testing.T) {
	w := newWorld(t, nil)
	id, address := w.finished(t, "/fhir/$export", fileOf("1.Patient.ndjson", w.segment(t, "a", jobs.EncodingGzip, "{}")))
	w.get(t, "GET", address, "")
	w.get(t, "GET", address, "")
	w.get(t, "GET", w.base+"/$bulk-files/"+string(id)+"/1.Patient.ndjson", "")
	w.get(t, "GET", w.base+"/Patient", "")
	w.get(t, "GET", w.base+"/patient/$export", "")
	want := `# HELP spillway_download_bytes_total Bytes of exported files sent to clients, by content encoding.
# TYPE spillway_download_bytes_total counter
spillway_download_bytes_total{encoding="identity"} 3
# HELP spillway_http_requests_total Requests answered, by route, method and status class (aborted: broken off).
# TYPE spillway_http_requests_total counter
spillway_http_requests_total{class="2xx",method="GET",route="/$bulk-files/{id}/{name}"} 1
spillway_http_requests_total{class="2xx",method="GET",route="/$bulk-status/{id}"} 2
spillway_http_requests_total{class="2xx",method="GET",route="/$export"} 1
spillway_http_requests_total{class="2xx",method="GET",route="pass-through"} 1
spillway_http_requests_total{class="4xx",method="GET",route="refused"} 1
`
	w.busy.Wait()
	if err := testutil.GatherAndCompare(w.metrics, strings.NewReader(want), "spillway_http_requests_total", "spillway_download_bytes_total"); err != nil {
		t.Error(err)
	}
}

func TestPanics(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Upstream = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/fhir/late":
				_, _ = io.WriteString(w, "half")
				_ = http.NewResponseController(w).Flush()
				panic("canaryValue")
			case "/fhir/abort":
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("Etag", "x")
			panic("canaryValue")
		})
	})
	r := w.send(t, "GET /fhir/early")
	if issue := r.issue(t); r.StatusCode != 500 || issue.Diagnostics != "internal error" || r.Header.Get("Etag") != "" {
		t.Errorf("%s %v %+v", r.Status, r.Header, issue)
	}
	if r := w.send(t, "GET /fhir/late"); r.cut == nil {
		t.Errorf("half a body as if it were whole: %q", r.body)
	}
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(w.base, "http://"), "/fhir"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "GET /fhir/abort HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(conn); len(b) > 0 {
		t.Errorf("an answer after an abort: %q, %v", b, err)
	}
	log := w.logged()
	if strings.Contains(log, "canaryValue") || strings.Count(log, "a handler panicked") != 2 || !strings.Contains(log, "kind=string") || !strings.Contains(log, "gateway.TestPanics") {
		t.Errorf("the log:\n%s", log)
	}
}

// TestSlowReaders has a server with a short write timeout and a client that
// reads nothing for longer than that in the middle of a large file.
func TestSlowReaders(t *testing.T) {
	const writeTimeout = 200 * time.Millisecond
	w := newWorld(t, nil)
	line := strings.Repeat("0", 1<<20)
	lines := make([]string, 32)
	for i := range lines {
		lines[i] = line
	}
	id, _ := w.finished(t, "/fhir/$export", fileOf("1.Patient.ndjson", w.segment(t, "a", jobs.EncodingGzip, lines...)))

	config := Config{
		Upstream: http.NotFoundHandler(), Jobs: w.store, Storage: w.files, Auth: auth.None(), Now: w.clock.Now,
	}
	server := httptest.NewUnstartedServer(nil)
	server.Config.WriteTimeout = writeTimeout
	var err error
	if config.PublicURL, err = url.Parse("http://" + server.Listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server.Config.Handler, err = New(config); err != nil {
		t.Fatal(err)
	}
	server.Start()
	defer server.Close()
	// A small receive buffer, so that the system does not read for the client.
	client := &http.Client{Transport: &http.Transport{DisableCompression: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return conn, conn.(*net.TCPConn).SetReadBuffer(64 << 10)
	}}}
	defer client.CloseIdleConnections()
	r, err := client.Get(server.URL + "/$bulk-files/" + string(id) + "/1.Patient.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	if _, err := io.ReadFull(r.Body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	<-time.After(2 * writeTimeout) // the longer it is, the harder the test
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil || n != 32*(1<<20+1)-1000 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestNewRefuses(t *testing.T) {
	w := newWorld(t, nil)
	good := func() Config {
		return Config{PublicURL: &url.URL{Scheme: "http", Host: "x", Path: "/fhir/"}, Upstream: http.NotFoundHandler(), Jobs: w.store, Storage: w.files, Auth: auth.None()}
	}
	if _, err := New(good()); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"no URL":      func(c *Config) { c.PublicURL = nil },
		"no upstream": func(c *Config) { c.Upstream = nil },
		"no store":    func(c *Config) { c.Jobs = nil },
		"no storage":  func(c *Config) { c.Storage = nil },
		"no auth":     func(c *Config) { c.Auth = nil },
		"scheme":      func(c *Config) { c.PublicURL.Scheme = "ftp" },
		"host":        func(c *Config) { c.PublicURL.Host = "" },
		"query":       func(c *Config) { c.PublicURL.RawQuery = "x" },
		"user":        func(c *Config) { c.PublicURL.User = url.User("x") },
		"path":        func(c *Config) { c.PublicURL.Path = "/{x}" },
		"metrics twice": func(c *Config) {
			c.Registerer = w.metrics // has those of the world
		},
	} {
		c := good()
		spoil(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestProblemFor(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		told   string
	}{
		{fmt.Errorf("x: %w", jobs.ErrNotFound), 404, "no such export"},
		{fmt.Errorf("%w: dial tcp", jobs.ErrUnavailable), 503, "does not answer"},
		{context.DeadlineExceeded, 503, "does not answer"},
		{errors.New("secret"), 500, "internal error"},
		{fmt.Errorf("x: %w", refuseParameter("_since", "value", "bad")), 400, "_since: bad"},
	} {
		p := problemFor(c.err)
		if p.Status != c.status || !strings.Contains(p.Error(), c.told) || strings.Contains(p.Error(), "secret") {
			t.Errorf("%v: %d %s", c.err, p.Status, p.Error())
		}
	}
	if p := problemFor(jobs.ErrUnavailable); !errors.Is(p, jobs.ErrUnavailable) {
		t.Error("the cause is lost")
	}
}

func TestQuoted(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", "a b": `"a b"`, "": `""`, "\x1b[31m": `"\x1b[31m"`, strings.Repeat("x", 70): `"` + strings.Repeat("x", 60) + `..."`,
	} {
		if got := shown(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestLogLevels(t *testing.T) {
	for route, want := range map[string]slog.Level{routeStatus: slog.LevelInfo, "pass-through": slog.LevelDebug, routeMetadata: slog.LevelDebug, "refused": slog.LevelDebug} {
		if got := levelOf(route); got != want {
			t.Errorf("%s: %s", route, got)
		}
	}
}

func TestStreamingIsNotBuffered(t *testing.T) {
	release := make(chan struct{})
	w := newWorld(t, nil)
	w.upstream.handler = func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "first")
		_ = http.NewResponseController(w).Flush()
		<-release
		_, _ = io.WriteString(w, " last")
	}
	r, err := http.Get(w.base + "/Patient")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	first := make([]byte, 5)
	if _, err := io.ReadFull(r.Body, first); err != nil || string(first) != "first" {
		t.Fatalf("%q, %v", first, err)
	}
	close(release)
	if rest, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(rest, []byte(" last")) {
		t.Errorf("%q, %v", rest, err)
	}
}
