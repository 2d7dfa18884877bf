//go:build e2e

package e2e

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

// reply is an HTTP answer, read to its end.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// plain sends and receives bytes as they are on the wire, and follows nothing.
var plain = &http.Client{
	Transport:     &http.Transport{DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// ask sends one request. Headers are "Name: value".
func ask(t *testing.T, method, url, body string, headers ...string) reply {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body == "" {
		r.Body, r.ContentLength = http.NoBody, 0
	}
	return send(t, r, headers...)
}

func send(t *testing.T, r *http.Request, headers ...string) reply {
	t.Helper()
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	answer, err := plain.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatalf("%s: the body: %v", r.Method, err)
	}
	return reply{status: answer.StatusCode, header: answer.Header, body: content}
}

// mustBe fails the test unless the answer has this status.
func (r reply) mustBe(t *testing.T, status int) reply {
	t.Helper()
	if r.status != status {
		t.Fatalf("status %d, want %d: %.500s", r.status, status, r.body)
	}
	return r
}

const (
	acceptFHIR   = "Accept: application/fhir+json"
	respondAsync = "Prefer: respond-async"
	contentFHIR  = "Content-Type: application/fhir+json"
)

// kickOff starts an export by GET and returns the status URL.
func (g *gateway) kickOff(t *testing.T, path string, query url.Values) string {
	t.Helper()
	address := g.base + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	r := ask(t, http.MethodGet, address, "", acceptFHIR, respondAsync).mustBe(t, http.StatusAccepted)
	return g.statusURL(t, r)
}

// statusURL returns the Content-Location of an accepted kick-off.
func (g *gateway) statusURL(t *testing.T, r reply) string {
	t.Helper()
	locations := r.header.Values("Content-Location")
	root := strings.TrimSuffix(g.base, "/fhir")
	if len(locations) != 1 || !strings.HasPrefix(locations[0], root+"/") {
		t.Fatalf("Content-Location %q, want one below %s", locations, root)
	}
	return locations[0]
}

// wait polls a status URL until the export is complete and returns the manifest.
func wait(t *testing.T, statusURL string) []byte {
	t.Helper()
	r := waitEnd(t, statusURL).mustBe(t, http.StatusOK)
	if got := r.header.Get("Content-Type"); !strings.HasPrefix(got, "application/json") {
		t.Errorf("the manifest's Content-Type is %q", got)
	}
	return r.body
}

// waitEnd polls a status URL until the answer is another than 202.
func waitEnd(t *testing.T, statusURL string) reply {
	t.Helper()
	for deadline := time.Now().Add(runTime); time.Now().Before(deadline); {
		r := ask(t, http.MethodGet, statusURL, "", "Accept: application/json")
		if r.status != http.StatusAccepted {
			return r
		}
		seconds, err := strconv.Atoi(r.header.Get("Retry-After"))
		if err != nil || seconds < 1 || seconds > 60 {
			t.Fatalf("Retry-After %q is no small integer", r.header.Get("Retry-After"))
		}
		if progress := r.header.Get("X-Progress"); len(progress) >= 100 {
			t.Errorf("X-Progress has %d characters", len(progress))
		}
		if len(r.body) != 0 {
			t.Errorf("the body of a 202 is %q, want none", r.body)
		}
		time.Sleep(200 * time.Millisecond) // more often than told, as some clients do
	}
	t.Fatalf("the export did not end within %s", runTime)
	return reply{}
}

// collect waits for an export and downloads all of it, compressed.
func collect(t *testing.T, statusURL string) *exported {
	t.Helper()
	raw := wait(t, statusURL)
	return readExport(t, raw, func(url string) []byte { return download(t, url) })
}

// download returns the content of a file, asked for with gzip.
func download(t *testing.T, url string) []byte {
	t.Helper()
	r := ask(t, http.MethodGet, url, "", "Accept: application/fhir+ndjson", "Accept-Encoding: gzip").mustBe(t, http.StatusOK)
	if got := r.header.Get("Content-Type"); got != "application/fhir+ndjson" {
		t.Errorf("Content-Type %q", got)
	}
	if got := r.header.Get("Content-Encoding"); got != "gzip" {
		t.Fatalf("Content-Encoding %q, want gzip", got)
	}
	content, err := gunzip(r.body)
	if err != nil {
		t.Fatalf("the file is no gzip stream: %v", err)
	}
	return content
}

func gunzip(packed []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// parameters is a Parameters resource. Each pair is a name with its type, such
// as "_type valueString", and a value as JSON.
func parameters(pairs ...[2]string) string {
	var parts []string
	for _, p := range pairs {
		name, kind, _ := strings.Cut(p[0], " ")
		parts = append(parts, fmt.Sprintf(`{"name":%q,%q:%s}`, name, kind, p[1]))
	}
	return `{"resourceType":"Parameters","parameter":[` + strings.Join(parts, ",") + `]}`
}
