package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var key = []byte("a key of the operator")

func openLog(t *testing.T, o Options) *Log {
	t.Helper()
	if o.Process == "" {
		o.Process = "gw-1"
	}
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func openFile(t *testing.T, path string) *File {
	t.Helper()
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func record(t *testing.T, l *Log, n int) {
	t.Helper()
	for i := range n {
		if err := l.Record(t.Context(), Event{Kind: KindKickOff, Outcome: OutcomeDone, Client: "c1", Job: fmt.Sprint("job", i), Types: []string{"Patient"}}); err != nil {
			t.Fatal(err)
		}
	}
}

func shut(t *testing.T, l *Log) {
	t.Helper()
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// check verifies files, and returns how many events they have.
func check(t *testing.T, key []byte, paths ...string) (Verifier, error) {
	t.Helper()
	v := Verifier{Key: key}
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		err = v.Verify(f)
		_ = f.Close()
		if err != nil {
			return v, err
		}
	}
	return v, nil
}

func TestRecordGoesOnAfterARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	var log bytes.Buffer
	for range 3 {
		l := openLog(t, Options{Sinks: []Sink{openFile(t, path)}, Key: key, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		record(t, l, 5)
		shut(t, l)
	}
	v, err := check(t, key, path)
	if err != nil || v.Events != 15 || v.First != 1 || v.Process != "gw-1" || v.Until.Before(v.From) {
		t.Errorf("%+v, %v", v, err)
	}
	if !strings.Contains(log.String(), v.Head) {
		t.Error("the log does not know the head")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := check(t, nil, path); err == nil {
		t.Error("verified without the key")
	}
	if _, err := check(t, []byte("other"), path); err == nil {
		t.Error("verified with another key")
	}
	if _, err := Open(Options{Process: "gw-1", Sinks: []Sink{openFile(t, path)}, Key: []byte("other")}); err == nil {
		t.Error("opened with another key")
	}
}

func TestLine(t *testing.T) {
	var out bytes.Buffer
	now := time.Date(2026, 5, 4, 12, 0, 0, 123456789, time.FixedZone("", 3600))
	l := openLog(t, Options{Sinks: []Sink{NewStream(&out)}, Now: func() time.Time { return now }})
	e := Event{Key: "job1", Kind: KindExport, Outcome: OutcomeDone, Client: "c\n1", Job: "job1", Resources: 7, Duration: time.Second, Since: now}
	for range 2 {
		if err := l.Record(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%q", lines)
	}
	var got, again map[string]any
	if json.Unmarshal([]byte(lines[0]), &got) != nil || json.Unmarshal([]byte(lines[1]), &again) != nil {
		t.Fatalf("%q", lines)
	}
	want := map[string]any{
		"seq": 1.0, "prev": origin, "time": "2026-05-04T11:00:00.123456789Z", "id": got["id"], "process": "gw-1", "code": "110106",
		"kind": "export", "outcome": "done", "client": "c\n1", "job": "job1", "resources": 7.0, "durationNanoseconds": 1e9,
		"since": "2026-05-04T12:00:00.123456789+01:00", "hash": got["hash"],
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v\n%v", got, want)
	}
	if got["id"] != again["id"] || got["hash"] == again["hash"] || again["prev"] != got["hash"] {
		t.Errorf("recorded again: %v", again)
	}
	e.Key = ""
	for range 2 {
		if err := l.Record(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	lines = strings.Split(strings.TrimSpace(out.String()), "\n")
	var third, fourth struct{ ID string }
	if json.Unmarshal([]byte(lines[2]), &third) != nil || json.Unmarshal([]byte(lines[3]), &fourth) != nil || third.ID == fourth.ID {
		t.Errorf("two events have one id: %q", third.ID)
	}
	if err := l.Record(t.Context(), Event{}); err == nil {
		t.Error("an event of no kind was recorded")
	}
	if a, b := l.Digest("a", "b"), l.Digest("ab"); a == b || len(a) != 64 {
		t.Errorf("digests %q, %q", a, b)
	}
}

// TestEveryChangeIsFound edits, drops, doubles, moves and inserts lines.
func TestEveryChangeIsFound(t *testing.T) {
	for _, key := range [][]byte{nil, key} {
		path := filepath.Join(t.TempDir(), "audit")
		l := openLog(t, Options{Sinks: []Sink{openFile(t, path)}, Key: key})
		record(t, l, 6)
		shut(t, l)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.SplitAfter(string(b), "\n")[:6]
		with := func(change func(l []string) []string) string {
			return strings.Join(change(append([]string{}, lines...)), "")
		}
		for name, text := range map[string]string{
			"edited":        strings.Replace(string(b), `"client":"c1"`, `"client":"c2"`, 1),
			"edited at end": with(func(l []string) []string { l[5] = strings.Replace(l[5], "job5", "job9", 1); return l }),
			"dropped":       with(func(l []string) []string { return append(l[:2], l[3:]...) }),
			"doubled":       with(func(l []string) []string { return append(l[:3], l[2:]...) }),
			"moved":         with(func(l []string) []string { l[1], l[2] = l[2], l[1]; return l }),
			"inserted":      with(func(l []string) []string { return append([]string{"{}\n"}, l...) }),
			"blank":         with(func(l []string) []string { return append(l, "\n") }),
			"spaced":        with(func(l []string) []string { l[0] = " " + l[0]; return l }),
			"member added":  with(func(l []string) []string { l[0] = strings.Replace(l[0], "{", `{"x":1,`, 1); return l }),
			"after hash":    with(func(l []string) []string { l[5] = strings.Replace(l[5], "}\n", `,"x":1}`+"\n", 1); return l }),
			"torn":          string(b[:len(b)-1]),
			"long":          with(func(l []string) []string { return append(l, strings.Repeat("x", maxLine+1)) }),
		} {
			v := Verifier{Key: key}
			var broken *BrokenError
			if err := v.Verify(strings.NewReader(text)); !errors.As(err, &broken) {
				t.Errorf("%s: %v", name, err)
			} else if strings.Contains(err.Error(), "c1") {
				t.Errorf("%s: the error repeats the event: %v", name, err)
			}
		}
		v := Verifier{Key: key}
		if err := v.Verify(strings.NewReader(strings.Join(lines[2:], ""))); err != nil || v.First != 3 || v.Events != 4 {
			t.Errorf("older events are missing: %+v, %v", v, err)
		}
		whole, short := Verifier{Key: key}, Verifier{Key: key}
		if whole.Verify(bytes.NewReader(b)) != nil || short.Verify(strings.NewReader(strings.Join(lines[:4], ""))) != nil || whole.Head == short.Head {
			t.Error("what was cut off at the end cannot be told by the head")
		}
	}
}

func TestForgerWithoutTheKey(t *testing.T) {
	var out bytes.Buffer
	l := openLog(t, Options{Sinks: []Sink{NewStream(&out)}}) // an attacker who knows the format
	record(t, l, 3)
	if err := (&Verifier{}).Verify(bytes.NewReader(out.Bytes())); err != nil {
		t.Error(err)
	}
	if err := (&Verifier{Key: key}).Verify(bytes.NewReader(out.Bytes())); err == nil {
		t.Error("a record that was written without the key passes for one with it")
	}
}

func TestTornLineIsCutOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	l := openLog(t, Options{Sinks: []Sink{openFile(t, path)}})
	record(t, l, 2)
	shut(t, l)
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"seq":3,"prev":"`); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	sink := openFile(t, path)
	if sink.Torn() != 17 {
		t.Errorf("%d bytes were cut off", sink.Torn())
	}
	l = openLog(t, Options{Sinks: []Sink{sink}})
	record(t, l, 1)
	shut(t, l)
	if v, err := check(t, nil, path); err != nil || v.Events != 3 {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestFileIsMovedAway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	l := openLog(t, Options{Sinks: []Sink{openFile(t, path)}})
	record(t, l, 2)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	record(t, l, 3)
	shut(t, l)
	if v, err := check(t, nil, path+".1", path); err != nil || v.Events != 5 {
		t.Errorf("%+v, %v", v, err)
	}
	if v, err := check(t, nil, path); err != nil || v.First != 3 {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := check(t, nil, path, path+".1"); err == nil {
		t.Error("in the wrong order")
	}
}

func TestFilesThatAreNone(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenFile(dir); err == nil || strings.Contains(err.Error(), dir) {
		t.Errorf("directory: %v", err)
	}
	path := filepath.Join(dir, "other")
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), 2*maxLine+1), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(path); err == nil {
		t.Error("a file that is no record was opened")
	}
	if err := os.WriteFile(path, []byte("something\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Process: "p", Sinks: []Sink{openFile(t, path)}}); err == nil {
		t.Error("a file that is no record was gone on with")
	}
	held := openFile(t, filepath.Join(dir, "held"))
	if _, err := OpenFile(filepath.Join(dir, "held")); err == nil {
		t.Error("two processes write to one record")
	}
	if err := held.Close(); err != nil {
		t.Error(err)
	}
}

// A faulty sink fails or hangs when it is told.
type faulty struct {
	Stream
	mu    sync.Mutex
	err   error
	hang  chan struct{}
	calls int
}

func (f *faulty) Write(lines []byte) error {
	f.mu.Lock()
	err, hang := f.err, f.hang
	f.calls++
	f.mu.Unlock()
	if hang != nil {
		<-hang
	}
	if err != nil {
		return err
	}
	return f.Stream.Write(lines)
}

func (f *faulty) set(err error, hang chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err, f.hang = err, hang
}

// TestSinkFails: an event that a sink did not take was not recorded, and the
// chains of all sinks stay whole.
func TestSinkFails(t *testing.T) {
	full := errors.New("no space left")
	for _, tolerant := range []bool{false, true} {
		var good, bad, log bytes.Buffer
		sink := &faulty{Stream: NewStream(&bad)}
		l := openLog(t, Options{Sinks: []Sink{NewStream(&good), sink}, Tolerant: tolerant, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		record(t, l, 2)
		sink.set(full, nil)
		for range 3 {
			err := l.Record(t.Context(), Event{Kind: KindDownload, Outcome: OutcomeBegun})
			if tolerant != (err == nil) || !tolerant && (!errors.Is(err, ErrUnavailable) || !errors.Is(err, full)) {
				t.Errorf("tolerant %v: %v", tolerant, err)
			}
		}
		sink.set(nil, nil)
		record(t, l, 1)
		shut(t, l)
		if err := l.Record(t.Context(), Event{Kind: KindStop, Outcome: OutcomeDone}); !errors.Is(err, ErrUnavailable) {
			t.Errorf("closed: %v", err)
		}
		for name, tt := range map[string]struct {
			out  *bytes.Buffer
			want int64
		}{"good": {&good, 6}, "bad": {&bad, 3}} {
			v := Verifier{}
			if err := v.Verify(tt.out); err != nil || v.Events != tt.want {
				t.Errorf("%s sink: %+v, %v", name, v, err)
			}
		}
		if n := strings.Count(log.String(), "cannot be written"); n != 1 {
			t.Errorf("logged %d times: %s", n, &log)
		}
	}
}

func TestSinkHangs(t *testing.T) {
	var out bytes.Buffer
	sink := &faulty{Stream: NewStream(&out)}
	release := make(chan struct{})
	sink.set(nil, release)
	l := openLog(t, Options{Sinks: []Sink{sink}})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := l.Record(ctx, Event{Kind: KindDownload, Outcome: OutcomeBegun}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if err := l.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("close: %v", err)
	}
	close(release)
	shut(t, l)
	v := Verifier{}
	if err := v.Verify(&out); err != nil || v.Events != 1 {
		t.Errorf("%+v, %v", v, err)
	}
}

// A half writes the first half of what it is given, and fails.
type half struct {
	handle
	cannotUndo bool
}

func (h half) Write(b []byte) (int, error) {
	n, _ := h.handle.Write(b[:len(b)/2])
	return n, errors.New("no space left")
}

func (h half) Truncate(size int64) error {
	if h.cannotUndo {
		return errors.New("i/o error")
	}
	return h.handle.Truncate(size)
}

// TestHalfAnEventIsTakenBack: a disk that is full in the middle of a line
// leaves nothing of it, even if it can be cut off only later.
func TestHalfAnEventIsTakenBack(t *testing.T) {
	for _, cannotUndo := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "audit")
		file := openFile(t, path)
		l := openLog(t, Options{Sinks: []Sink{file}})
		record(t, l, 1)
		whole := file.file
		file.file = half{whole, cannotUndo}
		if err := l.Record(t.Context(), Event{Kind: KindDownload, Outcome: OutcomeBegun}); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%v", err)
		}
		if !cannotUndo {
			file.file = whole
			if _, err := check(t, nil, path); err != nil {
				t.Errorf("before the next event: %v", err)
			}
		}
		record(t, l, 1)
		shut(t, l)
		if v, err := check(t, nil, path); err != nil || v.Events != 2 {
			t.Errorf("%+v, %v", v, err)
		}
	}
}

// TestLinesOfOtherRecords have right hashes of their own and are in the wrong
// place.
func TestLinesOfOtherRecords(t *testing.T) {
	var a, b bytes.Buffer
	for _, out := range []*bytes.Buffer{&a, &b} {
		record(t, openLog(t, Options{Sinks: []Sink{NewStream(out)}}), 3)
	}
	ours, theirs := strings.SplitAfter(a.String(), "\n"), strings.SplitAfter(b.String(), "\n")
	if err := (&Verifier{}).Verify(strings.NewReader(ours[0] + theirs[1])); err == nil {
		t.Error("a line of another record passes")
	}
	first, err := readLine([]byte(strings.TrimSpace(ours[0])), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(line{Sequence: 3, Previous: first.hash, Process: "gw-1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := (&Verifier{}).Verify(strings.NewReader(ours[0] + string(seal(body, hashOf(body, nil))) + "\n")); err == nil {
		t.Error("a gap in the numbers passes")
	}
}

// TestManyAtOnce: events that come together share a sync, and none is lost.
func TestManyAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	file := openFile(t, path)
	counted := &counting{File: file}
	l := openLog(t, Options{Sinks: []Sink{counted}})
	var g sync.WaitGroup
	for range 500 {
		g.Go(func() { record(t, l, 2) })
	}
	g.Wait()
	shut(t, l)
	if v, err := check(t, nil, path); err != nil || v.Events != 1000 {
		t.Errorf("%+v, %v", v, err)
	}
	if counted.calls >= 1000 {
		t.Errorf("%d syncs for 1000 events", counted.calls)
	}
}

type counting struct {
	*File
	calls int
}

func (c *counting) Write(lines []byte) error {
	c.calls++
	return c.File.Write(lines)
}

func FuzzVerify(f *testing.F) {
	var out bytes.Buffer
	now := func() time.Time { return time.Unix(1_800_000_000, 0) } // every process of the fuzzer writes the same
	l, err := Open(Options{Process: "p", Sinks: []Sink{NewStream(&out)}, Key: key, Now: now})
	if err != nil {
		f.Fatal(err)
	}
	for i := range 3 {
		if err := l.Record(f.Context(), Event{Key: fmt.Sprint(i), Kind: KindKickOff, Outcome: OutcomeDone, Client: "c"}); err != nil {
			f.Fatal(err)
		}
	}
	whole := out.Bytes()
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v := Verifier{Key: key}
		if v.Verify(bytes.NewReader(b)) == nil && !bytes.Contains(whole, b) {
			t.Fatalf("passes, and was never written: %q", b)
		}
	})
}
