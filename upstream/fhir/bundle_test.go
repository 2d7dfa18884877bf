package fhir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

// line is what the tests keep of an Entry.
type line struct {
	FullURL, Mode string
	Header        Header
	Request       EntryRequest
	Response      EntryResponse
	Resource      string
}

func collect(into *[]line) func(*Entry) error {
	return func(e *Entry) error {
		*into = append(*into, line{e.FullURL, e.Mode, e.Header, e.Request, e.Response, string(e.Resource)})
		return nil
	}
}

func total(n int64) *int64 { return &n }

func TestScanBundle(t *testing.T) {
	tests := []struct {
		name, in string
		page     Page
		lines    []line
	}{
		{
			name: "a page as servers send it",
			in: `{"resourceType":"Bundle","id":"1","meta":{"lastUpdated":"2025-01-01T00:00:00Z"},"type":"searchset","total":2,
				"link":[{"relation":"self","url":"http://h/Patient?a=b"},{"relation":"next","url":"http://h?_getpages=1&x=ä"}],
				"entry":[
				{"fullUrl":"http://h/Patient/a","resource":{"resourceType":"Patient","id":"a","meta":{"versionId":"3","lastUpdated":"2025-01-02T03:04:05.678Z"}},"search":{"mode":"match"}},
				{"fullUrl":"http://h/Patient/b","resource":{"resourceType":"Patient","id":"b"},"search":{"mode":"include","score":1}}]}`,
			page: Page{Type: "searchset", Total: total(2), Next: "http://h?_getpages=1&x=ä", Self: "http://h/Patient?a=b", Entries: 2},
			lines: []line{
				{FullURL: "http://h/Patient/a", Mode: "match", Header: Header{"Patient", "a", "3", "2025-01-02T03:04:05.678Z"},
					Resource: `{"resourceType":"Patient","id":"a","meta":{"versionId":"3","lastUpdated":"2025-01-02T03:04:05.678Z"}}`},
				{FullURL: "http://h/Patient/b", Mode: "include", Header: Header{Type: "Patient", ID: "b"}, Resource: `{"resourceType":"Patient","id":"b"}`},
			},
		},
		{
			name: "members in any order, link after entry, search before resource",
			in:   "\xef\xbb\xbf" + `{"entry":[{"search":{"mode":"match"},"resource":{"meta":{"lastUpdated":"x"},"id":"a","resourceType":"Patient"},"fullUrl":"u"}],"total":0,"link":[{"url":"n","relation":"next"}],"type":"searchset","resourceType":"Bundle"}`,
			page: Page{Type: "searchset", Total: total(0), Next: "n", Entries: 1},
			lines: []line{{FullURL: "u", Mode: "match", Header: Header{Type: "Patient", ID: "a", LastUpdated: "x"},
				Resource: `{"meta":{"lastUpdated":"x"},"id":"a","resourceType":"Patient"}`}},
		},
		{
			name: "a history with a deletion",
			in: `{"resourceType":"Bundle","type":"history","entry":[
				{"fullUrl":"h/Patient/a","request":{"method":"DELETE","url":"Patient/a"},"response":{"status":"204 No Content","lastModified":"2025-01-01T00:00:00Z","etag":"W/\"2\""}},
				{"resource":{"resourceType":"Patient","id":"b"},"request":{"method":"PUT","url":"Patient/b"},"response":{"status":"200","location":"Patient/b/_history/1"}}]}`,
			page: Page{Type: "history", Entries: 2},
			lines: []line{
				{FullURL: "h/Patient/a", Request: EntryRequest{"DELETE", "Patient/a"}, Response: EntryResponse{"204 No Content", "2025-01-01T00:00:00Z", `W/"2"`}},
				{Header: Header{Type: "Patient", ID: "b"}, Request: EntryRequest{"PUT", "Patient/b"}, Response: EntryResponse{Status: "200"}, Resource: `{"resourceType":"Patient","id":"b"}`},
			},
		},
		{
			name: "names and values with escapes",
			in:   `{"resourceT\u0079pe":"Bundle","\u0065ntry":[{"res\u006furce":{"\u0069d":"\u0061","resourceType":"Pat\u0069ent","x":"\u2028\ud83d\ude00"}}]}`,
			page: Page{Entries: 1},
			lines: []line{{Header: Header{Type: "Patient", ID: "a"},
				Resource: `{"\u0069d":"\u0061","resourceType":"Pat\u0069ent","x":"\u2028\ud83d\ude00"}`}},
		},
		{
			name:  "resourceType in another case is an unknown member, and a resource within a resource is not looked into",
			in:    `{"resourceType":"Bundle","entry":[{"resource":{"ResourceType":"Evil","ID":"x","contained":[{"resourceType":"Basic","id":"c"}],"id":"a","resourceType":"Patient"}}]}`,
			page:  Page{Entries: 1},
			lines: []line{{Header: Header{Type: "Patient", ID: "a"}, Resource: `{"ResourceType":"Evil","ID":"x","contained":[{"resourceType":"Basic","id":"c"}],"id":"a","resourceType":"Patient"}`}},
		},
		{name: "no entries", in: `{"resourceType":"Bundle","type":"searchset","total":17}` + " \n", page: Page{Type: "searchset", Total: total(17)}},
		{name: "nulls and a negative total count as absent", in: `{"resourceType":"Bundle","total":-1,"link":null,"entry":null}`},
		{name: "an empty entry", in: `{"resourceType":"Bundle","entry":[{}]}`, page: Page{Entries: 1}, lines: []line{{}}},
		{name: "the same next link twice", in: `{"resourceType":"Bundle","link":[{"relation":"next","url":"n"},{"relation":"next","url":"n"}]}`, page: Page{Next: "n"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, reader := range []io.Reader{strings.NewReader(tt.in), iotest.OneByteReader(strings.NewReader(tt.in)), iotest.DataErrReader(strings.NewReader(tt.in))} {
				var lines []line
				page, err := ScanBundle(reader, ScanLimits{}, collect(&lines))
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(tt.page, page); d != "" {
					t.Errorf("page: -want +got\n%s", d)
				}
				if d := cmp.Diff(tt.lines, lines); d != "" {
					t.Errorf("entries: -want +got\n%s", d)
				}
			}
		})
	}
}

func bundle(entries ...string) string {
	return `{"resourceType":"Bundle","type":"searchset","entry":[` + strings.Join(entries, ",") + `]}`
}

func TestScanBundleErrors(t *testing.T) {
	limits := ScanLimits{ResourceBytes: 4000, PageBytes: 200_000, Depth: 5}
	long := strings.Repeat("x", 5000)
	tests := []struct {
		name, in string
		kind     error
		text     string
	}{
		{"nothing", "", ErrTruncated, "expected a Bundle, got an empty body"},
		{"white space only", " \n", ErrTruncated, "expected a Bundle, but the body ends in the middle, after byte 2"},
		{"an HTML page", "\n <!DOCTYPE HTML><html>login", ErrNotBundle, "expected a Bundle, got an HTML page"},
		{"a bare HTML page", "<html><body>", ErrNotBundle, "expected a Bundle, got an HTML page"},
		{"XML", `<Bundle xmlns="http://hl7.org/fhir"/>`, ErrNotBundle, "expected a Bundle, got XML or HTML"},
		{"text", "Service unavailable", ErrNotBundle, "expected a Bundle, got text that is not JSON"},
		{"text that begins like JSON", "not today", ErrNotBundle, "expected a Bundle, got text that is not JSON"},
		{"gzip that was not announced", "\x1f\x8b\x08\x00\x00", ErrNotBundle, "expected a Bundle, got compressed bytes that were not announced as such"},
		{"an array", `[{"resourceType":"Bundle"}]`, ErrNotBundle, "expected a Bundle, got a JSON array"},
		{"a string", `"hello"`, ErrNotBundle, "expected a Bundle, got a JSON string"},
		{"a number", `17 `, ErrNotBundle, "expected a Bundle, got a JSON number"},
		{"null", `null`, ErrNotBundle, "expected a Bundle, got JSON null"},
		{"true", `true`, ErrNotBundle, "expected a Bundle, got a JSON literal"},
		{"an object of no type", `{"error":"secret"}`, ErrNotBundle, "expected a Bundle, got JSON without a resourceType"},
		{"another resource", `{"resourceType":"Patient","id":"p"}`, ErrNotBundle, "expected a Bundle, got a Patient"},
		{"a type that FHIR does not know", `{"resourceType":"Jane Doe"}`, ErrNotBundle, "expected a Bundle, got a resource of unknown type"},
		{"a Bundle in another case", `{"resourceType":"bundle"}`, ErrNotBundle, "expected a Bundle, got a resource of unknown type"},
		{"an OperationOutcome", `{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"processing","diagnostics":"Jane"},{"severity":"Jane","code":"Doe"}]}`,
			ErrNotBundle, "expected a Bundle, got an OperationOutcome (error processing, unknown unknown)"},
		{"an OperationOutcome that says so at its end", `{"issue":[{"severity":"fatal","code":"login"}],"resourceType":"OperationOutcome"}`,
			ErrNotBundle, "expected a Bundle, got an OperationOutcome (fatal login)"},

		{"cut in an entry", bundle(`{"resource":{"resourceType":"Patient","id":"a"`)[:90], ErrTruncated, "expected a Bundle, but the body ends in the middle, after byte 90"},
		{"cut after an entry", `{"resourceType":"Bundle","entry":[{}`, ErrTruncated, "expected a Bundle, but the body ends in the middle, after byte 36"},
		{"cut before the last brace", `{"resourceType":"Bundle","entry":[{}]`, ErrTruncated, "expected a Bundle, but the body ends in the middle, after byte 37"},

		{"not JSON within", `{"resourceType":"Bundle",entry:[]}`, ErrMalformed, "expected a Bundle, but the body is malformed at byte 25: invalid character 'e' at start of value"},
		{"something after the Bundle", `{"resourceType":"Bundle"} x`, ErrMalformed, "expected a Bundle, but the body is malformed at byte 26: invalid character 'x' at start of value"},
		{"two Bundles", `{"resourceType":"Bundle"}{"resourceType":"Bundle"}`, ErrMalformed, "expected a Bundle, but the body is malformed at byte 26: something follows after the end"},
		{"two arrays of entries", `{"resourceType":"Bundle","entry":[],"entry":[]}`, ErrMalformed, "expected a Bundle, but the body is malformed at byte 36: a member name stands twice in one object"},
		{"two arrays of links", `{"resourceType":"Bundle","link":[],"li\u006ek":[]}`, ErrMalformed, "expected a Bundle, but the body is malformed at byte 35: a member name stands twice in one object"},
		{"a member twice in a resource", bundle(`{"resource":{"resourceType":"Patient","resourceType":"Patient"}}`), ErrMalformed, "a member name stands twice in one object"},
		{"a member twice deep in a resource", bundle(`{"resource":{"a":[{"b":1,"b":2}]}}`), ErrMalformed, "a member name stands twice in one object"},
		{"invalid UTF-8", bundle("{\"resource\":{\"a\":\"\xff\"}}"), ErrMalformed, "invalid UTF-8"},
		{"a lone surrogate", bundle(`{"resource":{"a":"\ud800"}}`), ErrMalformed, "surrogate pair"},
		{"a NUL byte", bundle("{\"resource\":{\"a\":\"\x00\"}}"), ErrMalformed, "invalid character '\\x00' in string"},
		{"two different next links", `{"resourceType":"Bundle","link":[{"relation":"next","url":"a"},{"relation":"next","url":"b"}]}`, ErrMalformed, "two different next links"},
		{"a next link without url", `{"resourceType":"Bundle","link":[{"relation":"next"}]}`, ErrMalformed, "a next link without url"},
		{"a link that is no object", `{"resourceType":"Bundle","link":["next"]}`, ErrMalformed, "a link is no object"},
		{"links that are no array", `{"resourceType":"Bundle","link":{}}`, ErrMalformed, "link is no array"},
		{"entries that are no array", `{"resourceType":"Bundle","entry":{}}`, ErrMalformed, "entry is no array"},
		{"an entry that is no object", bundle(`[]`), ErrMalformed, "an entry is no object"},
		{"a resource that is no object", bundle(`{"resource":"x"}`), ErrMalformed, "a resource is no object"},
		{"an id that is no string", bundle(`{"resource":{"id":17}}`), ErrMalformed, "id is no string"},
		{"a meta that is no object", bundle(`{"resource":{"meta":[]}}`), ErrMalformed, "meta is no object"},
		{"a total that is no number", `{"resourceType":"Bundle","total":"2"}`, ErrMalformed, "total is no whole number"},
		{"a resourceType that is no string", `{"resourceType":["Bundle"]}`, ErrMalformed, "resourceType is no string"},

		{"a resource that is too large", bundle(`{"resource":{"a":"` + long + `"}}`), ErrTooLarge, "expected a Bundle, but the body passes the limit of 4000 resource bytes"},
		{"a resource that is much too large", bundle(`{"resource":{"a":"` + strings.Repeat(long, 30) + `"}}`), ErrTooLarge, "4000 resource bytes"},
		{"a page that is too large", bundle(slices.Repeat([]string{`{"resource":{"a":"` + long[:3000] + `"}}`}, 100)...), ErrTooLarge, "200000 body bytes"},
		{"too much outside of entries", `{"resourceType":"Bundle","x":"` + long[:2500] + `","y":"` + long[:2500] + `"}`, ErrTooLarge, "4000 bytes outside entries"},
		{"a resource nested too deep", bundle(`{"resource":{"a":[[[[[]]]]]}}`), ErrTooLarge, "5 levels of nesting in a resource"},
		{"a resource nested ten thousand deep", bundle(`{"resource":{"a":` + strings.Repeat("[", 20_000)), ErrTooLarge, "5 levels of nesting in a resource"},
		{"an unknown member nested without end", `{"resourceType":"Bundle","x":` + strings.Repeat(`{"a":`, 20_000), ErrTooLarge, "5 levels of nesting in a resource"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ScanBundle(strings.NewReader(tt.in), limits, func(*Entry) error { return nil })
			if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v\nwant %v: %s", err, tt.kind, tt.text)
			}
			if err != nil && strings.Contains(err.Error(), "Jane") {
				t.Errorf("the error holds a value of the body: %v", err)
			}
		})
	}
}

func TestScanBundleFitsLimitsExactly(t *testing.T) {
	resource := `{"a":"` + strings.Repeat("x", 92) + `"}`
	in := bundle(`{"resource":`+resource+`}`, `{"resource":`+resource+`}`)
	limits := ScanLimits{ResourceBytes: int64(len(resource)), PageBytes: int64(len(in)), Depth: 1}
	page, err := ScanBundle(strings.NewReader(in), limits, func(*Entry) error { return nil })
	if err != nil || page.Entries != 2 {
		t.Fatalf("got %d entries, %v", page.Entries, err)
	}
	for _, smaller := range []ScanLimits{
		{ResourceBytes: limits.ResourceBytes - 1, PageBytes: limits.PageBytes},
		{ResourceBytes: limits.ResourceBytes, PageBytes: limits.PageBytes - 1},
	} {
		if _, err := ScanBundle(strings.NewReader(in), smaller, func(*Entry) error { return nil }); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%+v: got %v", smaller, err)
		}
	}
}

func TestNotBundleHasTheIssues(t *testing.T) {
	_, err := ScanBundle(bytes.NewReader(Outcome(Issue{Severity: SeverityFatal, Code: IssueTimeout, Diagnostics: "slow"})), ScanLimits{}, nil)
	var b *BodyError
	if !errors.As(err, &b) {
		t.Fatalf("got %v", err)
	}
	want := []Issue{{Severity: SeverityFatal, Code: IssueTimeout, Diagnostics: "slow"}}
	if d := cmp.Diff(want, b.Issues); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// An endless reader gives head, and then the same byte for ever.
type endless struct {
	head string
	fill byte
	read int64
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.head)
	e.head = e.head[n:]
	for i := n; i < len(p); i++ {
		p[i] = e.fill
	}
	e.read += int64(len(p))
	return len(p), nil
}

func TestEndlessBodies(t *testing.T) {
	limits := ScanLimits{ResourceBytes: 1 << 20, PageBytes: 8 << 20}
	tests := []struct {
		name, head string
		fill       byte
		limit      int64
	}{
		{"a string in a resource", `{"resourceType":"Bundle","entry":[{"resource":{"a":"`, 'x', limits.ResourceBytes},
		{"an array in a resource", `{"resourceType":"Bundle","entry":[{"resource":{"a":[1`, '0', limits.ResourceBytes},
		{"nesting in a resource", `{"resourceType":"Bundle","entry":[{"resource":{"a":`, '[', limits.ResourceBytes},
		{"nesting outside", `{"resourceType":"Bundle","a":`, '[', limits.ResourceBytes},
		{"a member name", `{"`, 'x', limits.ResourceBytes},
		{"white space between entries", `{"resourceType":"Bundle","entry":[`, ' ', limits.ResourceBytes},
		{"white space before", ``, ' ', limits.ResourceBytes},
		{"white space after", `{"resourceType":"Bundle"}`, ' ', limits.ResourceBytes},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &endless{head: tt.head, fill: tt.fill}
			_, err := ScanBundle(r, limits, func(*Entry) error { return nil })
			if !errors.Is(err, ErrTooLarge) {
				t.Errorf("got %v", err)
			}
			// What is read is what can be held: the decoder's buffer is at most
			// twice that.
			if most := tt.limit + 2*readAhead; r.read > most {
				t.Errorf("%d bytes were read, want %d at most", r.read, most)
			}
		})
	}
}

// Entries without end pass the resource limit one by one and end at the page's.
func TestEndlessEntries(t *testing.T) {
	limits := ScanLimits{ResourceBytes: 1 << 10, PageBytes: 1 << 20}
	r := io.MultiReader(strings.NewReader(`{"resourceType":"Bundle","entry":[{}`), &repeated{text: ",{}"})
	n := 0
	_, err := ScanBundle(r, limits, func(*Entry) error { n++; return nil })
	if !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "body bytes") || n < 300_000 {
		t.Errorf("got %d entries and %v", n, err)
	}
}

type repeated struct {
	text string
	at   int
}

func (r *repeated) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = r.text[r.at%len(r.text)]
		r.at++
	}
	return len(p), nil
}

// Each entry is visited before more than a little beyond it has been read.
func TestScanBundleStreams(t *testing.T) {
	pr, pw := io.Pipe()
	seen := make(chan string)
	done := make(chan error)
	go func() {
		_, err := ScanBundle(pr, ScanLimits{}, func(e *Entry) error {
			seen <- e.Header.ID
			return nil
		})
		done <- err
	}()
	write := func(s string) {
		if _, err := pw.Write([]byte(s)); err != nil {
			t.Error(err)
		}
	}
	write(`{"resourceType":"Bundle","entry":[`)
	for i, sep := 0, ""; i < 5; i, sep = i+1, "," {
		write(fmt.Sprintf(`%s{"resource":{"resourceType":"Patient","id":"p%d"}}`, sep, i))
		if got, want := <-seen, fmt.Sprintf("p%d", i); got != want {
			t.Errorf("got entry %s, want %s", got, want)
		}
	}
	write(`]}`)
	_ = pw.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestScanBundlePassesErrorsOn(t *testing.T) {
	stop := errors.New("stop")
	n := 0
	page, err := ScanBundle(strings.NewReader(bundle(`{}`, `{}`, `{}`)), ScanLimits{}, func(*Entry) error {
		if n++; n == 2 {
			return stop
		}
		return nil
	})
	if err != stop || page.Entries != 2 || page.Type != "searchset" {
		t.Errorf("got %v after %d entries", err, page.Entries)
	}

	for _, head := range []string{"", `{`, `{"resourceType":"Bundle","entry":[{"resource":{"a":{"b":"`} {
		r := io.MultiReader(strings.NewReader(head), iotest.ErrReader(stop))
		if _, err := ScanBundle(r, ScanLimits{}, nil); !errors.Is(err, stop) {
			t.Errorf("after %q: got %v", head, err)
		}
		r = io.MultiReader(strings.NewReader(head), iotest.ErrReader(io.ErrUnexpectedEOF))
		if _, err := ScanBundle(r, ScanLimits{}, nil); !errors.Is(err, ErrTruncated) {
			t.Errorf("after %q: got %v", head, err)
		}
	}
}

// Strings of an Entry stay when the decoder's buffer is used again.
func TestEntryStringsStay(t *testing.T) {
	var got []line
	if _, err := ScanBundle(bytes.NewReader(page(300)), ScanLimits{}, collect(&got)); err != nil {
		t.Fatal(err)
	}
	for i, l := range got {
		if l.Header.ID != fmt.Sprint(i) || l.FullURL != fmt.Sprintf("http://localhost:8080/fhir/Observation/%d", i) ||
			l.Header.LastUpdated != fmt.Sprintf("2025-03-04T05:06:07.%03d+00:00", i) || l.Resource != observation(i) || l.Header.VersionID != "1" {
			t.Fatalf("entry %d: got %+v", i, l)
		}
	}
}

func TestScanBundleAllocatesLittle(t *testing.T) {
	p := page(500)
	r := bytes.NewReader(p)
	allocs := testing.AllocsPerRun(10, func() {
		r.Reset(p)
		if _, err := ScanBundle(r, ScanLimits{}, func(*Entry) error { return nil }); err != nil {
			t.Fatal(err)
		}
	})
	if per := allocs / 500; per > 2.3 {
		t.Errorf("%.1f allocations an entry, want 2", per)
	}
}

func FuzzScanBundle(f *testing.F) {
	f.Add([]byte(bundle(`{"fullUrl":"http://h/Patient/a","resource":` + observation(3) + `,"search":{"mode":"match"}}`)))
	f.Add([]byte(`{"link":[{"relation":"next","url":"\u0061"}],"entry":[{"resource":{ "a" : [ 1.10 , -0e-1, "\u2028\\\"" ] }}, {"request":{"method":"DELETE"}}],"resourceType":"Bundle","total":3}`))
	f.Add([]byte("\xef\xbb\xbf" + `{"resourceType":"OperationOutcome","issue":[{"severity":"error"}]}`))
	f.Add([]byte(`{"resourceType":"Bundle","entry":[{"resource":{"meta":{"versionId":null},"resourceType":"A","id":"..","x":{"y":[[],{},"",0]}}}]} `))
	f.Add([]byte("{\"resourceType\":\"Bundle\",\"entry\":[{\"resource\":{\n\t\"a\":\"\\u0000\\n\xe2\x80\xa8 \"\r\n}}]}"))
	f.Fuzz(func(t *testing.T, in []byte) {
		limits := ScanLimits{ResourceBytes: 1 << 16, PageBytes: 1 << 18, Depth: 50}
		_, err := ScanBundle(iotest.HalfReader(bytes.NewReader(in)), limits, func(e *Entry) error {
			if e.Resource == nil {
				return nil
			}
			checkLine(t, e.Resource)
			h, err := ReadHeader(e.Resource)
			if err != nil || h != e.Header {
				t.Fatalf("ReadHeader of %q: got %+v, %v, want %+v", e.Resource, h, err, e.Header)
			}
			return nil
		})
		var b *BodyError
		if err != nil && !errors.As(err, &b) {
			t.Fatalf("an error of no kind: %v", err)
		}
	})
}

// checkLine checks that AppendLine makes one valid line of a valid resource,
// equal to it byte for byte but for white space.
func checkLine(t *testing.T, resource []byte) {
	t.Helper()
	want := jsontext.Value(bytes.Clone(resource))
	if err := want.Compact(); err != nil {
		t.Fatalf("not valid JSON: %v\n%q", err, resource)
	}
	got, err := AppendLine(nil, resource)
	if err != nil {
		t.Fatalf("AppendLine: %v\n%q", err, resource)
	}
	if string(got) != string(want)+"\n" {
		t.Fatalf("AppendLine of %q\ngot  %q\nwant %q", resource, got, want)
	}
	if bytes.IndexByte(got, '\n') != len(got)-1 {
		t.Fatalf("more than one line: %q", got)
	}
}
