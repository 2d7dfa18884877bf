package disk

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spillway/storage"
)

// content is different for every key, and of a size that fits no block.
func content(key string) []byte { return bytes.Repeat([]byte(key+"\n"), 2000+100*len(key)) }

func putPacked(t *testing.T, s *Store, key string) {
	t.Helper()
	w, err := s.Create(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content(key)); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// wantPacked fails unless the keys lie in one pack, one after another.
func wantPacked(t *testing.T, s *Store, keys ...string) (file string) {
	t.Helper()
	var want []byte
	for _, key := range keys {
		r, err := s.Open(t.Context(), key, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		_ = r.Close()
		if err != nil || !bytes.Equal(got, content(key)) {
			t.Fatalf("%s comes back as %d bytes, %v", key, len(got), err)
		}
		at, offset, err := s.Locate(t.Context(), key)
		if err != nil || file != "" && at != file || offset != int64(len(want)) {
			t.Errorf("%s is in %s at %d (%v), want %s at %d", key, at, offset, err, file, len(want))
		}
		file = at
		want = append(want, content(key)...)
	}
	got, err := os.ReadFile(file)
	if err != nil || !bytes.HasPrefix(got, want) {
		t.Errorf("the pack does not begin with what was put into it: %v", err)
	}
	return file
}

func TestPacks(t *testing.T) {
	path := t.TempDir()
	s := openPacked(t, path)
	putPacked(t, s, "j/a")
	lost, err := s.Create(t.Context(), "j/lost")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lost.Write(content("j/lost")); err != nil {
		t.Fatal(err)
	}
	if err := lost.Abort(); err != nil {
		t.Fatal(err)
	}
	putPacked(t, s, "j/bb")
	putPacked(t, s, "k/ccc")
	file := wantPacked(t, s, "j/a", "j/bb", "k/ccc")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	// A record that was cut off, and bytes of an object that has none, count for
	// nothing.
	cut, err := os.OpenFile(filepath.Join(path, packIndex), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = cut.WriteString(`{"key":"j/cut","pack":".packs/0","off`)
	if err := errors.Join(err, cut.Close()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, packFolder, "7"), []byte("begun"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = openPacked(t, path)
	wantPacked(t, s, "j/a", "j/bb", "k/ccc")
	putPacked(t, s, "k/d")
	wantPacked(t, s, "j/a", "j/bb", "k/ccc", "k/d")
	if _, err := s.Stat(t.Context(), "j/cut"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Stat of an object whose record was cut off = %v", err)
	}
	if err := s.RemoveAll(t.Context(), "j/"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = openPacked(t, path)
	var left []string
	for o, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, o.Key)
	}
	if got := strings.Join(left, " "); got != "k/ccc k/d" {
		t.Errorf("after RemoveAll there are %q", got)
	}
	if err := s.RemoveAll(t.Context(), "k/"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a pack of nothing is still there: %v", err)
	}
}

// Writers at the same time have a pack each, and a pack that is full gets no more.
func TestPacksSideBySide(t *testing.T) {
	s := openPacked(t, t.TempDir())
	first, err := s.Create(t.Context(), "j/first")
	if err != nil {
		t.Fatal(err)
	}
	putPacked(t, s, "j/second")
	if _, err := first.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := first.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	putPacked(t, s, "j/third")
	wantPacked(t, s, "j/second", "j/third")
}
