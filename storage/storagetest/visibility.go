package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"spillway/storage"
)

func testInvisibleBeforeCommit(t *testing.T, s storage.Store) {
	w := begin(t, s, "a/b", pattern(1<<20)) // more than a buffer, so that bytes have left it
	absent(t, s, "a/b")
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := content(t, s, "a/b"); len(got) != 1<<20 {
		t.Errorf("after Commit: %d bytes, want all", len(got))
	}
}

func testAbortLeavesNothing(t *testing.T, s storage.Store) {
	w := begin(t, s, "a/b", pattern(1<<20))
	if err := w.Abort(); err != nil {
		t.Errorf("Abort = %v", err)
	}
	absent(t, s, "a/b")
	if err := w.Abort(); err != nil {
		t.Errorf("a second Abort = %v, want nil", err)
	}
	if err := w.Commit(t.Context()); err == nil {
		t.Error("Commit after Abort succeeded")
	}
	absent(t, s, "a/b")
	put(t, s, "a/b", []byte("again")) // the key is free
}

func testAbortAfterCommit(t *testing.T, s storage.Store) {
	w := begin(t, s, "a/b", []byte("whole"))
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.Abort(); err != nil {
		t.Errorf("Abort after Commit = %v, want nil", err)
	}
	if got := content(t, s, "a/b"); string(got) != "whole" {
		t.Errorf("after Commit and Abort: %q, want the object untouched", got)
	}
}

func testNotFound(t *testing.T, s storage.Store) {
	absent(t, s, "nobody")
	absent(t, s, "no/body")
	put(t, s, "a/b/c", nil)
	absent(t, s, "a")
	absent(t, s, "a/b")
	absent(t, s, "a/b/c/d")
}

func testErrExists(t *testing.T, s storage.Store) {
	put(t, s, "a/b", []byte("first"))
	w, err := s.Create(t.Context(), "a/b")
	if err == nil { // a store may learn of it at Commit only
		_, _ = io.WriteString(w, "second")
		err = w.Commit(t.Context())
		_ = w.Abort()
	}
	if !errors.Is(err, storage.ErrExists) {
		t.Errorf("a second object under one key: %v, want ErrExists", err)
	}
	if got := content(t, s, "a/b"); string(got) != "first" {
		t.Errorf("the key names %q, want the first object", got)
	}
}

func testErrBadKey(t *testing.T, s storage.Store) {
	long := strings.Repeat("x", 129)
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/.", ".tmp/a", "a/.b",
		"a b", "a\\b", "a\x00b", "ä", "a%2fb", "a:b", "a+b", "a\n", long, "a/" + long, "1/2/3/4/5/6/7/8/9",
	} {
		if storage.ValidKey(key) {
			t.Errorf("ValidKey(%q) = true", key)
		}
		if w, err := s.Create(t.Context(), key); !errors.Is(err, storage.ErrBadKey) {
			t.Errorf("Create(%q) = %v, want ErrBadKey", key, err)
			if err == nil {
				_ = w.Abort()
			}
		}
		if _, err := read(t.Context(), s, key, 0, -1); !errors.Is(err, storage.ErrBadKey) && !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Open(%q) = %v, want ErrBadKey or ErrNotFound", key, err)
		}
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, storage.ErrBadKey) && !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Stat(%q) = %v, want ErrBadKey or ErrNotFound", key, err)
		}
	}
	put(t, s, "a/b", nil)
	for _, prefix := range []string{"", "/", "a", "a/b", "../", "./", "a/../", "a//"} {
		if err := s.RemoveAll(t.Context(), prefix); err == nil {
			t.Errorf("RemoveAll(%q) succeeded", prefix)
		}
	}
	content(t, s, "a/b")
}

func testKeysOfEveryForm(t *testing.T, s storage.Store) {
	for i, key := range []string{
		"x", "a-1_B.c", "--", "a..b", "0", "1/2/3/4/5/6/7/8", strings.Repeat("y", 128),
		strings.Repeat("z", 128) + "/" + strings.Repeat("z", 128),
	} {
		if !storage.ValidKey(key) {
			t.Errorf("ValidKey(%q) = false", key)
		}
		want := fmt.Sprint("object ", i)
		put(t, s, key, []byte(want))
		if got := content(t, s, key); string(got) != want {
			t.Errorf("%q names %q, want %q", key, got, want)
		}
	}
}

func testRanges(t *testing.T, s storage.Store) {
	object := pattern(1000)
	put(t, s, "a/b", object)
	for _, offset := range []int64{0, 1, 499, 998, 999, 1000, 1001, 1 << 40} {
		for _, length := range []int64{-1, -7, 0, 1, 2, 500, 999, 1000, 1001, 1 << 40} {
			want := object[min(offset, 1000):]
			if length >= 0 {
				want = want[:min(length, int64(len(want)))]
			}
			got, err := read(t.Context(), s, "a/b", offset, length)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("offset %d, length %d: %d bytes, %v; want %d bytes", offset, length, len(got), err, len(want))
			}
		}
	}
	if _, err := read(t.Context(), s, "a/b", -1, 1); err == nil {
		t.Error("a negative offset was accepted")
	}
}

func testConcurrentWriters(t *testing.T, s storage.Store) {
	const writers, objects = 8, 12
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range objects {
				key := fmt.Sprintf("job%d/u%d/part-%d", i%3, i, w)
				if err := tryPut(t.Context(), s, key, key); err != nil {
					t.Errorf("%s: %v", key, err)
				}
			}
		})
	}
	wg.Wait()
	found := keys(t, s, "")
	if len(found) != writers*objects || !slices.IsSorted(found) {
		t.Fatalf("%d objects (in order: %t), want %d in order", len(found), slices.IsSorted(found), writers*objects)
	}
	for _, key := range found {
		if got := content(t, s, key); string(got) != key {
			t.Errorf("%s names %q", key, got)
		}
	}
}

func tryPut(ctx context.Context, s storage.Store, key, content string) error {
	w, err := s.Create(ctx, key)
	if err != nil {
		return err
	}
	defer func() { _ = w.Abort() }()
	if _, err := io.WriteString(w, content); err != nil {
		return err
	}
	return w.Commit(ctx)
}

func testRaceToOneKey(t *testing.T, s storage.Store) {
	const writers = 8
	for round := range 5 {
		key := fmt.Sprintf("race/%d", round)
		start := make(chan struct{})
		errs := make([]error, writers)
		var wg sync.WaitGroup
		for i := range writers {
			w, err := s.Create(t.Context(), key) // all before any has committed
			if err != nil {
				t.Fatal(err)
			}
			_, _ = fmt.Fprintf(w, "writer %d", i)
			wg.Go(func() {
				<-start
				errs[i] = w.Commit(t.Context())
				_ = w.Abort()
			})
		}
		close(start)
		wg.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner < 0:
				winner = i
			case err == nil:
				t.Errorf("%s: writers %d and %d both committed", key, winner, i)
			case !errors.Is(err, storage.ErrExists):
				t.Errorf("%s: writer %d lost with %v, want ErrExists", key, i, err)
			}
		}
		if got, want := string(content(t, s, key)), fmt.Sprintf("writer %d", winner); got != want {
			t.Errorf("%s names the bytes of %q, want of %q", key, got, want)
		}
	}
}

func testContextEnded(t *testing.T, s storage.Store) {
	put(t, s, "a/b", []byte("kept"))
	w := begin(t, s, "a/c", []byte("late"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	check := func(method string, err error) {
		t.Helper()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s after the context ended = %v, want context.Canceled", method, err)
		}
	}
	check("Commit", w.Commit(ctx))
	_ = w.Abort()
	absent(t, s, "a/c")
	_, err := s.Create(ctx, "a/d")
	check("Create", err)
	_, err = s.Open(ctx, "a/b", 0, -1)
	check("Open", err)
	_, err = s.Stat(ctx, "a/b")
	check("Stat", err)
	check("RemoveAll", s.RemoveAll(ctx, "a/"))
	check("Ready", s.Ready(ctx))
	var last error
	for _, err := range s.List(ctx, "") {
		last = err
	}
	check("List", last)
	if got := content(t, s, "a/b"); string(got) != "kept" {
		t.Errorf("a/b names %q, want it untouched", got)
	}
}
