package jobstest

import (
	"time"

	"spillway/jobs"
)

var failureTests = []test{
	{name: "RetryIn", run: testRetryIn},
	{name: "QuarantineAfterFailures", run: testQuarantineAfterFailures},
	{name: "QuarantineAfterSilence", run: testQuarantineAfterSilence},
	{name: "QuarantineAfterBoth", run: testQuarantineAfterBoth},
	{name: "Permanent", run: testPermanent},
	{name: "ReleaseIsBlameless", run: testReleaseIsBlameless},
	{name: "ReleaseNotBefore", run: testReleaseNotBefore},
	{name: "OthersGoOn", run: testOthersGoOn},
}

func testRetryIn(f *fixture) {
	f.planned(slices(1, 1)...)
	l := f.claim()
	f.ok(f.Fail(f.Context(), l, jobs.Failure{Reason: "search Patient: 500"}, time.Minute), "Fail")
	f.refused(l, jobs.ErrLeaseLost)
	f.noWork("the retry is in a minute")
	f.advance(50 * time.Second)
	f.noWork("the retry is in seconds")
	f.advance(11 * time.Second)
	if l = f.claimUnit("slice-0"); l.Tries != 1 || l.Silent != 0 || l.Attempt != 2 {
		f.Errorf("tries %d, silent %d, attempt %d; want 1, 0, 2", l.Tries, l.Silent, l.Attempt)
	}
	f.ok(f.Fail(f.Context(), l, jobs.Failure{Reason: "search Patient: 500"}, 0), "Fail")
	if l = f.claimUnit("slice-0"); l.Tries != 2 {
		f.Errorf("tries %d, want 2", l.Tries)
	}
}

func testQuarantineAfterFailures(f *fixture) {
	j := f.planned(slices(2, 1)...)
	for try := range jobs.MaxTries {
		f.wantState(j.ID, jobs.Running)
		l := f.claimUnit("slice-0")
		if l.Tries != try {
			f.Errorf("tries %d, want %d", l.Tries, try)
		}
		reason := "earlier"
		if try == jobs.MaxTries-1 {
			reason = "search Patient was answered with 500; ask its operator"
		}
		f.ok(f.Fail(f.Context(), l, jobs.Failure{Reason: reason}, 0), "Fail")
	}
	got := f.wantState(j.ID, jobs.Failed)
	if got.Failure != "search Patient was answered with 500; ask its operator" {
		f.Errorf("Failure = %q, want the reason of the last try", got.Failure)
	}
	f.wantEnd(got)
	f.noWork("the job has failed")
}

// wantEnd checks the times of a job that has just ended by itself.
func (f *fixture) wantEnd(j *jobs.Job) {
	f.Helper()
	if j.EndedAt.IsZero() || j.EndedAt.Before(j.StartedAt) {
		f.Errorf("EndedAt = %v, want a time after StartedAt %v", j.EndedAt, j.StartedAt)
	}
	if d := j.ExpiresAt.Sub(j.EndedAt); d != retention {
		f.Errorf("ExpiresAt is %v after EndedAt, want %v", d, retention)
	}
}

func testQuarantineAfterSilence(f *fixture) {
	j := f.planned(slices(2, 1)...)
	for try := range jobs.MaxTries {
		l := f.claimUnit("slice-0")
		if l.Tries != try {
			f.Errorf("tries %d, want %d", l.Tries, try)
		}
		f.advance(leaseTTL + time.Second)
	}
	f.noWork("the unit has fallen silent for the last time")
	if got := f.wantState(j.ID, jobs.Failed); got.Failure == "" {
		f.Error("the job failed without a reason")
	} else {
		f.wantEnd(got)
	}
}

func testQuarantineAfterBoth(f *fixture) {
	j := f.planned(slices(1, 1)...)
	for try := range jobs.MaxTries {
		l := f.claimUnit("slice-0")
		if try%2 == 0 {
			f.ok(f.Fail(f.Context(), l, jobs.Failure{Reason: "the last"}, 0), "Fail")
		} else {
			f.advance(leaseTTL + time.Second)
		}
	}
	if got := f.wantState(j.ID, jobs.Failed); got.Failure != "the last" {
		f.Errorf("Failure = %q, want the reason of the last try", got.Failure)
	}
}

func testPermanent(f *fixture) {
	j := f.planned(slices(2, 1)...)
	l, other := f.claim(), f.claim()
	f.ok(f.Fail(f.Context(), l, jobs.Failure{Reason: "the Group does not exist", Permanent: true}, time.Hour), "Fail")
	got := f.wantState(j.ID, jobs.Failed)
	if got.Failure != "the Group does not exist" {
		f.Errorf("Failure = %q, want the reason given", got.Failure)
	}
	f.wantEnd(got)
	f.refused(other, jobs.ErrEnded)
	f.noWork("the job has failed")
	f.advance(leaseTTL + time.Second)
	f.noWork("the job has failed")
}

func testReleaseIsBlameless(f *fixture) {
	j := f.planned(slices(1, 1)...)
	for i := range 2 * jobs.MaxTries {
		l := f.claimUnit("slice-0")
		if l.Tries != 0 {
			f.Fatalf("after %d releases: tries %d, want 0", i, l.Tries)
		}
		f.ok(f.Release(f.Context(), l, time.Time{}), "Release")
	}
	f.ok(f.Fail(f.Context(), f.claim(), jobs.Failure{Reason: "no"}, 0), "Fail")
	f.ok(f.Release(f.Context(), f.claim(), time.Time{}), "Release")
	if l := f.claim(); l.Tries != 1 {
		f.Errorf("after a failure and a release: tries %d, want 1", l.Tries)
	}
	f.wantState(j.ID, jobs.Running)
}

func testReleaseNotBefore(f *fixture) {
	f.planned(slices(2, 1)...)
	l := f.claimUnit("slice-0")
	f.ok(f.Release(f.Context(), l, now(l).Add(time.Minute)), "Release")
	f.complete(f.claimUnit("slice-1"), jobs.Result{})
	f.noWork("the released unit waits")
	f.advance(61 * time.Second)
	if again := f.claimUnit("slice-0"); again.Attempt != 2 || !again.Unit.NotBefore.Equal(l.Unit.NotBefore) {
		f.Errorf("attempt %d of a unit with NotBefore %v, want 2, and the unit as it was added", again.Attempt, again.Unit.NotBefore)
	}
}

func testOthersGoOn(f *fixture) {
	poisoned := f.create()
	for range jobs.MaxTries {
		f.ok(f.Fail(f.Context(), f.claim(), jobs.Failure{Reason: "no"}, 0), "Fail")
	}
	f.wantState(poisoned.ID, jobs.Failed)
	j := f.planned(slices(1, 1)...)
	f.finish(j)
}
