package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"

	"spillway/jobs"
)

// A download is a file of three segments in a world, with its whole bytes in
// both representations.
type download struct {
	*world
	address         string
	plain, squeezed []byte
	segments        []jobs.Segment
}

func newDownload(t *testing.T, encoding jobs.Encoding, changes ...func(*Config)) *download {
	w := newWorld(t, func(c *Config) {
		for _, change := range changes {
			change(c)
		}
	})
	d := &download{world: w}
	for i, lines := range []int{40, 1, 300} {
		var list []string
		for j := range lines {
			list = append(list, fmt.Sprintf(`{"resourceType":"Patient","id":"%d-%d"}`, i, j))
		}
		d.segments = append(d.segments, w.segment(t, fmt.Sprintf("job/%d", i), encoding, list...))
		d.plain = append(d.plain, strings.Join(list, "\n")+"\n"...)
	}
	f := fileOf("1.Patient.ndjson", d.segments...)
	if encoding == jobs.EncodingGzip {
		d.squeezed = jobs.GzipHeader()
		for _, s := range d.segments {
			offset, length := s.Blocks()
			object, err := w.files.Open(t.Context(), s.Key, offset, length)
			if err != nil {
				t.Fatal(err)
			}
			stored, err := io.ReadAll(object)
			if err != nil {
				t.Fatal(err)
			}
			closed(t, object)
			d.squeezed = append(d.squeezed, stored...)
		}
		d.squeezed = append(d.squeezed, f.Trailer()...)
		first, err := gzip.NewReader(bytes.NewReader(d.squeezed))
		if err != nil {
			t.Fatal(err)
		}
		first.Multistream(false) // as clients that know of one member only
		if got, err := io.ReadAll(first); err != nil || !bytes.Equal(got, d.plain) {
			t.Fatalf("the first member holds %d bytes of %d, %v", len(got), len(d.plain), err)
		}
	}
	id, _ := w.finished(t, "/fhir/$export", f)
	d.address = w.base + "/$bulk-files/" + string(id) + "/1.Patient.ndjson"
	return d
}

func TestDownload(t *testing.T) {
	d := newDownload(t, jobs.EncodingGzip)
	size := map[string]int{"": len(d.plain), "gzip": len(d.squeezed)}
	whole := map[string][]byte{"": d.plain, "gzip": d.squeezed}
	plainTag := d.get(t, "HEAD", d.address, "").Header.Get("ETag")
	gzipTag := d.get(t, "HEAD", d.address, "Accept-Encoding: gzip").Header.Get("ETag")
	if plainTag == "" || plainTag == gzipTag || strings.HasPrefix(plainTag, "W/") {
		t.Fatalf("entity tags %s and %s", plainTag, gzipTag)
	}
	first, second := int(d.segments[0].Size), int(d.segments[1].Size)
	gzipFirst := int(d.segments[0].StoredSize) - jobs.GzipOverhead/2 // with its header, without its end

	for _, c := range []struct {
		name     string
		headers  string
		status   int
		encoding string
		from, to int // of the representation, to excluded
	}{
		{"OKPlain", "", 200, "", 0, size[""]},
		{"OKGzip", "Accept-Encoding: gzip, deflate, br, identity", 200, "gzip", 0, size["gzip"]},
		{"OKGzipForAnything", "Accept-Encoding: *", 200, "gzip", 0, size["gzip"]},
		{"OKGzipRefused", "Accept-Encoding: gzip;q=0, *", 200, "", 0, size[""]},
		{"OKPlainPreferred", "Accept-Encoding: gzip;q=0.5, identity", 200, "", 0, size[""]},
		{"OKOtherEncodings", "Accept-Encoding: br, zstd", 200, "", 0, size[""]},
		{"OKAcceptIsNotAsked", "Accept: application/fhir+ndjson", 200, "", 0, size[""]},

		{"OKRange", "Range: bytes=0-9", 206, "", 0, 10},
		{"OKRangeInSecondSegment", fmt.Sprintf("Range: bytes=%d-%d", first+3, first+5), 206, "", first + 3, first + 6},
		{"OKRangeAtSegmentStart", fmt.Sprintf("Range: bytes=%d-", first), 206, "", first, size[""]},
		{"OKRangeOverSegments", fmt.Sprintf("Range: bytes=%d-%d", first-2, first+second+2), 206, "", first - 2, first + second + 3},
		{"OKRangeOpen", fmt.Sprintf("Range: bytes=%d-", first+second+100), 206, "", first + second + 100, size[""]},
		{"OKRangeBeyondEnd", fmt.Sprintf("Range: bytes=%d-99999999", size[""]-7), 206, "", size[""] - 7, size[""]},
		{"OKRangeSuffix", "Range: bytes=-11", 206, "", size[""] - 11, size[""]},
		{"OKRangeSuffixOfAll", "Range: bytes=-99999999", 206, "", 0, size[""]},
		{"OKRangeLastByte", fmt.Sprintf("Range: bytes=%d-%d", size[""]-1, size[""]-1), 206, "", size[""] - 1, size[""]},
		{"OKRangeGzip", fmt.Sprintf("Accept-Encoding: gzip\nRange: bytes=%d-%d", gzipFirst-3, gzipFirst+4), 206, "gzip", gzipFirst - 3, gzipFirst + 5},
		{"OKRangeGzipRest", fmt.Sprintf("Accept-Encoding: gzip\nRange: bytes=%d-", gzipFirst+1), 206, "gzip", gzipFirst + 1, size["gzip"]},
		{"OKManyRangesAreTheWhole", "Range: bytes=0-1,4-5", 200, "", 0, size[""]},
		{"OKOtherUnitIsTheWhole", "Range: lines=0-1", 200, "", 0, size[""]},
		{"OKMalformedRangeIsTheWhole", "Range: bytes=5-2", 200, "", 0, size[""]},
		{"ErrRangeBeyond", fmt.Sprintf("Range: bytes=%d-", size[""]), 416, "", 0, 0},
		{"ErrRangeNothing", "Range: bytes=-0", 416, "", 0, 0},

		{"OKIfRange", "Range: bytes=2-3\nIf-Range: " + plainTag, 206, "", 2, 4},
		{"OKIfRangeOther", "Range: bytes=2-3\nIf-Range: " + gzipTag, 200, "", 0, size[""]},
		{"OKIfRangeWeak", "Range: bytes=2-3\nIf-Range: W/" + plainTag, 200, "", 0, size[""]},
		{"OKIfRangeDate", "Range: bytes=2-3\nIf-Range: Thu, 01 Jan 2026 00:00:00 GMT", 200, "", 0, size[""]},
		{"OKNotModified", "If-None-Match: \"x\", W/" + plainTag, 304, "", 0, 0},
		{"OKNotModifiedAny", "If-None-Match: *", 304, "", 0, 0},
		{"OKNotModifiedGzip", "Accept-Encoding: gzip\nIf-None-Match: " + gzipTag, 304, "gzip", 0, 0},
		{"OKModified", "If-None-Match: " + gzipTag, 200, "", 0, size[""]},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := d.get(t, "GET", d.address, c.headers)
			h := r.Header
			if r.StatusCode != c.status || r.cut != nil {
				t.Fatalf("%s, %v: %.200s", r.Status, r.cut, r.body)
			}
			if h.Get("Cache-Control") != "no-store" || h.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("unguarded: %v", h)
			}
			if c.status == 416 {
				if r.issue(t).Code == "" || h.Get("Content-Range") != fmt.Sprintf("bytes */%d", size[""]) || h.Get("Content-Encoding") != "" {
					t.Errorf("%v", h)
				}
				return
			}
			tag := plainTag
			if c.encoding == "gzip" {
				tag = gzipTag
			}
			if h.Get("ETag") != tag || h.Get("Vary") != "Accept-Encoding" || h.Get("Accept-Ranges") != "bytes" {
				t.Errorf("%v", h)
			}
			if want := whole[c.encoding][c.from:c.to]; !bytes.Equal(r.body, want) {
				t.Errorf("%d bytes, want %d", len(r.body), len(want))
			}
			if c.status == 304 {
				return
			}
			if h.Get("Content-Encoding") != c.encoding || h.Get("Content-Type") != "application/fhir+ndjson" || h.Get("Content-Disposition") != "attachment; filename=1.Patient.ndjson" {
				t.Errorf("%v", h)
			}
			if r.ContentLength != int64(c.to-c.from) {
				t.Errorf("Content-Length %d, want %d", r.ContentLength, c.to-c.from)
			}
			contentRange := ""
			if c.status == 206 {
				contentRange = fmt.Sprintf("bytes %d-%d/%d", c.from, c.to-1, size[c.encoding])
			}
			if h.Get("Content-Range") != contentRange {
				t.Errorf("Content-Range %q, want %q", h.Get("Content-Range"), contentRange)
			}
		})
	}

	for _, encoding := range []string{"identity", "gzip"} {
		get, head := d.get(t, "GET", d.address, "Accept-Encoding: "+encoding), d.get(t, "HEAD", d.address, "Accept-Encoding: "+encoding+"\nRange: bytes=0-1")
		get.Header.Del("Date")
		head.Header.Del("Date")
		if fmt.Sprint(get.Header) != fmt.Sprint(head.Header) || head.StatusCode != 200 || len(head.body) > 0 {
			t.Errorf("HEAD %s %v\nGET %v", head.Status, head.Header, get.Header)
		}
	}
}

func TestGzipIsTheSameFile(t *testing.T) {
	d := newDownload(t, jobs.EncodingGzip)
	z, err := gzip.NewReader(bytes.NewReader(d.get(t, "GET", d.address, "Accept-Encoding: gzip").body))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, d.plain) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestStoredPlain(t *testing.T) {
	d := newDownload(t, jobs.EncodingIdentity)
	for _, headers := range []string{"", "Accept-Encoding: gzip"} {
		r := d.get(t, "GET", d.address, headers)
		if r.StatusCode != 200 || r.Header.Get("Content-Encoding") != "" || !bytes.Equal(r.body, d.plain) {
			t.Errorf("%s %v", r.Status, r.Header)
		}
	}
	from := int(d.segments[0].Size) + 5
	if r := d.get(t, "GET", d.address, fmt.Sprintf("Range: bytes=%d-", from)); r.StatusCode != 206 || !bytes.Equal(r.body, d.plain[from:]) {
		t.Errorf("%s, %d bytes", r.Status, len(r.body))
	}
}

func TestFilesThatAreNotThere(t *testing.T) {
	d := newDownload(t, jobs.EncodingGzip)
	folder := strings.TrimSuffix(d.address, "1.Patient.ndjson")
	for _, name := range []string{"2.Patient.ndjson", "1.patient.ndjson", "1.Patient.ndjson.gz", "job", "%2e%2e%2fjobs.db", "..", "1.Patient.ndjson%00"} {
		if r := d.get(t, "GET", folder+name, ""); r.StatusCode != 404 && r.StatusCode != 400 {
			t.Errorf("%s: %s", name, r.Status)
		}
	}
	running, _ := d.kickOff(t, "/fhir/$export")
	if r := d.get(t, "GET", d.base+"/$bulk-files/"+string(running)+"/1.Patient.ndjson", ""); r.StatusCode != 404 {
		t.Errorf("a file of a running export: %s", r.Status)
	}
}

// TestDamagedFilesAreNeverShort replaces the object of one segment; the client
// must see an error, or a connection that breaks before Content-Length.
func TestDamagedFilesAreNeverShort(t *testing.T) {
	for _, encoding := range []jobs.Encoding{jobs.EncodingGzip, jobs.EncodingIdentity} {
		for _, damage := range []string{"missing", "truncated", "longer", "empty", "garbled"} {
			for segment := range 3 {
				for _, headers := range []string{"", "Accept-Encoding: gzip"} {
					if damage == "garbled" && (encoding == jobs.EncodingIdentity || headers != "") {
						continue // the client's checksum finds it, or nobody does
					}
					t.Run(fmt.Sprint(encoding, damage, segment, headers), func(t *testing.T) {
						d := newDownload(t, encoding)
						d.damage(t, segment, damage)
						r := d.get(t, "GET", d.address, headers)
						switch {
						case r.StatusCode == 500:
							if issue := r.issue(t); issue.Diagnostics != "internal error" || r.Header.Get("ETag") != "" || r.Header.Get("Content-Encoding") != "" {
								t.Errorf("%v %+v", r.Header, issue)
							}
						case r.cut == nil:
							t.Errorf("%s: %d bytes of %d as if they were all", r.Status, len(r.body), r.ContentLength)
						case !errors.Is(r.cut, io.ErrUnexpectedEOF) && !strings.Contains(r.cut.Error(), "reset"):
							t.Errorf("cut: %v", r.cut)
						}
						log := d.log.String()
						if !strings.Contains(log, "a stored segment is damaged") || strings.Contains(log, d.segments[segment].Key) {
							t.Errorf("the log:\n%s", log)
						}
					})
				}
			}
		}
	}
}

// damage puts something else in place of a segment's object.
func (d *download) damage(t *testing.T, segment int, how string) {
	t.Helper()
	key := d.segments[segment].Key
	object, err := d.files.Open(t.Context(), key, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := io.ReadAll(object)
	if err != nil {
		t.Fatal(err)
	}
	closed(t, object)
	others := make(map[string][]byte)
	for i, s := range d.segments {
		if i == segment {
			continue
		}
		o, err := d.files.Open(t.Context(), s.Key, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if others[s.Key], err = io.ReadAll(o); err != nil {
			t.Fatal(err)
		}
		closed(t, o)
	}
	if err := d.files.RemoveAll(t.Context(), "job/"); err != nil {
		t.Fatal(err)
	}
	for k, b := range others {
		d.put(t, k, b)
	}
	switch how {
	case "missing":
		return
	case "truncated":
		stored = stored[:len(stored)-1]
	case "longer":
		stored = append(stored, stored...)
	case "empty":
		stored = nil
	case "garbled":
		stored[len(stored)-8] ^= 0xff // the checksum
	}
	d.put(t, key, stored)
}

func TestOpenFile(t *testing.T) {
	d := newDownload(t, jobs.EncodingGzip)
	f := fileOf("1.Patient.ndjson", d.segments...)
	for _, encoding := range []jobs.Encoding{jobs.EncodingIdentity, jobs.EncodingGzip} {
		whole := d.plain
		if encoding == jobs.EncodingGzip {
			whole = d.squeezed
		}
		for offset := 0; offset <= len(whole); offset += 7 {
			r, err := OpenFile(t.Context(), d.files, f, encoding, int64(offset))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, whole[offset:]) {
				t.Errorf("%s from %d: %d bytes, %v", encoding, offset, len(got), err)
			}
			closed(t, r)
		}
	}
	plain := f
	plain.Segments = []jobs.Segment{{Encoding: jobs.EncodingIdentity}}
	if _, err := OpenFile(t.Context(), d.files, plain, jobs.EncodingGzip, 0); err == nil {
		t.Error("plain bytes were offered as gzip")
	}
}

func TestReadRange(t *testing.T) {
	for header, want := range map[string]span{
		"bytes=0-0": {0, 1}, "bytes=5-": {5, 5}, "bytes=-3": {7, 3}, "bytes=9-100": {9, 1}, "bytes= 1-2 ": {1, 2},
		"bytes=10-": {0, 0}, "bytes=-0": {10, 0}, "bytes=0-18446744073709551615": {-1, -1}, "bytes=-": {-1, -1}, "bytes=a-b": {-1, -1},
		"bytes=+1-2": {-1, -1}, "bytes=1": {-1, -1}, "": {-1, -1}, "bytes=1-2,3-4": {-1, -1}, "bytes=3-2": {-1, -1}, "bytes=--1": {-1, -1},
	} {
		got, ok := readRange(header, 10)
		if !ok {
			got = span{-1, -1}
		}
		if got != want {
			t.Errorf("%q: %+v, want %+v", header, got, want)
		}
	}
}
