package redisstore_test

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"spillway/jobs"
	"spillway/jobs/redisstore"
)

var recordKey = []byte("a key of tests that is long enough") //nolint:gochecknoglobals // a constant of bytes

// sealedWorld is a Redis with one sealed export, whose slice has a checkpoint.
type sealedWorld struct {
	redis *miniredis.Miniredis
	store *redisstore.Store
	clock *shift
	job   *jobs.Job
	other *jobs.Job
}

func newSealedWorld(t *testing.T) *sealedWorld {
	w := &sealedWorld{redis: miniredis.RunT(t), clock: &shift{}}
	w.store = w.open(t, recordKey)
	w.job = w.create(t, "client-a")
	for range 2 { // plan, then slice
		l := w.claim(t)
		r := jobs.Result{Summary: json.RawMessage(`{"is":"summary"}`)}
		if l.Unit.Kind == jobs.UnitPlan {
			r.TransactionTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			r.Next = []jobs.Unit{
				{ID: "s1", Kind: jobs.UnitSlice, Type: "Patient", Weight: 2, Spec: json.RawMessage(`{"is":"spec"}`)},
				{ID: "s2", Kind: jobs.UnitSlice, Type: "Patient", Weight: 1, Spec: json.RawMessage(`{"is":"spec"}`)},
				{ID: "f", Kind: jobs.UnitFinish},
			}
		}
		w.must(t, w.store.Complete(t.Context(), l, r))
	}
	l := w.claim(t)
	w.must(t, w.store.Save(t.Context(), l, json.RawMessage(`{"is":"checkpoint"}`)))
	w.must(t, w.store.Release(t.Context(), l, time.Time{}))
	return w
}

func (w *sealedWorld) open(t *testing.T, key []byte) *redisstore.Store {
	t.Helper()
	return open(t, redisstore.Options{URL: "redis://" + w.redis.Addr(), Shift: w.clock.Get, RecordKey: key})
}

func (w *sealedWorld) must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *sealedWorld) create(t *testing.T, owner string) *jobs.Job {
	t.Helper()
	j, first := jobs.New(jobs.Request{Level: jobs.LevelSystem, Types: []string{"Patient"}}, owner, time.Now())
	w.must(t, w.store.Create(t.Context(), j, first))
	return j
}

func (w *sealedWorld) claim(t *testing.T) *jobs.Lease {
	t.Helper()
	l, _, err := w.store.Claim(t.Context(), "w")
	w.must(t, err)
	return l
}

// finish completes the job with one file.
func (w *sealedWorld) finish(t *testing.T) {
	t.Helper()
	for {
		l := w.claim(t)
		r := jobs.Result{}
		if l.Unit.Kind == jobs.UnitFinish {
			r.Files = []jobs.File{{Name: "1.Patient.ndjson", Kind: jobs.KindOutput, Type: "Patient", Count: 1}}
		}
		w.must(t, w.store.Complete(t.Context(), l, r))
		if l.Unit.Kind == jobs.UnitFinish {
			return
		}
	}
}

// key is where a job's part lies.
func (w *sealedWorld) key(part string, j *jobs.Job) string {
	return "{spillway}:" + part + ":" + string(j.ID)
}

// change replaces text in a field of a hash by other of the same length.
func (w *sealedWorld) change(t *testing.T, key, field, from, to string) {
	t.Helper()
	value := w.redis.HGet(key, field)
	if !strings.Contains(value, from) || len(from) != len(to) {
		t.Fatalf("%s %s does not hold %q: %q", key, field, from, value)
	}
	w.redis.HSet(key, field, strings.Replace(value, from, to, 1))
}

// Whoever can write to Redis must not be able to read the export of another, or
// have one made of what its client may not read (T53).
func TestTampering(t *testing.T) {
	get := func(ctx context.Context, s *redisstore.Store, w *sealedWorld) error {
		_, err := s.Get(ctx, w.job.ID)
		return err
	}
	list := func(ctx context.Context, s *redisstore.Store, _ *sealedWorld) error {
		_, err := s.List(ctx)
		return err
	}
	done := func(ctx context.Context, s *redisstore.Store, w *sealedWorld) error {
		_, err := s.Done(ctx, w.job.ID)
		return err
	}
	claim := func(ctx context.Context, s *redisstore.Store, _ *sealedWorld) error {
		_, _, err := s.Claim(ctx, "w")
		return err
	}
	type call = func(context.Context, *redisstore.Store, *sealedWorld) error
	for _, tt := range []struct {
		name   string
		tamper func(*testing.T, *sealedWorld)
		calls  []call
		says   string
	}{
		{"Record", func(t *testing.T, w *sealedWorld) {
			raw := []byte(w.redis.HGet(w.key("job", w.job), "record"))
			raw[len(raw)-3] ^= 1
			w.redis.HSet(w.key("job", w.job), "record", string(raw))
		}, []call{get, list, claim}, "was changed"},
		{"RecordOfAnotherJob", func(t *testing.T, w *sealedWorld) {
			w.other = w.create(t, "client-b")
			w.redis.HSet(w.key("job", w.job), "record", w.redis.HGet(w.key("job", w.other), "record"))
		}, []call{get}, "was changed"},
		{"RecordWithoutASeal", func(t *testing.T, w *sealedWorld) {
			w.redis.HSet(w.key("job", w.job), "record", `{"version":1,"id":"`+string(w.job.ID)+`","owner":"client-b","state":"queued"}`)
		}, []call{get, claim}, "was changed"},
		{"TransactionTime", func(t *testing.T, w *sealedWorld) {
			w.change(t, w.key("job", w.job), "transactionTime", "2026", "2027")
		}, []call{get}, "was changed"},
		{"Unit", func(t *testing.T, w *sealedWorld) {
			w.change(t, w.key("units", w.job), "s2", `"spec"`, `"evil"`)
		}, []call{claim}, "was changed"},
		{"Checkpoint", func(t *testing.T, w *sealedWorld) {
			w.change(t, w.key("saved", w.job), "s2", `"checkpoint"`, `"tampering!"`)
		}, []call{claim}, "was changed"},
		{"Result", func(t *testing.T, w *sealedWorld) {
			l, err := w.redis.List(w.key("done", w.job))
			w.must(t, err)
			w.redis.Del(w.key("done", w.job))
			_, err = w.redis.Push(w.key("done", w.job), l[0], strings.Replace(l[1], "summary", "tamper!", 1))
			w.must(t, err)
		}, []call{done}, "was changed"},
		{"Output", func(t *testing.T, w *sealedWorld) {
			w.finish(t)
			out, err := w.redis.Get(w.key("output", w.job))
			w.must(t, err)
			w.must(t, w.redis.Set(w.key("output", w.job), out[:len(out)-3]+"x"+out[len(out)-2:]))
		}, []call{get}, "was changed"},
		{"OutputOfAnotherJob", func(t *testing.T, w *sealedWorld) {
			w.finish(t)
			first := w.job
			w.job = w.create(t, "client-b")
			out, err := w.redis.Get(w.key("output", first))
			w.must(t, err)
			w.must(t, w.redis.Set(w.key("output", w.job), out))
		}, []call{get}, "was changed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newSealedWorld(t)
			tt.tamper(t, w)
			for i, c := range tt.calls {
				if err := c(t.Context(), w.store, w); err == nil || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("call %d: %v, want %q", i, err, tt.says)
				}
			}
		})
	}
}

func TestRecordKeys(t *testing.T) {
	w := newSealedWorld(t)
	if _, err := w.store.Get(t.Context(), w.job.ID); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		key  []byte
		says string
	}{
		"None":    {nil, "no record key"},
		"Another": {bytes.Repeat([]byte("k"), 32), "another record key"},
	} {
		s := w.open(t, tt.key)
		if _, err := s.Get(t.Context(), w.job.ID); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", name, err, tt.says)
		}
		if _, _, err := s.Claim(t.Context(), "w"); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: Claim: %v, want %q", name, err, tt.says)
		}
		w.clock.Advance(time.Hour)
	}
	if _, err := redisstore.Open(t.Context(), redisstore.Options{URL: "redis://" + w.redis.Addr(), RecordKey: []byte("short")}); err == nil || !strings.Contains(err.Error(), "32 bytes") {
		t.Errorf("a short key: %v", err)
	}
	w.redis.FlushAll()
	plain, sealed := w.open(t, nil), w.open(t, recordKey)
	j, first := jobs.New(jobs.Request{Level: jobs.LevelSystem}, "", time.Now())
	w.must(t, plain.Create(t.Context(), j, first))
	if _, err := sealed.Get(t.Context(), j.ID); err == nil || !strings.Contains(err.Error(), "another record key or none") {
		t.Errorf("a record without a seal: %v", err)
	}
}
