package jobstest

import (
	"encoding/json"
	"time"

	"spillway/jobs"
)

var completeTests = []test{
	{name: "Progress", run: testProgress},
	{name: "FinishCompletes", run: testFinishCompletes},
	{name: "TransactionTimeByPlanOnly", run: testTransactionTime},
	{name: "RefusedResults", run: testRefusedResults},
}

func testProgress(f *fixture) {
	j := f.create()
	unit := func(id string, k jobs.UnitKind, typ string, weight int64) jobs.Unit {
		return jobs.Unit{ID: id, Kind: k, Type: typ, Weight: weight}
	}
	segment := func(k jobs.FileKind, typ string, count, size int64) jobs.Segment {
		return jobs.Segment{Kind: k, Type: typ, Count: count, Size: size, StoredSize: size / 10}
	}
	steps := []struct {
		unit                 string
		result               jobs.Result
		done, total          int64
		resources, bytes, of int64
		types                map[string]jobs.TypeProgress
	}{
		{"plan", jobs.Result{Next: []jobs.Unit{
			unit("o1", jobs.UnitSlice, "Observation", 100), unit("o2", jobs.UnitSlice, "Observation", 50), unit("p", jobs.UnitSlice, "Patient", 7),
			unit("all", jobs.UnitSlice, "", 3), unit("tail", jobs.UnitTail, "Patient", 1000), unit("finish", jobs.UnitFinish, "", 0),
		}}, 1, 7, 0, 0, 157, map[string]jobs.TypeProgress{"Observation": {Expected: 150}, "Patient": {Expected: 7}}},
		{"o1", jobs.Result{Segments: []jobs.Segment{
			segment(jobs.KindOutput, "Observation", 60, 6000), segment(jobs.KindOutput, "Observation", 41, 4100),
			segment(jobs.KindOutcome, "OperationOutcome", 5, 500), segment(jobs.KindDeleted, "Bundle", 2, 200),
		}}, 2, 7, 101, 10100, 157, map[string]jobs.TypeProgress{"Observation": {Expected: 150, Done: 101, Bytes: 10100}, "Patient": {Expected: 7}}},
		{"o2", jobs.Result{Next: []jobs.Unit{unit("o3", jobs.UnitSlice, "Observation", 20)}},
			3, 8, 101, 10100, 177, map[string]jobs.TypeProgress{"Observation": {Expected: 170, Done: 101, Bytes: 10100}, "Patient": {Expected: 7}}},
		{"o3", jobs.Result{Segments: []jobs.Segment{segment(jobs.KindOutput, "Observation", 1, 10), segment(jobs.KindOutput, "Provenance", 2, 20)}},
			4, 8, 104, 10130, 177, map[string]jobs.TypeProgress{"Observation": {Expected: 170, Done: 102, Bytes: 10110}, "Patient": {Expected: 7}, "Provenance": {Expected: 0, Done: 2, Bytes: 20}}},
	}
	for _, step := range steps {
		f.complete(f.claimUnit(step.unit), step.result)
		p := f.get(j.ID).Progress
		resources, bytes := p.Done()
		if p.UnitsDone != step.done || p.UnitsTotal != step.total || resources != step.resources || bytes != step.bytes || p.Expected() != step.of {
			f.Errorf("after %s: %+v, want %d of %d units, %d of %d resources, %d bytes", step.unit, p, step.done, step.total, step.resources, step.of, step.bytes)
		}
		if len(p.Types) != len(step.types) {
			f.Errorf("after %s: types %+v, want %+v", step.unit, p.Types, step.types)
		}
		for typ, want := range step.types {
			if p.Types[typ] != want {
				f.Errorf("after %s: %s = %+v, want %+v", step.unit, typ, p.Types[typ], want)
			}
		}
	}
	// What failed, was released or saved counts nothing.
	before := f.get(j.ID).Progress
	l := f.claim()
	f.ok(f.Save(f.Context(), l, json.RawMessage(`1`)), "Save")
	f.ok(f.Fail(f.Context(), l, jobs.Failure{Reason: "no"}, 0), "Fail")
	f.ok(f.Release(f.Context(), f.claim(), time.Time{}), "Release")
	if p := f.get(j.ID).Progress; p.UnitsDone != before.UnitsDone || p.UnitsTotal != before.UnitsTotal || p.Expected() != before.Expected() {
		f.Errorf("after a failure and a release: %+v, want %+v", p, before)
	}
}

func testFinishCompletes(f *fixture) {
	j := f.planned(slices(1, 1)...)
	f.complete(f.claimUnit("slice-0"), jobs.Result{})
	l := f.claimUnit("finish")
	r := jobs.Result{
		Files: []jobs.File{
			{Name: "2.Patient.ndjson", Kind: jobs.KindOutput, Type: "Patient", Count: 2, Size: 20, Segments: []jobs.Segment{{Key: "b"}, {Key: "a"}}},
			{Name: "1.error.ndjson", Kind: jobs.KindOutcome, Type: "OperationOutcome", Count: 1, Size: 10},
		},
		Evidence: []jobs.Evidence{{Type: "Patient", Counted: 2, Exported: 2, Proven: true}, {Type: "Device", Counted: -1}},
		Summary:  json.RawMessage(`"finished"`),
	}
	f.complete(l, r)
	got := f.wantState(j.ID, jobs.Completed)
	f.wantEnd(got)
	if got.Progress.UnitsDone != 3 || got.Progress.UnitsTotal != 3 {
		f.Errorf("Progress = %+v, want 3 of 3 units", got.Progress)
	}
	if diff := diffOf(r.Files, got.Files) + diffOf(r.Evidence, got.Evidence); diff != "" {
		f.Errorf("files and evidence (-want +got):\n%s", diff)
	}
	done := f.done(j.ID)
	if diff := diffOf(jobs.Done{Unit: l.Unit, Attempt: 1, Result: r}, done[len(done)-1]); diff != "" {
		f.Errorf("the finish unit in Done (-want +got):\n%s", diff)
	}
	got.Files[0].Segments[0].Key = "x"
	if f.get(j.ID).Files[0].Segments[0].Key != "b" {
		f.Error("the stored files changed with a copy")
	}
	f.refused(l, jobs.ErrEnded, jobs.ErrLeaseLost)
	f.noWork("the job has completed")
}

func testTransactionTime(f *fixture) {
	j := f.create()
	if got := f.get(j.ID); !got.TransactionTime.IsZero() {
		f.Errorf("TransactionTime before the plan = %v, want zero", got.TransactionTime)
	}
	want := time.Date(2024, 5, 6, 7, 8, 9, 123_000_000, time.UTC)
	f.complete(f.claim(), jobs.Result{TransactionTime: want, Next: append(slices(1, 1), jobs.Unit{ID: "finish", Kind: jobs.UnitFinish})})
	for range 2 {
		if got := f.get(j.ID); !got.TransactionTime.Equal(want) {
			f.Errorf("TransactionTime = %v, want %v as the plan set it", got.TransactionTime, want)
		}
		f.complete(f.claim(), jobs.Result{TransactionTime: want.Add(time.Hour)}) // not theirs to set
	}
	if got := f.wantState(j.ID, jobs.Completed); !got.TransactionTime.Equal(want) {
		f.Errorf("TransactionTime at the end = %v, want %v", got.TransactionTime, want)
	}
}

// A result that breaks a rule of Unit or Result, or leaves nobody to finish the
// job, is the runner's mistake: nothing is recorded, and the lease goes on.
func testRefusedResults(f *fixture) {
	j := f.planned(slices(1, 1)...)
	l := f.claimUnit("slice-0")
	for name, next := range map[string][]jobs.Unit{
		"a unit of an earlier stage": {{ID: "new", Kind: jobs.UnitPlan}},
		"an id that is in use":       {{ID: "finish", Kind: jobs.UnitFinish}},
		"its own id":                 {{ID: "slice-0", Kind: jobs.UnitSlice}},
		"an id of a done unit":       {{ID: "plan", Kind: jobs.UnitSlice}},
		"one id twice":               {{ID: "new", Kind: jobs.UnitSlice}, {ID: "new", Kind: jobs.UnitSlice}},
		"an empty id":                {{Kind: jobs.UnitSlice}},
		"an id with a slash":         {{ID: "a/b", Kind: jobs.UnitSlice}},
	} {
		if err := f.Complete(f.Context(), l, jobs.Result{Next: next}); err == nil {
			f.Fatalf("Complete with %s succeeded", name)
		}
		f.untouched(j)
	}
	f.complete(l, jobs.Result{})
	l = f.claimUnit("finish")
	f.ok(f.Release(f.Context(), l, time.Time{}), "Release")

	lost := f.create()
	plan := f.claimOf(lost)
	if err := f.Complete(f.Context(), plan, jobs.Result{}); err == nil {
		f.Fatal("Complete of the only unit, which is no finish unit, succeeded: the job would never end")
	}
	f.ok(f.Renew(f.Context(), plan), "Renew after a refused result")
}
