package bucket

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"go.uber.org/goleak"

	"spillway/storage"
	"spillway/test/testenv"
)

// What is left of writers is removed by whoever removes their folder.
func TestUploadsOfTheDead(t *testing.T) {
	s, _, _ := behind(t, 5*time.Second)
	for _, key := range []string{"t/a/1", "t/a/b/2", "t/ab/3"} {
		u, err := s.service.begin(t.Context(), key, meta{tag: "dead"})
		if err != nil {
			t.Fatal(err)
		}
		if err := u.part(t.Context(), 1, &payload{bytes: content(partSize)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := uploads(t, s); n != 3 {
		t.Fatalf("%d uploads, want 3", n)
	}
	if err := s.RemoveAll(t.Context(), "a/"); err != nil {
		t.Fatal(err)
	}
	if n := uploads(t, s); n != 1 {
		t.Errorf("%d uploads are left, want the one beside", n)
	}
	if err := s.RemoveAll(t.Context(), "ab/"); err != nil {
		t.Fatal(err)
	}
	nothing(t, s)
}

// A writer whose context ends aborts its upload though nobody calls Abort.
func TestContextEndAbortsUpload(t *testing.T) {
	s, _, _ := behind(t, 5*time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	w, err := s.Create(ctx, "a/b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content(large)); err != nil {
		t.Fatal(err)
	}
	if n := uploads(t, s); n != 1 {
		t.Fatalf("%d uploads, want one", n)
	}
	cancel()
	for deadline := time.Now().Add(20 * time.Second); uploads(t, s) > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the upload is still there")
		}
	}
	nothing(t, s)
	if _, err := w.Write(nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Write = %v, want context.Canceled", err)
	}
}

// Close leaves nothing running.
func TestClose(t *testing.T) {
	before := goleak.IgnoreCurrent()
	b := testenv.S3(t)
	server := goleak.IgnoreCurrent()
	s, err := Open(t.Context(), Options{URL: b.URL("")})
	if err != nil {
		t.Fatal(err)
	}
	if err := write(t.Context(), s, "a/b", content(large)); err != nil {
		t.Fatal(err)
	}
	w, err := s.Create(t.Context(), "a/c")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content(large)); err != nil {
		t.Fatal(err)
	}
	if err := w.Abort(); err != nil {
		t.Error(err)
	}
	r, err := s.Open(t.Context(), "a/b", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
		t.Error(err)
	}
	_ = r.Close()
	if err := s.Compose(t.Context(), "a/d", []storage.Part{{Bytes: []byte("x")}, {Key: "a/b", Length: large}}, storage.Delivery{}); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	goleak.VerifyNone(t, before, server)
}
