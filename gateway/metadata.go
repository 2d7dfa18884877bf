package gateway

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"

	"spillway/upstream/fhir"
)

// maxStatement is the largest capability statement that is merged, in bytes
// and uncompressed.
const maxStatement = 16 << 20

// metadata answers with the upstream's capability statement and our export
// operations in it. The statement is fetched by the way of pass-through, so
// with the credential of the client. What is no statement in JSON goes to the
// client as it came.
func (s *server) metadata(w http.ResponseWriter, r *http.Request) error {
	if s.Discovery != nil && r.Method == http.MethodOptions {
		anyOrigin(w.Header())
		return preflight(w)
	}
	if !wantsJSON(r) {
		return s.upstream(w, r)
	}
	got, err := s.fetchStatement(r)
	if err != nil {
		return err
	}
	merged, err := s.mergeStatement(r, got)
	if err != nil {
		return err
	}
	h := w.Header()
	copyHeader(h, got.header)
	if s.Discovery != nil {
		anyOrigin(h)
	}
	h.Set("X-Content-Type-Options", "nosniff")
	body := got.body.Bytes()
	if merged != nil {
		body = merged
		for _, name := range []string{"Content-Encoding", "ETag", "Last-Modified", "Content-Md5", "Digest", "Content-Digest", "Repr-Digest", "Accept-Ranges"} {
			h.Del(name)
		}
		h.Set("Content-Type", "application/fhir+json")
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(got.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // fails only when the client has gone
	}
	return nil
}

// mergeStatement returns the merged statement, or nil if there is none to merge.
func (s *server) mergeStatement(r *http.Request, got *recorded) ([]byte, error) {
	if got.status != http.StatusOK {
		return nil, nil
	}
	statement, err := got.inflated()
	if err != nil {
		return nil, badStatement("cannot be decompressed").because(err)
	}
	if statement == nil {
		return nil, nil
	}
	merged, err := s.merged.merge(statement)
	if err == nil || errors.Is(err, fhir.ErrNotCapabilities) {
		return merged, nil
	}
	s.logger.WarnContext(r.Context(), "GET /metadata: the upstream's capability statement is handed on without the export operations", "error", err)
	return nil, nil
}

func badStatement(what string) *Problem {
	return refuse(http.StatusBadGateway, fhir.IssueTransient, "GET /metadata: the capability statement of the upstream FHIR server %s.", what)
}

// fetchStatement asks the upstream for its statement in JSON.
func (s *server) fetchStatement(r *http.Request) (got *recorded, err error) {
	fetch := r.Clone(r.Context())
	fetch.Method, fetch.Body, fetch.ContentLength, fetch.TransferEncoding = http.MethodGet, http.NoBody, 0, nil
	for _, name := range []string{"If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since", "Range", "If-Range", "Content-Length", "Content-Type", "Connection", "Upgrade"} {
		fetch.Header.Del(name)
	}
	fetch.Header.Set("Accept", "application/fhir+json")
	fetch.Header.Set("Accept-Encoding", "identity")
	if acceptsGzip(r.Header) {
		fetch.Header.Set("Accept-Encoding", "gzip")
	}
	got = &recorded{header: make(http.Header)}
	defer func() {
		switch v := recover(); {
		case v == nil && got.tooLarge, v == http.ErrAbortHandler && got.tooLarge:
			err = badStatement("is too large")
		case v == http.ErrAbortHandler:
			err = badStatement("did not arrive whole")
		case v != nil:
			panic(v)
		}
	}()
	if err := s.upstream(got, fetch); err != nil {
		return got, err
	}
	if length := got.header.Get("Content-Length"); length != "" && length != strconv.Itoa(got.body.Len()) && !got.tooLarge {
		return nil, badStatement("did not arrive whole")
	}
	return got, nil
}

// wantsJSON reports whether a request for the statement takes JSON at least as
// gladly as something else. _format wins over Accept.
// Source: FHIR R4, RESTful API, "Content Types and encodings".
func wantsJSON(r *http.Request) bool {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return false // the upstream may understand it
	}
	if formats := query["_format"]; len(formats) > 0 {
		mediaType, _, _ := strings.Cut(strings.ToLower(formats[0]), ";")
		switch strings.TrimSpace(mediaType) {
		case "json", "application/json", "application/fhir+json", "application/fhir json", "application/json+fhir", "application/json fhir", "text/json":
			return true
		}
		return false
	}
	accepted := weightedList(r.Header.Values("Accept"))
	if len(accepted) == 0 {
		return true
	}
	json := quality(accepted, "application/fhir+json", "application/json", "application/json+fhir", "text/json", "application/*", "*/*")
	other := quality(accepted, "application/fhir+xml", "application/xml", "application/xml+fhir", "text/xml", "text/html", "application/xhtml+xml",
		"text/turtle", "application/fhir+turtle")
	return json > 0 && json >= other
}

// copyHeader copies what a client may see of the upstream's headers.
func copyHeader(to, from http.Header) {
	for name, values := range from {
		switch name {
		case "Set-Cookie", "Server", "Alt-Svc", "Strict-Transport-Security", "Content-Length", "Transfer-Encoding", "Connection", "Trailer":
		default:
			to[name] = values
		}
	}
}

// recorded is a response kept in memory, up to maxStatement bytes.
type recorded struct {
	header   http.Header
	status   int
	body     bytes.Buffer
	tooLarge bool
}

var errTooLarge = fmt.Errorf("gateway: the response is larger than %d bytes", maxStatement)

func (r *recorded) Header() http.Header { return r.header }

// WriteHeader keeps the first final status.
func (r *recorded) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
	}
}

func (r *recorded) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	if r.body.Len()+len(p) > maxStatement {
		r.tooLarge = true
		return 0, errTooLarge
	}
	return r.body.Write(p)
}

// Flush does nothing: what is recorded goes on when it is whole.
func (r *recorded) Flush() {}

// inflated returns the body without compression, nil if it is in an encoding
// that was not asked for.
func (r *recorded) inflated() ([]byte, error) {
	switch strings.ToLower(r.header.Get("Content-Encoding")) {
	case "", "identity":
		return r.body.Bytes(), nil
	case "gzip", "x-gzip":
	default:
		return nil, nil
	}
	plain, err := gzip.NewReader(bytes.NewReader(r.body.Bytes()))
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(plain, maxStatement+1))
	if err == nil && len(b) > maxStatement {
		err = errTooLarge
	}
	return b, err
}

// A mergeCache keeps the latest merged statements by what they were made of,
// since a statement has megabytes and seldom changes. The zero value is ready.
type mergeCache struct {
	mu     sync.Mutex
	kept   [2]mergedStatement
	oldest int
	smart  *fhir.SMART // how we are protected; nil: as the upstream says. Never changed.
}

type mergedStatement struct {
	from   [sha256.Size]byte
	merged []byte // nil: unused
}

// merge is fhir.MergeCapabilities with a memory. Do not change the result.
func (c *mergeCache) merge(statement []byte) ([]byte, error) {
	from := sha256.Sum256(statement)
	c.mu.Lock()
	for _, k := range c.kept {
		if k.merged != nil && k.from == from {
			c.mu.Unlock()
			return k.merged, nil
		}
	}
	c.mu.Unlock()
	merged, err := fhir.MergeCapabilities(statement, c.smart)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept[c.oldest] = mergedStatement{from: from, merged: merged}
	c.oldest = (c.oldest + 1) % len(c.kept)
	return merged, nil
}
