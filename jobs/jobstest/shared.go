package jobstest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"spillway/jobs"
)

var sharedTests = []test{
	{name: "LoadOfNothing", run: func(f *fixture) { f.wantShared("name", 0, "") }},
	{name: "Swap", run: testSwap},
	{name: "RunsOut", run: testSharedRunsOut},
	{name: "NamesAreApart", run: testNamesAreApart},
	{name: "Refused", run: testSharedRefused},
	{name: "SharesNoMemory", run: func(f *fixture) {
		value := []byte("value")
		v, _, err := f.Swap(f.Context(), "name", 0, value, time.Minute)
		f.ok(err, "Swap")
		copy(value, "xxxxx")
		if string(v.Bytes) != "value" {
			f.Errorf("what Swap returned is now %q", v.Bytes)
		}
		copy(v.Bytes, "yyyyy")
		f.wantShared("name", v.Version, "value")
	}},
	{name: "IncrementsByMany", run: testIncrements},
}

// wantShared loads a shared value, of any version but 0 if it is given as -1.
func (f *fixture) wantShared(name string, version int64, want string) jobs.Shared {
	f.Helper()
	v, err := f.Load(f.Context(), name)
	f.ok(err, "Load")
	if v.Version != version || string(v.Bytes) != want {
		f.Fatalf("Load of %s = version %d, %q; want %d, %q", name, v.Version, v.Bytes, version, want)
	}
	if v.Now.IsZero() {
		f.Error("Load did not say what time it is")
	}
	return v
}

// swap swaps and says whether that should succeed. It returns what there is then.
func (f *fixture) swap(version int64, value string, ttl time.Duration, want bool) jobs.Shared {
	f.Helper()
	v, swapped, err := f.Swap(f.Context(), "name", version, []byte(value), ttl)
	f.ok(err, "Swap")
	if swapped != want {
		f.Fatalf("Swap of version %d = %t, want %t", version, swapped, want)
	}
	if swapped && (v.Version <= version || string(v.Bytes) != value) {
		f.Fatalf("Swap gave version %d, %q; want one greater than %d, %q", v.Version, v.Bytes, version, value)
	}
	if v.Now.IsZero() {
		f.Error("Swap did not say what time it is")
	}
	return f.wantShared("name", v.Version, string(v.Bytes))
}

func testSwap(f *fixture) {
	f.swap(7, "x", time.Minute, false) // there is none
	first := f.swap(0, "a", time.Minute, true)
	f.swap(0, "x", time.Minute, false)
	f.swap(first.Version+1, "x", time.Minute, false)
	f.advance(time.Second)
	second := f.swap(first.Version, "\x00\xff'\"\n", time.Minute, true)
	if !second.Now.After(first.Now) {
		f.Errorf("a second later the store's clock shows %v, before that %v", second.Now, first.Now)
	}
	if v := f.swap(first.Version, "x", time.Minute, false); v.Version != second.Version {
		f.Errorf("a refused Swap left version %d, want %d", v.Version, second.Version)
	}
	third := f.swap(second.Version, "", time.Minute, true)
	f.swap(third.Version, strings.Repeat("z", 64<<10), time.Minute, true)
}

func testSharedRunsOut(f *fixture) {
	first := f.swap(0, "a", time.Minute, true)
	f.advance(50 * time.Second)
	second := f.swap(first.Version, "b", time.Minute, true) // from now on
	f.advance(50 * time.Second)
	f.wantShared("name", second.Version, "b")
	f.advance(11 * time.Second)
	f.wantShared("name", 0, "")
	f.swap(second.Version, "x", time.Minute, false)
	third := f.swap(0, "c", time.Hour, true)
	for i := range 40 { // others come and go
		_, _, err := f.Swap(f.Context(), fmt.Sprint("other-", i), 0, nil, time.Second)
		f.ok(err, "Swap")
		f.advance(time.Minute)
	}
	f.wantShared("name", third.Version, "c")
	f.advance(21 * time.Minute)
	f.wantShared("name", 0, "")
}

func testNamesAreApart(f *fixture) {
	names := []string{"a", "A", "a:b", "a.b", "a-b", "a_b", "9", strings.Repeat("n", 200)}
	for i, name := range names {
		_, swapped, err := f.Swap(f.Context(), name, 0, []byte(strconv.Itoa(i)), time.Minute)
		if f.ok(err, "Swap"); !swapped {
			f.Fatalf("%s was taken", name)
		}
	}
	for i, name := range names {
		if v, err := f.Load(f.Context(), name); err != nil || string(v.Bytes) != strconv.Itoa(i) {
			f.Errorf("Load of %s = %q, %v", name, v.Bytes, err)
		}
	}
	if all, err := f.List(f.Context()); err != nil || len(all) > 0 {
		f.Errorf("List shows %d jobs, %v", len(all), err)
	}
}

func testSharedRefused(f *fixture) {
	for _, name := range []string{"", strings.Repeat("n", 201), "a/b", "a b", "ä", "a\n", "{a}", "a*"} {
		if _, err := f.Load(f.Context(), name); err == nil {
			f.Errorf("Load took the name %q", name)
		}
		if _, swapped, err := f.Swap(f.Context(), name, 0, nil, time.Minute); err == nil || swapped {
			f.Errorf("Swap took the name %q", name)
		}
	}
	for what, err := range map[string]error{
		"a value that is too long":   third(f.Swap(f.Context(), "name", 0, make([]byte, 64<<10+1), time.Minute)),
		"a time that is too short":   third(f.Swap(f.Context(), "name", 0, nil, time.Microsecond)),
		"a time that lies backwards": third(f.Swap(f.Context(), "name", 0, nil, -time.Minute)),
	} {
		if err == nil {
			f.Errorf("Swap took %s", what)
		}
	}
	f.wantShared("name", 0, "")
}

func third[T, U any](_ T, _ U, err error) error { return err }

func testIncrements(f *fixture) {
	const callers, each = 8, 15
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				v, err := f.Load(f.Context(), "counter")
				for swapped := false; !swapped; {
					if err != nil {
						f.Errorf("Load or Swap = %v", err)
						return
					}
					n, _ := strconv.Atoi(string(v.Bytes))
					v, swapped, err = f.Swap(f.Context(), "counter", v.Version, []byte(strconv.Itoa(n+1)), time.Minute)
				}
			}
		})
	}
	wg.Wait()
	if v, err := f.Load(f.Context(), "counter"); err != nil || string(v.Bytes) != strconv.Itoa(callers*each) {
		f.Errorf("the counter is at %s, %v; want %d", v.Bytes, err, callers*each)
	}
}

var sizeTests = []test{
	{name: "LargeRecords", run: testLargeRecords},
	{name: "ManyUnits", run: testManyUnits},
}

func testLargeRecords(f *fixture) {
	large := json.RawMessage(`"` + strings.Repeat("spec ", 60_000) + `"`)
	j, first := f.job()
	for i := range 10_000 {
		j.Request.Patients = append(j.Request.Patients, fmt.Sprint("patient-", i))
	}
	first.Spec = large
	f.ok(f.Create(f.Context(), j, first), "Create")
	l := f.claim()
	f.ok(f.Save(f.Context(), l, large), "Save")
	f.ok(f.Release(f.Context(), l, time.Time{}), "Release")
	l = f.claim()
	if !bytes.Equal(l.Unit.Spec, large) || !bytes.Equal(l.Checkpoint, large) {
		f.Error("a large spec or checkpoint does not come back")
	}
	next := slices(1, 1)
	next[0].Spec = large
	f.complete(l, jobs.Result{Summary: large, Next: append(next, jobs.Unit{ID: "finish", Kind: jobs.UnitFinish})})
	if d := f.done(j.ID); len(d) != 1 || !bytes.Equal(d[0].Result.Summary, large) || !bytes.Equal(d[0].Unit.Spec, large) {
		f.Error("a large result does not come back")
	}
	if l := f.claimUnit("slice-0"); !bytes.Equal(l.Unit.Spec, large) {
		f.Error("a large spec of a next unit does not come back")
	}
	if got := f.get(j.ID); len(got.Request.Patients) != 10_000 {
		f.Errorf("%d patients come back, want 10000", len(got.Request.Patients))
	}
}

func testManyUnits(f *fixture) {
	const units = 2000
	next := slices(units, 1)
	for i := range next {
		next[i].Weight = int64(i)
		next[i].Spec = json.RawMessage(fmt.Sprintf(`{"window":%d}`, i))
	}
	j := f.planned(next...)
	if p := f.get(j.ID).Progress; p.UnitsTotal != units+2 || p.Expected() != units*(units-1)/2 {
		f.Errorf("Progress = %+v, want %d units", p, units+2)
	}
	for i := range 300 {
		f.complete(f.claimUnit(fmt.Sprint("slice-", units-1-i)), jobs.Result{})
	}
	if d := f.done(j.ID); len(d) != 301 || len(d[0].Result.Next) != units+1 || d[300].Unit.ID != fmt.Sprint("slice-", units-300) {
		f.Errorf("%d units done, want 301 in order, the plan with what it added", len(d))
	}
	f.ok(f.Cancel(f.Context(), j.ID), "Cancel")
	f.removeJob(j)
}
