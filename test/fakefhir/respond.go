package fakefhir

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
)

const (
	jsonType = "application/fhir+json;charset=UTF-8"
	xmlType  = "application/fhir+xml;charset=UTF-8"

	// compressFrom is the smallest body that is compressed.
	compressFrom = 512
)

// sent is what has been sent of an answer.
type sent struct {
	status  int
	entries int
	bytes   int64
}

// wantsXML says whether only XML would be accepted.
func wantsXML(r *http.Request, params url.Values) bool {
	if f := params.Get("_format"); f != "" {
		return strings.Contains(f, "xml")
	}
	accept := strings.Join(r.Header.Values("Accept"), ",")
	return strings.Contains(accept, "xml") && !strings.Contains(accept, "json") && !strings.Contains(accept, "*/*")
}

// fail answers with an OperationOutcome.
func (x *exchange) fail(err error) {
	var p *problem
	if !errors.As(err, &p) {
		p = &problem{status: http.StatusInternalServerError, code: "exception", text: err.Error()}
	}
	for k, vs := range p.header {
		x.w.Header()[k] = vs
	}
	x.sendJSON(p.status, outcome("error", p.code, p.text))
}

// sendJSON answers with FHIR JSON, indented if that is wanted.
func (x *exchange) sendJSON(status int, body []byte) {
	pretty := x.s.o.Pretty
	if p := x.params.Get("_pretty"); p != "" {
		pretty = p == "true"
	}
	if pretty {
		var b bytes.Buffer
		if json.Indent(&b, body, "", "  ") == nil {
			body = b.Bytes()
		}
	}
	typ := jsonType
	if x.s.d.contentType != "" {
		typ = x.s.d.contentType
	}
	x.send(status, typ, body)
}

// send answers, compressed if that is accepted, with the faults of the wire.
func (x *exchange) send(status int, contentType string, body []byte) {
	if x.do.TruncatedJSON {
		body = body[:len(body)/2]
	}
	h := x.w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Date", x.s.Now().UTC().Format(http.TimeFormat))
	h.Add("Vary", "Accept-Encoding")
	wire := &wire{x: x, left: -1}
	if c := x.do.Stall; c != nil {
		wire.left, wire.stall = c.After, true
	} else if c := x.do.Cut; c != nil {
		wire.left = c.After
	}
	zip := len(body) >= compressFrom && !x.s.o.NoGzip && strings.Contains(x.r.Header.Get("Accept-Encoding"), "gzip")
	padding := x.do.HugePage - int64(len(body))
	switch {
	case zip:
		h.Set("Content-Encoding", "gzip")
	case padding <= 0:
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	x.sent.status = status
	x.s.journal.note(x.line, &x.sent)
	x.w.WriteHeader(status)
	if x.r.Method == http.MethodHead {
		return
	}
	if !zip {
		writeBody(wire, body, padding)
		return
	}
	z := x.s.zippers.Get().(*gzip.Writer)
	defer x.s.zippers.Put(z)
	z.Reset(wire)
	writeBody(z, body, padding)
	_ = z.Close() // the client is gone, which is its own affair
}

// writeBody writes body with padding bytes of white space before its end.
func writeBody(w io.Writer, body []byte, padding int64) {
	if padding <= 0 || len(body) == 0 {
		_, _ = w.Write(body) // the client is gone, which is its own affair
		return
	}
	if _, err := w.Write(body[:len(body)-1]); err != nil {
		return
	}
	blank := bytes.Repeat([]byte{' '}, 64<<10)
	for padding > 0 {
		n := min(padding, int64(len(blank)))
		if _, err := w.Write(blank[:n]); err != nil {
			return
		}
		padding -= n
	}
	_, _ = w.Write(body[len(body)-1:])
}

// wire writes to the client, and stops where a fault says so.
type wire struct {
	x     *exchange
	left  int64 // bytes until the fault; negative: no fault
	stall bool
}

func (w *wire) Write(p []byte) (int, error) {
	if w.left < 0 || int64(len(p)) <= w.left {
		if w.left >= 0 {
			w.left -= int64(len(p))
		}
		n, err := w.x.w.Write(p)
		w.x.sent.bytes += int64(n)
		return n, err
	}
	n, _ := w.x.w.Write(p[:w.left])
	w.x.sent.bytes += int64(n)
	_ = http.NewResponseController(w.x.w).Flush() // a writer that cannot has no wire
	if w.stall {
		select {
		case <-w.x.r.Context().Done():
		case <-w.x.released:
		}
	}
	panic(http.ErrAbortHandler)
}
