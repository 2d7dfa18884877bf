package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"spillway/auth"
	"spillway/auth/scope"
	"spillway/jobs"
	"spillway/storage"
	"spillway/upstream/fhir"
)

// A Problem is why a request is refused, in words for the client. It is the
// only kind of error whose text leaves the house.
type Problem struct {
	Status int        // HTTP status, 4xx or 5xx
	Issue  fhir.Issue // becomes the body, an OperationOutcome

	// RetryAfter is when asking again makes sense, rounded up to seconds.
	// Zero: the response does not say.
	RetryAfter time.Duration

	header map[string]string // further response headers
	cause  error             // is logged, never told; may be nil
}

// Error returns the sentence that the client reads.
func (p *Problem) Error() string { return p.Issue.Diagnostics }

// Unwrap returns the cause, which may be nil.
func (p *Problem) Unwrap() error { return p.cause }

// refuse returns a Problem of severity error.
func refuse(status int, code fhir.IssueCode, format string, args ...any) *Problem {
	return &Problem{Status: status, Issue: fhir.Issue{
		Severity: fhir.SeverityError, Code: code, Diagnostics: fmt.Sprintf(format, args...),
	}}
}

// refuseParameter is refuse with status 400 for a kick-off parameter.
func refuseParameter(name string, code fhir.IssueCode, format string, args ...any) *Problem {
	p := refuse(http.StatusBadRequest, code, format, args...)
	p.Issue.Diagnostics = name + ": " + p.Issue.Diagnostics
	p.Issue.Expression = []string{name}
	return p
}

func (p *Problem) with(header, value string) *Problem {
	if p.header == nil {
		p.header = make(map[string]string)
	}
	p.header[header] = value
	return p
}

func (p *Problem) retryAfter(d time.Duration) *Problem {
	p.RetryAfter = d
	return p
}

func (p *Problem) because(cause error) *Problem {
	p.cause = cause
	return p
}

// noSuchExport is the answer for every export and file that the client cannot
// have, whatever the reason, byte for byte the same.
func noSuchExport() *Problem {
	return refuse(http.StatusNotFound, fhir.IssueNotFound,
		"There is no such export: it never existed, was deleted, or has expired.")
}

// How long clients are told to wait.
const (
	retryStore   = 5 * time.Second
	retryStorage = 10 * time.Second
	retryFull    = 120 * time.Second
	retryAuth    = 5 * time.Second
)

// problemFor maps an error to what the client may know. An error not listed
// here is ours: it is logged, and the client reads only "internal error".
func problemFor(err error) *Problem {
	var p *Problem
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, jobs.ErrNotFound):
		return noSuchExport()
	case errors.Is(err, jobs.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return refuse(http.StatusServiceUnavailable, fhir.IssueTransient,
			"The store of exports does not answer at the moment; try again later.").retryAfter(retryStore).because(err)
	case errors.Is(err, storage.ErrFull):
		return refuse(http.StatusServiceUnavailable, fhir.IssueNoStore,
			"There is not enough free space for another export at the moment; try again later.").retryAfter(retryFull).because(err)
	case errors.Is(err, ErrUnread):
		return refuse(http.StatusServiceUnavailable, fhir.IssueTransient,
			"The storage of files does not answer at the moment; try again later.").retryAfter(retryStorage).because(err)
	case errors.Is(err, auth.ErrUnavailable):
		return refuse(http.StatusServiceUnavailable, fhir.IssueTransient,
			"Who sent this request cannot be checked at the moment; try again later.").retryAfter(retryAuth).because(err)
	case errors.Is(err, auth.ErrNoCredential):
		return refuse(http.StatusUnauthorized, fhir.IssueLogin, "A credential is required.")
	case errors.Is(err, auth.ErrMalformed):
		return refuse(http.StatusBadRequest, fhir.IssueLogin, "The credential is malformed, or there are several.")
	case errors.Is(err, auth.ErrBadCredential):
		return refuse(http.StatusUnauthorized, fhir.IssueLogin, "The credential is not accepted; obtain a new one.")
	}
	var refused *scope.RefusedError
	if errors.As(err, &refused) {
		if len(refused.Types) == 0 {
			return refuse(http.StatusForbidden, fhir.IssueForbidden, "The scopes granted do not allow this.")
		}
		return refuse(http.StatusForbidden, fhir.IssueForbidden, "The scopes granted do not allow reading and searching of %s.", strings.Join(refused.Types, ", "))
	}
	return refuse(http.StatusInternalServerError, fhir.IssueException, "internal error").because(err)
}

// problemFor is problemFor, and tells clients that need a token which one.
func (s *server) problemFor(err error) *Problem {
	p := problemFor(err)
	if challenge := auth.Challenge(err); challenge != "" && s.Auth.RequiresToken() {
		return p.with("WWW-Authenticate", challenge)
	}
	return p
}

// answer turns a handler that returns its error into one that writes it. It is
// the only place that writes and logs problems of requests that are ours.
func (s *server) answer(h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := h(w, r)
		switch {
		case err == nil:
		case r.Context().Err() != nil:
			panic(http.ErrAbortHandler) // the client has gone, or we are stopping
		default:
			s.writeProblem(w, r, s.problemFor(err))
		}
	}
}

func (s *server) writeProblem(w http.ResponseWriter, r *http.Request, p *Problem) {
	if p.cause != nil {
		s.logger.ErrorContext(r.Context(), "request failed", "method", methodLabel(r.Method), "route", routeOf(w), "status", p.Status, "error", loggable(p.cause))
	}
	for name, value := range p.header {
		w.Header().Set(name, value)
	}
	if p.RetryAfter > 0 {
		w.Header().Set("Retry-After", seconds(p.RetryAfter))
	}
	writeOutcome(w, p.Status, p.Issue)
}

// writeOutcome writes a response whose body is an OperationOutcome.
func writeOutcome(w http.ResponseWriter, status int, issue fhir.Issue) {
	writeBody(w, status, "application/fhir+json", append(fhir.Outcome(issue), '\n'))
}

// writeBody writes a whole response that is ours.
func writeBody(w http.ResponseWriter, status int, contentType string, body []byte) {
	h := w.Header()
	guard(h)
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // fails only when the client has gone
}

// guard sets what every response that is ours carries.
func guard(h http.Header) {
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
}

// seconds writes a duration as the whole seconds of a Retry-After, at least 1.
func seconds(d time.Duration) string {
	return strconv.FormatInt(max(int64((d+time.Second-1)/time.Second), 1), 10)
}

// loggable returns the text of an error without the names of files, which hold
// the ids of exports.
func loggable(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Op + ": " + path.Err.Error()
	}
	return err.Error()
}

// shown is quoted, but leaves plain names as they are.
func shown(name string) string {
	if len(name) <= 60 && plainName.MatchString(name) {
		return name
	}
	return quoted(name)
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9_.:-]+$`)

// quoted shows a short piece of what a client sent.
func quoted(s string) string {
	const limit = 60
	if len(s) > limit {
		s = s[:limit] + "..."
	}
	return strconv.QuoteToGraphic(s)
}
