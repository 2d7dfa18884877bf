package gateway

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"spillway/auth"
	"spillway/auth/audit"
	"spillway/auth/scope"
	"spillway/jobs"
	"spillway/upstream/fhir"
)

// auditTimeout is for an event to be kept.
const auditTimeout = 5 * time.Second

// The words for why something was refused, as the record has them.
const (
	reasonNoCredential = "no-credential"
	reasonMalformed    = "malformed-credential"
	reasonCredential   = "credential"
	reasonScope        = "scope"
	reasonOwner        = "owner"
	reasonGroup        = "group"
	reasonSite         = "cross-site"
	reasonParameters   = "parameters"
	reasonUnavailable  = "unavailable"
	reasonInternal     = "internal"
)

// event returns an event of a request.
func (s *server) event(r *http.Request, kind audit.Kind, outcome audit.Outcome) audit.Event {
	return EventOf(r, s.TrustedProxies, kind, outcome)
}

// by says who did it.
func by(e *audit.Event, p auth.Principal) {
	e.Client, e.Issuer, e.TokenID = p.ClientID, p.Issuer, p.TokenID
}

// describe says what was asked for, with lists as their length and digest.
func (s *server) describe(e *audit.Event, request jobs.Request) {
	e.Level, e.Group = string(request.Level), request.GroupID
	e.Types, e.Since, e.Until = slices.Clone(request.Types), request.Since, request.Until
	e.Filters, e.Patients = len(request.TypeFilters), len(request.Patients)
	if s.AuditDigest == nil {
		return
	}
	if e.Filters > 0 {
		var filters []string
		for _, f := range request.TypeFilters {
			filters = append(filters, f.Type+"?"+f.Query)
		}
		e.FiltersDigest = s.AuditDigest(filters...)
	}
	if e.Patients > 0 {
		e.PatientsDigest = s.AuditDigest(request.Patients...)
	}
}

// record keeps an event. An error means that what it would have allowed must
// not happen.
func (s *server) record(ctx context.Context, e audit.Event) error {
	if s.Audit == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditTimeout)
	defer cancel()
	err := s.Audit(ctx, e)
	switch {
	case err == nil:
		return nil
	case s.AuditDeny:
		return refuse(http.StatusServiceUnavailable, fhir.IssueTransient,
			"The record of who is given what cannot be written at the moment, so nothing is given; try again later.").retryAfter(retryStore).because(err)
	}
	s.logger.ErrorContext(ctx, "an event could not be recorded", "kind", e.Kind, "error", err)
	return nil
}

// note keeps an event that does not decide about an answer.
func (s *server) note(ctx context.Context, e audit.Event) {
	if err := s.record(ctx, e); err != nil {
		s.logger.ErrorContext(ctx, "an event could not be recorded", "kind", e.Kind, "error", errors.Unwrap(err))
	}
}

// later has something done when the answer has been sent, so that the time it
// takes tells the client nothing.
func later(w http.ResponseWriter, f func()) {
	if o, ok := w.(*observed); ok {
		o.after = append(o.after, f)
		return
	}
	f()
}

// alert records, after the answer, that a request for an export was refused, if
// the reason is who asks.
func (s *server) alert(w http.ResponseWriter, r *http.Request, p auth.Principal, id jobs.ID, reason string) {
	if s.Audit == nil || reason == "" {
		return
	}
	e := s.event(r, audit.KindAlert, audit.OutcomeRefused)
	by(&e, p)
	e.Job, e.Reason = string(id), reason
	ctx := r.Context()
	later(w, func() { s.note(ctx, e) })
}

// reasonOf returns the word for an error; "" for what is not recorded, since
// anybody may ask for it as often as they like.
func reasonOf(err error) string {
	var refused *scope.RefusedError
	switch {
	case errors.As(err, &refused):
		return reasonScope
	case errors.Is(err, auth.ErrNoCredential):
		return reasonNoCredential
	case errors.Is(err, auth.ErrMalformed):
		return reasonMalformed
	case errors.Is(err, auth.ErrBadCredential):
		return reasonCredential
	}
	switch p := problemFor(err); {
	case p.Status == http.StatusTooManyRequests:
		return ""
	case p.Status == http.StatusNotFound:
		return reasonGroup
	case p.Status == http.StatusForbidden:
		return reasonSite
	case p.Status == http.StatusServiceUnavailable:
		return reasonUnavailable
	case p.Status < 500:
		return reasonParameters
	}
	return reasonInternal
}
