package storagetest

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	"spillway/storage"
)

func testList(t *testing.T, s storage.Store) {
	// In the order of keys as strings, which is not that of folders: '-' and
	// '.' come before '/', and digits after it.
	all := []string{"a-b", "a-c/x", "a.b", "a/-", "a/b", "a/b-c/d", "a/b.c", "a/c/d/e", "a/c/d0", "a0", "ab/c", "b"}
	for _, i := range []int{7, 0, 11, 3, 9, 1, 5, 10, 2, 8, 4, 6} {
		put(t, s, all[i], []byte(all[i]))
	}
	begin(t, s, "a/unfinished", nil)
	tests := map[string][]string{
		"":         all,
		"a":        all[:11],
		"a/":       all[3:9],
		"a/b":      all[4:7],
		"a/c/":     all[7:9],
		"a/c/d":    all[7:9],
		"a/c/d/":   all[7:8],
		"a/c/d/e":  all[7:8],
		"a-":       all[:2],
		"b":        all[11:],
		"b/":       nil,
		"c":        nil,
		"a/c/d/ef": nil,
		"/":        nil,
		"../":      nil,
		"a//":      nil,
		"no/such/": nil,
	}
	for prefix, want := range tests {
		if got := keys(t, s, prefix); !slices.Equal(got, want) {
			t.Errorf("List(%q) = %q, want %q", prefix, got, want)
		}
	}
	for o, err := range s.List(t.Context(), "") {
		if err != nil || o.Size != int64(len(o.Key)) || o.Modified.IsZero() {
			t.Errorf("List says of %q: %d bytes, modified %v, %v; want %d bytes and a time", o.Key, o.Size, o.Modified, err, len(o.Key))
		}
	}
}

func testListStops(t *testing.T, s storage.Store) {
	for _, key := range []string{"a/1", "a/2", "b/1", "b/2"} {
		put(t, s, key, nil)
	}
	var seen []string
	for o, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if seen = append(seen, o.Key); len(seen) == 2 {
			break
		}
	}
	if !slices.Equal(seen, []string{"a/1", "a/2"}) {
		t.Errorf("the first two = %q", seen)
	}
	// What is removed meanwhile may be missing, but nothing else.
	seen = nil
	for o, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, o.Key)
		if err := s.RemoveAll(t.Context(), "a/"); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Contains(seen, "b/1") || !slices.Contains(seen, "b/2") {
		t.Errorf("List during RemoveAll of another prefix = %q, want b/1 and b/2 among them", seen)
	}
}

func testRemoveAll(t *testing.T, s storage.Store) {
	for _, key := range []string{"a", "b/1", "b/2/3", "b/2/4/5", "b-", "b0", "bb/1"} {
		put(t, s, key, nil)
	}
	steps := []struct {
		prefix string
		left   []string
	}{
		{"nobody/", []string{"a", "b-", "b/1", "b/2/3", "b/2/4/5", "b0", "bb/1"}},
		{"a/", []string{"a", "b-", "b/1", "b/2/3", "b/2/4/5", "b0", "bb/1"}}, // an object beside the prefix
		{"b/2/4/", []string{"a", "b-", "b/1", "b/2/3", "b0", "bb/1"}},
		{"b/", []string{"a", "b-", "b0", "bb/1"}},
		{"b/", []string{"a", "b-", "b0", "bb/1"}}, // a second time is no error
		{"b/2/", []string{"a", "b-", "b0", "bb/1"}},
	}
	for _, step := range steps {
		if err := s.RemoveAll(t.Context(), step.prefix); err != nil {
			t.Errorf("RemoveAll(%q) = %v", step.prefix, err)
		}
		if got := keys(t, s, ""); !slices.Equal(got, step.left) {
			t.Errorf("after RemoveAll(%q): %q, want %q", step.prefix, got, step.left)
		}
	}
	absent(t, s, "b/1")
}

func testRemoveAllUnderWriter(t *testing.T, s storage.Store) {
	object := pattern(1 << 20)
	w := begin(t, s, "a/b", object)
	beside := begin(t, s, "c/d", object)
	if err := s.RemoveAll(t.Context(), "a/"); err != nil {
		t.Fatal(err)
	}
	absent(t, s, "a/b")
	// The writer may be refused or may still succeed; what it may not do is
	// leave a part.
	if _, err := w.Write(object); err == nil {
		err = w.Commit(t.Context())
		if got, rerr := read(t.Context(), s, "a/b", 0, -1); err == nil && len(got) != 2<<20 || err != nil && !errors.Is(rerr, storage.ErrNotFound) {
			t.Errorf("Commit = %v and the key names %d bytes (%v), want all or nothing", err, len(got), rerr)
		}
	}
	_ = w.Abort()
	if err := s.RemoveAll(t.Context(), "a/"); err != nil {
		t.Fatal(err)
	}
	absent(t, s, "a/b")
	if err := beside.Commit(t.Context()); err != nil {
		t.Errorf("a writer beside the prefix: Commit = %v", err)
	}
	if got := content(t, s, "c/d"); !bytes.Equal(got, object) {
		t.Errorf("the object beside has %d bytes, want all", len(got))
	}
}

func testReaderOutlivesRemoveAll(t *testing.T, s storage.Store) {
	object := pattern(3 << 20)
	put(t, s, "a/b", object)
	r, err := s.Open(t.Context(), "a/b", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	head := make([]byte, 1000)
	if _, err := io.ReadFull(r, head); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveAll(t.Context(), "a/"); err != nil {
		t.Fatal(err)
	}
	absent(t, s, "a/b")
	rest, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(append(head, rest...), object) {
		t.Errorf("the open reader gave %d bytes, %v; want all %d as written", len(head)+len(rest), err, len(object))
	}
}

func testWriteAgain(t *testing.T, s storage.Store) {
	for _, want := range []string{"first", "second", "third"} {
		put(t, s, "a/b/c", []byte(want))
		if got := content(t, s, "a/b/c"); string(got) != want {
			t.Errorf("read %q, want %q", got, want)
		}
		if err := s.RemoveAll(t.Context(), "a/"); err != nil {
			t.Fatal(err)
		}
		absent(t, s, "a/b/c")
	}
}
