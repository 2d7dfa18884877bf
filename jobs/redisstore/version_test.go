package redisstore_test

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"spillway/jobs"
	"spillway/jobs/redisstore"
	"spillway/test/testenv"
)

// TestNewerProgramBeside has a program of a later version work on the same
// Redis, in the same layout: its jobs stand in all indexes, with its version.
func TestNewerProgramBeside(t *testing.T) {
	const newer = jobs.RecordVersion + 1
	r := testenv.Redis(t)
	clock := &shift{}
	s := open(t, redisstore.Options{URL: r.URL(), Shift: clock.Get})
	key := func(name string) string { return "{spillway}:" + name }
	upgrade := func(j *jobs.Job, index string) {
		r.CLI("HSET", key("job:"+string(j.ID)), "version", strconv.Itoa(newer))
		if index != "" {
			r.CLI("ZREM", key(index), string(j.ID)+" "+strconv.Itoa(jobs.RecordVersion)+" client")
			r.CLI("ZADD", key(index), strconv.FormatInt(j.CreatedAt.UnixMicro(), 10), string(j.ID)+" "+strconv.Itoa(newer)+" client")
		}
	}
	running := planned(t, s, 3)
	l := claim(t, s)
	upgrade(running, "running")
	queued := create(t, s)
	upgrade(queued, "queued")
	ended := create(t, s)
	if err := s.Cancel(t.Context(), ended.ID); err != nil {
		t.Fatal(err)
	}
	upgrade(ended, "")
	r.CLI("INCR", key("epoch")) // as that program does

	clock.Advance(time.Hour) // the lease has run out
	for range 3 {
		if l, _, err := s.Claim(t.Context(), "worker"); !errors.Is(err, jobs.ErrNoWork) {
			t.Fatalf("Claim = %v, %v; no job is ours", l, err)
		}
	}
	began := time.Now()
	for range 2 { // the first may tell of what has changed
		if err := s.Idle(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took < 900*time.Millisecond {
		t.Errorf("Idle returned after %v, though there is nothing to wait for but the lease of another", took)
	}
	if ids, err := s.Removable(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("Removable = %d jobs, %v; want none", len(ids), err)
	}
	for _, j := range []*jobs.Job{running, queued, ended} {
		if err := s.Remove(t.Context(), j.ID); err == nil {
			t.Error("Remove of a job of a newer version succeeded")
		}
		if got, err := s.Get(t.Context(), j.ID); err != nil || got.State == jobs.Failed {
			t.Errorf("Get = %v, %v; want the job untouched", got, err)
		}
	}
	if n := r.CLI("ZCARD", key("leases")); n != "1" {
		t.Errorf("%s leases, want that of attempt %d of the newer program", n, l.Attempt)
	}
	own := planned(t, s, 1)
	if l := claim(t, s); l.Job != own.ID {
		t.Error("the own job is not served")
	}
}
