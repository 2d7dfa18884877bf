//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// manifest is the output manifest of a finished export.
type manifest struct {
	TransactionTime     string         `json:"transactionTime"`
	Request             string         `json:"request"`
	RequiresAccessToken *bool          `json:"requiresAccessToken"`
	Output              []manifestFile `json:"output"`
	Deleted             []manifestFile `json:"deleted"`
	Error               []manifestFile `json:"error"`
}

type manifestFile struct {
	Type     string `json:"type"`
	URL      string `json:"url"`
	Count    *int   `json:"count"`
	FileSize *int   `json:"fileSize"`
}

// exported is what an export holds.
type exported struct {
	manifest  manifest
	resources world
	doubled   []string // "Type/id" on more than one line
	lines     int      // of all output files
	issues    []issue  // of all error files
	deleted   []string // "Type/id" of all deleted files
}

// issue is one issue of an OperationOutcome.
type issue struct {
	Severity    string `json:"severity"`
	Code        string `json:"code"`
	Diagnostics string `json:"diagnostics"`
	Details     struct {
		Text string `json:"text"`
	} `json:"details"`
}

func (i issue) String() string {
	text := i.Details.Text
	if i.Diagnostics != text {
		text += " " + i.Diagnostics
	}
	return fmt.Sprintf("%s (%s): %s", i.Severity, i.Code, strings.TrimSpace(text))
}

// errors returns the issues that say that something is missing.
func (e *exported) errors() []issue {
	var found []issue
	for _, i := range e.issues {
		if i.Severity == "error" || i.Severity == "fatal" {
			found = append(found, i)
		}
	}
	return found
}

// readExport reads all files of a manifest and checks each against it. Fetch
// returns the whole file with the given URL.
func readExport(t *testing.T, raw []byte, fetch func(url string) []byte) *exported {
	t.Helper()
	e := &exported{resources: make(world)}
	checkMembers(t, raw)
	if err := json.Unmarshal(raw, &e.manifest); err != nil {
		t.Fatalf("manifest: %v\n%s", err, raw)
	}
	names := make(map[string]bool)
	for _, f := range e.manifest.Output {
		if names[f.URL] {
			t.Errorf("manifest: the file %s is listed twice", f.URL)
		}
		names[f.URL] = true
		for _, line := range readFile(t, f, fetch(f.URL)) {
			r, err := newResource(line)
			if err != nil {
				t.Fatalf("%s: %v", f.URL, err)
			}
			if r.Type != f.Type {
				t.Fatalf("%s holds a %s; the manifest says %s", f.URL, r.Type, f.Type)
			}
			if !bytes.Equal(line, r.JSON) {
				t.Errorf("%s: %s/%s is not compact", f.URL, r.Type, r.ID)
			}
			if _, ok := e.resources[r.Type][r.ID]; ok {
				e.doubled = append(e.doubled, r.Type+"/"+r.ID)
			}
			e.resources.add(r)
			e.lines++
		}
	}
	for _, f := range e.manifest.Deleted {
		for _, line := range readFile(t, f, fetch(f.URL)) {
			var b struct {
				ResourceType, Type string
				Entry              []struct{ Request struct{ Method, URL string } }
			}
			if err := json.Unmarshal(line, &b); err != nil || b.ResourceType != "Bundle" || b.Type != "transaction" || len(b.Entry) == 0 {
				t.Fatalf("%s: no transaction Bundle (%v): %s", f.URL, err, line)
			}
			for _, entry := range b.Entry {
				if entry.Request.Method != "DELETE" {
					t.Errorf("%s: %s", f.URL, line)
				}
				e.deleted = append(e.deleted, entry.Request.URL)
			}
		}
	}
	for _, f := range e.manifest.Error {
		for _, line := range readFile(t, f, fetch(f.URL)) {
			var outcome struct {
				ResourceType string  `json:"resourceType"`
				Issue        []issue `json:"issue"`
			}
			if err := json.Unmarshal(line, &outcome); err != nil || outcome.ResourceType != "OperationOutcome" || len(outcome.Issue) == 0 {
				t.Fatalf("%s: no OperationOutcome (%v): %s", f.URL, err, line)
			}
			e.issues = append(e.issues, outcome.Issue...)
		}
	}
	return e
}

// checkMembers checks that the manifest has every member that clients rely on.
func checkMembers(t *testing.T, raw []byte) {
	t.Helper()
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		t.Fatalf("manifest: %v\n%s", err, raw)
	}
	for _, name := range []string{"transactionTime", "request", "requiresAccessToken", "output", "deleted", "error"} {
		if value, ok := members[name]; !ok || string(value) == "null" {
			t.Errorf("manifest: %s is missing", name)
		}
	}
}

// readFile returns the lines of a file and checks them against its entry.
func readFile(t *testing.T, f manifestFile, content []byte) [][]byte {
	t.Helper()
	if len(content) == 0 || content[len(content)-1] != '\n' {
		t.Fatalf("%s: empty, or its last line does not end", f.URL)
	}
	lines := bytes.Split(content[:len(content)-1], []byte("\n"))
	if f.Count == nil || *f.Count != len(lines) {
		t.Errorf("%s has %d lines; the manifest's count is %s", f.URL, len(lines), number(f.Count))
	}
	if f.FileSize != nil && *f.FileSize != len(content) {
		t.Errorf("%s has %d bytes; the manifest's fileSize is %d", f.URL, len(content), *f.FileSize)
	}
	return lines
}

func number(n *int) string {
	if n == nil {
		return "missing"
	}
	return fmt.Sprint(*n)
}

// readFolder reads what `spillway export` left in a folder.
func readFolder(t *testing.T, dir string) *exported {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{"manifest.json": true, ".spillway": true}
	e := readExport(t, raw, func(url string) []byte {
		if url != filepath.Base(url) {
			t.Fatalf("manifest: %q is not a file name beside it", url)
		}
		listed[url] = true
		content, err := os.ReadFile(filepath.Join(dir, url))
		if err != nil {
			t.Fatal(err)
		}
		return content
	})
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !listed[entry.Name()] {
			t.Errorf("the folder holds %s, which the manifest does not list", entry.Name())
		}
	}
	return e
}

// mustEqual fails the test unless the export holds exactly what it must: each
// resource once, in the right version, and byte for byte.
func (e *exported) mustEqual(t *testing.T, want world) {
	t.Helper()
	if problem := e.compare(want); problem != "" {
		t.Errorf("the export is not exact: %s", problem)
	}
	for _, i := range e.errors() {
		t.Errorf("the error file says: %s", i)
	}
}

// compare describes how an export differs from what it must hold; "" if it
// does not.
func (e *exported) compare(want world) string {
	var missing, foreign, differing []string
	for typ, byID := range want {
		for id, r := range byID {
			got, ok := e.resources[typ][id]
			switch {
			case !ok:
				missing = append(missing, typ+"/"+id)
			case got.Meta.VersionID != r.Meta.VersionID || !bytes.Equal(got.JSON, r.JSON):
				differing = append(differing, difference(r, got))
			}
		}
	}
	for typ, byID := range e.resources {
		for id := range byID {
			if _, ok := want[typ][id]; !ok {
				foreign = append(foreign, typ+"/"+id)
			}
		}
	}
	var problems []string
	for _, p := range []struct {
		what string
		list []string
	}{{"missing", missing}, {"not asked for", foreign}, {"doubled", e.doubled}, {"differing", differing}} {
		if len(p.list) > 0 {
			problems = append(problems, fmt.Sprintf("%d %s, such as %s", len(p.list), p.what, p.list[0]))
		}
	}
	if len(problems) == 0 {
		return ""
	}
	return fmt.Sprintf("%d resources of %d: %s", e.lines, want.len(), strings.Join(problems, "; "))
}

// difference says how a resource was harmed: in its version, in its meaning,
// or only in its bytes.
func difference(want, got resource) string {
	name := fmt.Sprintf("%s/%s", want.Type, want.ID)
	if want.Meta.VersionID != got.Meta.VersionID {
		return fmt.Sprintf("%s (version %s, not %s)", name, got.Meta.VersionID, want.Meta.VersionID)
	}
	if reflect.DeepEqual(exactTree(want.JSON), exactTree(got.JSON)) {
		return name + " (the same tokens in other bytes)"
	}
	return name + " (other content)"
}

// exactTree decodes JSON without rounding its numbers.
func exactTree(raw []byte) any {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var tree any
	if d.Decode(&tree) != nil {
		return nil
	}
	return tree
}
