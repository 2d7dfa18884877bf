package bucket

import (
	"bytes"
	"math"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"spillway/storage"
	"spillway/test/testenv"
)

// Whatever the parts, the pieces of a plan are these parts in order, and are
// as large as the service demands.
func TestPlan(t *testing.T) {
	services := map[string]traits{
		"S3":    {minPart: 50, minCopy: 50, maxCopy: 300},
		"Azure": {minPart: 1, minCopy: 1, maxCopy: 300},
		"GCS":   {minPart: 50, minCopy: math.MaxInt64, maxCopy: math.MaxInt64},
	}
	objects := map[string][]byte{"a": content(1000), "b": content(1001)[1:], "c": content(60)}
	bytesOf := func(p storage.Part) []byte {
		if p.Key == "" {
			return p.Bytes
		}
		return objects[p.Key][p.Offset : p.Offset+p.Length]
	}
	for name, limits := range services {
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) {
			var parts []storage.Part
			var want []byte
			for range rapid.IntRange(0, 12).Draw(t, "parts") {
				p := storage.Part{Key: rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "key")}
				if p.Key == "" {
					p.Bytes = content(rapid.IntRange(0, 120).Draw(t, "literal"))
					p.Length = int64(len(p.Bytes))
				} else {
					size := len(objects[p.Key])
					p.Offset = int64(rapid.IntRange(0, size).Draw(t, "offset"))
					p.Length = int64(rapid.IntRange(0, size-int(p.Offset)).Draw(t, "length"))
				}
				parts, want = append(parts, p), append(want, bytesOf(p)...)
			}
			pieces := plan(parts, limits)
			var got []byte
			for i, p := range pieces {
				var size int64
				for _, part := range p {
					size += part.Length
					got = append(got, bytesOf(part)...)
				}
				if size == 0 || size < limits.minPart && i < len(pieces)-1 {
					t.Fatalf("piece %d of %d has %d bytes: %v", i, len(pieces), size, p)
				}
				if p.copied(limits) && size > limits.maxCopy {
					t.Fatalf("piece %d is a copy of %d bytes", i, size)
				}
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("the pieces are %d bytes that differ from the %d of the parts", len(got), len(want))
			}
		}))
	}
}

// Of a large range that follows a small one, only the missing bytes are read.
func TestPlanReadsLittle(t *testing.T) {
	const gib = 1 << 30
	t.Run("S3", func(t *testing.T) {
		pieces := plan([]storage.Part{
			{Bytes: make([]byte, 10), Length: 10}, {Key: "a", Offset: 10, Length: gib}, {Key: "b", Offset: 10, Length: gib}, {Bytes: make([]byte, 8), Length: 8},
		}, (&s3Service{}).traits())
		var gathered int64
		for _, p := range pieces {
			if !p.copied((&s3Service{}).traits()) {
				for _, part := range p {
					gathered += part.Length
				}
			}
		}
		if want := int64(partSize + 8); gathered > want {
			t.Errorf("%d bytes go through us, want %d at most", gathered, want)
		}
	})
}

// A service that does not know how to copy a range has its objects gathered.
func TestComposeWithoutCopying(t *testing.T) {
	s, _, p := behind(t, 5*time.Second)
	object := content(large)
	if err := write(t.Context(), s, "a/b", object); err != nil {
		t.Fatal(err)
	}
	p.set(func(w http.ResponseWriter, r *http.Request) bool {
		return r.Header.Get("X-Amz-Copy-Source") != "" && status(http.StatusNotImplemented, "NotImplemented")(w, r)
	})
	for range 2 {
		d := storage.Delivery{ContentType: "text/plain"}
		if err := s.Compose(t.Context(), "a/c", []storage.Part{{Bytes: []byte("x")}, {Key: "a/b", Length: large}}, d); err != nil {
			t.Fatal(err)
		}
		whole(t, s, "a/c", append([]byte("x"), object...))
		if err := s.RemoveAll(t.Context(), "c/"); err != nil {
			t.Fatal(err)
		}
	}
	if !s.noCopy.Load() {
		t.Error("the store has not learnt it")
	}
	if n := uploads(t, s); n != 0 {
		t.Errorf("%d uploads were left", n)
	}
}

// A service that does not know conditional writes is looked at before.
func TestWithoutConditions(t *testing.T) {
	s, _, p := behind(t, 5*time.Second)
	p.set(func(w http.ResponseWriter, r *http.Request) bool {
		return r.Header.Get("If-None-Match") != "" && status(http.StatusNotImplemented, "NotImplemented")(w, r)
	})
	for key, size := range map[string]int{"a/small": 1000, "a/large": large} {
		if err := write(t.Context(), s, key, content(size)); err != nil {
			t.Errorf("%s: %v", key, err)
		}
		if err := write(t.Context(), s, key, content(10)); err != storage.ErrExists {
			t.Errorf("%s again: %v, want ErrExists", key, err)
		}
		whole(t, s, key, content(size))
	}
}

// Composing copies on the side of the service, on Azure too, where every
// range is one.
func TestComposeCopiesInTheService(t *testing.T) {
	services(t, func(t *testing.T, b *testenv.Bucket) {
		s := open(t, b.URL(""))
		if _, ok := s.service.(*gcsService); ok {
			return // it copies no ranges
		}
		p := newProxy(t, b.Address)
		behind := open(t, b.At(p.address, ""))
		object := content(11 << 20)
		if err := write(t.Context(), s, "a/b", object); err != nil {
			t.Fatal(err)
		}
		var sent atomic.Int64
		p.set(func(_ http.ResponseWriter, r *http.Request) bool {
			sent.Add(max(r.ContentLength, 0))
			return false
		})
		d := storage.Delivery{ContentType: "text/plain"}
		parts := []storage.Part{{Key: "a/b", Offset: 1, Length: 10 << 20}, {Bytes: []byte("end")}}
		if err := behind.Compose(t.Context(), "a/c", parts, d); err != nil {
			t.Fatal(err)
		}
		p.set(nil)
		whole(t, s, "a/c", append(append([]byte{}, object[1:10<<20+1]...), "end"...))
		if n := sent.Load(); n > 10_000 {
			t.Errorf("%d bytes were sent, want but the literal ones and the lists", n)
		}
	})
}
