//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spillway/test/process"
)

func TestExportCommand(t *testing.T) {
	base, held := server.ready(t)
	r := export(t, "--upstream", base)
	r.mustExit(t, 0)
	if want := filepath.Join(r.dir, "manifest.json"); strings.TrimSpace(r.stdout) != want {
		t.Errorf("standard output is %q, want the path of the manifest, %q", r.stdout, want)
	}
	e := readFolder(t, r.dir)
	e.mustEqual(t, held)
	if e.lines != held.len() {
		t.Errorf("%d lines, want %d", e.lines, held.len())
	}
	verify(t, r.dir)

	t.Run("a finished folder is never overwritten", func(t *testing.T) {
		before := snapshot(t, r.dir)
		again := spillway(t, "export", "--out", r.dir, "--quiet", "--upstream", base)
		if again.code == 0 || strings.TrimSpace(again.stderr) == "" {
			t.Errorf("exit status %d and message %q, want a clear refusal", again.code, again.stderr)
		}
		if after := snapshot(t, r.dir); after != before {
			t.Errorf("the folder was\n%s\nand is\n%s", before, after)
		}
	})
}

// snapshot lists the files of a folder with their sizes and times.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list strings.Builder
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		if !entry.IsDir() {
			list.WriteString(entry.Name() + " " + info.ModTime().String() + "\n")
		}
	}
	return list.String()
}

func TestExportCommandKeepsFilesCompressed(t *testing.T) {
	base, held := server.ready(t)
	r := export(t, "--upstream", base, "--gzip", "--type", "Patient,Organization")
	r.mustExit(t, 0)
	names, err := filepath.Glob(filepath.Join(r.dir, "*.ndjson*"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no files: %v", err)
	}
	n := 0
	for _, name := range names {
		packed, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		content, err := gunzip(packed)
		if err != nil {
			t.Fatalf("%s is not compressed: %v", filepath.Base(name), err)
		}
		n += strings.Count(string(content), "\n")
	}
	if want := held.of("Patient", "Organization").len(); n != want {
		t.Errorf("%d lines, want %d", n, want)
	}
	verify(t, r.dir)
}

func TestCheckCommand(t *testing.T) {
	base, _ := server.ready(t)
	r := spillway(t, "check", "--upstream", base)
	r.mustExit(t, 0)
	for _, want := range []string{"_lastUpdated", "HAPI"} {
		if !strings.Contains(r.stdout+r.stderr, want) {
			t.Errorf("nothing is said of %s:\n%s", want, r.stdout)
		}
	}
	if r := spillway(t, "check", "--upstream", "http://"+process.FreeAddress(t)+"/fhir"); r.code == 0 {
		t.Errorf("an upstream that is away passes the check:\n%s", r.stdout)
	}
}

func TestExportCommandWithoutUpstream(t *testing.T) {
	server.ready(t)
	r := export(t, "--upstream", "http://"+process.FreeAddress(t)+"/fhir", "--type", "Patient")
	r.mustExit(t, 1)
	if strings.TrimSpace(r.stderr) == "" {
		t.Error("nothing is said of the failure")
	}
	if _, err := os.Stat(filepath.Join(r.dir, "manifest.json")); err == nil {
		t.Error("a failed export left a manifest")
	}
	if r := export(t, "--type", "Patient"); r.code != 2 {
		t.Errorf("without --upstream: exit status %d, want 2", r.code)
	}
}
