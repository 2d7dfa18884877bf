package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"spillway/upstream/fhir"
)

// Errors that callers tell apart. Test with errors.Is.
var (
	// ErrNoCount: the upstream gives no usable count for this search.
	ErrNoCount = errors.New("upstream: no usable count")
	// ErrNotFound: the upstream does not know the resource (404).
	ErrNotFound = errors.New("no such resource")
	// ErrGone: the resource was deleted (410).
	ErrGone = errors.New("the resource was deleted")
)

// An ErrorKind says what went wrong with a request.
type ErrorKind int

// The kinds of a RequestError.
const (
	KindUnreachable ErrorKind = iota + 1 // no connection, or it broke before an answer
	KindTimeout                          // no headers, or no more of the body, for Config.Timeout
	KindStatus                           // any other status than 200
	KindNotFHIR                          // 200, but HTML, XML, an OperationOutcome, another resource
	KindMalformed                        // JSON or gzip that does not parse
	KindTruncated                        // the body ended too early
	KindTooLarge                         // a page or a resource above its limit
	KindForeignLink                      // a next link that leaves the upstream; it was not followed
	KindAuth                             // 401 or 403
	KindGone                             // 404 or 410 for a next link, or its page is too much: begin again from the first page
	KindThrottled                        // 429, or 503 with Retry-After
)

var kindNames = [...]string{
	KindUnreachable: "unreachable", KindTimeout: "timeout", KindStatus: "status", KindNotFHIR: "not FHIR",
	KindMalformed: "malformed", KindTruncated: "truncated", KindTooLarge: "too large", KindForeignLink: "foreign link",
	KindAuth: "auth", KindGone: "gone", KindThrottled: "throttled",
}

// String names the kind for logs.
func (k ErrorKind) String() string {
	if k > 0 && int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// A RequestError is a request that failed for good. Its text is a sentence for
// an operator: which request, what came, what to do. It never holds a query, an
// id, a token, or anything that the upstream wrote, save codes of issues.
type RequestError struct {
	Op     string // kind and type: "search Observation", "count Patient", "GET /metadata"
	Status int    // of the last answer; 0 if none came
	Kind   ErrorKind
	Issues []fhir.Issue // of an OperationOutcome; Diagnostics may hold patient data and are not part of Error
	Tries  int          // how often the request was sent
	Err    error        // the cause in words without data; may be nil

	permanent bool // of a kind that is usually worth waiting for, but not this time
	oversize  bool // a page with fewer resources may be small enough
}

// Unwrap returns the cause: ErrNotFound, ErrGone, a *ForeignLinkError or nil.
func (e *RequestError) Unwrap() error { return e.Err }

// Temporary reports whether waiting may help.
func (e *RequestError) Temporary() bool {
	if e.permanent {
		return false
	}
	switch e.Kind {
	case KindUnreachable, KindTimeout, KindTruncated, KindThrottled:
		return true
	case KindStatus:
		switch e.Status {
		case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
			return true
		case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
			return false
		}
		return e.Status >= 500
	}
	return false
}

// Error tells which request failed, what came, and what to do.
func (e *RequestError) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	b.WriteString(" failed")
	if e.Tries > 1 {
		fmt.Fprintf(&b, " after %d tries", e.Tries)
	}
	b.WriteString(": ")
	b.WriteString(e.what())
	if codes := e.issueCodes(); codes != "" {
		fmt.Fprintf(&b, " (issue %s)", codes)
	}
	b.WriteString(".")
	if hint := e.hint(); hint != "" {
		b.WriteString(" ")
		b.WriteString(hint)
	}
	return b.String()
}

// what came instead of an answer.
func (e *RequestError) what() string {
	if e.Err != nil {
		if e.Status != 0 && e.Status != http.StatusOK {
			return "the upstream answered " + statusText(e.Status) + ", " + e.Err.Error()
		}
		return e.Err.Error()
	}
	switch e.Kind {
	case KindUnreachable:
		return "the upstream cannot be reached"
	case KindTimeout:
		return "the upstream did not answer in time"
	case KindNotFHIR:
		return "what came is not the FHIR JSON that was asked for"
	case KindMalformed:
		return "what came is not well formed"
	case KindTruncated:
		return "the answer broke off"
	case KindTooLarge:
		return "the answer is too large"
	case KindForeignLink:
		return "a next link leads away from the upstream and was not followed"
	}
	return "the upstream answered " + statusText(e.Status)
}

// hint says what to do, as a sentence, or "".
func (e *RequestError) hint() string {
	switch e.Kind {
	case KindUnreachable:
		if e.permanent {
			return ""
		}
		return "Is it running, and is upstream.url right?"
	case KindTimeout:
		return "It may be overloaded; upstream.timeout says how long is waited."
	case KindTruncated:
		return "A proxy or a restart of the upstream may have cut it."
	case KindTooLarge:
		return "A smaller upstream.page_size may help."
	case KindThrottled:
		return "A smaller upstream.max_concurrency may help."
	case KindGone:
		return "Its paging session has expired; begin again from the first page."
	case KindForeignLink:
		return "If it is another address of the same server, list it in upstream.url_aliases."
	case KindAuth:
		return "Check upstream.headers: the upstream wants a credential that may search and read."
	case KindNotFHIR:
		return "Check upstream.url: it must be the FHIR base, such as https://fhir.example.org/fhir."
	}
	switch {
	case e.Status >= 300 && e.Status < 400:
		return "Redirects are not followed; set upstream.url to where the FHIR base really is."
	case e.Status == http.StatusNotFound && e.Op == opMetadata:
		return "Check upstream.url: it must be the FHIR base, such as https://fhir.example.org/fhir."
	case e.Status == http.StatusRequestURITooLong:
		return "The search is too long for a GET, and POST _search is not usable there."
	case e.Status == http.StatusNotImplemented:
		return "It does not offer this."
	case e.Status == http.StatusBadRequest || e.Status == http.StatusUnprocessableEntity:
		return "It does not accept these parameters for this type."
	case e.Status >= 500:
		return "Its own log says why."
	}
	return ""
}

// issueCodes lists the distinct codes of the issues, if they look like codes.
func (e *RequestError) issueCodes() string {
	var codes []string
	for _, i := range e.Issues {
		code := string(i.Code)
		plain := code != "" && len(code) <= 32 && strings.Trim(code, "abcdefghijklmnopqrstuvwxyz-") == ""
		if plain && len(codes) < 3 && !strings.Contains(strings.Join(codes, ", ")+",", code+",") {
			codes = append(codes, code)
		}
	}
	return strings.Join(codes, ", ")
}

func statusText(status int) string {
	if text := http.StatusText(status); text != "" {
		return strconv.Itoa(status) + " " + text
	}
	return strconv.Itoa(status)
}

// A ForeignLinkError is the cause of KindForeignLink.
type ForeignLinkError struct {
	// Origin is scheme and host of the link, for an operator who may want to
	// list it in upstream.url_aliases. It comes from the upstream: not for
	// clients. Empty if the link has none.
	Origin string
}

// Error does not echo the link.
func (e *ForeignLinkError) Error() string {
	return "a next link leads away from the upstream and was not followed"
}

// stopped carries the visitor's own error past the retries.
type stopped struct{ error }

// abandoned is what a request ends with when its context does. Both the
// context's error and its cause are in the chain.
func abandoned(ctx context.Context, op string) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == nil || cause == err {
		return fmt.Errorf("upstream: %s abandoned: %w", op, err)
	}
	return fmt.Errorf("upstream: %s abandoned: %w: %w", op, err, cause)
}
