package bucket

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"spillway/storage"
	"spillway/test/testenv"
)

func discard() *log.Logger { return log.New(io.Discard, "", 0) }

func contextWith(ctx context.Context, f responseFault) context.Context {
	return context.WithValue(ctx, ctxKey{}, f)
}

// behind opens a store behind a proxy, and one without, of the same objects.
// The one behind waits outage for a service that is away.
func behind(t *testing.T, outage time.Duration) (s, direct *Store, p *proxy) {
	b := testenv.S3(t)
	p = newProxy(t, b.Address)
	s, err := Open(t.Context(), Options{URL: b.At(p.address, "t/"), Logger: slog.New(slog.DiscardHandler), MaxOutage: outage})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	s.silence, s.pause = 400*time.Millisecond, 20*time.Millisecond
	return s, open(t, b.URL("t/")), p
}

const large = 12<<20 + 77

// content returns n bytes that repeat after a prime number of them.
func content(n int) []byte {
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

// write stores an object, and returns the first error.
func write(ctx context.Context, s *Store, key string, content []byte) error {
	w, err := s.Create(ctx, key)
	if err != nil {
		return err
	}
	defer func() { _ = w.Abort() }()
	if _, err := w.Write(content); err != nil {
		return err
	}
	return w.Commit(ctx)
}

func read(ctx context.Context, s *Store, key string) ([]byte, error) {
	r, err := s.Open(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}

// whole fails the test unless the object has all of its bytes.
func whole(t *testing.T, s *Store, key string, want []byte) {
	t.Helper()
	if got, err := read(t.Context(), s, key); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s has %d bytes, %v; want all %d as written", key, len(got), err, len(want))
	}
}

// nothing fails the test if an object, or an upload of one, is there.
func nothing(t *testing.T, s *Store) {
	t.Helper()
	for o, err := range s.List(t.Context(), "") {
		t.Errorf("%s is there, with %d bytes (%v)", o.Key, o.Size, err)
	}
	if n := uploads(t, s); n != 0 {
		t.Errorf("%d uploads were neither completed nor aborted", n)
	}
}

func uploads(t *testing.T, s *Store) int {
	t.Helper()
	service := s.service.(*s3Service)
	out, err := service.client.ListMultipartUploads(context.WithoutCancel(t.Context()), &s3.ListMultipartUploadsInput{Bucket: &service.name})
	if err != nil {
		t.Fatal(err)
	}
	return len(out.Uploads)
}

// inWords fails the test unless err is a sentence with words in it and
// nothing that must not be told.
func inWords(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
	for _, w := range []string{"object-key", "test-access", "test-secret", "X-Amz", "Signature=", "http://", "?"} {
		if strings.Contains(err.Error(), w) {
			t.Errorf("%q tells %q", err, w)
		}
	}
}

func TestTroubleThatPasses(t *testing.T) {
	s, direct, p := behind(t, 8*time.Second)
	small, big := content(100_000), content(large)
	lost := onResponse(responseCut(0))
	faults := map[string]fault{
		"500":                     times(4, status(http.StatusInternalServerError, "InternalError")),
		"503":                     times(4, status(http.StatusServiceUnavailable, "SlowDown")),
		"429":                     times(4, status(http.StatusTooManyRequests, "TooManyRequests")),
		"cut":                     times(4, cut),
		"stalled":                 times(1, stall),
		"cut in a request":        times(3, only(http.MethodPut, requestCut(50_000))),
		"answers of PUT lost":     times(2, only(http.MethodPut, lost)),
		"answers of POST lost":    times(2, only(http.MethodPost, lost)),
		"answers of HEAD lost":    times(2, only(http.MethodHead, lost)),
		"cut in an answer":        times(3, only(http.MethodGet, onResponse(responseCut(40_000)))),
		"cut late in an answer":   times(3, only(http.MethodGet, onResponse(responseCut(3<<20)))),
		"slow":                    onResponse(responsePaced(64_000, 3*time.Millisecond)),
		"every answer soon ended": only(http.MethodGet, onResponse(responseCut(1<<20))),
	}
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			p.set(f)
			defer p.set(nil)
			for key, object := range map[string][]byte{"a/small": small, "a/large": big} {
				if err := write(t.Context(), s, key, object); err != nil {
					t.Errorf("writing %s: %v", key, err)
				}
				whole(t, s, key, object)
				whole(t, direct, key, object)
			}
			d := storage.Delivery{ContentType: "text/plain"}
			parts := []storage.Part{{Bytes: []byte("x")}, {Key: "a/large", Length: large}, {Key: "a/small", Length: 100_000}}
			if err := s.Compose(t.Context(), "a/composed", parts, d); err != nil {
				t.Errorf("composing: %v", err)
			}
			whole(t, direct, "a/composed", append(append([]byte("x"), big...), small...))
			if err := s.RemoveAll(t.Context(), "a/"); err != nil {
				t.Errorf("removing: %v", err)
			}
			nothing(t, direct)
		})
	}
}

func TestTroubleThatStays(t *testing.T) {
	const outage, patience = 800 * time.Millisecond, 15 * time.Second // with much else on this machine
	s, direct, p := behind(t, outage)
	object := content(large)
	if err := write(t.Context(), direct, "kept/object-key", object); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		fault fault
		words []string
	}{
		{"500", status(http.StatusInternalServerError, "InternalError"), []string{"answered 500 InternalError for "}},
		{"503", status(http.StatusServiceUnavailable, "SlowDown"), []string{"answered 503 SlowDown for "}},
		{"cut", cut, []string{"has not answered", " for "}},
		{"stalled", stall, []string{"moved no byte for "}},
		{"cut in a request", only(http.MethodPut, requestCut(50_000)), []string{"has not answered", " for "}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			// What tidies up gets through, so that one can see that it does.
			p.set(func(w http.ResponseWriter, r *http.Request) bool {
				return r.Method != http.MethodDelete && test.fault(w, r)
			})
			defer p.set(nil)
			for key, size := range map[string]int{"a/object-key-small": 100_000, "a/object-key-large": large} {
				start := time.Now()
				err := write(t.Context(), s, key, object[:size])
				inWords(t, err, append(test.words, "bucket s3://exports: ")...)
				if took := time.Since(start); took > patience {
					t.Errorf("giving up took %v with an outage of %v", took, outage)
				}
				if errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrExists) || errors.Is(err, storage.ErrFull) {
					t.Errorf("%v is an error that says something else", err)
				}
			}
			if test.name != "cut in a request" {
				_, err := read(t.Context(), s, "kept/object-key")
				inWords(t, err, test.words...)
				inWords(t, s.RemoveAll(t.Context(), "a/"), test.words...)
				inWords(t, first(s.List(t.Context(), "")), test.words...)
			}
			if _, err := direct.Stat(t.Context(), "a/object-key-large"); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("Stat = %v, want ErrNotFound", err)
			}
			if n := uploads(t, direct); n != 0 {
				t.Errorf("%d uploads were left", n)
			}
		})
	}
}

// A body that breaks and does not come again is an error, never an end.
func TestDownloadThatNeverEnds(t *testing.T) {
	s, direct, p := behind(t, 800*time.Millisecond)
	object := content(large)
	if err := write(t.Context(), direct, "a/b", object); err != nil {
		t.Fatal(err)
	}
	broken := only(http.MethodGet, onResponse(responseCut(2<<20)))
	for name, then := range map[string]fault{"cut": cut, "stalled": stall, "refused": status(http.StatusForbidden, "AccessDenied")} {
		t.Run(name, func(t *testing.T) {
			var later atomic.Bool
			p.set(func(w http.ResponseWriter, r *http.Request) bool {
				if !later.Swap(true) {
					return broken(w, r)
				}
				return then(w, r)
			})
			defer p.set(nil)
			got, err := read(t.Context(), s, "a/b")
			inWords(t, err, "reading an object")
			if errors.Is(err, io.EOF) || len(got) >= large || !bytes.Equal(got, object[:len(got)]) {
				t.Errorf("%d bytes and %v; want fewer than %d, as written, and an error", len(got), err, large)
			}
		})
	}
	t.Run("another object", func(t *testing.T) {
		p.set(times(1, broken))
		defer p.set(nil)
		r, err := s.Open(t.Context(), "a/b", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		if err := direct.RemoveAll(t.Context(), "a/"); err != nil {
			t.Fatal(err)
		}
		if err := write(t.Context(), direct, "a/b", content(large+1)); err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(r)
		if inWords(t, err); len(rest) >= large {
			t.Errorf("read %d bytes of two objects", len(rest))
		}
		_ = r.Close()
	})
}

func TestFull(t *testing.T) {
	for name, answer := range map[string]fault{
		"507":           status(http.StatusInsufficientStorage, ""),
		"QuotaExceeded": status(http.StatusForbidden, "QuotaExceeded"),
		"MinIO":         status(http.StatusInsufficientStorage, "XMinioStorageFull"),
	} {
		t.Run(name, func(t *testing.T) {
			s, direct, p := behind(t, time.Second)
			if err := s.Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
			p.set(only(http.MethodPut, answer))
			for _, size := range []int{1000, large} {
				s.full.Store(0) // as if some time had passed
				if err := write(t.Context(), s, "a/b", content(size)); !errors.Is(err, storage.ErrFull) {
					t.Errorf("writing %d bytes = %v, want ErrFull", size, err)
				}
			}
			if err := s.Ready(t.Context()); !errors.Is(err, storage.ErrFull) {
				t.Errorf("Ready = %v, want ErrFull", err)
			}
			if _, err := s.Create(t.Context(), "a/b"); !errors.Is(err, storage.ErrFull) {
				t.Errorf("Create = %v, want ErrFull", err)
			}
			nothing(t, direct)
			p.set(nil)
			s.full.Store(time.Now().Add(-fullFor - time.Second).UnixNano())
			if err := s.Ready(t.Context()); err != nil {
				t.Errorf("Ready some time after = %v", err)
			}
			if err := write(t.Context(), s, "a/b", content(1000)); err != nil {
				t.Errorf("writing some time after = %v", err)
			}
		})
	}
}

// What will not change is not asked again.
func TestRefused(t *testing.T) {
	s, _, p := behind(t, 10*time.Second)
	for _, code := range []string{"AccessDenied", "NoSuchBucket"} {
		p.set(status(map[string]int{"AccessDenied": http.StatusForbidden, "NoSuchBucket": http.StatusNotFound}[code], code))
		inWords(t, write(t.Context(), s, "a/object-key", nil), code)
		if n := p.set(nil); n != 1 {
			t.Errorf("%s: %d requests, want one", code, n)
		}
	}
}

func TestReadyOfServiceInTrouble(t *testing.T) {
	s, _, p := behind(t, time.Minute)
	s.silence = time.Minute
	p.set(stall)
	start := time.Now()
	inWords(t, s.Ready(t.Context()), "2s")
	if took := time.Since(start); took > readyWithin+5*time.Second {
		t.Errorf("Ready took %v", took)
	}
	inWords(t, s.Ready(t.Context())) // from memory
	if n := p.set(status(http.StatusServiceUnavailable, "SlowDown")); n != 1 {
		t.Errorf("%d requests, want one for both calls", n)
	}
	s.asked = time.Time{}
	inWords(t, s.Ready(t.Context()), "503 SlowDown")
	p.set(nil)
	s.asked = time.Time{}
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("Ready = %v", err)
	}
	p.set(cut)
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("Ready soon after = %v, want the answer of before", err)
	}
}

// The end of the context ends whatever is under way.
func TestContextEndsInTrouble(t *testing.T) {
	s, direct, p := behind(t, time.Minute)
	object := content(large)
	if err := write(t.Context(), direct, "kept/a", object); err != nil {
		t.Fatal(err)
	}
	w, err := s.Create(t.Context(), "a/b")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Abort() }()
	if _, err := w.Write(object); err != nil {
		t.Fatal(err)
	}
	for _, f := range []fault{stall, cut, status(http.StatusServiceUnavailable, "SlowDown")} {
		p.set(f)
		calls := map[string]func(context.Context) error{
			"write":     func(ctx context.Context) error { return write(ctx, s, "a/c", object) },
			"Open":      func(ctx context.Context) error { _, err := s.Open(ctx, "kept/a", 0, -1); return err },
			"Stat":      func(ctx context.Context) error { _, err := s.Stat(ctx, "kept/a"); return err },
			"RemoveAll": func(ctx context.Context) error { return s.RemoveAll(ctx, "a/") },
			"Compose": func(ctx context.Context) error {
				return s.Compose(ctx, "a/d", []storage.Part{{Key: "kept/a", Length: large}}, storage.Delivery{})
			},
		}
		for name, call := range calls {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			start := time.Now()
			if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s = %v, want context.DeadlineExceeded", name, err)
			}
			if took := time.Since(start); name != "write" && took > 15*time.Second {
				t.Errorf("%s took %v after its context had ended", name, took)
			}
			cancel()
		}
	}
	p.set(nil)
}
