package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway/jobs"
	"spillway/storage"
)

// A slowFiles is a storage that takes its time to open an object, and fails on
// demand.
type slowFiles struct {
	storage.Store
	delay  time.Duration
	broken string // key whose bytes break off
	away   string // key that is not opened

	mu     sync.Mutex
	opened map[string]int
	open   int
}

func (s *slowFiles) Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	s.mu.Lock()
	if s.opened == nil {
		s.opened = make(map[string]int)
	}
	s.opened[key]++
	s.mu.Unlock()
	select {
	case <-time.After(s.delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if key == s.away {
		return nil, errors.New("the bucket has not answered")
	}
	object, err := s.Store.Open(ctx, key, offset, length)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.open++
	s.mu.Unlock()
	if key == s.broken {
		return &slowObject{io.MultiReader(io.LimitReader(object, 5), brokenReader{}), object, s}, nil
	}
	return &slowObject{object, object, s}, nil
}

type slowObject struct {
	io.Reader
	io.Closer
	s *slowFiles
}

func (o *slowObject) Close() error {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	o.s.open--
	return o.Closer.Close()
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestStorageAway: what cannot be read at the moment is not called damaged, and
// not a byte of it is missing without a broken connection.
func TestStorageAway(t *testing.T) {
	for _, encoding := range []jobs.Encoding{jobs.EncodingGzip, jobs.EncodingIdentity} {
		for segment := range 3 {
			for _, how := range []string{"away", "broken"} {
				for _, headers := range []string{"", "Accept-Encoding: gzip"} {
					t.Run(fmt.Sprint(encoding, segment, how, headers), func(t *testing.T) {
						slow := &slowFiles{}
						d := newDownload(t, encoding, func(c *Config) { slow.Store, c.Storage = c.Storage, slow })
						if key := d.segments[segment].Key; how == "away" {
							slow.away = key
						} else {
							slow.broken = key
						}
						r := d.get(t, "GET", d.address, headers)
						switch {
						case r.StatusCode == 503:
							if r.issue(t).Code != "transient" || r.Header.Get("Retry-After") != "10" || r.Header.Get("ETag") != "" {
								t.Errorf("%v %s", r.Header, r.body)
							}
						case r.StatusCode != 200 || r.cut == nil:
							t.Errorf("%s: %d bytes of %d as if they were all", r.Status, len(r.body), r.ContentLength)
						}
						log := d.logged()
						if !strings.Contains(log, "cannot be read at the moment") || strings.Contains(log, "damaged") || strings.Contains(log, d.segments[segment].Key) {
							t.Errorf("the log:\n%s", log)
						}
						if slow.open != 0 {
							t.Errorf("%d objects stay open", slow.open)
						}
					})
				}
			}
		}
	}
}

// TestOpensAhead: each segment is opened once, and while the one before is read.
func TestOpensAhead(t *testing.T) {
	slow := &slowFiles{delay: 30 * time.Millisecond}
	d := newDownload(t, jobs.EncodingGzip, func(c *Config) { slow.Store, c.Storage = c.Storage, slow })
	f := fileOf("1.Patient.ndjson", d.segments...)
	r, err := OpenFile(t.Context(), slow, f, jobs.EncodingGzip, 0)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	buffer := make([]byte, 16)
	n, err := r.Read(buffer[:10]) // the header
	got.Write(buffer[:n])
	if err == nil {
		n, err = r.Read(buffer)
		got.Write(buffer[:n])
	}
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		slow.mu.Lock()
		begun := slow.opened[d.segments[1].Key]
		slow.mu.Unlock()
		if begun == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the second segment is not opened while the first is read")
		}
	}
	rest, err := io.ReadAll(r)
	got.Write(rest)
	if err != nil || !bytes.Equal(got.Bytes(), d.squeezed) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
	closed(t, r)
	for _, s := range d.segments {
		if slow.opened[s.Key] != 1 {
			t.Errorf("a segment was opened %d times", slow.opened[s.Key])
		}
	}
	// A reader that is left early leaves nothing open.
	if r, err = OpenFile(t.Context(), slow, f, jobs.EncodingGzip, 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := r.Read(buffer); err != nil {
			t.Fatal(err)
		}
	}
	closed(t, r)
	if slow.open != 0 {
		t.Errorf("%d objects stay open", slow.open)
	}
}
