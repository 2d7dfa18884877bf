package gateway

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
)

const statement = `{"resourceType":"CapabilityStatement","status":"active","kind":"instance","fhirVersion":"4.0.1","x":1.10,"rest":[{"mode":"server","resource":[{"type":"Patient","searchParam":[{"name":"_lastUpdated","type":"date"}]}]}]}`

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// answering is an upstream's handler with one answer.
func answering(status int, headers string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for line := range strings.SplitSeq(headers, "\n") {
			if name, value, found := strings.Cut(line, ": "); found {
				w.Header().Set(name, value)
			}
		}
		w.WriteHeader(status)
		_, _ = w.Write(body)
	}
}

func TestMetadata(t *testing.T) {
	const (
		asJSON = "Content-Type: application/fhir+json;charset=UTF-8\nETag: W/\"1\"\nServer: x\nSet-Cookie: a=b\nX-Request-Id: 7\nCache-Control: max-age=60"
		xml    = "<CapabilityStatement/>"
	)
	plain := []byte(statement)
	for _, c := range []struct {
		name    string
		request string // without the base
		answer  http.HandlerFunc
		status  int
		body    string // contained
		merged  bool
		accept  string // what the upstream must see
		target  string // as well
	}{
		{name: "OKMerged", request: "GET /fhir/metadata", answer: answering(200, asJSON, plain), status: 200, body: "patient-export", merged: true, accept: "application/fhir+json", target: "GET /up/metadata"},
		{name: "OKCurl", request: "GET /fhir/metadata\nAccept: */*", answer: answering(200, asJSON, plain), status: 200, merged: true, accept: "application/fhir+json"},
		{name: "OKJSON", request: "GET /fhir/metadata?_format=json\nAccept: application/fhir+xml", answer: answering(200, asJSON, plain), status: 200, merged: true, accept: "application/fhir+json", target: "GET /up/metadata?_format=json"},
		{name: "OKQueryKept", request: "GET /fhir/metadata?mode=full&_elements=a%2Cb", answer: answering(200, asJSON, plain), status: 200, merged: true, target: "GET /up/metadata?mode=full&_elements=a%2Cb"},
		{name: "OKConditional", request: "GET /fhir/metadata\nIf-None-Match: W/\"1\"", answer: answering(200, asJSON, plain), status: 200, merged: true},
		{name: "OKEitherFormat", request: "GET /fhir/metadata\nAccept: application/fhir+xml, application/fhir+json", answer: answering(200, asJSON, plain), status: 200, merged: true},
		{name: "OKGzip", request: "GET /fhir/metadata\nAccept-Encoding: gzip", answer: answering(200, asJSON+"\nContent-Encoding: gzip", gzipped(t, plain)), status: 200, merged: true},

		{name: "OKXML", request: "GET /fhir/metadata\nAccept: application/fhir+xml", answer: answering(200, "Content-Type: application/fhir+xml", []byte(xml)), status: 200, body: xml, accept: "application/fhir+xml"},
		{name: "OKXMLByFormat", request: "GET /fhir/metadata?_format=application/fhir+xml\nAccept: application/fhir+json", answer: answering(200, "Content-Type: application/fhir+xml", []byte(xml)), status: 200, body: xml, accept: "application/fhir+json"},
		{name: "OKBrowser", request: "GET /fhir/metadata\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", answer: answering(200, "Content-Type: text/html", []byte("<html>")), status: 200, body: "<html>"},
		{name: "OKTurtle", request: "GET /fhir/metadata?_format=ttl", answer: answering(200, "Content-Type: text/turtle", []byte("@prefix")), status: 200, body: "@prefix"},
		{name: "OKMalformedQuery", request: "GET /fhir/metadata?a;b", answer: answering(200, asJSON, plain), status: 200, body: statement, target: "GET /up/metadata?a;b"},

		{name: "OKTerminology", request: "GET /fhir/metadata?mode=terminology", answer: answering(200, asJSON, []byte(`{"resourceType":"TerminologyCapabilities"}`)), status: 200, body: `{"resourceType":"TerminologyCapabilities"}`},
		{name: "OKNotJSON", request: "GET /fhir/metadata", answer: answering(200, "Content-Type: text/html", []byte("<html>")), status: 200, body: "<html>"},
		{name: "OKMalformedJSON", request: "GET /fhir/metadata", answer: answering(200, asJSON, []byte(`{"resourceType":"CapabilityStatement",}`)), status: 200, body: `",}`},
		{name: "OKUnaskedEncoding", request: "GET /fhir/metadata", answer: answering(200, "Content-Encoding: br", []byte("xyz")), status: 200, body: "xyz"},
		{name: "ErrUnauthorized", request: "GET /fhir/metadata", answer: answering(401, "WWW-Authenticate: Bearer", []byte("{}")), status: 401, body: "{}"},
		{name: "ErrUpstream", request: "GET /fhir/metadata", answer: answering(503, "Retry-After: 7", []byte("later")), status: 503, body: "later"},
		{name: "ErrBadGzip", request: "GET /fhir/metadata\nAccept-Encoding: gzip", answer: answering(200, "Content-Encoding: gzip", []byte("not gzip")), status: 502, body: "cannot be decompressed"},
		{name: "ErrGzipBomb", request: "GET /fhir/metadata\nAccept-Encoding: gzip", answer: answering(200, "Content-Encoding: gzip", gzipped(t, make([]byte, maxStatement+1))), status: 502, body: "cannot be decompressed"},
		{name: "ErrTooLarge", request: "GET /fhir/metadata", answer: answering(200, asJSON, make([]byte, maxStatement+1)), status: 502, body: "too large"},
		{name: "ErrCut", request: "GET /fhir/metadata", answer: answering(200, "Content-Length: 999", plain), status: 502, body: "did not arrive whole"},
		{name: "ErrCutChunked", request: "GET /fhir/metadata", answer: func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, statement[:20])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, status: 502, body: "did not arrive whole"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, func(c *Config) { c.Jobs, c.Storage = brokenJobs{}, brokenStorage{} })
			w.upstream.handler = c.answer
			r := w.send(t, c.request+"\nAuthorization: Bearer theirs")
			if r.StatusCode != c.status || !strings.Contains(string(r.body), c.body) || r.cut != nil {
				t.Fatalf("%s %v %.300s", r.Status, r.cut, r.body)
			}
			if r.Header.Get("Content-Length") != "" && r.ContentLength != int64(len(r.body)) {
				t.Errorf("Content-Length %d for %d bytes", r.ContentLength, len(r.body))
			}
			if got := w.upstream.seen(); len(got) != 1 || c.target != "" && got[0] != c.target {
				t.Errorf("the upstream saw %q", got)
			}
			seen := w.upstream.headers[0]
			if c.accept != "" && seen.Get("Accept") != c.accept {
				t.Errorf("the upstream saw Accept: %q", seen.Get("Accept"))
			}
			if seen.Get("Authorization") != "Bearer theirs" {
				t.Errorf("the upstream saw Authorization: %q", seen.Get("Authorization"))
			}
			if !c.merged {
				return
			}
			for _, s := range []string{`"x":1.10`, `"_lastUpdated"`, "group-export", "CapabilityStatement/bulk-data"} {
				if !strings.Contains(string(r.body), s) {
					t.Errorf("no %s in %s", s, r.body)
				}
			}
			h := r.Header
			if h.Get("Content-Type") != "application/fhir+json" || h.Get("Etag") != "" || h.Get("Content-Encoding") != "" || h.Get("Set-Cookie") != "" || h.Get("Server") != "" || seen.Get("If-None-Match") != "" {
				t.Errorf("%v", h)
			}
			if h.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%v", h)
			}
			head := w.send(t, strings.Replace(c.request, "GET", "HEAD", 1))
			if head.StatusCode != 200 || len(head.body) != 0 || head.Header.Get("Content-Length") != fmt.Sprint(len(r.body)) {
				t.Errorf("HEAD: %s %v", head.Status, head.Header)
			}
		})
	}
}

func TestStatementIsMergedOnce(t *testing.T) {
	var c mergeCache
	first, err := c.merge([]byte(statement))
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.merge([]byte(statement))
	if err != nil || &first[0] != &again[0] {
		t.Errorf("merged anew, %v", err)
	}
	for i := range 5 {
		other := strings.Replace(statement, "1.10", fmt.Sprint(i), 1)
		merged, err := c.merge([]byte(other))
		if err != nil || !bytes.Contains(merged, []byte(fmt.Sprintf(`"x":%d`, i))) {
			t.Errorf("%d: %v %s", i, err, merged)
		}
	}
	if _, err := c.merge([]byte("{}")); err == nil {
		t.Error("{} was merged")
	}
}
