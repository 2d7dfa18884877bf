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

// export returns the export that a status or file request names, as the store
// has it at this moment: another replica may just have changed it. One that the
// client may not see does not exist for it: of another client, deleted, expired.
func (s *server) export(ctx context.Context, r *http.Request) (*jobs.Job, error) {
	principal, err := s.Auth.Authenticate(r)
	if err != nil {
		return nil, err
	}
	id, ok := jobs.ParseID(mux.Vars(r)["id"])
	if !ok {
		return nil, noSuchExport()
	}
	job, err := s.Jobs.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	foreign := subtle.ConstantTimeCompare([]byte(job.Owner), []byte(principal.ClientID)) == 0
	if foreign || job.State == jobs.Canceled {
		return nil, noSuchExport()
	}
	switch expired, err := s.expired(ctx, job); {
	case err != nil:
		return nil, err
	case expired:
		return nil, noSuchExport()
	}
	return job, nil
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
	job, err := s.export(ctx, r)
	if err != nil {
		return err
	}
	if r.Method == http.MethodDelete {
		return s.cancel(ctx, w, job.ID)
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
		return s.writeComplete(w, r, job)
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
func (s *server) writeComplete(w http.ResponseWriter, r *http.Request, job *jobs.Job) error {
	address := func(f jobs.File) string { return s.fileURL(job.ID, f) }
	needsToken := s.Auth.RequiresToken()
	if s.linked(job) {
		links, err := s.links(r.Context(), job)
		if err != nil {
			return err
		}
		address, needsToken = func(f jobs.File) string { return links[f.Name] }, false
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
func (s *server) cancel(ctx context.Context, w http.ResponseWriter, id jobs.ID) error {
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
