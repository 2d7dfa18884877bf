package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spillway/test/fakefhir"
)

func TestDemo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	line := []string{"demo", "--patients", "2", "--out", dir, "--quiet", "--listen", "127.0.0.1:0"}
	resources := fakefhir.Generate(fakefhir.GenerateOptions{Patients: 2, Seed: 1}).Len()
	for range 2 { // the second one replaces the first
		got := spillway(t.Context(), line...)
		if got.status != 0 || got.err != "" {
			t.Fatalf("got %+v", got)
		}
		for _, want := range []string{"fake FHIR server", "TYPE", "Patient", "SECONDS", "curl ", "--keep"} {
			if !strings.Contains(got.out, want) {
				t.Errorf("the demo does not say %q:\n%s", want, got.out)
			}
		}
		lines := 0
		for _, name := range names(t, dir) {
			if strings.HasSuffix(name, ".ndjson") {
				lines += len(readLines(t, filepath.Join(dir, name)))
			}
		}
		if lines != resources {
			t.Errorf("%d lines, the fake server has %d resources", lines, resources)
		}
		if got := spillway(t.Context(), "verify", dir); got.status != 0 || got.out != "" {
			t.Errorf("spillway verify: %+v", got)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "mine"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := spillway(t.Context(), line...); got.status != exitUsage {
		t.Errorf("with something foreign in its directory: %+v", got)
	}
}

// TestDemoKeep: both servers run on until the signal.
func TestDemoKeep(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var out, errs syncBuffer
	ended := make(chan int)
	go func() {
		ended <- run(ctx, []string{"demo", "--patients", "1", "--keep", "--quiet", "--listen", "127.0.0.1:0", "--out", filepath.Join(t.TempDir(), "demo")},
			console{out: &out, err: &errs})
	}()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(out.String(), "until Ctrl-C"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no end of the export:\n%s\n%s", out.String(), errs.String())
		}
	}
	select {
	case status := <-ended:
		t.Errorf("it ended by itself with %d", status)
	default:
	}
	cancel(errInterrupted)
	if status := <-ended; status != 0 || errs.String() != "" {
		t.Errorf("after the signal: %d\n%s", status, errs.String())
	}
}

func TestDemoInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errInterrupted)
	got := spillway(ctx, "demo", "--patients", "1", "--quiet", "--listen", "127.0.0.1:0", "--out", filepath.Join(t.TempDir(), "demo"))
	if got.status != exitInterrupted || got.err != "spillway: interrupted\n" {
		t.Errorf("got %+v", got)
	}
}
