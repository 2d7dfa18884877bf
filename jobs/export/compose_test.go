package export_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"spillway/jobs"
	"spillway/jobs/export"
	"spillway/storage"
)

// A composer composes in memory, and keeps what it was asked. Every object is
// also made in the storage, so that it is there to be looked for.
type composer struct {
	storage.Store
	fail func(n int) error // of the n-th call from 1; nil: never

	mu         sync.Mutex
	calls      int
	objects    map[string][]byte
	deliveries map[string]storage.Delivery
	literals   int // bytes that were not taken from segments
}

func (c *composer) Compose(ctx context.Context, key string, parts []storage.Part, d storage.Delivery) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	c.calls++
	if c.fail != nil {
		if err := c.fail(c.calls); err != nil {
			return err
		}
	}
	var whole bytes.Buffer
	for _, p := range parts {
		if p.Key == "" {
			whole.Write(p.Bytes)
			c.literals += len(p.Bytes)
			continue
		}
		r, err := c.Open(ctx, p.Key, p.Offset, p.Length)
		if err != nil {
			return err
		}
		n, err := io.Copy(&whole, r)
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
		if n != p.Length {
			return errors.New("a part is not as long as it was said to be")
		}
	}
	if c.objects == nil {
		c.objects, c.deliveries = make(map[string][]byte), make(map[string]storage.Delivery)
	}
	c.objects[key], c.deliveries[key] = whole.Bytes(), d
	w, err := c.Create(ctx, key)
	if err == nil {
		err = w.Commit(ctx)
	}
	return err
}

func (c *composer) Link(context.Context, string, time.Duration, storage.Delivery) (string, error) {
	return "", errors.New("an export makes no links")
}

// composing gives a world's engine a composer.
func composing(w *world, encoding jobs.Encoding) *composer {
	c := &composer{Store: w.storage}
	w.engine = export.New(export.Config{
		Upstream: w.client, Storage: w.storage, Links: c, Jobs: w.jobs,
		Window: 100, FileSize: 100 << 10, Encoding: encoding, Logger: slog.New(slog.DiscardHandler),
	})
	return c
}

func TestCompose(t *testing.T) {
	for _, encoding := range []jobs.Encoding{jobs.EncodingGzip, jobs.EncodingIdentity} {
		t.Run(string(encoding), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, settings{})
			c := composing(w, encoding)
			job := w.run(t, jobs.Request{Notes: []jobs.Note{{Severity: jobs.SeverityInformation, Code: "informational", Text: "a note"}}})
			if job.State != jobs.Completed || len(job.Files) < 10 || c.calls != len(job.Files) {
				t.Fatalf("job is %s: %s, %d files, %d composed", job.State, job.Failure, len(job.Files), c.calls)
			}
			several := false
			for _, f := range job.Files {
				several = several || len(f.Segments) > 1
				if id, ok := jobs.IDOfKey(f.Composed); !ok || id != job.ID || !storage.ValidKey(f.Composed) {
					t.Errorf("%s is composed as %q", f.Name, f.Composed)
				}
				for _, s := range f.Segments {
					if strings.HasPrefix(f.Composed, path.Dir(s.Key)+"/") && s.Kind != jobs.KindOutcome {
						t.Errorf("%s lies where another attempt wrote", f.Name)
					}
				}
				want := storage.Delivery{ContentType: "application/fhir+ndjson", Filename: f.Name}
				plain := c.objects[f.Composed]
				if encoding == jobs.EncodingGzip {
					want.ContentEncoding = "gzip"
					z, err := gzip.NewReader(bytes.NewReader(plain))
					must(t, err)
					z.Multistream(false)
					plain, err = io.ReadAll(z)
					must(t, err)
				}
				if d := c.deliveries[f.Composed]; d != want {
					t.Errorf("%s is declared as %+v", f.Name, d)
				}
				if lines := append(bytes.Join(w.lines(t, f), []byte("\n")), '\n'); !bytes.Equal(plain, lines) {
					t.Errorf("%s: the composed object has %d bytes, its segments %d", f.Name, len(plain), len(lines))
				}
			}
			if !several {
				t.Error("no file has several segments; the test shows nothing")
			}
			trailers := 0
			if encoding == jobs.EncodingGzip {
				trailers = len(job.Files) * len(jobs.GzipTrailer(0, 0))
			}
			if c.literals != trailers {
				t.Errorf("%d bytes were sent instead of copied, want the trailers of %d alone", c.literals, trailers)
			}
		})
	}
}

// TestComposeOfNothingButNotes: the only file is of the attempt that composes it.
func TestComposeOfNothingButNotes(t *testing.T) {
	w := newWorld(t, settings{})
	c := composing(w, jobs.EncodingIdentity)
	job := w.run(t, jobs.Request{
		Types: []string{"Patient"}, Since: time.Now().Add(24 * time.Hour),
		Notes: []jobs.Note{{Severity: jobs.SeverityInformation, Code: "informational", Text: "a note"}},
	})
	if job.State != jobs.Completed || len(job.Files) != 1 || len(c.objects[job.Files[0].Composed]) == 0 || job.Files[0].Composed == job.Files[0].Segments[0].Key {
		t.Errorf("job is %s: %s, %+v", job.State, job.Failure, job.Files)
	}
}

// TestComposeGoesOn: an attempt that fails has not worked for nothing.
func TestComposeGoesOn(t *testing.T) {
	w := newWorld(t, settings{})
	c := composing(w, jobs.EncodingGzip)
	failures := 0
	c.fail = func(n int) error {
		if n != 12 {
			return nil
		}
		failures++
		return errors.New("the bucket has answered 500")
	}
	job := w.run(t, jobs.Request{})
	if job.State != jobs.Completed || failures != 1 {
		t.Fatalf("job is %s: %s, %d failures", job.State, job.Failure, failures)
	}
	for _, f := range job.Files {
		if _, err := w.storage.Stat(t.Context(), f.Composed); err != nil {
			t.Errorf("%s: %v", f.Name, err)
		}
	}
	// Those that ran beside the one that failed may have been told to stop.
	if again := c.calls - 1 - len(job.Files); again < 0 || again > 3 {
		t.Errorf("%d calls for %d files", c.calls, len(job.Files))
	}
}

// TestComposeFails: a storage that does not compose fails the export with a
// reason, and no file is called whole.
func TestComposeFails(t *testing.T) {
	w := newWorld(t, settings{})
	c := composing(w, jobs.EncodingGzip)
	c.fail = func(int) error { return errors.New("the bucket has answered 500") }
	job := w.run(t, jobs.Request{Types: []string{"Patient"}})
	if job.State != jobs.Failed || !strings.Contains(job.Failure, "The storage of exported files does not work") || len(job.Files) > 0 {
		t.Errorf("job is %s: %q, %d files", job.State, job.Failure, len(job.Files))
	}
}

// TestAttemptsDoNotMeet: a store that forgot its last moments may give out an
// attempt number twice.
func TestAttemptsDoNotMeet(t *testing.T) {
	w := newWorld(t, settings{})
	job, first := jobs.New(jobs.Request{Level: jobs.LevelSystem, Types: []string{"Patient"}}, "", time.Now())
	job.Authorization = everything
	must(t, w.jobs.Create(t.Context(), job, first))
	unsaved := func(context.Context, json.RawMessage) error { return nil }
	var lease *jobs.Lease
	for lease == nil || lease.Unit.Kind != jobs.UnitSlice {
		if lease != nil {
			result, err := w.engine.Run(t.Context(), job, lease, unsaved)
			must(t, err)
			must(t, w.jobs.Complete(t.Context(), lease, result))
		}
		var err error
		lease, job, err = w.jobs.Claim(t.Context(), "test")
		must(t, err)
	}
	seen := make(map[string]bool)
	for range 3 {
		result, err := w.engine.Run(t.Context(), job, lease, unsaved)
		must(t, err)
		for _, s := range result.Segments {
			if seen[s.Key] || !storage.ValidKey(s.Key) {
				t.Errorf("the key %q", s.Key)
			}
			seen[s.Key] = true
		}
	}
	if len(seen) < 3 {
		t.Errorf("%d segments of three attempts", len(seen))
	}
}
