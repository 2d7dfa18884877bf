package soak

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
)

// upstreamOf answers as next does, but where the fault strikes. of is the
// process that asks now.
func (p *points) upstreamOf(next http.Handler, of func() *process) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := p.at(toUpstream, stepOf(r))
		switch m {
		case kill, after:
			if m == after {
				next.ServeHTTP(httptest.NewRecorder(), r)
			}
			of().kill()
			panic(http.ErrAbortHandler)
		case cut, down:
			panic(http.ErrAbortHandler)
		case stall:
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			return
		case noise:
			w.Header().Set("Content-Type", "application/fhir+json")
			_, _ = w.Write(bytes.Repeat([]byte("\x00\xfe{]"), 100))
			return
		case html:
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html><body>Please log in</body></html>")
			return
		case busy:
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		case empty:
			w.Header().Set("Content-Type", "application/fhir+json")
			_, _ = io.WriteString(w, `{"resourceType":"Bundle","type":"searchset"}`)
			return
		case half, short:
			answer := httptest.NewRecorder()
			r.Header.Del("Accept-Encoding")
			next.ServeHTTP(answer, r)
			body := answer.Body.Bytes()
			for name, values := range answer.Header() {
				w.Header()[name] = values
			}
			w.Header().Del("Content-Length")
			w.WriteHeader(answer.Code)
			_, _ = w.Write(body[:len(body)/2])
			if m == half {
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
			return
		}
		next.ServeHTTP(w, r)
	})
}

// stepOf names a request by what it is for.
func stepOf(r *http.Request) string {
	path := strings.TrimPrefix(r.URL.Path, "/fhir")
	switch q := r.URL.RawQuery; {
	case path == "/metadata":
		return "metadata"
	case strings.Contains(path, "_history"):
		return "history"
	case strings.Contains(q, "_getpages"):
		return "next link"
	case strings.Contains(q, "_summary=count"):
		return "count"
	case strings.Count(path, "/") > 1:
		return "read"
	}
	return "search"
}
