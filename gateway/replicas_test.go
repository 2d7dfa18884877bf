package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway/jobs"
	"spillway/storage"
	"spillway/upstream/fhir"
)

// A signer is a storage whose objects have links. It fails for one key.
type signer struct {
	storage.Store
	bad string
	err error

	mu    sync.Mutex
	count int
	ttls  []time.Duration
	given []storage.Delivery
}

func (s *signer) Compose(context.Context, string, []storage.Part, storage.Delivery) error { return nil }

func (s *signer) Link(_ context.Context, key string, ttl time.Duration, d storage.Delivery) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key == s.bad {
		return "", s.err
	}
	s.count++
	s.ttls, s.given = append(s.ttls, ttl), append(s.given, d)
	return fmt.Sprintf("https://bucket.example.org/%s?signature=%d", key, s.count), nil
}

// linked is a world whose files are fetched by links, with an ended export of
// two files. The manifest is readable as alice.
func linked(t *testing.T, s *signer, composed ...string) (w *world, status string) {
	t.Helper()
	w = newWorld(t, func(c *Config) { c.Links, c.LinkTTL, c.Auth = s, 15*time.Minute, byHeader{} })
	r := w.send(t, "GET /fhir/$export\n"+kickOffHeaders+"\nX-Client: alice")
	status = r.Header.Get("Content-Location")
	var files []jobs.File
	for i, key := range composed {
		f := fileOf(fmt.Sprintf("%d.Patient.ndjson", i+1), w.segment(t, fmt.Sprintf("job/%d", i), jobs.EncodingGzip, `{"resourceType":"Patient"}`))
		f.Composed = key
		files = append(files, f)
	}
	w.plan(t)
	w.complete(t, jobs.Result{Files: files})
	w.clock.advance(time.Second)
	return w, status
}

type shownManifest struct {
	RequiresAccessToken bool
	Output              []struct{ URL string }
}

func (w *world) manifest(t *testing.T, status string) (m shownManifest, r *reply) {
	t.Helper()
	r = w.get(t, "GET", status, "X-Client: alice")
	if r.StatusCode != 200 {
		t.Fatalf("%s: %s", r.Status, r.body)
	}
	if err := json.Unmarshal(r.body, &m); err != nil {
		t.Fatal(err)
	}
	return m, r
}

func TestLinks(t *testing.T) {
	s := &signer{}
	w, status := linked(t, s, "a/x.gz", "a/y.gz")
	first, r := w.manifest(t, status)
	second, _ := w.manifest(t, status)
	for i, m := range []shownManifest{first, second} {
		if m.RequiresAccessToken || len(m.Output) != 2 ||
			m.Output[0].URL != fmt.Sprintf("https://bucket.example.org/a/x.gz?signature=%d", 2*i+1) || m.Output[1].URL != fmt.Sprintf("https://bucket.example.org/a/y.gz?signature=%d", 2*i+2) {
			t.Errorf("manifest %d: %+v", i+1, m)
		}
	}
	if expires, err := time.Parse(time.RFC1123, r.Header.Get("Expires")); err != nil || expires.Sub(w.clock.Now()) < 23*time.Hour {
		t.Errorf("Expires is that of the export, and not %q", r.Header.Get("Expires"))
	}
	want := storage.Delivery{ContentType: "application/fhir+ndjson", ContentEncoding: "gzip", Filename: "1.Patient.ndjson"}
	if s.given[0] != want || s.ttls[0] != 15*time.Minute {
		t.Errorf("the link is for %+v and %v", s.given[0], s.ttls[0])
	}
	file := w.base + "/$bulk-files/" + status[strings.LastIndexByte(status, '/')+1:] + "/1.Patient.ndjson"
	if r := w.get(t, "GET", file, "X-Client: alice"); r.StatusCode != 200 || string(r.body) != "{\"resourceType\":\"Patient\"}\n" {
		t.Errorf("through the gateway: %s %q", r.Status, r.body)
	}
	if r := w.get(t, "GET", status, "X-Client: mallory"); r.StatusCode != 404 {
		t.Errorf("another client: %s", r.Status)
	}
	w.clock.advance(23*time.Hour + 50*time.Minute)
	w.manifest(t, status)
	if ttl := s.ttls[len(s.ttls)-1]; ttl > 10*time.Minute || ttl < 9*time.Minute {
		t.Errorf("10 minutes before the export goes, a link holds for %v", ttl)
	}
	if log := w.logged(); strings.Contains(log, "signature") || strings.Contains(log, "bucket.example.org") {
		t.Errorf("a link is in the log:\n%s", log)
	}
}

// TestLinksForAllOrNone: files of which one was not composed go through the
// gateway, all of them.
func TestLinksForAllOrNone(t *testing.T) {
	w, status := linked(t, &signer{}, "a/x.gz", "")
	m, _ := w.manifest(t, status)
	for _, o := range m.Output {
		if !strings.HasPrefix(o.URL, w.base+"/$bulk-files/") {
			t.Errorf("%s", o.URL)
		}
	}
	if !m.RequiresAccessToken || len(m.Output) != 2 {
		t.Errorf("%+v", m)
	}
}

func TestLinksThatCannotBeMade(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		status int
		issue  fhir.IssueCode
		retry  string
		log    string
	}{
		{"ErrAway", errors.New("no credentials"), 503, "transient", "10", "no credentials"},
		{"ErrLate", context.DeadlineExceeded, 503, "transient", "10", "deadline"},
		{"ErrMissing", fmt.Errorf("bucket: %w", storage.ErrNotFound), 500, "exception", "", "a segment of Patient: missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, status := linked(t, &signer{bad: "a/y.gz", err: c.err}, "a/x.gz", "a/y.gz")
			r := w.get(t, "GET", status, "X-Client: alice")
			if issue := r.issue(t); r.StatusCode != c.status || issue.Code != c.issue || r.Header.Get("Retry-After") != c.retry || r.Header.Get("Expires") != "" {
				t.Errorf("%s %v %+v", r.Status, r.Header, issue)
			}
			if log := w.logged(); !strings.Contains(log, c.log) || strings.Contains(log, "a/y.gz") {
				t.Errorf("the log:\n%s", log)
			}
		})
	}
}

// A stalledJobs is a job store of which some calls never return by themselves.
type stalledJobs struct {
	jobs.Store
	get, cancel, load bool
}

func stall(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func (s *stalledJobs) Get(ctx context.Context, id jobs.ID) (*jobs.Job, error) {
	if s.get {
		return nil, stall(ctx)
	}
	time.Sleep(300 * time.Millisecond) // slow, so that a deadline for each call would be too long
	return s.Store.Get(ctx, id)
}

func (s *stalledJobs) Cancel(ctx context.Context, id jobs.ID) error {
	if s.cancel {
		return stall(ctx)
	}
	return s.Store.Cancel(ctx, id)
}

func (s *stalledJobs) Load(ctx context.Context, name string) (jobs.Shared, error) {
	if s.load {
		return jobs.Shared{}, stall(ctx)
	}
	return s.Store.Load(ctx, name)
}

// TestStalledStore: every route of an export answers within two seconds.
func TestStalledStore(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		stalled stalledJobs
		method  string
		file    bool
	}{
		{"ErrStatus", stalledJobs{get: true}, "GET", false},
		{"ErrFile", stalledJobs{get: true}, "GET", true},
		{"ErrFileHead", stalledJobs{get: true}, "HEAD", true},
		{"ErrDelete", stalledJobs{get: true}, "DELETE", false},
		{"ErrDeleteSecondCall", stalledJobs{cancel: true}, "DELETE", false},
		{"ErrExpiredSecondCall", stalledJobs{load: true}, "GET", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(config *Config) {
				c.stalled.Store, config.Jobs = config.Jobs, &c.stalled
				if c.stalled.load {
					now := config.Now
					config.Now = func() time.Time { return now().Add(48 * time.Hour) }
				}
			})
			id, address := w.finished(t, "/fhir/$export", fileOf("1.Patient.ndjson", w.segment(t, "job/0", jobs.EncodingGzip, "{}")))
			if c.file {
				address = w.base + "/$bulk-files/" + string(id) + "/1.Patient.ndjson"
			}
			began := time.Now()
			r := w.get(t, c.method, address, "")
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("took %v", took)
			}
			if r.StatusCode != 503 || r.Header.Get("Retry-After") != "5" || c.method != "HEAD" && r.issue(t).Code != "transient" {
				t.Errorf("%s, Retry-After %q: %s", r.Status, r.Header.Get("Retry-After"), r.body)
			}
		})
	}
}

// TestExpiryByTheClockOfTheStore: an export does not go because the clock of this
// machine is wrong, and goes when its time is up.
func TestExpiryByTheClockOfTheStore(t *testing.T) {
	var jump time.Duration
	w := newWorld(t, func(c *Config) {
		now := c.Now
		c.Now = func() time.Time { return now().Add(jump) }
	})
	_, address := w.finished(t, "/fhir/$export")
	jump = 25 * time.Hour
	if r := w.get(t, "GET", address, ""); r.StatusCode != 200 {
		t.Errorf("a clock that is a day ahead: %s", r.Status)
	}
	w.clock.advance(25 * time.Hour)
	if r := w.get(t, "GET", address, ""); r.StatusCode != 404 {
		t.Errorf("the time is up: %s", r.Status)
	}
}
