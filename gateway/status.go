package gateway

import (
	"bytes"
	"context"
	"crypto/subtle"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/gorilla/mux"

	"spillway/jobs"
	"spillway/upstream/fhir"
)

// minInProgress is how long an export is said to run, even if it has ended:
// clients and suites expect that their first poll finds it in progress.
const minInProgress = 500 * time.Millisecond

// export returns the export that a status or file request names. One that the
// client may not see does not exist for it: of another client, deleted, expired.
func (s *server) export(r *http.Request) (*jobs.Job, error) {
	principal, err := s.Auth.Authenticate(r)
	if err != nil {
		return nil, err
	}
	id, ok := jobs.ParseID(mux.Vars(r)["id"])
	if !ok {
		return nil, noSuchExport()
	}
	ctx, cancel := context.WithTimeout(r.Context(), storeTimeout)
	defer cancel()
	job, err := s.Jobs.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	foreign := subtle.ConstantTimeCompare([]byte(job.Owner), []byte(principal.ClientID)) == 0
	expired := !job.ExpiresAt.IsZero() && !s.now().Before(job.ExpiresAt)
	if foreign || expired || job.State == jobs.Canceled {
		return nil, noSuchExport()
	}
	return job, nil
}

// status answers polls and deletions.
func (s *server) status(w http.ResponseWriter, r *http.Request) error {
	job, err := s.export(r)
	if err != nil {
		return err
	}
	if r.Method == http.MethodDelete {
		return s.cancel(w, r, job.ID)
	}
	now := s.now()
	if !s.polls.allow(job.ID, now) {
		return refuse(http.StatusTooManyRequests, fhir.IssueThrottled,
			"The status is asked for too often; wait as long as Retry-After says.").retryAfter(time.Second)
	}
	age := now.Sub(job.CreatedAt)
	switch {
	case !job.State.Ended() || age >= 0 && age < minInProgress:
		writeInProgress(w, job, age)
	case job.State == jobs.Completed:
		return s.writeComplete(w, job)
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

func (s *server) writeComplete(w http.ResponseWriter, job *jobs.Job) error {
	var body bytes.Buffer
	fileURL := func(f jobs.File) string { return s.fileURL(job.ID, f) }
	if err := WriteManifest(&body, job, fileURL, s.Auth.RequiresToken()); err != nil {
		return err
	}
	if !job.ExpiresAt.IsZero() {
		w.Header().Set("Expires", job.ExpiresAt.UTC().Format(http.TimeFormat))
	}
	writeBody(w, http.StatusOK, "application/json", body.Bytes())
	return nil
}

// cancel deletes an export, whether it runs or has ended.
func (s *server) cancel(w http.ResponseWriter, r *http.Request, id jobs.ID) error {
	ctx, cancel := context.WithTimeout(r.Context(), storeTimeout)
	defer cancel()
	if err := s.Jobs.Cancel(ctx, id); err != nil {
		return err
	}
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
