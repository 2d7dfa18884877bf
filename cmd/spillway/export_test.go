package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spillway/test/fakefhir"
)

// exportLine is a command line that waits for nothing it need not.
func exportLine(url, out string, more ...string) []string {
	return append([]string{"export", "--upstream", url, "--out", out, "--settle", "0s"}, more...)
}

// truth is what an export of everything must hold: type/id → version.
func truth(s *fakefhir.Server, types ...string) map[string]string {
	all := make(map[string]string)
	if len(types) == 0 {
		types = s.Types()
	}
	for _, typ := range types {
		for id, r := range s.All(typ) {
			all[typ+"/"+id] = r.VersionID
		}
	}
	return all
}

// readDir is what a finished directory holds, read by its manifest as a user
// would. It fails on anything that the manifest does not promise.
func readDir(t *testing.T, dir string) map[string]string {
	t.Helper()
	var manifest struct {
		TransactionTime, Request string
		RequiresAccessToken      *bool
		Output, Deleted, Error   []struct {
			Type, URL string
			Count     int
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &manifest); err != nil {
		t.Fatalf("manifest.json: %v\n%s", err, b)
	}
	if manifest.TransactionTime == "" || manifest.Request == "" || manifest.RequiresAccessToken == nil {
		t.Errorf("manifest.json lacks something:\n%s", b)
	}
	found := make(map[string]string)
	named := []string{"manifest.json", ".spillway"}
	for _, f := range manifest.Output {
		named = append(named, f.URL)
		lines := readLines(t, filepath.Join(dir, f.URL))
		if len(lines) != f.Count {
			t.Errorf("%s: %d lines, the manifest says %d", f.URL, len(lines), f.Count)
		}
		for _, line := range lines {
			var r struct {
				ResourceType, ID string
				Meta             struct{ VersionID string }
			}
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatalf("%s: %v", f.URL, err)
			}
			key := r.ResourceType + "/" + r.ID
			if _, twice := found[key]; twice || r.ResourceType != f.Type {
				t.Errorf("%s: %s does not belong here", f.URL, key)
			}
			found[key] = r.Meta.VersionID
		}
	}
	for _, f := range append(manifest.Deleted, manifest.Error...) {
		named = append(named, f.URL)
		if n := len(readLines(t, filepath.Join(dir, f.URL))); n != f.Count {
			t.Errorf("%s: %d lines, the manifest says %d", f.URL, n, f.Count)
		}
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(named)), names(t, dir)); diff != "" {
		t.Errorf("named (-) and present (+):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"run.json"}, names(t, filepath.Join(dir, ".spillway"))); diff != "" {
		t.Errorf("state of a finished export (-want +got):\n%s", diff)
	}
	if got := spillway(t.Context(), "verify", dir); got.status != 0 && got.status != exitIncomplete {
		t.Errorf("spillway verify: %+v", got)
	}
	return found
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	slices.Sort(all)
	return all
}

func readLines(t *testing.T, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			t.Fatal(err)
		}
	}
	var lines []string
	s := bufio.NewScanner(r)
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		lines = append(lines, s.Text())
	}
	if s.Err() != nil {
		t.Fatal(s.Err())
	}
	return lines
}

func TestExport(t *testing.T) {
	s, url := fake(t, few())
	for _, test := range []struct {
		name  string
		flags []string
		want  map[string]string
	}{
		{name: "OKAll", want: truth(s)},
		{name: "OKGzip", flags: []string{"--gzip"}, want: truth(s)},
		{name: "OKTypes", flags: []string{"--type", "Patient,Encounter", "--type", "Group", "--quiet"}, want: truth(s, "Patient", "Encounter", "Group")},
		{name: "OKJSON", flags: []string{"--type", "Patient", "--log-format", "json"}, want: truth(s, "Patient")},
	} {
		t.Run(test.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			line := exportLine(url, out, test.flags...)
			got := spillway(t.Context(), line...)
			if got.status != 0 || got.out != filepath.Join(out, "manifest.json")+"\n" {
				t.Fatalf("got %+v", got)
			}
			if diff := cmp.Diff(test.want, readDir(t, out)); diff != "" {
				t.Errorf("upstream (-) and directory (+):\n%s", diff)
			}
			switch {
			case slices.Contains(test.flags, "--quiet"):
				if got.err != "" {
					t.Errorf("not quiet:\n%s", got.err)
				}
			case slices.Contains(test.flags, "json"):
				for line := range strings.Lines(got.err) {
					if !json.Valid([]byte(line)) {
						t.Errorf("no record: %s", line)
					}
				}
			case !strings.Contains(got.err, "total "):
				t.Errorf("no table:\n%s", got.err)
			}
			again := spillway(t.Context(), line...)
			if again.status != exitUsage || again.out != "" || again.err != "spillway: "+out+" holds a finished export; choose another --out\n" {
				t.Errorf("a second time: %+v", again)
			}
		})
	}
}

// TestExportManySegments: files that are put together from several segments.
func TestExportManySegments(t *testing.T) {
	s, url := fake(t, few())
	t.Chdir(t.TempDir())
	if err := os.WriteFile("spillway.yaml", []byte("upstream: {url: '"+url+"', settle: 0s}\nexport: {window: 50}\nserver: {listen: '0.0.0.0:1'}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, more := range []string{"", "--gzip"} {
		out := "out" + more
		got := spillway(t.Context(), strings.Fields("export --config spillway.yaml --out "+out+" "+more)...)
		if got.status != 0 {
			t.Fatalf("got %+v", got)
		}
		if diff := cmp.Diff(truth(s), readDir(t, out)); diff != "" {
			t.Errorf("upstream (-) and directory (+):\n%s", diff)
		}
	}
}

// TestExportWithTheGatewaysConfiguration: an export from the command line keeps
// its state in its directory, whatever store the gateway has.
func TestExportWithTheGatewaysConfiguration(t *testing.T) {
	s, url := fake(t, few())
	file, out := filepath.Join(t.TempDir(), "spillway.yaml"), filepath.Join(t.TempDir(), "out")
	text := "store: {redis: {url: 'redis://127.0.0.1:1'}}\nstorage: {bucket: {url: 's3://nowhere?region=a', presign: 15m}}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := spillway(t.Context(), exportLine(url, out, "--config", file)...); got.status != 0 {
		t.Fatalf("%+v", got)
	}
	if diff := cmp.Diff(truth(s), readDir(t, out)); diff != "" {
		t.Errorf("export (-want +got):\n%s", diff)
	}
}

func TestExportErrors(t *testing.T) {
	for _, test := range []struct {
		name   string
		fault  fakefhir.Fault
		flags  []string
		status int
		err    string // part of what standard error says
	}{
		{name: "ErrSince", flags: []string{"--since", "yesterday"}, status: 2, err: "--since: "},
		{name: "ErrType", flags: []string{"--type", "Patients"}, status: 2, err: "--type: "},
		{name: "ErrTypeFilter", flags: []string{"--type-filter", "Observation?_include=*"}, status: 2, err: "--type-filter: "},
		{name: "ErrPatient", flags: []string{"--patient", "a b"}, status: 2, err: "--patient: "},
		{name: "ErrUnauthorized", status: 1, err: "upstream.headers",
			fault: fakefhir.Fault{Do: fakefhir.Do{Status: &fakefhir.Status{Code: 401}}}},
		{name: "ErrHTML", status: 1, err: "GET /metadata failed", fault: fakefhir.Fault{Do: fakefhir.Do{HTML: true}}},
		{name: "ErrSearchFails", status: 1, err: "the export failed: ",
			fault: fakefhir.Fault{Match: fakefhir.Match{Kind: fakefhir.KindSearch, Type: "Encounter"}, Do: fakefhir.Do{Garbage: true}}},
		{name: "ErrIncomplete", status: 3, err: "spillway: exported, but the error file has ",
			fault: fakefhir.Fault{Match: fakefhir.Match{Type: "Encounter"}, Do: fakefhir.Do{DropEntries: 3}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, url := fake(t, few())
			if !cmp.Equal(test.fault, fakefhir.Fault{}) {
				s.Script(test.fault)
			}
			out := filepath.Join(t.TempDir(), "out")
			got := spillway(t.Context(), exportLine(url, out, append(test.flags, "--type", "Patient,Encounter")...)...)
			if got.status != test.status || !strings.Contains(got.err, test.err) {
				t.Errorf("got %+v, want status %d and %q", got, test.status, test.err)
			}
			if n := strings.Count(got.err, "spillway: "); n != 1 {
				t.Errorf("%d messages on standard error:\n%s", n, got.err)
			}
			if test.status == exitIncomplete {
				all, missing := truth(s, "Patient", "Encounter"), 0
				found := readDir(t, out)
				for key, version := range found {
					if all[key] != version {
						t.Errorf("%s is not what the upstream has", key)
					}
				}
				if missing = len(all) - len(found); missing == 0 || got.out == "" || !strings.Contains(got.err, "error: Encounter: ") {
					t.Errorf("%d are missing, and got %+v", missing, got)
				}
				return
			}
			if got.out != "" {
				t.Errorf("standard output of a failure: %q", got.out)
			}
			if test.status == exitUsage {
				if _, err := os.Stat(out); err == nil {
					t.Error("a refused command has made its directory")
				}
				return
			}
			// The same command is a new attempt.
			s.Reset()
			if got := spillway(t.Context(), exportLine(url, out, append(test.flags, "--type", "Patient,Encounter")...)...); got.status != 0 {
				t.Fatalf("once the upstream is well: %+v", got)
			}
			if diff := cmp.Diff(truth(s, "Patient", "Encounter"), readDir(t, out)); diff != "" {
				t.Errorf("upstream (-) and directory (+):\n%s", diff)
			}
		})
	}
}

func TestExportAway(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	out := filepath.Join(t.TempDir(), "out")
	// It is given some seconds to appear; the user may have fewer.
	got := spillway(t.Context(), exportLine(gone.URL, out)...)
	if got.status != exitFailed || !strings.Contains(got.err, "GET /metadata failed") || strings.Count(got.err, "spillway: ") != 1 {
		t.Errorf("got %+v", got)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("the directory was made for nothing")
	}
}

// TestExportResume: interrupted after some searches, again and again, until it
// is through. What was finished is not searched again.
func TestExportResume(t *testing.T) {
	s, _ := fake(t, few())
	var ctx atomic.Pointer[context.CancelCauseFunc]
	var searches, limit atomic.Int64
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.ServeHTTP(w, r)
		if count := strings.Contains(r.URL.RawQuery, "_summary=count"); !count && searches.Add(1) == limit.Load() {
			(*ctx.Load())(errInterrupted)
		}
	}))
	t.Cleanup(h.Close)
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "spillway.yaml")
	if err := os.WriteFile(file, []byte("export: {window: 50}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	line := exportLine(h.URL+"/fhir", dir, "--concurrency", "2", "--config", file)
	interrupted := 0
	for range 50 {
		c, cancel := context.WithCancelCause(t.Context())
		ctx.Store(&cancel)
		searches.Store(0)
		limit.Store(30) // learning the upstream takes some of them each time
		got := spillway(c, line...)
		cancel(nil)
		if got.status == 0 {
			if interrupted < 2 {
				t.Errorf("only %d interruptions", interrupted)
			}
			if !strings.Contains(got.err, "resuming the export") {
				t.Errorf("not resumed:\n%s", got.err)
			}
			if diff := cmp.Diff(truth(s), readDir(t, dir)); diff != "" {
				t.Errorf("upstream (-) and directory (+):\n%s", diff)
			}
			return
		}
		want := "interrupted; the same command resumes the export, its state is in " + filepath.Join(dir, ".spillway")
		if got.status != exitInterrupted || got.out != "" || !strings.Contains(got.err, want) {
			t.Fatalf("got %+v", got)
		}
		if interrupted++; interrupted == 1 {
			other := spillway(t.Context(), exportLine(h.URL+"/fhir", dir, "--type", "Patient", "--gzip")...)
			if other.status != exitUsage || !strings.Contains(other.err, "(--gzip, --type)") {
				t.Fatalf("another command in the same directory: %+v", other)
			}
		}
	}
	t.Error("it never came to its end")
}

// TestFinishedWithoutCleanup: stopped between the manifest and the last step.
func TestFinishedWithoutCleanup(t *testing.T) {
	dir := t.TempDir()
	w := workdir{dir}
	if _, err := w.claim(runRecord{Upstream: "http://a"}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{w.manifest(), w.store(), filepath.Join(dir, "1.Patient.ndjson")} {
		if err := os.WriteFile(path, []byte("{}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(w.files(), "abc"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := w.check(); err == nil || !strings.Contains(err.Error(), "holds a finished export") {
		t.Fatalf("got %v", err)
	}
	if diff := cmp.Diff([]string{"run.json"}, names(t, w.state())); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
	if err := os.Remove(w.manifest()); err != nil {
		t.Fatal(err)
	}
	if err := w.check(); err == nil || !strings.Contains(err.Error(), "without its manifest.json") {
		t.Errorf("without the manifest: %v", err)
	}
}
