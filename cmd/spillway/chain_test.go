package main

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spillway/test/fakefhir"
)

// said is what a manifest says of times.
type said struct {
	TransactionTime, Request string
	Extension                struct {
		Continues *struct{ TransactionTime string }
	}
	Deleted []struct{ URL string }
}

func manifestOf(t *testing.T, dir string) said {
	t.Helper()
	var m said
	b, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// continuedIn is the transactionTime of the run that the one in dir continues.
func continuedIn(t *testing.T, dir string) string {
	t.Helper()
	m := manifestOf(t, dir)
	if m.Extension.Continues == nil {
		return ""
	}
	return m.Extension.Continues.TransactionTime
}

// write changes a resource of a type that few has.
func write(t *testing.T, s *fakefhir.Server, id string) {
	t.Helper()
	if _, err := s.Put("Patient", id, []byte(`{"resourceType":"Patient","id":"`+id+`"}`)); err != nil {
		t.Fatal(err)
	}
}

func TestSinceLast(t *testing.T) {
	o := few()
	var later atomic.Int64 // what has been written is older than the next run
	o.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	s, url := fake(t, o)
	t.Chdir(t.TempDir())
	export := func(out string, more ...string) result {
		return spillway(t.Context(), exportLine(url, out, append(more, "--type", "Patient,Encounter")...)...)
	}
	mustExport := func(out string, more ...string) map[string]string {
		t.Helper()
		if got := export(out, more...); got.status != 0 {
			t.Fatalf("%s: %+v", out, got)
		}
		return readDir(t, out)
	}
	mustExport("runs/1")
	if at := continuedIn(t, "runs/1"); at != "" {
		t.Errorf("the first run continues one of %s", at)
	}
	first := manifestOf(t, "runs/1").TransactionTime

	// The second has what has changed since, and the deletions.
	gone := slices.Sorted(maps.Keys(s.All("Patient")))[0]
	write(t, s, "new")
	s.Delete("Patient", gone)
	later.Add(int64(5 * time.Second))
	if diff := cmp.Diff(map[string]string{"Patient/new": "1"}, mustExport("runs/2", "--since", "last")); diff != "" {
		t.Errorf("the second run (-want +got):\n%s", diff)
	}
	m := manifestOf(t, "runs/2")
	if at := continuedIn(t, "runs/2"); at != first || !strings.Contains(m.Request, "_since="+strings.ReplaceAll(first, ":", "%3A")) {
		t.Errorf("the second run continues one of %q, by %s; the first was of %s", at, m.Request, first)
	}
	if len(m.Deleted) != 1 || !strings.Contains(strings.Join(readLines(t, filepath.Join("runs/2", m.Deleted[0].URL)), ""), `"Patient/`+gone+`"`) {
		t.Errorf("deleted: %+v", m.Deleted)
	}
	second := m.TransactionTime

	// The third continues the second, although others are beside it.
	if got := spillway(t.Context(), exportLine(url, "runs/other", "--type", "Patient")...); got.status != 0 {
		t.Fatalf("%+v", got)
	}
	if err := os.MkdirAll("runs/stray/.spillway", 0o700); err != nil {
		t.Fatal(err)
	}
	mustExport("runs/3", "--since", "last", "--gzip")
	if at := continuedIn(t, "runs/3"); at != second {
		t.Errorf("the third run continues one of %q, not of %s", at, second)
	}
	for name, since := range map[string]string{"4": "last:runs/2", "5": "runs/2/manifest.json", "6": "./runs/2"} {
		mustExport("elsewhere/"+name, "--since", since)
		if at := continuedIn(t, "elsewhere/"+name); at != second {
			t.Errorf("--since %s continues one of %q, not of %s", since, at, second)
		}
	}

	// A run that failed goes on continuing what it continued.
	s.Script(fakefhir.Fault{Match: fakefhir.Match{Kind: fakefhir.KindSearch, Type: "Encounter"}, Do: fakefhir.Do{Garbage: true}})
	third := manifestOf(t, "runs/3").TransactionTime
	if got := export("runs/7", "--since", "last"); got.status != 1 {
		t.Fatalf("%+v", got)
	}
	s.Reset()
	mustExport("runs/8", "--since", "last")
	mustExport("runs/7", "--since", "last")
	if at := continuedIn(t, "runs/7"); at != third {
		t.Errorf("the run that failed continues one of %q, not of %s", at, third)
	}

	// One that had errors is not continued unasked.
	s.Script(fakefhir.Fault{Match: fakefhir.Match{Type: "Encounter"}, Do: fakefhir.Do{DropEntries: 3}})
	if got := export("errors/1"); got.status != exitIncomplete {
		t.Fatalf("%+v", got)
	}
	s.Reset()
	if got := export("errors/2", "--since", "last"); got.status != exitUsage || !regexp.MustCompile(`has \d+ issues? of severity error in its error file`).MatchString(got.err) {
		t.Errorf("after a run with errors: %+v", got)
	}
	if got := export("errors/2", "--since", "last", "--since-incomplete"); got.status != 0 || !strings.Contains(got.err, "1 note in the error file") {
		t.Errorf("after a run with errors that are accepted: %+v", got)
	}
	mustExport("errors/3", "--since", "last")
}

// TestSinceLastRefuses wants a reason for each run that cannot be continued, and
// nothing done.
func TestSinceLastRefuses(t *testing.T) {
	_, url := fake(t, few())
	_, other := fake(t, few())
	t.Chdir(t.TempDir())
	for _, line := range [][]string{
		exportLine(url, "runs/1", "--type", "Patient"),
		exportLine(url, "until/1", "--type", "Patient", "--until", "2024-01-01T00:00:00Z"),
	} {
		if got := spillway(t.Context(), line...); got.status != 0 {
			t.Fatalf("%+v", got)
		}
	}
	at := manifestOf(t, "runs/1").TransactionTime
	for _, dir := range []string{"begun/1/.spillway", "broken/1", "empty"} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"begun/1/.spillway/run.json": "{}", "broken/1/manifest.json": "{"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parent, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		line []string
		want string // with WD for the working directory
	}{
		{"ErrNone", exportLine(url, "empty/1", "--since", "last"), "there is no finished export in WD/empty to continue; the first one goes without --since"},
		{"ErrNoParent", exportLine(url, "new/1", "--since", "last"), "there is no finished export in WD/new to continue; the first one goes without --since"},
		{"ErrBroken", exportLine(url, "broken/2", "--since", "last"), "there is no finished export in WD/broken to continue; the first one goes without --since"},
		{"ErrBegun", exportLine(url, "begun/2", "--since", "last"), "there is no finished export in WD/begun, only one that has begun, WD/begun/1; repeat its command first"},
		{"ErrTypes", exportLine(url, "runs/2", "--since", "last"), "no export in WD/runs was asked for in the same way; the newest, WD/runs/1, differs in --type"},
		{"ErrLevelAndMore", exportLine(url, "runs/2", "--since", "last", "--type", "Patient", "--patient", "a", "--elements", "id", "--type-filter", "Patient?active=true"),
			"no export in WD/runs was asked for in the same way; the newest, WD/runs/1, differs in --elements, --patient, --patients or --group, --type-filter"},
		{"ErrUpstream", exportLine(other, "runs/2", "--since", "last", "--type", "Patient"), "no export in WD/runs was asked for in the same way; the newest, WD/runs/1, differs in --upstream"},
		{"ErrUntil", exportLine(url, "until/2", "--since", "last", "--type", "Patient"), "the export in WD/until/1 ends at its --until, 2024-01-01T00:00:00Z, " +
			"and a continuation begins at its transactionTime, so neither would have what changed in between; export again with --since 2024-01-01T00:00:00Z"},
		{"ErrNamedTypes", exportLine(url, "runs/2", "--since", "last:runs/1", "--type", "Encounter"),
			"the export in runs/1 was asked for differently (--type); to continue it all the same, give its transactionTime: --since " + at},
		{"ErrNamedBegun", exportLine(url, "runs/2", "--since", "begun/1"), "the export in begun/1 is not finished; repeat its command first"},
		{"ErrNamedBroken", exportLine(url, "runs/2", "--since", "broken/1/manifest.json"), "broken/1 holds no finished export: manifest.json is no manifest: not valid JSON at byte 1"},
		{"ErrNamedEmpty", exportLine(url, "runs/2", "--since", "empty"), "empty holds no finished export: there is no manifest.json"},
		{"ErrNamedNothing", exportLine(url, "runs/2", "--since", "runs/0"), "runs/0 is no directory of an export, and no instant such as 2026-06-01T00:00:00Z"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := spillway(t.Context(), test.line...)
			want := "spillway: --since: " + strings.ReplaceAll(test.want, "WD", parent) + "\n"
			if got.status != exitUsage || got.out != "" || got.err != want {
				t.Errorf("got %+v\nwant %s", got, want)
			}
		})
	}
	if got := spillway(t.Context(), exportLine(url, "runs/2", "--since-incomplete")...); got.status != exitUsage || got.err != "spillway: --since-incomplete goes with --since last or a path\n" {
		t.Errorf("got %+v", got)
	}
	if left := names(t, "runs"); !slices.Equal(left, []string{"1"}) {
		t.Errorf("refusals left something: %q", left)
	}
}

// TestSinceLastOfAClockAhead: the transactionTime is in the future here.
func TestSinceLastOfAClockAhead(t *testing.T) {
	o := few()
	o.Offset = 10 * time.Minute
	_, url := fake(t, o)
	t.Chdir(t.TempDir())
	for _, line := range [][]string{exportLine(url, "runs/1"), exportLine(url, "runs/2", "--since", "last")} {
		if got := spillway(t.Context(), line...); got.status != 0 {
			t.Errorf("%+v", got)
		}
	}
}
