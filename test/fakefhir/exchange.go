package fakefhir

import (
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxBody is the largest request body that is read.
const maxBody = 256 << 20

// exchange is one request on its way to its answer.
type exchange struct {
	s    *Server
	w    http.ResponseWriter
	r    *http.Request
	root string // how the server names itself here

	kind         Kind
	typ, id, vid string
	page         int        // of a search, from 1
	params       url.Values // query and form body
	body         []byte     // of a write
	next         *result    // behind a next link; nil if it is gone

	do       Do
	released chan struct{} // closed by Reset
	line     *Request      // in the journal
	sent     sent
}

// receive says what a request is. The exchange is usable even if there is an
// error.
func (s *Server) receive(w http.ResponseWriter, r *http.Request) (*exchange, error) {
	x := &exchange{s: s, w: w, r: r, root: s.root(r), kind: KindOther, page: 0}
	params, err := url.ParseQuery(r.URL.RawQuery)
	x.params = params
	if err != nil {
		return x, invalid("Failed to parse the query string")
	}
	rest, ok := strings.CutPrefix(r.URL.Path, s.o.Path)
	if !ok || rest != "" && rest[0] != '/' {
		return x, notFound("Nothing is served here")
	}
	parts := strings.Split(strings.Trim(rest, "/"), "/")
	if err := x.readBody(parts); err != nil {
		return x, err
	}
	x.classify(parts)
	return x, nil
}

func (x *exchange) readBody(parts []string) error {
	if x.r.Method != http.MethodPost && x.r.Method != http.MethodPut {
		return nil
	}
	body, err := io.ReadAll(http.MaxBytesReader(x.w, x.r.Body, maxBody))
	if err != nil {
		return invalid("Failed to read the request body")
	}
	x.body = body
	if parts[len(parts)-1] != "_search" {
		return nil
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return invalid("Failed to parse the form")
	}
	params := maps.Clone(x.params)
	for k, v := range form {
		params[k] = append(params[k], v...)
	}
	x.params = params
	return nil
}

// classify sets kind, typ, id and vid from the path below the FHIR root.
func (x *exchange) classify(parts []string) {
	method := x.r.Method
	reading := method == http.MethodGet || method == http.MethodHead
	if parts[0] == "" {
		parts = nil
	}
	if reading {
		x.untoken()
	}
	if id := x.params.Get("_getpages"); id != "" && reading {
		x.classifyNext(id)
		return
	}
	last := ""
	if len(parts) > 0 {
		last = parts[len(parts)-1]
	}
	switch {
	case len(parts) == 0 && method == http.MethodPost:
		x.kind = KindTransaction
	case last == "metadata" && len(parts) == 1 && reading:
		x.kind = KindMetadata
	case last == "_history" && len(parts) <= 3 && reading:
		x.kind = KindHistory
		x.place(parts[:len(parts)-1])
	case len(parts) == 4 && parts[2] == "_history" && reading:
		x.kind, x.vid = KindRead, parts[3]
		x.place(parts[:2])
	case strings.HasPrefix(last, "$") || len(parts) > 2 || len(parts) == 0:
		x.kind = KindOther
	case len(parts) == 1 && reading, last == "_search" && method == http.MethodPost:
		x.kind, x.page = KindSearch, 1
		if isCount(x.params) {
			x.kind, x.page = KindCount, 0
		} else if x.s.d.numbered != "" && x.params.Get(x.s.d.numbered) != "" {
			x.kind, x.page = KindNext, 2
		}
		x.place(parts[:1])
	case len(parts) == 2 && reading:
		x.kind = KindRead
		x.place(parts)
	case method == http.MethodPost || method == http.MethodPut || method == http.MethodDelete:
		x.kind = KindWrite
		x.place(parts)
	}
}

func (x *exchange) classifyNext(id string) {
	x.kind = KindNext
	x.next = x.s.results.find(id, x.s.Now())
	if x.next == nil {
		return
	}
	x.typ = x.next.typ
	x.page = x.offset()/x.pageSize() + 1
}

// place sets type and id.
func (x *exchange) place(parts []string) {
	if len(parts) > 0 {
		x.typ = parts[0]
	}
	if len(parts) > 1 {
		x.id = parts[1]
	}
}

// offset and pageSize are those of a next link.
func (x *exchange) offset() int {
	n, _ := strconv.Atoi(x.params.Get("_getpagesoffset")) // 0 if it is no number, as HAPI
	return max(0, n)
}

func (x *exchange) pageSize() int {
	n, _ := strconv.Atoi(x.params.Get("_count"))
	if n <= 0 {
		n = x.s.o.PageDefault
	}
	return min(n, x.s.o.PageMax)
}

// wait waits, unless the client goes away or the server is Reset first. It
// says whether there is anybody left to answer.
func (x *exchange) wait(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-x.released:
	case <-x.r.Context().Done():
		return false
	}
	return true
}

// dispatch answers the request.
func (x *exchange) dispatch() error {
	if wantsXML(x.r, x.params) {
		if x.kind == KindMetadata {
			x.send(http.StatusOK, xmlType, []byte(metadataXML))
			return nil
		}
		return &problem{status: http.StatusNotAcceptable, code: "not-supported", text: "Only JSON is spoken here"}
	}
	if x.typ != "" && typeParams[x.typ] == nil {
		return notFound("Unknown resource type %q", x.typ)
	}
	switch x.kind {
	case KindMetadata:
		x.sendJSON(http.StatusOK, x.s.capabilities(x.root))
		return nil
	case KindSearch, KindCount:
		return x.search()
	case KindNext:
		if x.s.d.numbered != "" {
			return x.search()
		}
		return x.nextPage()
	case KindRead:
		return x.read()
	case KindHistory:
		return x.history()
	case KindWrite:
		return x.write()
	case KindTransaction:
		return x.transaction()
	}
	return invalid("Invalid request: %s is not supported on this URL", x.r.Method)
}

// replaced sends the answer that a fault gives instead of the real one.
func (x *exchange) replaced() bool {
	switch d := x.do; {
	case d.Hangup:
		panic(http.ErrAbortHandler)
	case d.Status != nil:
		for k, vs := range d.Status.Header {
			x.w.Header()[http.CanonicalHeaderKey(k)] = vs
		}
		body, typ := []byte(d.Status.Body), x.w.Header().Get("Content-Type")
		if len(body) == 0 {
			body = outcome("error", "processing", "scripted status")
		}
		if typ == "" {
			typ = jsonType
		}
		x.send(d.Status.Code, typ, body)
	case d.HTML:
		x.send(http.StatusOK, "text/html; charset=utf-8", []byte(loginPage))
	case d.OutcomeWith200:
		x.send(http.StatusOK, jsonType, outcome("error", "exception", "scripted outcome"))
	case d.Garbage:
		x.send(http.StatusOK, jsonType, garbage())
	case d.GoneNext && x.kind == KindNext:
		x.fail(gone("Search ID does not exist and may have expired"))
	default:
		return false
	}
	return true
}
