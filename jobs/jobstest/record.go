package jobstest

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/go-cmp/cmp"

	"spillway/jobs"
)

var recordTests = []test{
	{name: "CreateThenGet", run: testCreateThenGet},
	{name: "CreateCountsItsUnit", run: func(f *fixture) {
		j := f.create()
		if p := f.get(j.ID).Progress; p.UnitsTotal != 1 || p.UnitsDone != 0 || p.Types != nil {
			f.Errorf("Progress = %+v, want one unit to do and no types", p)
		}
	}},
	{name: "ErrExists", run: testCreateTwice},
	{name: "ErrNotFound", run: func(f *fixture) {
		f.create()
		if _, err := f.Get(f.Context(), jobs.NewID()); !errors.Is(err, jobs.ErrNotFound) {
			f.Errorf("Get of an unknown id = %v, want ErrNotFound", err)
		}
		if _, err := f.Done(f.Context(), jobs.NewID()); !errors.Is(err, jobs.ErrNotFound) {
			f.Errorf("Done of an unknown id = %v, want ErrNotFound", err)
		}
	}},
	{name: "List", run: testList},
	{name: "DoneInOrder", run: testDoneInOrder},
	{name: "SharesNoMemory", run: testSharesNoMemory},
	{name: "Ping", run: func(f *fixture) { f.ok(f.Ping(f.Context()), "Ping") }},
	{name: "ContextEnded", run: testContextEnded},
}

// request has every field set.
func request() jobs.Request {
	since := time.Date(2024, 2, 29, 23, 59, 59, 123_000_000, time.UTC)
	return jobs.Request{
		Level: jobs.LevelGroup, GroupID: "g-1",
		OutputFormat: "ndjson", Types: []string{"Patient", "Observation"},
		Since: since, Until: since.Add(time.Hour),
		TypeFilters:           []jobs.TypeFilter{{Type: "Observation", Query: "status=final&code=a%7Cb<>"}},
		Elements:              []jobs.Element{{Type: "Patient", Name: "name"}, {Name: "id"}},
		Patients:              []string{"p1", "p2"},
		IncludeAssociatedData: []string{jobs.LatestProvenance},
		Lenient:               true,
		Notes:                 []jobs.Note{{Severity: jobs.SeverityWarning, Code: "not-supported", Text: "ä \u2028 <b>"}},
		URL:                   "http://localhost/fhir/Group/g-1/$export?_type=Patient&_since=x",
	}
}

func testCreateThenGet(f *fixture) {
	j, first := jobs.New(request(), "client@https%3A%2F%2Fas.example", f.created)
	j.Authorization = json.RawMessage(`{"types":{"Patient":{"any":[[{"name":"_security","value":"http://x|N"}]]}}}`)
	want := j.Clone()
	want.Progress.UnitsTotal = 1
	f.ok(f.Create(f.Context(), j, first), "Create")
	if diff := cmp.Diff(want, f.get(j.ID), equal()); diff != "" {
		f.Errorf("Get after Create (-want +got):\n%s", diff)
	}
}

func testCreateTwice(f *fixture) {
	j := f.create()
	other, first := f.job()
	other.ID, other.Owner = j.ID, "another"
	if err := f.Create(f.Context(), other, first); !errors.Is(err, jobs.ErrExists) {
		f.Errorf("a second Create with one id = %v, want ErrExists", err)
	}
	if got := f.get(j.ID); got.Owner != j.Owner {
		f.Errorf("the owner is now %q, want the first job untouched", got.Owner)
	}
	f.claimUnit("plan")
	f.noWork("the second Create added nothing")
}

func testList(f *fixture) {
	if all, err := f.List(f.Context()); err != nil || len(all) != 0 {
		f.Errorf("List of an empty store = %d jobs, %v", len(all), err)
	}
	completed := f.planned()
	l := f.claimUnit("finish")
	f.complete(l, jobs.Result{
		Files:    []jobs.File{{Name: "1.Patient.ndjson", Kind: jobs.KindOutput, Type: "Patient"}},
		Evidence: []jobs.Evidence{{Type: "Patient"}},
	})
	want := []*jobs.Job{completed, f.create(), f.create()}
	all, err := f.List(f.Context())
	f.ok(err, "List")
	if len(all) != len(want) {
		f.Fatalf("List = %d jobs, want %d", len(all), len(want))
	}
	for i, j := range all {
		whole := f.get(want[i].ID)
		whole.Files, whole.Evidence = nil, nil
		if diff := cmp.Diff(whole, j, equal()); diff != "" {
			f.Errorf("job %d of List, oldest first, without files and evidence (-want +got):\n%s", i, diff)
		}
	}
}

func testDoneInOrder(f *fixture) {
	j := f.planned(slices(3, 5)...)
	if d := f.done(j.ID); len(d) != 1 || d[0].Unit.ID != "plan" {
		f.Fatalf("Done after the plan = %+v", d)
	}
	first, second, third := f.claim(), f.claim(), f.claim()
	f.ok(f.Release(f.Context(), second, time.Time{}), "Release")
	second = f.claimUnit(second.Unit.ID) // a second attempt
	var want []jobs.Done
	for _, l := range []*jobs.Lease{third, first, second} {
		r := jobs.Result{
			Segments: []jobs.Segment{{
				Key: string(l.Job) + "/" + l.Unit.ID + "/1", Kind: jobs.KindOutput, Type: "Patient",
				Encoding: jobs.EncodingGzip, Count: 5, Size: 500, StoredSize: 50, SHA256: "abc",
			}},
			Summary: json.RawMessage(`{"n": 1.10, "text": "<&>"}`),
		}
		f.complete(l, r)
		want = append(want, jobs.Done{Unit: l.Unit, Attempt: l.Attempt, Result: r})
	}
	if second.Attempt != 2 {
		f.Errorf("the attempt after a release = %d, want 2", second.Attempt)
	}
	if diff := cmp.Diff(want, f.done(j.ID)[1:], equal()); diff != "" {
		f.Errorf("Done in the order of completion (-want +got):\n%s", diff)
	}
}

func testSharesNoMemory(f *fixture) {
	j, first := jobs.New(request(), "client", f.created)
	first.Spec = json.RawMessage(`{"spec":1}`)
	want := j.Clone()
	f.ok(f.Create(f.Context(), j, first), "Create")
	j.Owner, j.Request.Types[0], j.Request.TypeFilters[0].Query = "x", "x", "x"
	copy(first.Spec, "xxxxx")

	got := f.get(j.ID)
	got.Request.Patients[0], got.Request.Notes[0].Text = "x", "x"
	l, claimed, err := f.Claim(f.Context(), "worker")
	f.ok(err, "Claim")
	claimed.Request.Types[0] = "x"
	if compact(l.Unit.Spec) != `{"spec":1}` {
		f.Errorf("Spec = %s, want what was given to Create", l.Unit.Spec)
	}
	copy(l.Unit.Spec, "xxxxx")
	if diff := cmp.Diff(want.Request, f.get(j.ID).Request, equal()); diff != "" || f.get(j.ID).Owner != "client" {
		f.Errorf("the stored job changed with its copies (-want +got):\n%s", diff)
	}

	checkpoint := json.RawMessage(`{"checkpoint":1}`)
	f.ok(f.Save(f.Context(), l, checkpoint), "Save")
	copy(checkpoint, "xxxxx")
	f.ok(f.Release(f.Context(), l, time.Time{}), "Release")
	l = f.claim()
	if compact(l.Checkpoint) != `{"checkpoint":1}` || compact(l.Unit.Spec) != `{"spec":1}` {
		f.Errorf("Checkpoint = %s, Spec = %s; want what was stored", l.Checkpoint, l.Unit.Spec)
	}

	r := jobs.Result{
		Next:     append(slices(1, 1), jobs.Unit{ID: "finish", Kind: jobs.UnitFinish}),
		Segments: []jobs.Segment{{Key: "k", Kind: jobs.KindOutput, Type: "Patient", Count: 1}},
		Summary:  json.RawMessage(`{"summary":1}`),
	}
	r.Next[0].Spec = json.RawMessage(`{"next":1}`)
	f.complete(l, r)
	copy(r.Summary, "xxxxx")
	copy(r.Next[0].Spec, "xxxxx")
	r.Segments[0].Key, r.Next[0].ID = "x", "x"
	f.get(j.ID).Progress.Types["Patient"] = jobs.TypeProgress{Done: 99}
	d := f.done(j.ID)[0]
	d.Result.Segments[0].Count = 99
	d = f.done(j.ID)[0]
	if d.Result.Segments[0].Key != "k" || d.Result.Segments[0].Count != 1 || compact(d.Result.Summary) != `{"summary":1}` ||
		f.get(j.ID).Progress.Types["Patient"].Done != 1 || compact(f.claimUnit("slice-0").Unit.Spec) != `{"next":1}` {
		f.Errorf("the stored result changed with its copies: %+v", d)
	}
}

func testContextEnded(f *fixture) {
	j := f.create()
	ctx, cancel := context.WithCancel(f.Context())
	cancel()
	other, first := f.job()
	for name, err := range map[string]error{
		"Create": f.Create(ctx, other, first),
		"Get":    second(f.Get(ctx, j.ID)),
		"List":   second(f.List(ctx)),
		"Cancel": f.Cancel(ctx, j.ID),
		"Idle":   f.Idle(ctx),
	} {
		if !errors.Is(err, context.Canceled) {
			f.Errorf("%s after the context ended = %v, want context.Canceled", name, err)
		}
	}
	f.wantState(j.ID, jobs.Queued)
}

func second[T any](_ T, err error) error { return err }
