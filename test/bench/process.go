package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A server is a process that serves until it is stopped.
type server struct {
	cmd   *exec.Cmd
	stdin io.Closer // ends it
	url   string
}

// start starts a server whose first line that has the prefix tells its URL.
func start(ctx context.Context, prefix, name string, args ...string) (*server, error) {
	s := newServer(ctx, name, args...)
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.begin(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if url, ok := strings.CutPrefix(lines.Text(), prefix); ok {
			s.url = url
			go func() { _, _ = io.Copy(io.Discard, out) }() // ends with the process
			return s, nil
		}
	}
	s.stop()
	return nil, fmt.Errorf("%s did not become ready", name)
}

// startQuiet starts a server that says nothing.
func startQuiet(ctx context.Context, name string, args ...string) (*server, error) {
	s := newServer(ctx, name, args...)
	return s, s.begin()
}

func newServer(ctx context.Context, name string, args ...string) *server {
	s := &server{cmd: exec.CommandContext(ctx, name, args...)}
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(syscall.SIGTERM) }
	s.cmd.WaitDelay = 20 * time.Second
	s.cmd.Stderr = os.Stderr
	return s
}

func (s *server) begin() (err error) {
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		return err
	}
	return s.cmd.Start()
}

func (s *server) stop() {
	_ = s.stdin.Close()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait() // its status says nothing of the measurement
}

// cpu is the CPU time that the process has used so far.
func (s *server) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	const user, system, hertz = 11, 12, 100
	u, _ := strconv.ParseInt(string(f[user]), 10, 64)
	k, _ := strconv.ParseInt(string(f[system]), 10, 64)
	return time.Duration(u+k) * time.Second / hertz
}

// A request is what is read of a line of the fake server's log.
type request struct {
	Time    time.Time `json:"time"`
	Entries int       `json:"entries"`
}

func requests(base string) ([]request, error) {
	resp, err := http.Get(strings.TrimSuffix(base, "/fhir") + "/_control/log")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var log struct {
		Requests []request `json:"requests"`
	}
	return log.Requests, json.NewDecoder(resp.Body).Decode(&log)
}

// An export is one run of spillway export.
type export struct {
	wall, cpu time.Duration
	planning  time.Duration // from the start to the first page
	tail      time.Duration // from the request for the last page to the end
	rss       int64         // peak, in bytes
	beyond    int           // requests that brought no resources
	lines     int64
}

func runExport(ctx context.Context, spillway, base string, logged bool, args ...string) (e export, err error) {
	dir, err := os.MkdirTemp("", "spillway-bench-")
	if err != nil {
		return e, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	before := 0
	if logged {
		log, err := requests(base)
		if err != nil {
			return e, err
		}
		before = len(log)
	}
	cmd := exec.CommandContext(ctx, spillway, append([]string{"export", "--upstream", base, "--out", filepath.Join(dir, "out"), "--quiet", "--settle", "0s"}, args...)...)
	cmd.Stderr = os.Stderr
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return e, fmt.Errorf("spillway export: %w", err)
	}
	ended := time.Now()
	e.wall = ended.Sub(began)
	used := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	e.cpu, e.rss = cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime(), used.Maxrss<<10
	if e.lines, err = manifestLines(filepath.Join(dir, "out", "manifest.json")); err != nil || !logged {
		return e, err
	}
	log, err := requests(base)
	if err != nil {
		return e, err
	}
	for _, r := range log[min(before, len(log)):] {
		if r.Entries == 0 {
			e.beyond++
			continue
		}
		if e.planning == 0 {
			e.planning = r.Time.Sub(began)
		}
		e.tail = ended.Sub(r.Time)
	}
	return e, nil
}

func manifestLines(path string) (n int64, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	var m struct {
		Output []struct {
			Count int64 `json:"count"`
		} `json:"output"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return 0, err
	}
	for _, o := range m.Output {
		n += o.Count
	}
	return n, nil
}
