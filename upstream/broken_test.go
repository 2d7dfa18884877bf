package upstream

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"spillway/upstream/fhir"
)

func zipped(s string) string {
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	_, _ = gz.Write([]byte(s))
	_ = gz.Close()
	return b.String()
}

func TestBadAnswers(t *testing.T) {
	page := bundle("", "a", "b")
	for _, tt := range []struct {
		name   string
		status int // 0: 200
		header string
		body   string
		cut    bool // the connection ends with the body
		kind   ErrorKind
		tries  int
		words  []string
		issue  fhir.IssueCode
	}{
		{name: "HTML", header: "Content-Type: text/html", body: "<!DOCTYPE html><p>Log in, secret",
			kind: KindNotFHIR, tries: 2, words: []string{"an HTML page", "upstream.url"}},
		{name: "XML", header: "Content-Type: application/fhir+xml", body: `<Bundle xmlns="http://hl7.org/fhir"/>`,
			kind: KindNotFHIR, tries: 2, words: []string{"XML"}},
		{name: "Text", body: "secret", kind: KindNotFHIR, tries: 2},
		{name: "Outcome200", body: `{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"too-costly","diagnostics":"secret"}]}`,
			kind: KindNotFHIR, tries: 2, words: []string{"OperationOutcome", "too-costly"}, issue: "too-costly"},
		{name: "OtherResource", body: `{"resourceType":"Patient","id":"secret"}`,
			kind: KindNotFHIR, tries: 2, words: []string{"a Patient"}},
		{name: "Garbage", body: `{"resourceType":"Bundle","entry":[{"resource":{"secret" 7`,
			kind: KindMalformed, tries: 2, words: []string{"malformed at byte"}},
		{name: "TwoDocuments", body: page + page, kind: KindMalformed, tries: 2},
		{name: "Truncated", body: page[:len(page)-4], kind: KindTruncated, tries: 6},
		{name: "Empty", kind: KindTruncated, tries: 6, words: []string{"empty"}},
		{name: "Cut", body: page[:len(page)-4], cut: true, kind: KindTruncated, tries: 6, words: []string{"broke off"}},
		{name: "CutAfterTheBundle", header: "Content-Length: 100000", body: page, cut: true, kind: KindTruncated, tries: 6},
		{name: "PageTooLarge", body: bundle("", slices.Repeat([]string{"a"}, 5000)...),
			kind: KindTooLarge, tries: 8, words: []string{"100 KiB", "page_size"}},
		{name: "ResourceTooLarge", body: `{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Observation","x":"` + strings.Repeat("x", 20<<10) + `"}}]}`,
			kind: KindTooLarge, tries: 1},
		{name: "DeepNesting", body: `{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Observation","x":` + strings.Repeat("[", 3000) + strings.Repeat("]", 3000) + "}}]}",
			kind: KindTooLarge, tries: 1},
		{name: "GzipBomb", header: "Content-Encoding: gzip", body: zipped(`{"x":"` + strings.Repeat("x", 50<<20)),
			kind: KindTooLarge, tries: 1},
		{name: "EndlessEmptyGzip", header: "Content-Encoding: gzip", body: strings.Repeat(zipped(""), 8000),
			kind: KindTooLarge, tries: 8, words: []string{"100 KiB"}},
		{name: "GzipCut", header: "Content-Encoding: gzip", body: zipped(page)[:40], kind: KindTruncated, tries: 6},
		{name: "GzipNothing", header: "Content-Encoding: gzip", kind: KindTruncated, tries: 6},
		{name: "GzipDamaged", header: "Content-Encoding: gzip", body: strings.Replace(zipped(page), "\x00\xff\xff", "\x01\x00\x00", 1) + "trailing garbage",
			kind: KindMalformed, tries: 2, words: []string{"gzip"}},
		{name: "GzipThatIsNone", header: "Content-Encoding: gzip", body: page, kind: KindMalformed, tries: 2},
		{name: "GzipUnannounced", body: zipped(page), kind: KindNotFHIR, tries: 2, words: []string{"compressed"}},
		{name: "GzipTwice", header: "Content-Encoding: gzip, gzip", body: zipped(zipped(page)),
			kind: KindMalformed, tries: 2, words: []string{"content encoding"}},
		{name: "Brotli", header: "Content-Encoding: br", body: "x", kind: KindMalformed, tries: 2},
		{name: "204", status: 204, kind: KindStatus, tries: 1},
		{name: "206", status: 206, body: page, kind: KindStatus, tries: 1, words: []string{"206 Partial Content"}},
		{name: "400", status: 400, body: `{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"not-supported","diagnostics":"secret"},{"severity":"error","code":"Sec ret"}]}`,
			kind: KindStatus, tries: 1, words: []string{"400 Bad Request", "(issue not-supported)", "does not accept"}, issue: "not-supported"},
		{name: "401", status: 401, header: `WWW-Authenticate: Bearer realm="secret"`, kind: KindAuth, tries: 1, words: []string{"401 Unauthorized", "upstream.headers"}},
		{name: "403", status: 403, kind: KindAuth, tries: 1},
		{name: "404", status: 404, body: "<html>", kind: KindStatus, tries: 1},
		{name: "414", status: 414, body: "<html>", kind: KindStatus, tries: 1, words: []string{"too long for a GET"}},
		{name: "500", status: 500, kind: KindStatus, tries: 6, words: []string{"500 Internal Server Error"}},
		{name: "501", status: 501, kind: KindStatus, tries: 1},
		{name: "302WithoutLocation", status: 302, kind: KindStatus, tries: 1, words: []string{"Redirects"}},
		{name: "HugeHeader", header: "X-A: " + strings.Repeat("secret", 1<<18), body: page, kind: KindTooLarge, tries: 1, words: []string{"headers", "1 MiB"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				requests := 0
				c, _ := serveMemory(t, func(w http.ResponseWriter, r *http.Request) {
					requests++
					w.Header().Set("Content-Type", fhirJSON)
					if name, value, ok := strings.Cut(tt.header, ": "); ok {
						w.Header().Set(name, value)
					}
					if tt.status != 0 {
						w.WriteHeader(tt.status)
					}
					if tt.status != 204 {
						_, _ = w.Write([]byte(tt.body))
					}
					if tt.cut {
						_ = http.NewResponseController(w).Flush()
						panic(http.ErrAbortHandler)
					}
				}, func(c *Config) { c.PageBytes = 100 << 10; c.ResourceBytes = 16 << 10 })
				c.vital.note(200) // it has been well before
				_, err := c.Page(t.Context(), Search{Type: "Observation", Query: "code=secret"}, "", func(*fhir.Entry) error { return nil })
				wantError(t, err, tt.kind, tt.tries, append(tt.words, "search Observation failed")...)
				if requests != tt.tries {
					t.Errorf("%d requests, want %d", requests, tt.tries)
				}
				var f *RequestError
				if errors.As(err, &f) && tt.issue != "" && (len(f.Issues) == 0 || f.Issues[0].Code != tt.issue || f.Issues[0].Diagnostics != "secret") {
					t.Errorf("issues %+v", f.Issues)
				}
			})
		})
	}
}

func TestCutPageIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := 0
		c, _ := serveMemory(t, func(w http.ResponseWriter, r *http.Request) {
			page := bundle("", "a", "b", "c")
			if requests++; requests == 1 {
				answer(w, page[:strings.Index(page, `"c"`)])
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
			answer(w, page)
		})
		var ids []string
		info, err := c.Page(t.Context(), observations, "", idsInto(&ids))
		if err != nil || info.Entries != 3 || !slices.Equal(ids, []string{"a", "b", "a", "b", "c"}) {
			t.Errorf("Page = %+v, %v; ids %v", info, err, ids)
		}
	})
}

func TestSlowAnswers(t *testing.T) {
	page := bundle("", "a", "b", "c")
	drip := func(w http.ResponseWriter, r *http.Request, s string, pause time.Duration) {
		for i := range len(s) {
			if _, err := w.Write([]byte{s[i]}); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-time.After(pause):
			case <-r.Context().Done():
				return
			}
		}
	}
	for _, tt := range []struct {
		name   string
		handle http.HandlerFunc
		after  int // seconds of the first failure; 0: it goes well
		words  string
	}{
		{"NoHeaders", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 60, "did not answer within 1m0s"},
		{"InformationalForEver", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				w.WriteHeader(http.StatusProcessing)
				time.Sleep(time.Second)
			}
		}, 60, "did not answer within 1m0s"},
		{"StallAfterHalf", func(w http.ResponseWriter, r *http.Request) {
			answer(w, page[:80])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, 60, "did not go on for 1m0s"},
		{"SlowButMoving", func(w http.ResponseWriter, r *http.Request) {
			drip(w, r, page[:50], 30*time.Second)
			_, _ = w.Write([]byte(page[50:]))
		}, 0, ""},
		{"TrickleForEver", func(w http.ResponseWriter, r *http.Request) {
			drip(w, r, "{"+strings.Repeat(" ", 10000), 50*time.Second)
		}, 1800, "did not go on"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _ := serveMemory(t, tt.handle)
				r, err := c.searchRequest(observations, "search Observation", kindProbe)
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				err = c.exchange(t.Context(), r, start, func(re *reply) error {
					_, err := fhir.ScanBundle(re.body, fhir.ScanLimits{}, func(*fhir.Entry) error { return nil })
					return err
				})
				if tt.after == 0 {
					if err != nil {
						t.Errorf("error %v after %d s", err, since(start))
					}
					return
				}
				wantError(t, err, KindTimeout, 0, tt.words)
				if since(start) != tt.after {
					t.Errorf("failed after %d s, want %d", since(start), tt.after)
				}
			})
		})
	}
}

// A visitor that takes its time is not the upstream's fault.
func TestSlowVisitor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := serveMemory(t, func(w http.ResponseWriter, _ *http.Request) { answer(w, bundle("", "a", "b", "c")) })
		_, err := c.Page(t.Context(), observations, "", func(*fhir.Entry) error { time.Sleep(time.Hour); return nil })
		if err != nil {
			t.Error(err)
		}
	})
}

func TestFirstContact(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	secure.StartTLS()
	defer secure.Close()
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	go func() {
		for {
			conn, err := raw.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = conn.Write([]byte("220 secret mail ready\r\n"))
			_ = conn.Close()
		}
	}()
	for _, tt := range []struct {
		name, url string
		permanent bool
		words     []string
	}{
		{"Refused", "http://" + closed.Addr().String() + "/fhir", false, []string{"connection refused by " + closed.Addr().String(), "upstream.url"}},
		{"NoSuchHost", "http://nowhere.invalid/fhir", false, []string{"nowhere.invalid", "upstream.url"}},
		{"UnknownAuthority", secure.URL + "/fhir", true, []string{"unknown authority", "SSL_CERT_FILE"}},
		{"HTTPSToHTTP", strings.Replace(plain.URL, "http:", "https:", 1) + "/fhir", true, []string{"does not speak TLS"}},
		{"NoHTTP", "http://" + raw.Addr().String() + "/fhir", true, []string{"does not speak HTTP"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := client(t, tt.url)
			err := c.exchange(t.Context(), &request{kind: kindMetadata, op: opMetadata, method: "GET", url: c.place.base.JoinPath("metadata")}, time.Now(),
				func(*reply) error { return nil })
			wantError(t, err, KindUnreachable, 0, append(tt.words, "GET /metadata failed: the upstream cannot be reached")...)
			var f *RequestError
			if errors.As(err, &f) && f.Temporary() == tt.permanent {
				t.Errorf("Temporary = %v", f.Temporary())
			}
		})
	}
	t.Run("LinkLocalName", func(t *testing.T) {
		c := client(t, "http://metadata.test/fhir")
		dial := c.transport.DialContext
		c.transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dial(ctx, "tcp", "169.254.169.254:80")
		}
		_, err := c.Capabilities(t.Context())
		wantError(t, err, KindUnreachable, 1, "link-local")
	})
}

func TestConnectionText(t *testing.T) {
	timeout := &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
	for _, tt := range []struct {
		err       error
		words     string
		permanent bool
	}{
		{&net.DNSError{Err: "secret", Name: "up", IsNotFound: true}, "no such host as up:1", false},
		{&net.DNSError{Err: "secret", Name: "up", IsTemporary: true}, "cannot be looked up", false},
		{x509.HostnameError{Certificate: &x509.Certificate{}, Host: "up"}, "is not for up:1", true},
		{x509.CertificateInvalidError{Reason: x509.Expired, Detail: "secret"}, "expired", true},
		{x509.CertificateInvalidError{Reason: x509.TooManyIntermediates, Detail: "secret"}, "cannot be verified", true},
		{tls.RecordHeaderError{Msg: "secret"}, "does not speak TLS", true},
		{&net.OpError{Op: "remote error", Err: tls.AlertError(42)}, "client certificate", true},
		{&net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}, "no route", false},
		{timeout, "did not take the connection within 10s", false},
		{errors.New("secret"), "broke before an answer came", false},
	} {
		text, permanent := connectionText(fmt.Errorf("wrapped: %w", tt.err), "up:1")
		if !strings.Contains(text, tt.words) || permanent != tt.permanent || strings.Contains(text, "secret") {
			t.Errorf("%v: %q, %v", tt.err, text, permanent)
		}
	}
}

func TestMetadataSentences(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		kind   ErrorKind
		words  string
	}{
		{404, "<html>", KindStatus, "Check upstream.url"},
		{401, "", KindAuth, "upstream.headers"},
		{200, "<html><body>", KindNotFHIR, "Check upstream.url"},
		{200, `{"resourceType":"Patient"}`, KindNotFHIR, "a Patient"},
		{200, `{"resourceType":"CapabilityStatement",`, KindTruncated, ""},
	} {
		t.Run(fmt.Sprint(tt.status, tt.kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _ := serveMemory(t, func(w http.ResponseWriter, _ *http.Request) {
					w.WriteHeader(tt.status)
					_, _ = w.Write([]byte(tt.body))
				})
				_, err := c.Learn(t.Context())
				wantError(t, err, tt.kind, 0, "GET /metadata failed", tt.words)
			})
		})
	}
}
