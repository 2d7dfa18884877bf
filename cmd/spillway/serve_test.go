package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"spillway/cmd/spillway/internal/config"
	"spillway/test/fakefhir"
)

// gatewayConfig is a gateway on any free ports, with its files in a folder of the test.
func gatewayConfig(t *testing.T, upstream string, more ...config.Flag) *config.Config {
	t.Helper()
	dir := t.TempDir()
	cfg, err := config.Load(config.Input{Serve: true, Flags: append([]config.Flag{
		{Name: "a", Key: config.KeyURL, Value: upstream},
		{Name: "b", Key: config.KeyListen, Value: "127.0.0.1:0"},
		{Name: "c", Key: config.KeyAdminListen, Value: "127.0.0.1:0"},
		{Name: "d", Key: config.KeyBoltPath, Value: filepath.Join(dir, "jobs.db")},
		{Name: "e", Key: config.KeyDiskPath, Value: filepath.Join(dir, "files")},
		{Name: "f", Key: config.KeyMinFree, Value: "1KiB"},
	}, more...)})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// A running is a gateway under test.
type running struct {
	*server
	client *http.Client
	cancel context.CancelCauseFunc
	ended  chan error
}

// start runs a gateway until the test ends or stop is called.
func start(t *testing.T, cfg *config.Config, parts halves) *running {
	t.Helper()
	s, err := newServer(t.Context(), cfg, parts, io.Discard, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return runServer(t, s)
}

// runServer is start for a gateway that is open already.
func runServer(t *testing.T, s *server) *running {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	r := &running{server: s, client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, cancel: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- s.Run(ctx); close(r.ended) }()
	t.Cleanup(func() { r.stop(t) })
	return r
}

// stop is the first signal; it waits for the end.
func (r *running) stop(t *testing.T) {
	t.Helper()
	r.cancel(errInterrupted)
	select {
	case err := <-r.ended:
		if err != nil {
			t.Errorf("the gateway ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the gateway does not end")
	}
}

// get returns status and body; path begins with a slash.
func (r *running) get(t *testing.T, l *listener, path string) (int, string) {
	t.Helper()
	answer, err := r.client.Get("http://" + l.Addr().String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

// health waits until /readyz has the status and returns what it says.
func (r *running) health(t *testing.T, want int) health {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		status, body := r.get(t, r.admin, "/readyz")
		var h health
		if err := json.Unmarshal([]byte(body), &h); err != nil {
			t.Fatalf("/readyz: %v\n%s", err, body)
		}
		if status == want {
			return h
		}
		if time.Now().After(deadline) {
			t.Fatalf("/readyz stays %d: %s", status, body)
		}
	}
}

func TestServe(t *testing.T) {
	before := goleak.IgnoreCurrent()
	s := fakefhir.New(few())
	upstream := httptest.NewServer(s)
	defer upstream.Close()
	r := start(t, gatewayConfig(t, upstream.URL+"/fhir"), halves{web: true, work: true})
	h := r.health(t, http.StatusOK)
	for _, name := range []string{"store", "storage", "upstream"} {
		if h.Checks[name] != "ok" {
			t.Errorf("check %s: %q", name, h.Checks[name])
		}
	}
	if status, body := r.get(t, r.admin, "/healthz"); status != http.StatusOK || !strings.Contains(body, `"ok"`) {
		t.Errorf("/healthz: %d %s", status, body)
	}
	long := "/fhir/Patient?_id=" + strings.Repeat("a", 32<<10)
	if status, body := r.get(t, r.public, long); status != http.StatusOK || !strings.Contains(body, `"searchset"`) {
		t.Errorf("a query of 32 KiB: %d %.200s", status, body)
	}
	log := s.Log()
	if last := log[len(log)-1]; last.Query != strings.TrimPrefix(long, "/fhir/Patient?") {
		t.Error("the query did not arrive as it was sent")
	}
	if status, _ := r.get(t, r.public, "/fhir/Patient?_id="+strings.Repeat("a", 96<<10)); status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a query of 96 KiB: %d", status)
	}
	_, metrics := r.get(t, r.admin, "/metrics")
	for _, name := range []string{"go_goroutines", "process_resident_memory_bytes", "spillway_jobs{", "spillway_passthrough_requests_total{", "spillway_upstream_requests_total{"} {
		if !strings.Contains(metrics, "\n"+name) {
			t.Errorf("/metrics lacks %s", name)
		}
	}
	if status, body := r.get(t, r.admin, "/debug/pprof/"); status != http.StatusOK || !strings.Contains(body, "goroutine") {
		t.Errorf("/debug/pprof/: %d", status)
	}
	for _, path := range []string{"/metrics", "/readyz", "/debug/pprof/"} {
		if status, _ := r.get(t, r.public, path); status != http.StatusNotFound {
			t.Errorf("%s on the public listener: %d", path, status)
		}
	}
	r.stop(t)
	upstream.Close() // ends the idle connections to it as well
	goleak.VerifyNone(t, before)
}

// TestServeCommand: the same from the command line, with the first signal at its end.
func TestServeCommand(t *testing.T) {
	t.Chdir(t.TempDir())
	_, url := fake(t, few())
	if err := os.WriteFile("spillway.yaml", []byte("server: {listen: '127.0.0.1:0', admin_listen: '127.0.0.1:0'}\nupstream:\n  url: ${FHIR}\n  headers: {X-Api-Key: tell-nobody}\nlog: {level: debug, format: json}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var errs syncBuffer
	ended := make(chan int)
	go func() {
		ended <- run(ctx, []string{"serve", "--config", "spillway.yaml"}, console{out: io.Discard, err: &errs, environ: []string{"FHIR=" + url}})
	}()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(errs.String(), "upstream learnt"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not come up:\n%s", errs.String())
		}
	}
	cancel(errInterrupted)
	if status := <-ended; status != 0 {
		t.Errorf("status %d", status)
	}
	for _, want := range []string{`"msg":"spillway is up"`, `"listen":"127.0.0.1:`, `"public":"http://127.0.0.1:`, "a secret stands in the file itself", "export.window: 10000", `"msg":"stopped"`} {
		if !strings.Contains(errs.String(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	if strings.Contains(errs.String(), "tell-nobody") || t.Failed() {
		t.Errorf("log:\n%s", errs.String())
	}
}

// TestServeAway: the gateway starts without its upstream, says so, and is
// ready when the upstream has come.
func TestServeAway(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	r := start(t, gatewayConfig(t, gone.URL+"/fhir"), halves{web: true, work: true})
	h := r.health(t, http.StatusServiceUnavailable)
	if h.Checks["store"] != "ok" || h.Checks["storage"] != "ok" || h.Checks["upstream"] == "ok" {
		t.Errorf("checks: %v", h.Checks)
	}
	if status, _ := r.get(t, r.admin, "/healthz"); status != http.StatusOK {
		t.Errorf("/healthz: %d", status)
	}
	if status, body := r.get(t, r.public, "/fhir/Patient/1"); status != http.StatusBadGateway || !strings.Contains(body, "OperationOutcome") {
		t.Errorf("pass-through: %d %s", status, body)
	}
}

func TestServeHalves(t *testing.T) {
	_, url := fake(t, few())
	web := start(t, gatewayConfig(t, url), halves{web: true})
	web.health(t, http.StatusOK)
	work := start(t, gatewayConfig(t, url), halves{work: true})
	work.health(t, http.StatusOK)
	if work.public != nil {
		t.Error("--workers-only listens for clients")
	}
}

func TestServeBusyPort(t *testing.T) {
	_, url := fake(t, few())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, key := range []string{config.KeyListen, config.KeyAdminListen} {
		_, err := newServer(t.Context(), gatewayConfig(t, url, config.Flag{Name: "x", Key: key, Value: l.Addr().String()}), halves{web: true, work: true}, io.Discard, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "address already in use") {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// TestServeSameStore: two processes cannot have one store.
func TestServeSameStore(t *testing.T) {
	_, url := fake(t, few())
	cfg := gatewayConfig(t, url)
	start(t, cfg, halves{web: true, work: true})
	if _, err := newServer(t.Context(), cfg, halves{web: true, work: true}, io.Discard, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "cannot open the job store") {
		t.Errorf("got %v", err)
	}
}

// TestServeStop: after the signal a download that runs ends, nothing new begins.
func TestServeStop(t *testing.T) {
	arrived, goOn := make(chan struct{}), make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != "/fhir/Binary/slow" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, "first ")
		w.(http.Flusher).Flush()
		close(arrived)
		<-goOn
		_, _ = io.WriteString(w, "second")
	}))
	defer upstream.Close()
	r := start(t, gatewayConfig(t, upstream.URL+"/fhir"), halves{web: true, work: true})
	body := make(chan string)
	go func() {
		answer, err := r.client.Get("http://" + r.public.Addr().String() + "/fhir/Binary/slow")
		if err != nil {
			body <- err.Error()
			return
		}
		defer answer.Body.Close()
		b, err := io.ReadAll(answer.Body)
		if err != nil {
			b = append(b, err.Error()...)
		}
		body <- string(b)
	}()
	<-arrived
	r.cancel(errInterrupted)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", r.public.Addr().String())
		if err != nil {
			break
		}
		_ = c.Close()
		if time.Now().After(deadline) {
			t.Fatal("it still takes connections")
		}
	}
	if h := r.health(t, http.StatusServiceUnavailable); h.Status != "stopping" {
		t.Errorf("/readyz says %q", h.Status)
	}
	close(goOn)
	if got := <-body; got != "first second" {
		t.Errorf("the download that ran: %q", got)
	}
	r.stop(t)
}

// TestServeDrain: after a SIGTERM the process says at once that it stops and
// works on exports no more, but still answers for a while.
func TestServeDrain(t *testing.T) {
	_, url := fake(t, few())
	r := start(t, gatewayConfig(t, url, config.Flag{Name: "x", Key: config.KeyDrain, Value: "4s"}), halves{web: true, work: true})
	r.health(t, http.StatusOK)
	client := &bulkClient{http: r.client, base: r.publicURL.String()}
	began := time.Now()
	r.cancel(errTerminated)
	if h := r.health(t, http.StatusServiceUnavailable); h.Status != "stopping" {
		t.Errorf("/readyz says %q", h.Status)
	}
	status, err := client.kickOff(t.Context(), "?_type=Patient")
	if err != nil {
		t.Fatal(err)
	}
	answer, err := r.client.Get(status)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusAccepted || !answer.Close || answer.Header.Get("X-Progress") != "0% done: waiting for its turn" {
		t.Errorf("%s, the connection is closed: %t, %v", answer.Status, answer.Close, answer.Header)
	}
	r.stop(t)
	if took := time.Since(began); took < 4*time.Second {
		t.Errorf("it stopped after %v", took)
	}
}
