package storagetest

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"spillway/storage"
)

// Linking is a store whose objects have links.
type Linking interface {
	storage.Store
	storage.Linker
}

// Signatures says what a service does with links.
type Signatures int

const (
	// Verified means that it refuses a link that has expired or is not signed.
	Verified Signatures = iota
	// Ignored means that it serves everybody, as some emulators do.
	Ignored
)

// RunLinker exercises a linker: every sentence of storage.Linker.
func RunLinker(t *testing.T, signatures Signatures, open func(t *testing.T) Linking) {
	tests := []struct {
		name string
		run  func(*testing.T, Linking)
	}{
		{"Compose", testCompose},
		{"ComposeManyParts", testComposeManyParts},
		{"Delivery", testDelivery},
		{"ComposeAgain", testComposeAgain},
		{"ComposeOfWhatIsNotThere", testComposeMissing},
		{"ComposeCanceled", testComposeCanceled},
	}
	if signatures == Verified {
		tests = append(tests, []struct {
			name string
			run  func(*testing.T, Linking)
		}{
			{"LinkExpires", testLinkExpires},
			{"LinkIsSigned", testLinkIsSigned},
		}...)
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

// plain is a delivery without encoding.
func plain() storage.Delivery { return storage.Delivery{ContentType: "application/fhir+ndjson"} }

// random returns n bytes that no two places have in common.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return b
}

func literal(b []byte) storage.Part { return storage.Part{Bytes: b} }

func testCompose(t *testing.T, s Linking) {
	sizes := map[string]int{"in/empty": 0, "in/tiny": 3, "in/small": 70_000, "in/middle": 5<<20 + 1, "in/large": 11 << 20}
	objects := map[string][]byte{}
	all := random(17 << 20)
	for key, size := range sizes {
		objects[key], all = all[:size], all[size:]
		put(t, s, key, objects[key])
	}
	part := func(key string, cut ...int64) storage.Part { // without so many bytes at its ends
		p := storage.Part{Key: key, Length: int64(sizes[key])}
		if len(cut) > 0 {
			p.Offset, p.Length = cut[0], p.Length-cut[0]-cut[1]
		}
		return p
	}
	head, tail := literal([]byte("0123456789")), literal([]byte("abcdefgh"))
	tests := map[string][]storage.Part{
		"nothing":        nil,
		"literal":        {head},
		"literals":       {head, tail, head},
		"tiny":           {part("in/tiny")},
		"empty":          {part("in/empty")},
		"whole":          {part("in/large")},
		"range":          {part("in/large", 11, 7)},
		"small-range":    {part("in/large", 6<<20, 4<<20)},
		"whole-objects":  {part("in/middle"), part("in/large"), part("in/small"), part("in/tiny")},
		"framed":         {head, part("in/large", 10, 8), tail},
		"framed-small":   {head, part("in/small", 10, 8), tail},
		"framed-several": {head, part("in/large", 10, 8), part("in/small", 10, 8), part("in/middle", 10, 8), part("in/large", 10, 8), tail},
		"small-first":    {part("in/tiny"), part("in/large")},
		"many-small":     {part("in/small"), part("in/tiny"), head, part("in/small", 1, 1), part("in/empty"), part("in/small"), tail},
		"just-too-small": {part("in/middle", 1, 1), part("in/middle", 1, 0), part("in/middle", 0, 1)},
	}
	for name, parts := range tests {
		t.Run(name, func(t *testing.T) {
			var want []byte
			for _, p := range parts {
				if p.Key == "" {
					want = append(want, p.Bytes...)
				} else {
					want = append(want, objects[p.Key][p.Offset:p.Offset+p.Length]...)
				}
			}
			compose(t, s, "out/"+name, parts, plain())
			if o, err := s.Stat(t.Context(), "out/"+name); err != nil || o.Size != int64(len(want)) {
				t.Errorf("Stat = %d bytes, %v; want %d", o.Size, err, len(want))
			}
			expect(t, s, "out/"+name, plain(), want)
		})
	}
	// Nothing but what was asked for is there.
	if got := keys(t, s, "out/"); len(got) != len(tests) {
		t.Errorf("beside the composed objects there are others: %q", got)
	}
	for key := range objects {
		if got := content(t, s, key); !bytes.Equal(got, objects[key]) {
			t.Errorf("%s has changed", key)
		}
	}
}

// testComposeManyParts has more parts than a service takes at once.
func testComposeManyParts(t *testing.T, s Linking) {
	const objects = 70
	var parts []storage.Part
	var want []byte
	for i := range objects {
		key := fmt.Sprintf("in/%d", i)
		line := fmt.Appendf(nil, "line %d\n", i)
		put(t, s, key, line)
		parts, want = append(parts, storage.Part{Key: key, Length: int64(len(line))}), append(want, line...)
	}
	compose(t, s, "out/a", parts, plain())
	expect(t, s, "out/a", plain(), want)
	if got := keys(t, s, "out/"); len(got) != 1 {
		t.Errorf("beside the composed object there are others: %q", got)
	}
}

func compose(t *testing.T, s Linking, key string, parts []storage.Part, d storage.Delivery) {
	t.Helper()
	if err := s.Compose(t.Context(), key, parts, d); err != nil {
		t.Fatalf("Compose = %v", err)
	}
}

// link signs one or fails the test.
func link(t *testing.T, s Linking, key string, ttl time.Duration, d storage.Delivery) string {
	t.Helper()
	l, err := s.Link(t.Context(), key, ttl, d)
	if err != nil {
		t.Fatalf("Link = %v", err)
	}
	return l
}

// follow fetches a link as a client that understands gzip would, and leaves
// what comes as it is.
func follow(t *testing.T, l string) (*http.Response, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, l, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept-Encoding", "gzip")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, b
}

// expect follows a link of an object and compares what comes.
func expect(t *testing.T, s Linking, key string, d storage.Delivery, want []byte) {
	t.Helper()
	response, got := follow(t, link(t, s, key, time.Minute, d))
	if response.StatusCode != http.StatusOK {
		t.Fatalf("the link was answered %s", response.Status)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the link gave %d bytes that are not the %d composed", len(got), len(want))
	}
	if h := response.Header; h.Get("Content-Type") != d.ContentType || h.Get("Content-Encoding") != d.ContentEncoding {
		t.Errorf("declared as %q, %q; want %q, %q", h.Get("Content-Type"), h.Get("Content-Encoding"), d.ContentType, d.ContentEncoding)
	}
	if h := response.Header.Get("Content-Disposition"); d.Filename != "" && !strings.Contains(h, d.Filename) {
		t.Errorf("Content-Disposition = %q, want the name %q in it", h, d.Filename)
	}
}

func testDelivery(t *testing.T, s Linking) {
	var packed bytes.Buffer
	w, _ := gzip.NewWriterLevel(&packed, gzip.NoCompression) // a level that there is
	_, _ = w.Write(random(6 << 20))                          // to memory
	_ = w.Close()
	stored := packed.Bytes()
	end := len(stored) - 8
	put(t, s, "in/a", stored)
	d := storage.Delivery{ContentType: "application/fhir+ndjson", ContentEncoding: "gzip", Filename: "1.Patient.ndjson"}
	compose(t, s, "out/a", []storage.Part{
		literal(stored[:10]), {Key: "in/a", Offset: 10, Length: int64(end) - 10}, literal(stored[end:]),
	}, d)
	expect(t, s, "out/a", d, stored)
}

func testComposeAgain(t *testing.T, s Linking) {
	object := random(11 << 20)
	put(t, s, "in/a", object)
	parts := []storage.Part{literal([]byte("x")), {Key: "in/a", Length: int64(len(object))}}
	for range 2 {
		compose(t, s, "out/a", parts, plain())
		expect(t, s, "out/a", plain(), append([]byte("x"), object...))
	}
	if err := s.RemoveAll(t.Context(), "out/"); err != nil {
		t.Fatal(err)
	}
	absent(t, s, "out/a")
	compose(t, s, "out/a", parts, plain())
	expect(t, s, "out/a", plain(), append([]byte("x"), object...))
}

func testComposeMissing(t *testing.T, s Linking) {
	object := random(6 << 20)
	put(t, s, "in/a", object)
	whole := storage.Part{Key: "in/a", Length: int64(len(object))}
	tests := map[string][]storage.Part{
		"missing":       {{Key: "in/b", Length: 10}},
		"missing-large": {whole, {Key: "in/b", Length: 6 << 20}},
		"too-long":      {{Key: "in/a", Length: whole.Length + 1}},
		"beyond":        {whole, {Key: "in/a", Offset: 7 << 20, Length: 10}},
		"negative":      {{Key: "in/a", Offset: -1, Length: 10}},
	}
	for name, parts := range tests {
		if err := s.Compose(t.Context(), "out/"+name, parts, plain()); err == nil {
			t.Errorf("%s: Compose succeeded", name)
		}
		absent(t, s, "out/"+name)
	}
	for _, key := range []string{"", "../a", "a/", "a b"} {
		if err := s.Compose(t.Context(), key, []storage.Part{whole}, plain()); !errors.Is(err, storage.ErrBadKey) {
			t.Errorf("Compose of %q = %v, want ErrBadKey", key, err)
		}
	}
}

func testComposeCanceled(t *testing.T, s Linking) {
	object := random(6 << 20)
	put(t, s, "in/a", object)
	whole := storage.Part{Key: "in/a", Length: int64(len(object))}
	parts := []storage.Part{literal([]byte("x")), whole, literal([]byte("y")), whole}
	for i, after := range []time.Duration{0, time.Millisecond, 3 * time.Millisecond, 10 * time.Millisecond, 30 * time.Millisecond} {
		key := fmt.Sprintf("out/%d", i)
		ctx, cancel := context.WithTimeout(t.Context(), after)
		err := s.Compose(ctx, key, parts, plain())
		cancel()
		switch o, serr := s.Stat(t.Context(), key); {
		case err == nil && (serr != nil || o.Size != 2*whole.Length+2):
			t.Errorf("composed in %v, but there are %d bytes, %v", after, o.Size, serr)
		case err != nil && !errors.Is(err, context.DeadlineExceeded):
			t.Errorf("ended after %v: %v, want context.DeadlineExceeded", after, err)
		case err != nil && serr == nil && o.Size != 2*whole.Length+2: // the answer may have been lost
			t.Errorf("ended after %v, but %d bytes of it are visible", after, o.Size)
		}
		compose(t, s, key, parts, plain())
	}
	if got := keys(t, s, "out/"); len(got) != 5 {
		t.Errorf("beside the composed objects there are others: %q", got)
	}
}

func testLinkExpires(t *testing.T, s Linking) {
	compose(t, s, "out/a", []storage.Part{literal([]byte("brief"))}, plain())
	const shortest, longest = time.Second, 16 * time.Second // so that a slow machine can fetch it before it expires
	for ttl := shortest; ; ttl *= 2 {
		start := time.Now()
		l := link(t, s, "out/a", ttl, plain())
		response, got := follow(t, l)
		if response.StatusCode != http.StatusOK && time.Since(start) >= ttl && ttl < longest {
			continue
		}
		if response.StatusCode != http.StatusOK || string(got) != "brief" {
			t.Fatalf("a fresh link was answered %s, %q", response.Status, got)
		}
		for response.StatusCode == http.StatusOK {
			if time.Since(start) > ttl+longest {
				t.Fatalf("a link of %v is still good after %v", ttl, time.Since(start))
			}
			time.Sleep(100 * time.Millisecond)
			response, _ = follow(t, l)
		}
		if c := response.StatusCode; c < 400 || c > 499 {
			t.Errorf("an expired link was answered %s, want a refusal", response.Status)
		}
		return
	}
}

func testLinkIsSigned(t *testing.T, s Linking) {
	compose(t, s, "out/a", []storage.Part{literal([]byte("secret"))}, plain())
	compose(t, s, "out/b", []storage.Part{literal([]byte("secret"))}, plain())
	l := link(t, s, "out/a", time.Minute, plain())
	unsigned, _, _ := strings.Cut(l, "?")
	other := strings.NewReplacer("out/a", "out/b", "out%2Fa", "out%2Fb").Replace(l)
	if other == l {
		t.Fatal("the link does not name its object in a form known here")
	}
	for what, forged := range map[string]string{"without signature": unsigned, "of another object": other} {
		if response, got := follow(t, forged); response.StatusCode == http.StatusOK || bytes.Contains(got, []byte("secret")) {
			t.Errorf("a link %s was answered %s", what, response.Status)
		}
	}
}
