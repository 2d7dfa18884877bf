//go:build e2e

package e2e

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestServe(t *testing.T) {
	base, held := server.ready(t)
	g := serve(t, settings{upstream: base, window: manyWindows(held)}) // files of many segments

	t.Run("GET of everything", func(t *testing.T) {
		status := g.kickOff(t, "/$export", nil)
		ask(t, http.MethodGet, status, "").mustBe(t, http.StatusAccepted) // always, right after the kick-off
		e := collect(t, status)
		e.mustEqual(t, held)
		if want := g.base + "/$export"; e.manifest.Request != want {
			t.Errorf("request is %q, want %q", e.manifest.Request, want)
		}
		if e.manifest.RequiresAccessToken == nil || *e.manifest.RequiresAccessToken {
			t.Error("requiresAccessToken is not false")
		}
		for _, f := range e.manifest.Output {
			if !strings.HasPrefix(f.URL, g.base[:strings.LastIndex(g.base, "/")]) {
				t.Errorf("the file's URL %q is not absolute below the gateway", f.URL)
			}
		}
		t.Run("files", func(t *testing.T) { testFiles(t, e.manifest.Output) })
		t.Run("DELETE", func(t *testing.T) { testDelete(t, status, e.manifest.Output[0].URL) })
	})

	t.Run("POST of Parameters", func(t *testing.T) {
		body := parameters([2]string{"_type valueString", `"Patient,Organization"`}, [2]string{"_type valueString", `"Encounter"`})
		r := ask(t, http.MethodPost, g.base+"/$export", body, contentFHIR, acceptFHIR, respondAsync).mustBe(t, http.StatusAccepted)
		e := collect(t, g.statusURL(t, r))
		e.mustEqual(t, held.of("Patient", "Organization", "Encounter"))
	})

	t.Run("DELETE of a running export", func(t *testing.T) {
		status := g.kickOff(t, "/$export", nil)
		ask(t, http.MethodDelete, status, "").mustBe(t, http.StatusAccepted)
		mustBeGone(t, status)
	})

	t.Run("refusals", func(t *testing.T) {
		for _, query := range []string{"_type=MissingType", "_since=yesterday", "_outputFormat=text/csv", "organizeOutputBy=Patient", "_nonsense=1", "_type=%ZZ"} {
			r := ask(t, http.MethodGet, g.base+"/$export?"+query, "", acceptFHIR, respondAsync).mustBe(t, http.StatusBadRequest)
			mustBeOutcome(t, r)
		}
		mustBeOutcome(t, ask(t, http.MethodGet, g.base+"/$export", "", acceptFHIR).mustBe(t, http.StatusBadRequest))
		mustBeOutcome(t, ask(t, http.MethodGet, g.base+"/$export", "", "Accept: application/json", respondAsync).mustBe(t, http.StatusBadRequest))
	})

	t.Run("lenient handling tells what it ignored", func(t *testing.T) {
		r := ask(t, http.MethodGet, g.base+"/$export?_type=Patient&organizeOutputBy=Patient", "", acceptFHIR, "Prefer: respond-async, handling=lenient").
			mustBe(t, http.StatusAccepted)
		e := collect(t, g.statusURL(t, r))
		e.mustEqual(t, held.of("Patient"))
		told := false
		for _, i := range e.issues {
			told = told || strings.Contains(i.String(), "organizeOutputBy")
		}
		if !told {
			t.Errorf("the error file does not name the parameter: %v", e.issues)
		}
	})
}

// testFiles reads one file in every way there is.
func testFiles(t *testing.T, files []manifestFile) {
	file := largest(files)
	whole := ask(t, http.MethodGet, file.URL, "").mustBe(t, http.StatusOK)
	if got := whole.header.Get("Content-Encoding"); got != "" {
		t.Errorf("Content-Encoding %q though nothing was accepted", got)
	}
	if !bytes.Equal(whole.body, download(t, file.URL)) {
		t.Error("gzip and identity differ")
	}
	packed := ask(t, http.MethodGet, file.URL, "", "Accept-Encoding: gzip")
	if first := firstMember(t, packed.body); len(first) != len(whole.body) {
		// httpx, and with it smart-fetch, reads one member and takes it for the whole.
		t.Errorf("the first member of the gzip stream holds %d bytes of %d", len(first), len(whole.body))
	}
	if len(packed.body) >= len(whole.body) {
		t.Errorf("%d bytes compressed, %d not", len(packed.body), len(whole.body))
	}
	for name, full := range map[string]reply{"identity": whole, "gzip": packed} {
		t.Run("Range "+name, func(t *testing.T) {
			n := len(full.body)
			for _, at := range [][2]int{{0, 0}, {1, 100}, {n / 2, n/2 + n/4}, {n - 1, n - 1}} {
				r := ask(t, http.MethodGet, file.URL, "", "Accept-Encoding: "+name, fmt.Sprintf("Range: bytes=%d-%d", at[0], at[1])).
					mustBe(t, http.StatusPartialContent)
				if !bytes.Equal(r.body, full.body[at[0]:at[1]+1]) {
					t.Errorf("bytes %d to %d are not those of the whole", at[0], at[1])
				}
				if got, want := r.header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/%d", at[0], at[1], n); got != want {
					t.Errorf("Content-Range %q, want %q", got, want)
				}
			}
			ask(t, http.MethodGet, file.URL, "", "Accept-Encoding: "+name, fmt.Sprintf("Range: bytes=%d-", n)).
				mustBe(t, http.StatusRequestedRangeNotSatisfiable)
		})
	}
	etag := whole.header.Get("ETag")
	if etag == "" {
		t.Fatal("no ETag")
	}
	ask(t, http.MethodGet, file.URL, "", "If-None-Match: "+etag).mustBe(t, http.StatusNotModified)
	head := ask(t, http.MethodHead, file.URL, "").mustBe(t, http.StatusOK)
	if got, want := head.header.Get("Content-Length"), fmt.Sprint(len(whole.body)); got != want {
		t.Errorf("HEAD: Content-Length %q, want %s", got, want)
	}
}

// firstMember returns what a client reads that knows gzip streams of one member only.
func firstMember(t *testing.T, packed []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	r.Multistream(false)
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func largest(files []manifestFile) manifestFile {
	best := files[0]
	for _, f := range files {
		if *f.Count > *best.Count {
			best = f
		}
	}
	return best
}

// testDelete deletes a finished export.
func testDelete(t *testing.T, status, file string) {
	ask(t, http.MethodDelete, status, "").mustBe(t, http.StatusAccepted)
	mustBeGone(t, status)
	ask(t, http.MethodGet, file, "").mustBe(t, http.StatusNotFound)
}

func mustBeGone(t *testing.T, status string) {
	t.Helper()
	mustBeOutcome(t, ask(t, http.MethodGet, status, "").mustBe(t, http.StatusNotFound))
	mustBeOutcome(t, ask(t, http.MethodDelete, status, "").mustBe(t, http.StatusNotFound))
}

func mustBeOutcome(t *testing.T, r reply) {
	t.Helper()
	if !strings.HasPrefix(r.header.Get("Content-Type"), "application/fhir+json") || !bytes.Contains(r.body, []byte(`"OperationOutcome"`)) {
		t.Errorf("no OperationOutcome: %s %.300s", r.header.Get("Content-Type"), r.body)
	}
}

func types(list ...string) url.Values { return url.Values{"_type": {strings.Join(list, ",")}} }
