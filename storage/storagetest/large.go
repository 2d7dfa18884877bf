package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"

	"spillway/storage"
)

// large is more than any store keeps in memory of one object, and no multiple
// of anything.
const large = 12<<20 + 345

// stream writes content in pieces until it ends or the writer refuses.
func stream(w io.Writer, content []byte) error {
	const piece = 1 << 20
	for len(content) > 0 {
		n, err := w.Write(content[:min(piece, len(content))])
		if err != nil {
			return err
		}
		content = content[n:]
	}
	return nil
}

func testAbortLargeObject(t *testing.T, s storage.Store) {
	content := pattern(large)
	w, err := s.Create(t.Context(), "a/large")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream(w, content); err != nil {
		t.Fatal(err)
	}
	absent(t, s, "a/large")
	if err := w.Abort(); err != nil {
		t.Errorf("Abort = %v", err)
	}
	if _, err := w.Write(content[:1]); err == nil {
		t.Error("Write after Abort succeeded")
	}
	if err := w.Commit(t.Context()); err == nil {
		t.Error("Commit after Abort succeeded")
	}
	absent(t, s, "a/large")
	put(t, s, "a/large", content) // the key is free, and what was aborted is not mixed in
	if got := keys(t, s, ""); !slices.Equal(got, []string{"a/large"}) {
		t.Errorf("List = %q, want the one object", got)
	}
}

func testInterruptedLargeObject(t *testing.T, s storage.Store) {
	content := pattern(large)
	for _, after := range []int{0, 1 << 20, 6 << 20, 11 << 20, large} {
		key := fmt.Sprintf("a/%d", after)
		ctx, cancel := context.WithCancel(t.Context())
		w, err := s.Create(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream(w, content[:after]); err != nil {
			t.Fatal(err)
		}
		cancel()
		err = stream(w, content[after:]) // may be refused
		if err == nil {
			err = w.Commit(ctx)
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("ended after %d bytes: %v, want context.Canceled", after, err)
		}
		_ = w.Abort()
		absent(t, s, key)
	}
	if got := keys(t, s, ""); len(got) != 0 {
		t.Errorf("List = %q, want nothing", got)
	}
}

func testErrExistsOfLargeObject(t *testing.T, s storage.Store) {
	object := pattern(large)
	first, second := object[:6<<20], object[6<<20:]
	w1, w2 := begin(t, s, "a/large", first), begin(t, s, "a/large", second)
	if err := w1.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w2.Commit(t.Context()); !errors.Is(err, storage.ErrExists) {
		t.Errorf("the second Commit = %v, want ErrExists", err)
	}
	_ = w2.Abort()
	if got := content(t, s, "a/large"); !bytes.Equal(got, first) {
		t.Errorf("the key names %d bytes, want the %d of the first", len(got), len(first))
	}
}

func testRangesOfLargeObject(t *testing.T, s storage.Store) {
	want := pattern(large)
	put(t, s, "a/large", want)
	for _, offset := range []int64{0, 1, 5<<20 - 1, 5 << 20, 10<<20 + 7, large - 1} {
		for _, length := range []int64{1, 4096, 5<<20 + 1, -1} {
			end := int64(large)
			if length >= 0 {
				end = min(end, offset+length)
			}
			got, err := read(t.Context(), s, "a/large", offset, length)
			if err != nil || !bytes.Equal(got, want[offset:end]) {
				t.Errorf("offset %d, length %d: %d bytes, %v; want the %d written there", offset, length, len(got), err, end-offset)
			}
		}
	}
	// A reader that is closed in the middle does not disturb another.
	r, err := s.Open(t.Context(), "a/large", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("Close in the middle = %v", err)
	}
	if got := content(t, s, "a/large"); !bytes.Equal(got, want) {
		t.Errorf("read %d bytes that differ from those written", len(got))
	}
}

// testManyObjects needs more objects than a service lists or deletes at once.
func testManyObjects(t *testing.T, s storage.Store) {
	const objects, writers = 1100, 16
	var want []string
	for i := range objects {
		want = append(want, fmt.Sprintf("many/%04d", i))
	}
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for k := i; k < objects; k += writers {
				if err := tryPut(t.Context(), s, want[k], ""); err != nil {
					t.Errorf("%s: %v", want[k], err)
				}
			}
		})
	}
	wg.Wait()
	put(t, s, "many-more", nil)
	if got := keys(t, s, "many/"); !slices.Equal(got, want) {
		t.Errorf("List shows %d objects, in order: %t; want %d in order", len(got), slices.IsSorted(got), objects)
	}
	if err := s.RemoveAll(t.Context(), "many/"); err != nil {
		t.Fatal(err)
	}
	if got := keys(t, s, ""); !slices.Equal(got, []string{"many-more"}) {
		t.Errorf("after RemoveAll %d objects are left, want the one beside", len(got))
	}
}
