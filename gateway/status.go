package gateway

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/gorilla/mux"

	"spillway/auth"
	"spillway/auth/audit"
	"spillway/auth/scope"
	"spillway/jobs"
	"spillway/upstream/fhir"
)

// minInProgress is how long an export is said to run, even if it has ended:
// clients and suites expect that their first poll finds it in progress.
const minInProgress = 500 * time.Millisecond

// export returns the export that a status or file request names, as the store
// has it at this moment: another replica may just have changed it. One that the
// client may not see does not exist for it: of another client, deleted, expired.
//
// The client must be allowed at this moment to read all that the export was
// allowed to read. Source: Bulk Data Access IG, "Security Considerations".
func (s *server) export(ctx context.Context, w http.ResponseWriter, r *http.Request, rate *throttle) (*jobs.Job, auth.Principal, error) {
	principal, err := s.caller(r, rate)
	id, ok := jobs.ParseID(mux.Vars(r)["id"])
	if err != nil {
		s.alert(w, r, principal, id, reasonOf(err))
		return nil, principal, err
	}
	if !ok {
		return nil, principal, noSuchExport()
	}
	job, err := s.Jobs.Get(ctx, id)
	owner := err == nil && subtle.ConstantTimeCompare([]byte(job.Owner), []byte(principal.Owner())) == 1
	if !s.enabled(principal) {
		if owner && job.State != jobs.Canceled {
			if err := s.Jobs.Cancel(ctx, id); err != nil && !errors.Is(err, jobs.ErrNotFound) {
				return nil, principal, err
			}
		}
		s.alert(w, r, principal, id, reasonCredential)
		return nil, principal, auth.ErrBadCredential
	}
	switch {
	case err != nil:
		return nil, principal, err
	case !owner:
		s.alert(w, r, principal, id, reasonOwner)
		return nil, principal, noSuchExport()
	case job.State == jobs.Canceled:
		return nil, principal, noSuchExport()
	}
	allowed, err := scope.ReadSnapshot(job.Authorization)
	if err != nil { // it cannot have read anything
		s.logger.ErrorContext(ctx, "an export has no record of what it may read", "error", err)
		return nil, principal, noSuchExport()
	}
	switch expired, err := s.expired(ctx, job); {
	case err != nil:
		return nil, principal, err
	case expired:
		return nil, principal, noSuchExport()
	case job.Request.Level == jobs.LevelGroup && !principal.Groups.Allows(job.Request.GroupID): // any more
		s.alert(w, r, principal, id, reasonGroup)
		return nil, principal, noSuchExport()
	case !principal.Grant.Covers(allowed):
		s.alert(w, r, principal, id, reasonScope)
		types, _ := allowed.Names()
		return nil, principal, &scope.RefusedError{Types: types}
	}
	return job, principal, nil
}

// expired reports whether the time of an export is up. The store's clock
// decides, since that of this machine may be wrong.
func (s *server) expired(ctx context.Context, job *jobs.Job) (bool, error) {
	if job.ExpiresAt.IsZero() || s.now().Before(job.ExpiresAt) {
		return false, nil
	}
	clock, err := s.Jobs.Load(ctx, "clock") // there is no such value, but each answer has the time
	return err == nil && !clock.Now.Before(job.ExpiresAt), err
}

// status answers polls and deletions.
func (s *server) status(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), storeTimeout)
	defer cancel()
	job, principal, err := s.export(ctx, w, r, s.limits.polls)
	if err != nil {
		return err
	}
	if r.Method == http.MethodDelete {
		return s.cancel(ctx, w, r, principal, job.ID)
	}
	now := s.now()
	if wait := s.limits.perExport.take(string(job.ID), now); wait > 0 {
		return tooOften(wait)
	}
	age := now.Sub(job.CreatedAt)
	switch {
	case !job.State.Ended() || age >= 0 && age < minInProgress:
		writeInProgress(w, job, age)
	case job.State == jobs.Completed:
		return s.writeComplete(w, r, principal, job)
	default:
		writeFailed(w, job)
	}
	return nil
}

// writeInProgress writes no body: some clients take any JSON for a manifest.
func writeInProgress(w http.ResponseWriter, job *jobs.Job, age time.Duration) {
	guard(w.Header())
	w.Header().Set("X-Progress", progressHeader(job))
	w.Header().Set("Retry-After", strconv.Itoa(pollAfter(age)))
	w.WriteHeader(http.StatusAccepted)
}

func writeFailed(w http.ResponseWriter, job *jobs.Job) {
	reason := job.Failure
	if reason == "" {
		reason = "The export failed."
	}
	writeOutcome(w, http.StatusInternalServerError, fhir.Issue{
		Severity: fhir.SeverityError, Code: fhir.IssueProcessing, Diagnostics: reason,
	})
}

// writeComplete answers with the manifest. Expires is when the export goes; a
// link in the manifest may end sooner, and asking again brings a fresh one.
func (s *server) writeComplete(w http.ResponseWriter, r *http.Request, p auth.Principal, job *jobs.Job) error {
	address := func(f jobs.File) string { return s.fileURL(job.ID, f) }
	needsToken := s.Auth.RequiresToken()
	event := s.event(r, audit.KindManifest, audit.OutcomeDone)
	by(&event, p)
	event.Job, event.Files, event.Delivery = string(job.ID), len(job.Files), "gateway"
	for _, f := range job.Files {
		event.Resources += f.Count
		event.Bytes += f.Size
	}
	if s.linked(job) {
		links, err := s.links(r.Context(), job)
		if err != nil {
			return err
		}
		address, needsToken = func(f jobs.File) string { return links[f.Name] }, false
		event.Delivery, event.Expires = "link", s.now().Add(s.LinkTTL).UTC()
	}
	if r.Method != http.MethodHead { // which sends no manifest
		if err := s.record(r.Context(), event); err != nil {
			return err
		}
	}
	var body bytes.Buffer
	if err := WriteManifest(&body, job, address, needsToken); err != nil {
		return err
	}
	if !job.ExpiresAt.IsZero() {
		w.Header().Set("Expires", job.ExpiresAt.UTC().Format(http.TimeFormat))
	}
	writeBody(w, http.StatusOK, "application/json", body.Bytes())
	return nil
}

// cancel deletes an export, whether it runs or has ended.
func (s *server) cancel(ctx context.Context, w http.ResponseWriter, r *http.Request, p auth.Principal, id jobs.ID) error {
	if s.crossSite(r) {
		return fromElsewhere()
	}
	if err := s.Jobs.Cancel(ctx, id); err != nil {
		return err
	}
	event := s.event(r, audit.KindRemoval, audit.OutcomeBegun)
	by(&event, p)
	event.Job = string(id)
	s.note(ctx, event)
	writeOutcome(w, http.StatusAccepted, fhir.Issue{
		Severity: fhir.SeverityInformation, Code: fhir.IssueInformational,
		Diagnostics: "The export was deleted; its files are being removed.",
	})
	return nil
}

// pollAfter is Retry-After of an export of some age: 1 to 10 seconds. Suites
// and clients want small whole numbers.
func pollAfter(age time.Duration) int {
	return int(min(1+max(age, 0)/(15*time.Second), 10))
}

// progressHeader is X-Progress: a number, a percent sign and words, under 100
// characters. It never says 100%: what has ended is not in progress.
func progressHeader(job *jobs.Job) string {
	p := job.Progress
	switch {
	case job.State == jobs.Queued:
		return "0% done: waiting for its turn"
	case p.Types == nil:
		return "0% done: counting what there is"
	}
	done, _ := p.Done()
	expected := max(p.Expected(), done)
	if expected > 0 {
		return fmt.Sprintf("%d%% done: %d of %d resources", min(percent(done, expected), 99), done, expected)
	}
	return fmt.Sprintf("%d%% done: %d of %d steps", min(percent(p.UnitsDone, p.UnitsTotal), 99), p.UnitsDone, p.UnitsTotal)
}

func percent(part, whole int64) int64 {
	if whole <= 0 {
		return 0
	}
	return int64(float64(part) / float64(whole) * 100)
}
