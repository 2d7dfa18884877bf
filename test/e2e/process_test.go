//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"spillway/test/process"
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
	cmd := process.Command(ctx, binary, args...)
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

// verify wants that `spillway verify` finds a folder whole and complete.
func verify(t *testing.T, dir string) {
	t.Helper()
	if r := spillway(t, "verify", dir); r.code != 0 || r.stdout != "" {
		t.Errorf("spillway verify: exit status %d\n%s%s", r.code, r.stdout, r.stderr)
	}
}

// mustExit fails the test unless the run ended with this status.
func (r run) mustExit(t *testing.T, code int) {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit status %d, want %d\n%s", r.code, code, r.stderr)
	}
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
	base    string // FHIR base
	admin   string
	program *process.Program
}

// serve starts the gateway and waits until it is ready. It ends with the test.
func serve(t *testing.T, s settings) *gateway {
	t.Helper()
	dir := t.TempDir()
	public, admin := process.FreeAddress(t), process.FreeAddress(t)
	s.extra += fmt.Sprintf("server:\n  listen: %s\n  admin_listen: %s\nstore:\n  bolt: {path: %s}\nstorage:\n  disk: {path: %s}\nlog: {level: debug, format: json}\n",
		public, admin, filepath.Join(dir, "jobs.db"), filepath.Join(dir, "files"))
	config := s.file(t)
	g := &gateway{base: "http://" + public + "/fhir", admin: "http://" + admin}
	g.program = process.New(t, "gateway", func() *exec.Cmd {
		return process.Command(context.Background(), binary, "serve", "--config", config)
	})
	t.Cleanup(func() {
		g.program.Kill()
		g.mustLogNoData(t)
	})
	g.start(t, "/readyz")
	return g
}

// start starts the process, again after a kill, and waits until it says that it
// is well: at /readyz when it has learnt the upstream, at /healthz before.
func (g *gateway) start(t *testing.T, probe string) {
	t.Helper()
	if err := g.program.Await(func() bool {
		answer, err := http.Get(g.admin + probe)
		if err != nil {
			return false
		}
		_ = answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	}); err != nil {
		t.Fatal(err)
	}
}

// terminateDuring sends SIGTERM, then does something, and returns the exit status.
func (g *gateway) terminateDuring(t *testing.T, f func()) int {
	t.Helper()
	if err := g.program.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	f()
	code, err := g.program.Wait(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// mustLogNoData checks that no line of the log names a patient or a query.
func (g *gateway) mustLogNoData(t *testing.T) {
	t.Helper()
	_, held := server.ready(t)
	for _, line := range process.Lines(g.program.Log()) {
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
	sum, err := process.Metric(g.admin, name, labels...)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}
