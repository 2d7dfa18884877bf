// Package storagetest is the contract of storage.Store as a test suite. A back
// end proves itself with one line:
//
//	storagetest.Run(t, func(t *testing.T) storage.Store { ... })
//
// Every subtest gets a store of its own from open, which is empty and ends
// with the test. RunLinker does the same for a storage.Linker.
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"spillway/storage"
)

// Run exercises a store: every sentence of storage.Store and storage.Writer.
func Run(t *testing.T, open func(t *testing.T) storage.Store) {
	tests := []struct {
		name string
		run  func(*testing.T, storage.Store)
	}{
		{"RoundTrip", testRoundTrip},
		{"EmptyObject", testEmptyObject},
		{"LargeObject", testLargeObject},
		{"InvisibleBeforeCommit", testInvisibleBeforeCommit},
		{"AbortLeavesNothing", testAbortLeavesNothing},
		{"AbortAfterCommitDoesNothing", testAbortAfterCommit},
		{"NotFound", testNotFound},
		{"ErrExists", testErrExists},
		{"ErrBadKey", testErrBadKey},
		{"KeysOfEveryForm", testKeysOfEveryForm},
		{"Ranges", testRanges},
		{"List", testList},
		{"ListStops", testListStops},
		{"RemoveAll", testRemoveAll},
		{"RemoveAllUnderWriter", testRemoveAllUnderWriter},
		{"OpenReaderOutlivesRemoveAll", testReaderOutlivesRemoveAll},
		{"WriteAgainAfterRemoveAll", testWriteAgain},
		{"ConcurrentWriters", testConcurrentWriters},
		{"RaceToOneKey", testRaceToOneKey},
		{"ContextEnded", testContextEnded},
		{"AbortLargeObject", testAbortLargeObject},
		{"InterruptedLargeObject", testInterruptedLargeObject},
		{"ErrExistsOfLargeObject", testErrExistsOfLargeObject},
		{"RangesOfLargeObject", testRangesOfLargeObject},
		{"ManyObjects", testManyObjects},
		{"Ready", testReady},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

// put commits an object or fails the test.
func put(t *testing.T, s storage.Store, key string, content []byte) {
	t.Helper()
	w, err := s.Create(t.Context(), key)
	if err != nil {
		t.Fatalf("Create(%q) = %v", key, err)
	}
	if n, err := w.Write(content); err != nil || n != len(content) {
		t.Fatalf("Write = %d, %v; want %d bytes taken", n, err, len(content))
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatalf("Commit of %q = %v", key, err)
	}
}

// begin creates an object, writes content and leaves it unfinished.
func begin(t *testing.T, s storage.Store, key string, content []byte) storage.Writer {
	t.Helper()
	w, err := s.Create(t.Context(), key)
	if err != nil {
		t.Fatalf("Create(%q) = %v", key, err)
	}
	t.Cleanup(func() { _ = w.Abort() })
	if _, err := w.Write(content); err != nil {
		t.Fatalf("Write = %v", err)
	}
	return w
}

// content reads a whole object or fails the test.
func content(t *testing.T, s storage.Store, key string) []byte {
	t.Helper()
	b, err := read(t.Context(), s, key, 0, -1)
	if err != nil {
		t.Fatalf("Open(%q) = %v", key, err)
	}
	return b
}

func read(ctx context.Context, s storage.Store, key string, offset, length int64) ([]byte, error) {
	r, err := s.Open(ctx, key, offset, length)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}

// keys lists what is visible under a prefix.
func keys(t *testing.T, s storage.Store, prefix string) []string {
	t.Helper()
	var found []string
	for o, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("List(%q) = %v", prefix, err)
		}
		found = append(found, o.Key)
	}
	return found
}

// absent fails the test if any method shows the key.
func absent(t *testing.T, s storage.Store, key string) {
	t.Helper()
	if _, err := s.Stat(t.Context(), key); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Stat(%q) = %v, want ErrNotFound", key, err)
	}
	if _, err := read(t.Context(), s, key, 0, -1); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Open(%q) = %v, want ErrNotFound", key, err)
	}
	for _, k := range keys(t, s, "") {
		if k == key {
			t.Errorf("List shows %q", key)
		}
	}
}

func testRoundTrip(t *testing.T, s storage.Store) {
	want := []byte("one line\n\x00\xff and bytes that are no text\r\n")
	before := time.Now()
	w, err := s.Create(t.Context(), "job/unit/1/a.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range want { // in single bytes: nothing is lost between writes
		if _, err := w.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := content(t, s, "job/unit/1/a.ndjson"); !bytes.Equal(got, want) {
		t.Errorf("read %q, want %q", got, want)
	}
	o, err := s.Stat(t.Context(), "job/unit/1/a.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	if o.Key != "job/unit/1/a.ndjson" || o.Size != int64(len(want)) {
		t.Errorf("Stat = %q, %d bytes; want the key and %d bytes", o.Key, o.Size, len(want))
	}
	const slack = 2 * time.Second // clocks that count seconds
	if o.Modified.Before(before.Add(-slack)) || o.Modified.After(time.Now().Add(slack)) {
		t.Errorf("Modified = %v, want the time of Commit, about %v", o.Modified, before)
	}
}

func testEmptyObject(t *testing.T, s storage.Store) {
	put(t, s, "a/empty", nil)
	if got := content(t, s, "a/empty"); len(got) != 0 {
		t.Errorf("read %d bytes of an empty object", len(got))
	}
	if o, err := s.Stat(t.Context(), "a/empty"); err != nil || o.Size != 0 {
		t.Errorf("Stat = %d bytes, %v; want 0 bytes", o.Size, err)
	}
	if got := keys(t, s, ""); len(got) != 1 {
		t.Errorf("List = %q, want the empty object", got)
	}
}

// pattern returns n bytes that differ from place to place. They repeat after a
// prime number of bytes that is near to no size of a buffer.
func pattern(n int) []byte {
	const period = 300_007
	b := make([]byte, n)
	for i := range min(n, period) {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	for done := period; done < n; done *= 2 {
		copy(b[done:], b[:done])
	}
	return b
}

func testLargeObject(t *testing.T, s storage.Store) {
	want := pattern(5<<20 + 13)
	w, err := s.Create(t.Context(), "a/large")
	if err != nil {
		t.Fatal(err)
	}
	for rest := want; len(rest) > 0; { // uneven pieces, small and larger than any buffer
		n := min(len(rest), 700_001)
		if len(rest)%2 == 0 {
			n = min(len(rest), 999)
		}
		if _, err := w.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := content(t, s, "a/large"); !bytes.Equal(got, want) {
		t.Errorf("read %d bytes that differ from the %d written", len(got), len(want))
	}
	got, err := read(t.Context(), s, "a/large", 4<<20, 1<<20)
	if err != nil || !bytes.Equal(got, want[4<<20:5<<20]) {
		t.Errorf("a MiB in the middle: %d bytes, %v; want the same as written", len(got), err)
	}
}

func testReady(t *testing.T, s storage.Store) {
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("Ready = %v; open a store with room for this suite", err)
	}
}
