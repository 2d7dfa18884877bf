package export

import (
	"context"
	"fmt"
	"time"

	"spillway/jobs"
	"spillway/upstream/fhir"
)

// entry checks one entry of a page and hands its resource on if it belongs to
// the export and was not seen before.
func (r *reader) entry(ctx context.Context, entry *fhir.Entry, w windowSpec) error {
	h := entry.Header
	switch {
	case entry.Mode == "include":
		return nil // we never ask for any; it is not what the search matched
	case entry.Mode == "outcome", h.Type == "OperationOutcome" && r.spec.Type != "OperationOutcome":
		r.upstreamOutcome(entry.Resource)
		return nil
	case entry.Resource == nil:
		r.leftOut("an entry without a resource")
		return nil
	case h.Type != r.spec.Type:
		r.leftOut("a resource of another type")
		return nil
	case !fhir.ValidID(h.ID):
		r.leftOut("a resource without a valid id")
		return nil
	}
	place, err := r.place(h, w)
	if err != nil {
		return err
	}
	if place == placeElsewhere {
		return nil
	}
	if !r.ids.pass(h.ID) {
		return nil // again, by a repeated page or a retried request
	}
	if place == placeLate {
		r.late++
	}
	if place == placeFiltered || place == placeLate && !r.keepLate || !r.ids.see() {
		return nil
	}
	wanted, err := r.inScope(h, entry.Resource)
	if err != nil || !wanted {
		return err
	}
	if !r.allowed.admits(r.spec.Type, entry.Resource) {
		r.deny(r.spec.Type)
		return nil
	}
	if len(r.filters) > 0 && judged(r.filters, h.Type, entry.Resource) == no {
		r.summary.Unmatched++
	}
	return r.sink(ctx, h, entry.Resource)
}

// place says where an entry stands to the window it was read in.
type place int

const (
	placeInside    place = iota
	placeLate            // changed after the transaction time, while its page was on the way; it matched before
	placeFiltered        // counted by the upstream, but outside what was asked for; filtered here
	placeElsewhere       // at the rounded border: the neighbouring window has it
)

// place compares an entry's meta.lastUpdated with the window. An entry that no
// honoured filter lets through means that the upstream ignores the filter.
func (r *reader) place(h fhir.Header, w windowSpec) (place, error) {
	if h.LastUpdated == "" {
		if !r.spec.Since.IsZero() || !w.From.IsZero() {
			r.notes.add(jobs.SeverityWarning, fhir.IssueIncomplete,
				"%s: the upstream gives resources without meta.lastUpdated, so it could not be checked that they belong to the time asked for.", r.spec.Type)
		}
		return placeInside, nil
	}
	at, err := fhir.ParseDateTime(h.LastUpdated)
	if err != nil {
		r.notes.add(jobs.SeverityWarning, fhir.IssueInvalid,
			"%s: the upstream gives resources whose meta.lastUpdated is no instant, so it could not be checked that they belong to the time asked for.", r.spec.Type)
		return placeInside, nil
	}
	at = at.Truncate(tick)
	late := at.After(r.job.TransactionTime)
	if r.spec.Whole {
		if at.Before(r.spec.Since) || !late && !r.spec.Until.IsZero() && !at.Before(r.spec.Until) {
			return placeFiltered, nil
		}
		r.moved = r.moved || late
		switch {
		case !late:
			return placeInside, nil
		case h.VersionID == "1":
			return placeFiltered, nil // made after the transaction time
		case r.spec.Former:
			return placeLate, nil // the tail has it as of the transaction time
		case r.spec.Until.Before(r.job.TransactionTime):
			return placeFiltered, nil // asked for only up to an earlier time
		}
		return placeInside, nil
	}
	switch {
	case late:
		return placeLate, nil
	case !at.Before(w.From) && (w.To.IsZero() || at.Before(w.To)):
		return placeInside, nil
	case within(at, w.From, borderSlack), within(at, w.To, borderSlack):
		return placeElsewhere, nil
	}
	return 0, &jobs.UnitError{Permanent: true, Reason: fmt.Sprintf(
		"search %s: the upstream returned a resource outside the _lastUpdated range that was asked for, so it ignores that filter at least at times and its results cannot be trusted; nothing was handed out.", r.spec.Type)}
}

func within(at, border time.Time, slack time.Duration) bool {
	return !border.IsZero() && at.Sub(border).Abs() <= slack
}

// inScope applies the scope of the export to a resource.
func (r *reader) inScope(h fhir.Header, resource []byte) (bool, error) {
	switch r.spec.Scope {
	case scopeAll:
		return true, nil
	case scopeID:
		return h.ID == r.batch.only, nil
	case scopeCompartment:
		found := false
		err := r.spec.Release.PatientRefs(h.Type, resource, func(string, string) bool {
			found = true
			return false
		})
		return found, err
	}
	return r.batch.owns(h, resource)
}

// leftOut notes an entry that cannot be exported.
func (r *reader) leftOut(what string) {
	r.summary.Proven = false
	r.notes.add(jobs.SeverityError, fhir.IssueInvalid, "%s: the upstream's pages held %s; it was left out.", r.spec.Type, what)
}

// upstreamOutcome notes that the upstream said something. Its words stay out:
// diagnostics may quote patient data or queries.
func (r *reader) upstreamOutcome(resource []byte) {
	issues, err := fhir.ReadOutcome(resource)
	if err != nil {
		r.leftOut("an OperationOutcome that could not be read")
		return
	}
	for _, issue := range issues {
		severity := jobs.Severity(issue.Severity)
		switch issue.Severity {
		case "fatal":
			severity = jobs.SeverityError
		case "error", "warning", "information":
		default:
			severity = jobs.SeverityWarning
		}
		r.notes.add(severity, fhir.IssueProcessing,
			"%s: the upstream added an OperationOutcome to its search results (severity %s, code %q).", r.spec.Type, severity, issue.Code)
	}
}
