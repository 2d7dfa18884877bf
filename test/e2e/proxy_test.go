//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// kind says what a request asks of a FHIR server.
type kind string

const (
	kindMetadata kind = "metadata"
	kindCount    kind = "count"
	kindSearch   kind = "search" // a first page
	kindNext     kind = "next"   // a later page
	kindOther    kind = "other"
)

// asked is one request that came to a proxy.
type asked struct {
	n     int // from 1, over all requests
	kind  kind
	typ   string
	path  string // as on the wire
	query url.Values
	at    time.Time
	gone  <-chan struct{} // closed when the client has given up
}

// answer is what the upstream said, to be spoilt.
type answer struct {
	status int
	header http.Header
	body   []byte // not compressed
	cut    int    // the connection breaks after so many bytes of the body; negative: it does not
}

// size returns the page size that was asked for, 0 if none was.
func (a asked) size() int {
	n, _ := strconv.Atoi(a.query.Get("_count")) // 0 if there is none
	return n
}

// proxy stands between spillway and HAPI and spoils answers.
type proxy struct {
	url string // FHIR base

	// before may change a request, or answer it: then it returns true.
	before func(a asked, w http.ResponseWriter, r *http.Request) bool
	// change may spoil an answer.
	change func(a asked, got *answer)

	target string
	mu     sync.Mutex
	log    []asked
	pauses []time.Time // when a 429 was answered
}

// spoil starts a proxy before a FHIR server. It ends with the test.
func spoil(t *testing.T, target string) *proxy {
	t.Helper()
	p := &proxy{target: target}
	s := httptest.NewServer(p)
	t.Cleanup(s.Close)
	p.url = s.URL + "/fhir"
	return p
}

// settings let spillway use the proxy: HAPI names itself in next links.
func (p *proxy) settings() settings {
	return settings{upstream: p.url, aliases: []string{p.target}}
}

// requests returns what was asked so far.
func (p *proxy) requests() []asked {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]asked(nil), p.log...)
}

// count returns how many requests of a kind came so far.
func (p *proxy) count(k kind) (n int) {
	for _, a := range p.requests() {
		if a.kind == k {
			n++
		}
	}
	return n
}

func (p *proxy) throttled(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pauses = append(p.pauses, at)
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client went away
	}
	a := p.note(r, body)
	if p.before != nil && p.before(a, w, r) {
		return
	}
	got, err := p.forward(r, body)
	if err != nil {
		if r.Context().Err() == nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
		return
	}
	if p.change != nil {
		p.change(a, got)
	}
	got.send(w)
}

func (p *proxy) note(r *http.Request, body []byte) asked {
	query := r.URL.Query()
	if form, err := url.ParseQuery(string(body)); err == nil && strings.HasSuffix(r.URL.Path, "/_search") {
		for name, values := range form {
			query[name] = append(query[name], values...)
		}
	}
	typ, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/fhir"), "/"), "/")
	a := asked{kind: kindOther, typ: typ, path: r.URL.EscapedPath(), query: query, at: time.Now(), gone: r.Context().Done()}
	switch {
	case typ == "metadata":
		a.kind = kindMetadata
	case query.Has("_getpages"):
		a.kind = kindNext
	case query.Get("_summary") == "count", query.Get("_count") == "0":
		a.kind = kindCount
	case query.Has("_count") && !strings.Contains(r.URL.Path, "_history"):
		a.kind = kindSearch
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	a.n = len(p.log) + 1
	p.log = append(p.log, a)
	return a
}

func (p *proxy) forward(r *http.Request, body []byte) (*answer, error) {
	out, err := http.NewRequestWithContext(r.Context(), r.Method, p.target+strings.TrimPrefix(r.URL.EscapedPath(), "/fhir"), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	out.URL.RawQuery = r.URL.RawQuery
	out.Header = r.Header.Clone()
	out.Header.Del("Accept-Encoding") // the transport asks for gzip and undoes it
	back, err := http.DefaultTransport.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	defer back.Body.Close()
	content, err := io.ReadAll(back.Body)
	back.Header.Del("Content-Length")
	return &answer{status: back.StatusCode, header: back.Header, body: content, cut: -1}, err
}

func (a *answer) send(w http.ResponseWriter) {
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.status)
	if a.cut < 0 || a.cut >= len(a.body) {
		_, _ = w.Write(a.body) // the client may be gone
		return
	}
	_, _ = w.Write(a.body[:a.cut])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// edit changes the members of a Bundle.
func (a *answer) edit(f func(members map[string]json.RawMessage)) {
	var members map[string]json.RawMessage
	if json.Unmarshal(a.body, &members) != nil || members["resourceType"] == nil {
		return
	}
	f(members)
	var changed bytes.Buffer
	e := json.NewEncoder(&changed)
	e.SetEscapeHTML(false) // resources must keep their bytes
	if e.Encode(members) == nil {
		a.body = changed.Bytes()
	}
}

// withoutNext removes the next link.
func withoutNext(members map[string]json.RawMessage) {
	var links, kept []map[string]any
	if json.Unmarshal(members["link"], &links) != nil {
		return
	}
	for _, link := range links {
		if link["relation"] != "next" {
			kept = append(kept, link)
		}
	}
	members["link"], _ = json.Marshal(kept)
}

// hasNext reports whether a Bundle has a next link.
func hasNext(body []byte) bool {
	var page struct{ Link []struct{ Relation string } }
	if json.Unmarshal(body, &page) != nil {
		return false
	}
	for _, link := range page.Link {
		if link.Relation == "next" {
			return true
		}
	}
	return false
}
