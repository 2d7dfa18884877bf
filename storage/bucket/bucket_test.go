package bucket

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"spillway/storage"
	"spillway/storage/storagetest"
	"spillway/test/testenv"
)

// open opens a store that ends with the test.
func open(t *testing.T, url string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Options{URL: url, Logger: slog.New(slog.DiscardHandler), MaxOutage: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// each returns a function that opens stores with prefixes of their own in one
// bucket.
func each(b *testenv.Bucket) func(t *testing.T) *Store {
	n := 0
	return func(t *testing.T) *Store {
		n++
		return open(t, b.URL(fmt.Sprintf("t%d/", n)))
	}
}

// services starts each service in turn.
func services(t *testing.T, run func(t *testing.T, b *testenv.Bucket)) {
	t.Run("S3", func(t *testing.T) { run(t, testenv.S3(t)) })
	t.Run("GCS", func(t *testing.T) { run(t, testenv.GCS(t)) })
	t.Run("Azure", func(t *testing.T) { run(t, testenv.Azure(t)) })
}

func TestStore(t *testing.T) {
	services(t, func(t *testing.T, b *testenv.Bucket) {
		next := each(b)
		storagetest.Run(t, func(t *testing.T) storage.Store { return next(t) })
		noUploads(t, next(t))
	})
}

func TestLinker(t *testing.T) {
	services(t, func(t *testing.T, b *testenv.Bucket) {
		signatures := storagetest.Verified
		if strings.HasPrefix(b.URL(""), "gs://") {
			signatures = storagetest.Ignored
		}
		next := each(b)
		storagetest.RunLinker(t, signatures, func(t *testing.T) storagetest.Linking { return next(t) })
		noUploads(t, next(t))
	})
}

// noUploads fails the test if there are uploads to S3 that nobody has ended.
func noUploads(t *testing.T, s *Store) {
	t.Helper()
	if _, ok := s.service.(*s3Service); !ok {
		return
	}
	if n := uploads(t, s); n != 0 {
		t.Errorf("%d uploads were neither completed nor aborted", n)
	}
}
