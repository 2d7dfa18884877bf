package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/pflag"

	"spillway/test/fakefhir"
)

// A result is what one command line left.
type result struct {
	status   int
	out, err string
}

// spillway performs a command line in this process, without an environment.
func spillway(ctx context.Context, args ...string) result {
	var out, errs syncBuffer
	status := run(ctx, args, console{out: &out, err: &errs})
	return result{status, out.String(), errs.String()}
}

// A syncBuffer can be read while others write to it.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// fake starts a fake FHIR server and returns it with its FHIR base.
func fake(t *testing.T, o fakefhir.Options) (*fakefhir.Server, string) {
	t.Helper()
	s := fakefhir.New(o)
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return s, h.URL + "/fhir"
}

// few is a small set of resources, the same for all tests.
func few() fakefhir.Options {
	return fakefhir.Options{Dataset: fakefhir.Generate(fakefhir.GenerateOptions{Patients: 3, Seed: 7})}
}

func TestUsage(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("bad.yaml", []byte("upstream:\n  timout: 5s\nstore:\n  redis: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	full := filepath.Join(t.TempDir(), "full")
	if err := os.MkdirAll(filepath.Join(full, "something"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, line string
		want       string // what standard error says
	}{
		{"ErrUnknownCommand", "exprot", `spillway: there is no command "exprot"; did you mean export?`},
		{"ErrNoSuchCommand", "frobnicate", `spillway: there is no command "frobnicate"; spillway --help lists them`},
		{"ErrUnknownFlag", "serve --nope", "spillway: unknown flag: --nope"},
		{"ErrArgument", "serve spillway.yaml", `spillway: serve takes flags only, not "spillway.yaml"`},
		{"ErrNothingToDo", "serve --no-workers --workers-only", "spillway: --no-workers and --workers-only leave nothing to do"},
		{"ErrServeNoUpstream", "serve", "upstream.url: is required; write it such as https://fhir.example.org/fhir"},
		{"ErrConfig", "serve --config bad.yaml", "bad.yaml:1: upstream.url: is required; write it such as https://fhir.example.org/fhir\n" +
			"bad.yaml:2: upstream.timout: unknown key; did you mean timeout?\n" +
			"bad.yaml:4: store.redis.url: is required; write it such as redis://localhost:6379/0"},
		{"ErrNoConfig", "serve --config absent.yaml", "cannot read the configuration: open absent.yaml: no such file or directory"},
		{"ErrCheckConfig", "check --config absent.yaml", "cannot read the configuration: open absent.yaml: no such file or directory"},
		{"ErrNoOut", "export --upstream http://127.0.0.1:1/fhir", "spillway: --out is required: the directory to fill"},
		{"ErrNoUpstream", "export --out new", "--upstream: is required; write it such as https://fhir.example.org/fhir"},
		{"ErrUpstream", "export --out new --upstream 127.0.0.1:1", "--upstream: is no http or https address; write it such as https://fhir.example.org/fhir"},
		{"ErrLevels", "export --out new --upstream http://127.0.0.1:1 --patients --group g", "spillway: --patients and --group exclude each other"},
		{"ErrLogFormat", "export --out new --upstream http://127.0.0.1:1 --log-format xml", `spillway: --log-format: "xml" is not allowed here; want text, json`},
		{"ErrSeveral", "export --out new --upstream http://127.0.0.1:1 --timeout soon --page-size 0 --header secret",
			"--page-size: 0 is out of range; allowed is 1 to 100000\n" +
				"--timeout: \"soon\" is no duration; write it such as 500ms, 30s, 5m, 24h or 7d\n" +
				"--header: want 'Name: value' or 'Name: @file'"},
		{"ErrForeignFiles", "export --upstream http://127.0.0.1:1 --out " + full,
			"spillway: " + full + " is not empty, and what it holds is no export of Spillway; choose an empty or a new directory as --out"},
		{"ErrDemoPatients", "demo --patients 0", "spillway: --patients: 0 is out of range; allowed is 1 to 5000"},
		{"ErrDemoForeign", "demo --out " + full, "spillway: " + full + " holds something that is not from a former demo; choose another --out"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := spillway(t.Context(), strings.Fields(test.line)...)
			if want := (result{exitUsage, "", test.want + "\n"}); got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			if _, err := os.Stat("new"); err == nil {
				t.Error("a refused command has made its directory")
			}
		})
	}
}

func TestVersion(t *testing.T) {
	got := spillway(t.Context(), "version")
	if got.status != 0 || !strings.HasPrefix(got.out, "spillway ") || strings.Count(got.out, "\n") != 1 || got.err != "" {
		t.Errorf("got %+v", got)
	}
}

func TestHelp(t *testing.T) {
	for _, line := range []string{"--help", "help export", "serve --help", "demo --help", "check --help"} {
		got := spillway(t.Context(), strings.Fields(line)...)
		if got.status != 0 || !strings.Contains(got.out, "Usage:") || got.err != "" {
			t.Errorf("%s: %+v", line, got)
		}
	}
	if got := spillway(t.Context()); got.status != exitUsage || !strings.Contains(got.out, "Available Commands:") {
		t.Errorf("without a command: %+v", got)
	}
}

// TestReadme: every flag of export is explained, and every one explained exists.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	flags := newExport(console{}).Flags()
	flags.VisitAll(func(f *pflag.Flag) {
		if !strings.Contains(string(readme), "`--"+f.Name) {
			t.Errorf("README.md does not explain --%s", f.Name)
		}
	})
	_, table, _ := strings.Cut(string(readme), "| Flag | |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	for _, m := range regexp.MustCompile("`--([a-z-]+)").FindAllStringSubmatch(table, -1) {
		if flags.Lookup(m[1]) == nil {
			t.Errorf("README.md explains --%s, which does not exist", m[1])
		}
	}
}

func TestCheck(t *testing.T) {
	t.Chdir(t.TempDir())
	_, url := fake(t, few())
	small := few()
	small.PageMax = 2
	_, smallURL := fake(t, small)
	html := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html>welcome</html>")
	}))
	t.Cleanup(html.Close)
	if err := os.WriteFile("spillway.yaml", []byte("upstream: {url: '"+smallURL+"', page_size: 2000}\nstorage: {disk: {min_free: 1KiB}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("full.yaml", []byte("upstream: {url: '"+url+"'}\nstorage: {disk: {min_free: 1TiB}}\nserver: {tls: {cert_file: a, key_file: b}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, line string
		status     int
		out, err   []string
	}{
		{"OK", "check --upstream " + url, 0, []string{"FHIR version", "4.0.1", "_lastUpdated  works", "counts        works", "POST search   works", "it can work"}, nil},
		{"OKConfig", "check --config spillway.yaml", 0, []string{"store", "storage", "2 (asked for 2,000)", "it can work"}, nil},
		{"ErrMachine", "check --config full.yaml", 1, []string{"cannot be used"}, []string{"it cannot work:", "server.tls: ", "storage.disk.path: "}},
		{"ErrHTML", "check --upstream " + html.URL, 1, nil, []string{"it cannot work:", "GET /metadata failed"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := spillway(t.Context(), strings.Fields(test.line)...)
			if got.status != test.status {
				t.Errorf("status %d, want %d", got.status, test.status)
			}
			for _, want := range test.out {
				if !strings.Contains(got.out, want) {
					t.Errorf("standard output lacks %q", want)
				}
			}
			for _, want := range test.err {
				if !strings.Contains(got.err, want) {
					t.Errorf("standard error lacks %q", want)
				}
			}
			if t.Failed() {
				t.Logf("out:\n%s\nerr:\n%s", got.out, got.err)
			}
		})
	}
	if entries, err := os.ReadDir("."); err != nil || len(entries) != 2 {
		t.Errorf("check leaves something behind: %v, %v", entries, err)
	}
}

// TestInterrupted: a signal that comes before anything was done.
func TestInterrupted(t *testing.T) {
	_, url := fake(t, few())
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errInterrupted)
	out := filepath.Join(t.TempDir(), "out")
	got := spillway(ctx, "export", "--upstream", url, "--out", out)
	if got.status != exitInterrupted || got.out != "" || !strings.Contains(got.err, "interrupted") {
		t.Errorf("got %+v", got)
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory exists: %v", err)
	}
}
