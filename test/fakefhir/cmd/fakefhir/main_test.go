package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	script := filepath.Join(t.TempDir(), "faults.json")
	if err := os.WriteFile(script, []byte(`{"match":{"kind":"read"},"do":{"status":{"code":418}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args, path string
		status     int
		contains   string
	}{
		{"-patients 1", "/Patient", 200, `"patient-1"`},
		{"-bulk 1234", "/Observation?_summary=count", 200, `"total":1234`},
		{"-bulk 5 -patients 1", "/Patient?_summary=count", 200, `"total":1`},
		{"-bulk 5 -base /r4/base -page-max 2", "/Observation?_count=9", 200, `_count=2`},
		{"-bulk 5 -base /", "/metadata", 200, `"CapabilityStatement"`},
		{"-patients 1 -script " + script, "/Patient/patient-1", 418, ""},
	} {
		ctx, stop := context.WithCancel(t.Context())
		out, in := io.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- run(ctx, strings.Fields(c.args), in) }()
		root, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.Get(strings.TrimSpace(root) + c.path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != c.status || !strings.Contains(string(body), c.contains) {
			t.Errorf("%s: %s: %d %v %.300s", c.args, c.path, res.StatusCode, err, body)
		}
		stop()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", c.args, err)
		}
	}
}

func TestRunRefused(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken.json")
	if err := os.WriteFile(broken, []byte(`{"do":{"nonsense":1}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"-bulk 1 -addr 0.0.0.0:0":   "not a loopback address",
		"-bulk 1 -transactions":     "needs -patients",
		"-bulk 1 -addr nonsense":    "nonsense",
		"-bulk 1 -script /none":     "none",
		"-bulk 1 -script " + broken: "nonsense",
	} {
		err := run(t.Context(), strings.Fields(args), io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestTransactions(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), strings.Fields("-patients 2 -transactions"), &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) < 2 {
		t.Errorf("%d lines", len(lines))
	}
	for _, l := range lines {
		if !strings.HasPrefix(l, `{"resourceType":"Bundle","type":"transaction","entry":[`) || !json.Valid([]byte(l)) {
			t.Errorf("no transaction: %.200s", l)
		}
	}
}
