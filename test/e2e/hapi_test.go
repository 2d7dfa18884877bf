//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway/test/fakefhir"
	"spillway/test/testenv"
)

const hapiScript = "../hapi/run"

// generatedPatients is how many patients the generated data has, about 400
// resources each.
const generatedPatients = 10

// hapi is the FHIR server behind all tests. The first test that needs it
// starts it.
type hapi struct {
	once  sync.Once
	err   error
	held  world
	url   string // FHIR base
	cmd   *exec.Cmd
	stdin io.Closer
}

// ready returns the FHIR base and what the server holds. It skips the test
// where no HAPI can be had.
func (h *hapi) ready(t *testing.T) (string, world) {
	t.Helper()
	if os.Getenv("SPILLWAY_TEST_HAPI") == "" {
		for _, tool := range []string{"java", "mvn"} {
			if _, err := exec.LookPath(tool); err != nil {
				testenv.Skip(t, "hapi", tool+" is not installed, and SPILLWAY_TEST_HAPI names no running server")
			}
		}
	}
	h.once.Do(func() { h.err = h.start() })
	if h.err != nil {
		t.Fatalf("HAPI: %v", h.err)
	}
	return h.url, h.held
}

func (h *hapi) start() error {
	began := time.Now()
	if h.url = strings.TrimSuffix(os.Getenv("SPILLWAY_TEST_HAPI"), "/"); h.url == "" {
		bundles, err := bundles()
		if err != nil {
			return err
		}
		if err := h.launch(bundles); err != nil {
			return err
		}
	}
	fmt.Printf("HAPI at %s after %s\n", h.url, time.Since(began).Round(time.Second))
	if err := seed(h.url); err != nil {
		return fmt.Errorf("writing the tests' own resources: %w", err)
	}
	began = time.Now()
	var err error
	if h.held, err = crawl(h.url); err != nil {
		return fmt.Errorf("crawling: %w", err)
	}
	fmt.Printf("it holds %d resources of %d types, crawled in %s\n", h.held.len(), len(h.held), time.Since(began).Round(100*time.Millisecond))
	return nil
}

// launch starts a server that ends with this process: it ends when its
// standard input does.
func (h *hapi) launch(bundles string) error {
	h.cmd = exec.Command(hapiScript, "start", "--port", "0", "--db", filepath.Join(scratch, "hapi"), "--data", bundles, "--stdin")
	h.cmd.Stderr = os.Stderr
	stdin, err := h.cmd.StdinPipe()
	if err != nil {
		return err
	}
	h.stdin = stdin
	stdout, err := h.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := h.cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if url, ok := strings.CutPrefix(lines.Text(), "ready "); ok {
			h.url = url
			go func() { _, _ = io.Copy(io.Discard, stdout) }() // ends with the server
			return nil
		}
	}
	return fmt.Errorf("%s ended before it was ready: %w", hapiScript, h.cmd.Wait())
}

func (h *hapi) stop() {
	if h.cmd == nil || h.cmd.Process == nil {
		return
	}
	_ = h.stdin.Close()
	_ = h.cmd.Wait() // its exit status says nothing of the tests
}

// bundles returns the file of transaction Bundles to load.
func bundles() (string, error) {
	if file := os.Getenv("SPILLWAY_TEST_BUNDLES"); file != "" {
		return filepath.Abs(file)
	}
	file := filepath.Join(scratch, "generated.ndjson.gz")
	f, err := os.Create(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	w := gzip.NewWriter(f)
	for bundle := range fakefhir.Generate(fakefhir.GenerateOptions{Patients: generatedPatients, Seed: 1}).Transactions(100) {
		if _, err := w.Write(append(slices.Clip(bundle), '\n')); err != nil {
			return "", err
		}
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	return file, f.Close()
}

// The ids of what seed writes.
const (
	cohortID  = "e2e-cohort"  // a Group of three patients, and of a nested Group with a fourth
	nestedID  = "e2e-nested"  // that Group
	decimalID = "e2e-decimal" // an Observation whose numbers and letters are easily harmed
)

// seed writes what no generated data has: a group with members of every kind,
// fragile numbers, a provenance, a resource in its second version, a deletion.
// Written a second time it changes nothing that an export can see.
func seed(base string) error {
	ids, err := firstPatients(base, 7)
	if err != nil {
		return err
	}
	member := func(ref, more string) string { return `{"entity":{"reference":"` + ref + `"}` + more + `}` }
	group := func(id string, members ...string) string {
		return `{"resourceType":"Group","id":"` + id + `","type":"person","actual":true,"member":[` + strings.Join(members, ",") + `]}`
	}
	const decimals = `{"resourceType":"Observation","id":"` + decimalID + `","status":"final","code":{"text":"Größe <é> \u2028 &amp; 🩺"},` +
		`"component":[{"code":{"text":"a"},"valueQuantity":{"value":1.10}},{"code":{"text":"b"},"valueQuantity":{"value":0.000100}},` +
		`{"code":{"text":"c"},"valueQuantity":{"value":12345678901234567890.12345}}]}`
	puts := []struct{ path, body string }{
		{"Group/" + nestedID, group(nestedID, member("Patient/"+ids[3], ""))},
		{"Group/" + cohortID, group(cohortID,
			member("Patient/"+ids[0], ""), member("Patient/"+ids[1], ""),
			member("Patient/"+ids[2], `,"period":{"start":"2001-01-01"}`),
			member("Group/"+nestedID, ""),
			member("Patient/"+ids[4], `,"inactive":true`),
			member("Patient/"+ids[5], `,"period":{"end":"2001-01-01"}`))},
		{"Observation/" + decimalID, decimals},
		{"Provenance/e2e-provenance", `{"resourceType":"Provenance","id":"e2e-provenance","target":[{"reference":"Patient/` + ids[0] + `"}],` +
			`"recorded":"2024-05-06T07:08:09.010+02:00","agent":[{"who":{"display":"somebody"}}]}`},
		{"Basic/e2e-versions", `{"resourceType":"Basic","id":"e2e-versions","code":{"text":"first"},"subject":{"reference":"Patient/` + ids[0] + `"}}`},
		{"Basic/e2e-versions", `{"resourceType":"Basic","id":"e2e-versions","code":{"text":"second"},"subject":{"reference":"Patient/` + ids[0] + `"}}`},
		{"Basic/e2e-deleted", `{"resourceType":"Basic","id":"e2e-deleted","code":{"text":"deleted"}}`},
	}
	for _, p := range puts {
		if err := write(http.MethodPut, base+"/"+p.path, p.body); err != nil {
			return err
		}
	}
	return write(http.MethodDelete, base+"/Basic/e2e-deleted", "")
}

// firstPatients returns n patient ids, always the same on the same data.
func firstPatients(base string, n int) ([]string, error) {
	var page bundle
	if err := getJSON(fmt.Sprintf("%s/Patient?_sort=_lastUpdated,_id&_count=%d", base, n), &page); err != nil {
		return nil, err
	}
	if len(page.Entry) < n {
		return nil, fmt.Errorf("the server has %d patients; the tests need %d", len(page.Entry), n)
	}
	var ids []string
	for _, entry := range page.Entry {
		var h header
		if err := json.Unmarshal(entry.Resource, &h); err != nil {
			return nil, err
		}
		ids = append(ids, h.ID)
	}
	return ids, nil
}

func write(method, url, body string) error {
	r, err := http.NewRequest(method, url, bytes.NewReader([]byte(body)))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/fhir+json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	if answer.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %.500s", method, url, answer.Status, text)
	}
	return nil
}
