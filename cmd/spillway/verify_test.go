package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"spillway/test/fakefhir"
)

// TestVerify exports and verifies, after nothing or something has happened to
// the directory.
func TestVerify(t *testing.T) {
	_, url := fake(t, few())
	edit := func(t *testing.T, path string, change func([]byte) []byte) {
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, change(b), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name   string
		flags  []string // of the export
		damage func(t *testing.T, dir string)
		line   []string // of verify, instead of the directory
		status int
		out    string // what standard output is, with DIR for the directory
		err    string // the last line of standard error
	}{
		{name: "OK"},
		{name: "OKGzip", flags: []string{"--gzip"}},
		{name: "OKPatients", flags: []string{"--patients"}},
		{name: "OKFilter", flags: []string{"--type-filter", "Observation?status=final", "--type-filter", "Observation?code=8302-2"}},
		{name: "OKQuiet", line: []string{"DIR", "--quiet"}},
		{name: "ErrDamaged", status: 1, err: "spillway: 2 problems in DIR",
			out: "2.Patient.ndjson: it is not there\nPatient: the evidence says that 3 were exported, and none is there\n",
			damage: func(t *testing.T, dir string) {
				if err := os.Remove(filepath.Join(dir, "2.Patient.ndjson")); err != nil {
					t.Fatal(err)
				}
			}},
		{name: "ErrMany", line: []string{"DIR", "--first", "1"}, status: 1, err: "spillway: 5 problems in DIR",
			out: "2.Patient.ndjson: it has 6 lines, the manifest says 3\n" +
				"2.Patient.ndjson:4: an empty line\nand 2 more of this kind\n" +
				"Patient: the evidence says that 3 were exported, and 6 lines are there\n",
			damage: func(t *testing.T, dir string) {
				edit(t, filepath.Join(dir, "2.Patient.ndjson"), func(b []byte) []byte { return append(b, "\n\n\n"...) })
				edit(t, filepath.Join(dir, "manifest.json"), func(b []byte) []byte { return bytes.Replace(b, []byte(`"files"`), []byte(`"others"`), 1) })
			}},
		{name: "ErrNoEvidence", status: 3, err: "spillway: DIR is as the manifest says, but not proven to be complete",
			out: "not proven: The manifest has no evidence: nothing says that the export itself is complete.\n",
			damage: func(t *testing.T, dir string) {
				edit(t, filepath.Join(dir, "manifest.json"), func(b []byte) []byte {
					return append(bytes.TrimRight(b[:bytes.Index(b, []byte(`"extension"`))], ", \n"), '}')
				})
			}},
		{name: "ErrNoManifest", status: 1, err: "spillway: DIR has no manifest.json, so it holds no finished download",
			damage: func(t *testing.T, dir string) {
				if err := os.Remove(filepath.Join(dir, "manifest.json")); err != nil {
					t.Fatal(err)
				}
			}},
		{name: "ErrNoDirectory", line: []string{"DIR/manifest.json"}, status: 2, err: "spillway: DIR/manifest.json is no directory"},
		{name: "ErrNothing", line: []string{}, status: 2, err: "spillway: verify takes one directory"},
		{name: "ErrFirst", line: []string{"DIR", "--first", "0"}, status: 2, err: "spillway: --first and --parallel must be positive"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "out")
			if got := spillway(t.Context(), exportLine(url, dir, append(test.flags, "--type", "Patient,Observation")...)...); got.status != 0 {
				t.Fatalf("export: %+v", got)
			}
			if test.damage != nil {
				test.damage(t, dir)
			}
			line := []string{"verify"}
			if test.line == nil {
				line = append(line, dir)
			}
			for _, arg := range test.line {
				line = append(line, strings.ReplaceAll(arg, "DIR", dir))
			}
			got := spillway(t.Context(), line...)
			lines := strings.Split(strings.TrimSpace(got.err), "\n")
			last := lines[len(lines)-1]
			if test.status == 0 {
				if quiet := len(test.line) > 1; quiet != (got.err == "") || !quiet && !strings.HasPrefix(last, "verified 2 files, ") {
					t.Errorf("standard error: %q", got.err)
				}
				last = test.err
			}
			want := func(s string) string { return strings.ReplaceAll(s, "DIR", dir) }
			if got.status != test.status || got.out != want(test.out) || last != want(test.err) {
				t.Errorf("got %+v\nwant %d\n%s\n%s", got, test.status, want(test.out), want(test.err))
			}
		})
	}
}

// TestVerifyIncomplete: the error file has an issue of severity error.
func TestVerifyIncomplete(t *testing.T) {
	s, url := fake(t, few())
	s.Script(fakefhir.Fault{Match: fakefhir.Match{Type: "Encounter"}, Do: fakefhir.Do{DropEntries: 3}})
	dir := filepath.Join(t.TempDir(), "out")
	if got := spillway(t.Context(), exportLine(url, dir, "--type", "Encounter")...); got.status != exitIncomplete {
		t.Fatalf("export: %+v", got)
	}
	got := spillway(t.Context(), "verify", dir)
	if got.status != exitIncomplete || !strings.HasPrefix(got.out, "not proven: Encounter: the server counted ") ||
		!regexp.MustCompile(`\nnot complete: the error file has \d+ issues? of severity error\n$`).MatchString(got.out) {
		t.Errorf("got %+v", got)
	}
}
