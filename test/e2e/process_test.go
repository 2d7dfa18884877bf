//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// runTime bounds one run of the command.
const runTime = 5 * time.Minute

// run is a finished run of the command.
type run struct {
	code           int
	stdout, stderr string
	dir            string // of an export
}

// spillway runs the command to its end.
func spillway(t *testing.T, args ...string) run {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runTime)
	defer cancel()
	var stdout, stderr strings.Builder
	cmd := command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Fatalf("spillway %s did not end within %s\n%s", strings.Join(args, " "), runTime, &stderr)
	}
	return run{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
}

// export runs `spillway export` into a new folder.
func export(t *testing.T, args ...string) run {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	r := spillway(t, append([]string{"export", "--out", dir, "--quiet"}, args...)...)
	r.dir = dir
	return r
}

// mustExit fails the test unless the run ended with this status.
func (r run) mustExit(t *testing.T, code int) {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit status %d, want %d\n%s", r.code, code, r.stderr)
	}
}

// command prepares a run whose environment holds no setting of ours.
func command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, binary, args...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "SPILLWAY_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.SysProcAttr = endWithUs()
	return cmd
}

// settings are what a test may say of a configuration; zero values are left out.
type settings struct {
	upstream string
	aliases  []string
	pageSize int
	window   int
	timeout  time.Duration
	extra    string // more YAML, whole sections
}

func (s settings) yaml() string {
	var y strings.Builder
	fmt.Fprintf(&y, "upstream:\n  url: %s\n", s.upstream)
	if len(s.aliases) > 0 {
		fmt.Fprintf(&y, "  url_aliases: [%s]\n", strings.Join(s.aliases, ", "))
	}
	if s.pageSize > 0 {
		fmt.Fprintf(&y, "  page_size: %d\n", s.pageSize)
	}
	if s.timeout > 0 {
		fmt.Fprintf(&y, "  timeout: %s\n", s.timeout)
	}
	fmt.Fprintf(&y, "  settle: 1s\n")
	if s.window > 0 {
		fmt.Fprintf(&y, "export:\n  window: %d\n", s.window)
	}
	return y.String() + s.extra
}

// file writes the configuration to a file and returns its name.
func (s settings) file(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "spillway.yaml")
	if err := os.WriteFile(name, []byte(s.yaml()), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// gateway is `spillway serve`, which may be killed and started again.
type gateway struct {
	base   string // FHIR base
	admin  string
	config string
	log    string // file
	cmd    *exec.Cmd
	ended  chan struct{} // closed when the process has ended
}

// serve starts the gateway and waits until it is ready. It ends with the test.
func serve(t *testing.T, s settings) *gateway {
	t.Helper()
	dir := t.TempDir()
	public, admin := freeAddress(t), freeAddress(t)
	s.extra += fmt.Sprintf("server:\n  listen: %s\n  admin_listen: %s\nstore:\n  bolt: {path: %s}\nstorage:\n  disk: {path: %s}\nlog: {level: debug, format: json}\n",
		public, admin, filepath.Join(dir, "jobs.db"), filepath.Join(dir, "files"))
	g := &gateway{base: "http://" + public + "/fhir", admin: "http://" + admin, config: s.file(t), log: filepath.Join(dir, "log")}
	g.start(t, "/readyz")
	t.Cleanup(func() {
		g.kill()
		g.mustLogNoData(t)
		if t.Failed() {
			t.Logf("the end of the gateway's log:\n%s", tail(g.logged(t), 40))
		}
	})
	return g
}

// start starts the process, again after a kill, and waits until it says that it
// is well: at /readyz when it has learnt the upstream, at /healthz before.
func (g *gateway) start(t *testing.T, probe string) {
	t.Helper()
	log, err := os.OpenFile(g.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	g.cmd = command(context.Background(), "serve", "--config", g.config)
	g.cmd.Stdout, g.cmd.Stderr = log, log
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd, ended := g.cmd, make(chan struct{})
	g.ended = ended
	go func() {
		_ = cmd.Wait() // ProcessState tells how it ended
		close(ended)
	}()
	deadline := time.After(30 * time.Second)
	for {
		if answer, err := http.Get(g.admin + probe); err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ended:
			t.Fatalf("the gateway ended:\n%s", tail(g.logged(t), 40))
		case <-deadline:
			g.kill()
			t.Fatalf("the gateway does not answer:\n%s", tail(g.logged(t), 40))
		}
	}
}

// kill ends the process at once, as a power failure would.
func (g *gateway) kill() {
	_ = g.cmd.Process.Kill() // it may have ended by itself
	<-g.ended
}

// terminateDuring sends SIGTERM, then does something, and returns the exit status.
func (g *gateway) terminateDuring(t *testing.T, f func()) int {
	t.Helper()
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	f()
	select {
	case <-g.ended:
	case <-time.After(time.Minute):
		g.kill()
		t.Fatal("the gateway did not end within a minute of SIGTERM")
	}
	return g.cmd.ProcessState.ExitCode()
}

func (g *gateway) logged(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile(g.log)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// mustLogNoData checks that no line of the log names a patient or a query.
func (g *gateway) mustLogNoData(t *testing.T) {
	t.Helper()
	_, held := server.ready(t)
	for _, line := range lines(g.logged(t)) {
		if strings.Contains(line, "_lastUpdated=") || strings.Contains(line, "?_") {
			t.Errorf("a log line holds a query: %s", line)
			return
		}
		for id := range held["Patient"] {
			if strings.Contains(line, "/"+id) {
				t.Errorf("a log line names a patient: %s", line)
				return
			}
		}
	}
}

// metric sums the series of a metric whose labels hold all of the given texts.
func (g *gateway) metric(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	answer, err := http.Get(g.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	var sum float64
next:
	for _, line := range lines(string(text)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(rest, label) {
				continue next
			}
		}
		var value float64
		if _, err := fmt.Sscan(rest[strings.LastIndexByte(rest, ' ')+1:], &value); err != nil {
			t.Fatalf("metric line %q: %v", line, err)
		}
		sum += value
	}
	return sum
}

// freeAddress returns an address of this machine on which nobody listens now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// tail returns the beginnings of the last n lines.
func tail(text string, n int) string {
	all := lines(text)
	all = all[max(len(all)-n, 0):]
	for i, line := range all {
		all[i] = fmt.Sprintf("%.400s", line)
	}
	return strings.Join(all, "\n")
}
