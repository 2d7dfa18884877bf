package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/gorilla/mux"

	"spillway/auth"
	"spillway/auth/audit"
	"spillway/jobs"
	"spillway/storage"
	"spillway/upstream/fhir"
)

const (
	maxQueryBytes = 8 << 10 // of a GET kick-off; longer ones fit a POST
	maxBodyBytes  = 1 << 20 // of a POST kick-off

	bodyTimeout = 30 * time.Second // for the body of a kick-off to arrive
	// storeTimeout is for all calls of job store and storage that an answer waits
	// for: a store that is away is a 503 within two seconds.
	storeTimeout        = 1800 * time.Millisecond
	capabilitiesTimeout = 15 * time.Second
	retryUpstream       = 10 * time.Second
)

// kickOffAt returns the handler of the kick-offs of a level. Its phases cannot
// be skipped and do not change places.
func (s *server) kickOffAt(level jobs.Level) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		event := s.event(r, audit.KindKickOff, audit.OutcomeDone)
		job, err := s.kickOff(w, r, level, &event)
		if err != nil {
			if event.Reason = reasonOf(err); event.Reason != "" {
				event.Outcome = audit.OutcomeRefused
				s.note(r.Context(), event)
			}
			return err
		}
		if err := s.record(r.Context(), event); err != nil {
			// Nobody knows its address. That it is gone is a matter of space only.
			_ = s.Jobs.Cancel(context.WithoutCancel(r.Context()), job.ID)
			return err
		}
		w.Header().Set("Content-Location", s.statusURL(job.ID))
		writeOutcome(w, http.StatusAccepted, fhir.Issue{
			Severity: fhir.SeverityInformation, Code: fhir.IssueInformational,
			Diagnostics: "The export was accepted. Its status is at the address in Content-Location.",
		})
		return nil
	}
}

// kickOff creates the job, and fills in what the record says of it.
func (s *server) kickOff(w http.ResponseWriter, r *http.Request, level jobs.Level, event *audit.Event) (*jobs.Job, error) {
	principal, err := s.caller(r, s.limits.kickOffs) // 1. who asks
	by(event, principal)
	event.Scope = principal.Grant.String()
	switch {
	case err != nil:
		return nil, err
	case !s.enabled(principal):
		return nil, auth.ErrBadCredential
	case s.crossSite(r):
		return nil, fromElsewhere()
	}
	request, err := s.parseKickOff(w, r, level) // 2. for what
	if err != nil {
		return nil, err
	}
	s.describe(event, request)
	allowed, err := s.authorize(r.Context(), principal, &request) // 3. what of it may be read
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), storeTimeout)
	defer cancel()
	if err := s.ready(ctx); err != nil { // 4. is there room
		return nil, err
	}
	job, first := jobs.New(request, principal.Owner(), s.now())
	job.Authorization = allowed.Encode()
	event.Job = string(job.ID)
	return job, s.create(ctx, job, first) // 5. record
}

// fromElsewhere is the answer to a page of another site.
func fromElsewhere() *Problem {
	return refuse(http.StatusForbidden, fhir.IssueSecurity, "Pages of other sites cannot start, change or delete anything here.")
}

// ready asks storage whether it takes another export, and waits no longer for
// the answer than ctx does.
func (s *server) ready(ctx context.Context) error {
	answer := make(chan error, 1)
	go func() { answer <- s.Storage.Ready(ctx) }()
	var err error
	select {
	case err = <-answer:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err == nil || errors.Is(err, storage.ErrFull) {
		return err
	}
	return refuse(http.StatusServiceUnavailable, fhir.IssueTransient,
		"The storage of files is not ready; try again later.").retryAfter(retryStorage).because(err)
}

// parseKickOff reads every kick-off parameter, from the query of a GET or the
// Parameters body of a POST, and the headers that matter. Nothing after it
// looks at r.
// Source: Bulk Data Access IG, Export, "Bulk Data Kick-off Request".
func (s *server) parseKickOff(w http.ResponseWriter, r *http.Request, level jobs.Level) (jobs.Request, error) {
	if s.RequireAccept && !acceptsFHIRJSON(r.Header) {
		return jobs.Request{}, refuse(http.StatusBadRequest, fhir.IssueNotSupported, "An export is asked for with the header Accept: application/fhir+json.")
	}
	prefer := readPreferences(r.Header)
	if s.RequirePreferAsync && !prefer.async {
		return jobs.Request{}, refuse(http.StatusBadRequest, fhir.IssueNotSupported, "An export is asked for with the header Prefer: respond-async.")
	}
	address := s.base + r.URL.Path[len(s.site.base):]
	var params url.Values
	var err error
	if r.Method == http.MethodPost {
		params, err = s.parametersOfBody(w, r)
	} else {
		params, err = parametersOfQuery(r.URL.RawQuery)
		if r.URL.RawQuery != "" {
			address += "?" + r.URL.RawQuery
		}
	}
	if err != nil {
		return jobs.Request{}, err
	}
	var caps *fhir.Capabilities
	if len(params[paramType]) > 0 || len(params[paramTypeFilter]) > 0 {
		if caps, err = s.capabilities(r.Context()); err != nil {
			return jobs.Request{}, err
		}
	}
	request, err := ParseRequest(level, mux.Vars(r)["id"], params, prefer.lenient, caps, s.Referenced, s.now())
	request.URL = address
	return request, err
}

// parametersOfQuery reads the query of a GET kick-off. url.ParseQuery drops
// what it cannot read and reports it; dropping would export more than asked.
func parametersOfQuery(rawQuery string) (url.Values, error) {
	if len(rawQuery) >= maxQueryBytes {
		return nil, refuse(http.StatusRequestURITooLong, fhir.IssueTooLong, "The query of the kick-off is longer than %d bytes; send the parameters in the body of a POST.", maxQueryBytes)
	}
	params, err := url.ParseQuery(rawQuery)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, fhir.IssueInvalid, "The query of the kick-off is malformed: it has a bad percent escape or a bare semicolon, which is written %%3B.")
	}
	if len(params[paramPatient]) > 0 {
		return nil, refuseParameter(paramPatient, fhir.IssueNotSupported, "this parameter is offered in the body of a POST only")
	}
	return params, nil
}

// parametersOfBody reads the body of a POST kick-off.
func (s *server) parametersOfBody(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	if r.URL.RawQuery != "" {
		return nil, refuse(http.StatusBadRequest, fhir.IssueNotSupported, "The parameters of a POST belong into its body; the address must have no query.")
	}
	if !isJSON(r.Header.Get("Content-Type")) || r.Header.Get("Content-Encoding") != "" {
		return nil, refuse(http.StatusUnsupportedMediaType, fhir.IssueNotSupported, "The body of the kick-off must be a Parameters resource with Content-Type: application/fhir+json, in UTF-8 and not compressed.")
	}
	tooLong := refuse(http.StatusRequestEntityTooLarge, fhir.IssueTooLong, "The body of the kick-off is larger than %d bytes.", maxBodyBytes)
	if r.ContentLength > maxBodyBytes {
		return nil, tooLong
	}
	arrival := http.NewResponseController(w)
	if arrival.SetReadDeadline(time.Now().Add(bodyTimeout)) == nil {
		defer func() { _ = arrival.SetReadDeadline(time.Time{}) }() // it could be set a moment ago
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, tooLong
	case err != nil:
		return nil, refuse(http.StatusBadRequest, fhir.IssueIncomplete, "The body of the kick-off did not arrive whole.")
	}
	return readBody(body, s.base)
}

// capabilities asks for the upstream's statement, nil if nobody has it.
func (s *server) capabilities(ctx context.Context) (*fhir.Capabilities, error) {
	if s.Capabilities == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, capabilitiesTimeout)
	defer cancel()
	caps, err := s.Capabilities(ctx)
	if err != nil {
		return nil, refuse(http.StatusServiceUnavailable, fhir.IssueTransient,
			"The upstream FHIR server does not say what it offers, so the parameters cannot be checked; try again later.").retryAfter(retryUpstream).because(err)
	}
	return caps, nil
}
