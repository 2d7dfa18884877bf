package export_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"spillway/jobs"
	"spillway/jobs/boltstore"
	"spillway/jobs/export"
	"spillway/storage/disk"
	"spillway/test/fakefhir"
	"spillway/upstream"
	"spillway/upstream/profile"
)

// smallSet has about 2,400 resources with clusters of equal timestamps.
var smallSet = sync.OnceValue(func() *fakefhir.Dataset {
	return fakefhir.Generate(fakefhir.GenerateOptions{Patients: 6, Seed: 7})
})

// everything is what a job of a client may read that no scope restricts.
var everything = json.RawMessage(`{"all":true}`)

// world is an upstream with an engine before it.
type world struct {
	srv     *fakefhir.Server
	base    string // its FHIR base
	client  *upstream.Client
	jobs    *boltstore.Store
	storage *disk.Store
	engine  *export.Exporter
	workers int                    // of run
	silent  func(*jobs.Lease) bool // whether the worker falls silent with this lease; nil: never
}

// settings of a world; the zero value is a truthful server and small windows.
type settings struct {
	server   fakefhir.Options
	window   int64
	pageSize int
	fileSize int64
	encoding jobs.Encoding
	settle   time.Duration
	profile  *profile.Profile // nil: by the server's statement
	// settleByProfile lets its settle time count.
	settleByProfile bool
	cohorts         export.Cohorts
	joiners         bool // export.Config.SinceNewMembers
	// referenced are types that are exported where they are referred to.
	referenced []string
	clock      func() time.Time // of the job store; nil: the real one
	// before is called before each request to the server; nil: nothing is.
	before func(*fakefhir.Server, *http.Request)
}

func newWorld(t *testing.T, s settings) *world {
	t.Helper()
	if s.server.Dataset == nil {
		s.server.Dataset = smallSet()
	}
	if s.window == 0 {
		s.window = 100
	}
	if s.pageSize == 0 {
		s.pageSize = 40
	}
	w := &world{srv: fakefhir.New(s.server), workers: 4}
	listener := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if s.before != nil {
			s.before(w.srv, r)
		}
		w.srv.ServeHTTP(rw, r)
	}))
	t.Cleanup(listener.Close)
	base, err := url.Parse(listener.URL + "/fhir")
	must(t, err)
	w.base = base.String()
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	w.client, err = upstream.New(upstream.Config{URL: base, PageSize: s.pageSize, Profile: s.profile, Timeout: 5 * time.Second, MaxOutage: 2 * time.Second, Logger: quiet})
	must(t, err)
	dir := t.TempDir()
	var options []boltstore.Option
	if s.clock != nil {
		options = append(options, boltstore.WithClock(s.clock))
	}
	w.jobs, err = boltstore.Open(filepath.Join(dir, "jobs.db"), jobs.Limits{}, options...)
	must(t, err)
	t.Cleanup(func() { _ = w.jobs.Close() })
	w.storage, err = disk.Open(filepath.Join(dir, "files"), disk.Options{MinFree: -1})
	must(t, err)
	w.engine = export.New(export.Config{
		Upstream: w.client, Storage: w.storage, Jobs: w.jobs,
		Window: s.window, FileSize: s.fileSize, Encoding: s.encoding, Settle: s.settle, SettleByProfile: s.settleByProfile, Cohorts: s.cohorts, Referenced: s.referenced, SinceNewMembers: s.joiners, Logger: quiet,
	})
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run performs one export to its end with four workers and returns the job.
func (w *world) run(t *testing.T, r jobs.Request) *jobs.Job {
	t.Helper()
	return w.runAllowed(t, r, everything)
}

// runAllowed is run, for a job that may read no more than it is allowed.
func (w *world) runAllowed(t *testing.T, r jobs.Request, allowed json.RawMessage) *jobs.Job {
	t.Helper()
	if r.Level == "" {
		r.Level = jobs.LevelSystem
	}
	job, first := jobs.New(r, "", time.Now())
	job.Authorization = allowed
	must(t, w.jobs.Create(t.Context(), job, first))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var workers sync.WaitGroup
	for range max(w.workers, 1) {
		workers.Go(func() { w.work(ctx, t, job.ID) })
	}
	workers.Wait()
	job, err := w.jobs.Get(t.Context(), job.ID)
	must(t, err)
	if !job.State.Ended() {
		t.Fatalf("job is still %s", job.State)
	}
	return job
}

// work does what jobs/worker does, without its clocks.
func (w *world) work(ctx context.Context, t *testing.T, id jobs.ID) {
	for ctx.Err() == nil {
		job, err := w.jobs.Get(ctx, id)
		if err != nil || job.State.Ended() {
			return
		}
		lease, job, err := w.jobs.Claim(ctx, "test")
		if errors.Is(err, jobs.ErrNoWork) {
			_ = w.jobs.Idle(ctx)
			continue
		}
		if err != nil {
			t.Errorf("claim: %v", err)
			return
		}
		if w.silent != nil && w.silent(lease) {
			continue
		}
		release := w.keep(ctx, *lease)
		result, err := w.engine.Run(ctx, job, lease, func(ctx context.Context, c json.RawMessage) error { return w.jobs.Save(ctx, lease, c) })
		release()
		var wait *jobs.WaitError
		var failed *jobs.UnitError
		switch {
		case err == nil:
			err = w.jobs.Complete(ctx, lease, result)
		case errors.As(err, &wait):
			err = w.jobs.Release(ctx, lease, wait.Until)
		case errors.As(err, &failed):
			err = w.jobs.Fail(ctx, lease, jobs.Failure{Reason: failed.Reason, Permanent: failed.Permanent}, 0)
		default:
			err = w.jobs.Fail(ctx, lease, jobs.Failure{Reason: "internal error: " + err.Error()}, 0)
		}
		if err != nil && !errors.Is(err, jobs.ErrEnded) {
			t.Errorf("ending unit %s: %v", lease.Unit.ID, err)
		}
	}
}

// keep renews a lease until it is told that the unit is done: on a slow machine
// a tail may take longer than a lease lasts.
func (w *world) keep(ctx context.Context, lease jobs.Lease) (done func()) {
	ctx, cancel := context.WithCancel(ctx)
	var renewing sync.WaitGroup
	renewing.Go(func() {
		for ticker := time.NewTicker(5 * time.Second); ; {
			select {
			case <-ctx.Done():
				ticker.Stop()
				return
			case <-ticker.C:
				_ = w.jobs.Renew(ctx, &lease) // the end of the unit will tell
			}
		}
	})
	return func() { cancel(); renewing.Wait() }
}

// exported reads the output of a completed job: type → id → line. It fails on
// an id met twice, a line of another type, and counts or sizes that are wrong.
func (w *world) exported(t *testing.T, job *jobs.Job) map[string]map[string][]byte {
	t.Helper()
	if job.State != jobs.Completed {
		t.Fatalf("job is %s: %s", job.State, job.Failure)
	}
	found := make(map[string]map[string][]byte)
	names := make(map[string]bool)
	for _, f := range job.Files {
		if names[f.Name] {
			t.Errorf("two files are named %s", f.Name)
		}
		names[f.Name] = true
		lines := w.lines(t, f)
		if int64(len(lines)) != f.Count || f.Count == 0 {
			t.Errorf("%s has %d lines, its count says %d", f.Name, len(lines), f.Count)
		}
		for _, line := range lines {
			var r struct{ ResourceType, ID string }
			must(t, json.Unmarshal(line, &r))
			if r.ResourceType != f.Type {
				t.Errorf("%s holds a %s", f.Name, r.ResourceType)
			}
			if f.Kind != jobs.KindOutput {
				continue
			}
			if found[f.Type] == nil {
				found[f.Type] = make(map[string][]byte)
			}
			if found[f.Type][r.ID] != nil {
				t.Errorf("%s/%s was exported twice", f.Type, r.ID)
			}
			found[f.Type][r.ID] = line
		}
	}
	return found
}

func (w *world) lines(t *testing.T, f jobs.File) (lines [][]byte) {
	t.Helper()
	var size int64
	for _, s := range f.Segments {
		r, err := w.storage.Open(t.Context(), s.Key, 0, -1)
		must(t, err)
		var text io.Reader = r
		if s.Encoding == jobs.EncodingGzip {
			text, err = gzip.NewReader(r)
			must(t, err)
		}
		sum := sha256.New()
		scan := bufio.NewScanner(io.TeeReader(text, sum))
		scan.Buffer(nil, 64<<20)
		for scan.Scan() {
			lines = append(lines, bytes.Clone(scan.Bytes()))
			size += int64(len(scan.Bytes())) + 1
		}
		must(t, scan.Err())
		_ = r.Close()
		if got := hex.EncodeToString(sum.Sum(nil)); got != s.LinesSHA256() {
			t.Errorf("a segment of %s has the SHA-256 %s, its record says %q", f.Name, got, s.LinesSHA256())
		}
	}
	if size != f.Size {
		t.Errorf("%s has %d bytes, its size says %d", f.Name, size, f.Size)
	}
	return lines
}

// issues returns the outcome lines as "severity: text".
func (w *world) issues(t *testing.T, job *jobs.Job) (issues []string) {
	t.Helper()
	for _, f := range job.Files {
		if f.Kind != jobs.KindOutcome {
			continue
		}
		for _, line := range w.lines(t, f) {
			var o struct {
				Issue []struct{ Severity, Diagnostics string }
			}
			must(t, json.Unmarshal(line, &o))
			for _, i := range o.Issue {
				issues = append(issues, i.Severity+": "+i.Diagnostics)
			}
		}
	}
	return issues
}

// truth is what the server holds, by type and id, as compact JSON.
func (w *world) truth(t *testing.T) map[string]map[string][]byte {
	t.Helper()
	all := make(map[string]map[string][]byte)
	for _, typ := range w.srv.Types() {
		all[typ] = make(map[string][]byte)
		for id, r := range w.srv.All(typ) {
			all[typ][id] = compact(t, r.JSON)
		}
	}
	return all
}

func compact(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	must(t, json.Compact(&out, b))
	return out.Bytes()
}

// only keeps the resources that keep accepts, and no empty types.
func only(all map[string]map[string][]byte, keep func(typ, id string, resource []byte) bool) map[string]map[string][]byte {
	kept := make(map[string]map[string][]byte)
	for typ, resources := range all {
		for id, r := range resources {
			if keep(typ, id, r) {
				if kept[typ] == nil {
					kept[typ] = make(map[string][]byte)
				}
				kept[typ][id] = r
			}
		}
	}
	return kept
}

// differences lists at most ten ways in which got is not want.
func differences(got, want map[string]map[string][]byte) []string {
	var all []string
	types := maps.Clone(want)
	maps.Copy(types, got)
	for _, typ := range slices.Sorted(maps.Keys(types)) {
		for id, w := range want[typ] {
			g, ok := got[typ][id]
			switch {
			case !ok:
				all = append(all, fmt.Sprintf("%s/%s is missing", typ, id))
			case !bytes.Equal(g, w):
				all = append(all, fmt.Sprintf("%s/%s differs:\n got %s\nwant %s", typ, id, g, w))
			}
		}
		for id := range got[typ] {
			if _, ok := want[typ][id]; !ok {
				all = append(all, fmt.Sprintf("%s/%s should not be there", typ, id))
			}
		}
	}
	return all[:min(len(all), 10)]
}

func same(t *testing.T, got, want map[string]map[string][]byte) {
	t.Helper()
	if d := differences(got, want); len(d) > 0 {
		t.Errorf("the export is not what the server holds:\n%s", strings.Join(d, "\n"))
	}
}

func anyContains(all []string, part string) bool {
	return slices.ContainsFunc(all, func(s string) bool { return strings.Contains(s, part) })
}
