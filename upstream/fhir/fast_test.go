package fhir

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// byDecoder is an entry that a strict refuses, so that the decoder reads it and
// all that follows.
const byDecoder = `{"\u0061":1},`

// FuzzEntries compares what becomes of entries with and without a strict.
func FuzzEntries(f *testing.F) {
	for _, seed := range []string{
		`{"fullUrl":"u","resource":` + observation(1) + `,"search":{"mode":"match"}},{"resource":{"resourceType":"Patient","id":"a"}}],"type":"searchset"}`,
		` { "resource" : { "resourceType" : "Basic" , "id" : "1" , "x" : [ 1.10 , -0e+5 , true , false , null , { } , [ ] ] } } ] } `,
		`{"resource":{"id":"\u00e9\ud83d\ude00ä","resourceType":"A"}},{"request":{"method":"DELETE"},"response":{"etag":"1"}}]}`,
		`{"resource":{"id":"1","id":"2"}}]}`, `{"resource":{"longer name":1,"longer namf":2,"longer name":3}}]}`,
		`{"resource":{"x":"` + "\xff" + `"}}]}`, `{"resource":{"x":"\ud800"}}]}`, `{"resource":{"x":"\ud800\u0041"}}]}`, `{"resource":{"x":"\udc00"}}]}`,
		`{"resource":{"x":01}}]}`, `{"resource":{"x":1.}}]}`, `{"resource":{"x":-}}]}`, `{"resource":{"x":1e}}]}`, `{"resource":{"x":tru}}]}`, `{"resource":{"x":[1,]}}]}`,
		`{"resource":{"x":1,}}]}`, `{"resource":{"x":1}`, `{"resource":{"x":"a` + "\n" + `"}}]}`, `{"resource":null},{"resource":[]}]}`, `{"resource":{"meta":[]}}]}`,
		`{},{}]}`, `{}{}]}`, `{},]}`, `{}],"entry":[]}`, `{}],"resourceType":"Bundle"}`, `{}]}x`, `{"resource":{"x":` + strings.Repeat("[", 300) + strings.Repeat("]", 300) + `}}]}`,
		`{"":{"":` + strings.Repeat("[", 45) + `}`,
	} {
		f.Add(seed)
	}
	lim := ScanLimits{ResourceBytes: 4 << 10, Depth: 40}
	scan := func(head, in string) (lines []line, page Page, err error) {
		lines = []line{}
		page, err = ScanBundle(strings.NewReader(`{"resourceType":"Bundle","entry":[`+head+in), lim, collect(&lines))
		return lines, page, err
	}
	f.Fuzz(func(t *testing.T, in string) {
		if !strings.HasPrefix(strings.TrimLeft(in, " \t\r\n"), "{") {
			return // no entry; and what else there is may not be the same after a comma
		}
		want, page, werr := scan(byDecoder, in)
		want, page.Entries = want[min(1, len(want)):], page.Entries-1
		got, gotPage, gerr := scan("", in)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("entries (-decoder +strict):\n%s", diff)
		}
		if diff := cmp.Diff(page, gotPage); diff != "" {
			t.Errorf("page (-decoder +strict):\n%s", diff)
		}
		var w, g *BodyError
		errors.As(werr, &w)
		errors.As(gerr, &g)
		// What is broken behind a great depth is refused for the one or the other.
		either := func(e *BodyError) bool {
			return e.Kind == ErrMalformed || e.Kind == ErrTruncated || e.Kind == ErrTooLarge
		}
		if (werr == nil) != (gerr == nil) || w != nil && (g == nil || w.Kind != g.Kind && (!either(w) || !either(g))) {
			t.Errorf("errors: decoder %v, strict %v", werr, gerr)
		}
	})
}

// TestStrictAtEveryCut cuts entries at every byte: what is short must go on as
// if it had never been cut, and nothing may be taken for whole before it is.
func TestStrictAtEveryCut(t *testing.T) {
	in := `{"fullUrl":"ü","resource":{"resourceType":"Basic","id":"1","long enough a name":-1.5e+7,"x":[true,null,"\ud83d\ude00\n"],"y":{}},"search":{"mode":"match"}}`
	for cut := range len(in) {
		var s strict
		var e rawEntry
		s.reset([]byte(in[:cut]), 0)
		if s.element(&e, false) || !s.short {
			t.Fatalf("cut after %q: failed %v, short %v", in[:cut], s.failed, s.short)
		}
	}
	var s strict
	var e rawEntry
	if s.reset([]byte(in), 0); !s.element(&e, false) || s.i != len(in) {
		t.Fatalf("the whole entry was refused at byte %d", s.i)
	}
}

// TestStrictTakesPages asserts that a strict does the work on an ordinary page,
// whatever the reader gives at a time.
func TestStrictTakesPages(t *testing.T) {
	in := page(50)
	for name, r := range map[string]*bytes.Reader{"all at once": bytes.NewReader(in), "a byte at a time": bytes.NewReader(in)} {
		t.Run(name, func(t *testing.T) {
			s := bundleScan{body: newBody(r, ScanLimits{}, "a Bundle", ErrNotBundle), visit: func(*Entry) error { return nil }}
			if name == "a byte at a time" {
				s.m.r = iotest.OneByteReader(r)
			}
			if err := s.run(); err != nil {
				t.Fatal(err)
			}
			if s.page.Entries != 50 || int64(len(in))-s.before > 100 {
				t.Errorf("%d entries; the decoder took over at byte %d of %d", s.page.Entries, s.before, len(in))
			}
		})
	}
}

// TestStrictLargeElements reads elements that are larger than the window.
func TestStrictLargeElements(t *testing.T) {
	large := `{"resource":{"resourceType":"Binary","id":"1","data":"` + strings.Repeat("A", 5*windowBytes) + `"}}`
	in := `{"resourceType":"Bundle","entry":[` + large + "," + large + "," + large + `]}`
	var got []line
	p, err := ScanBundle(iotest.HalfReader(strings.NewReader(in)), ScanLimits{}, collect(&got))
	if err != nil || p.Entries != 3 || `{"resource":`+got[2].Resource+`}` != large {
		t.Errorf("%d entries, %v", p.Entries, err)
	}
}
