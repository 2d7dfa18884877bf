package soak

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"spillway/jobs"
	"spillway/jobs/boltstore"
	"spillway/jobs/export"
	"spillway/jobs/worker"
	"spillway/storage/disk"
	"spillway/test/fakefhir"
	"spillway/upstream"
)

// seed is what a test chooses by; it is printed.
func seed(t *testing.T) uint64 {
	t.Helper()
	n := uint64(time.Now().UnixNano()) % 1_000_000
	if s := os.Getenv("SPILLWAY_TEST_SEED"); s != "" {
		var err error
		n, err = strconv.ParseUint(s, 10, 64)
		must(t, err)
	}
	t.Logf("SPILLWAY_TEST_SEED=%d", n)
	return n
}

// length is how long a test goes on; 0 is its small form.
func length(t *testing.T) time.Duration {
	t.Helper()
	s := os.Getenv("SPILLWAY_SOAK")
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	must(t, err)
	return d / 2
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// house is a FHIR server with workers before it that can be killed.
type house struct {
	srv     *fakefhir.Server
	points  *points
	url     *url.URL
	store   *boltstore.Store
	storage *disk.Store
	settle  time.Duration
	window  int64
	page    int

	mu      sync.Mutex
	process *process
}

func build(t *testing.T, server fakefhir.Options, p *points) *house {
	t.Helper()
	h := &house{srv: fakefhir.New(server), points: p, window: 60, page: 25}
	end := make(chan struct{})
	p.end = end
	listener := httptest.NewServer(p.upstreamOf(h.srv, func() *process {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.process
	}))
	t.Cleanup(listener.Close)
	t.Cleanup(func() { close(end) })
	var err error
	h.url, err = url.Parse(listener.URL + "/fhir")
	must(t, err)
	dir := t.TempDir()
	h.store, err = boltstore.Open(filepath.Join(dir, "jobs.db"), jobs.Limits{LeaseTTL: leaseTTL})
	must(t, err)
	t.Cleanup(func() { _ = h.store.Close() })
	must(t, os.Mkdir(filepath.Join(dir, "files"), 0o700))
	h.storage, err = disk.Open(filepath.Join(dir, "files"), disk.Options{MinFree: -1})
	must(t, err)
	return h
}

const leaseTTL = 2 * time.Second

// live runs processes until ctx ends: when one is killed, another one starts.
func (h *house) live(ctx context.Context, t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	for n := 0; ctx.Err() == nil; n++ {
		p := newProcess()
		h.mu.Lock()
		h.process = p
		h.mu.Unlock()
		client, err := upstream.New(upstream.Config{URL: h.url, PageSize: h.page, Timeout: 2 * time.Second, MaxOutage: time.Second, Logger: quiet})
		if err != nil {
			t.Error(err)
			return
		}
		store := &records{h.store, h.points, p}
		storage := &files{h.storage, h.points, p}
		engine := export.New(export.Config{
			Upstream: client, Storage: storage, Jobs: store, Window: h.window, Settle: h.settle, Logger: quiet,
		})
		w := worker.New(worker.Config{
			Store: store, Run: engine.Run, RemoveBytes: engine.RemoveBytes, SweepEvery: time.Second,
			Concurrency: 3, LeaseTTL: leaseTTL, Name: fmt.Sprint("process-", n), Logger: quiet,
		})
		life, stop := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() { // a dead one hangs until the test ends
			defer close(ended)
			_ = w.Run(life)
		}()
		select {
		case <-p.dead:
		case <-ended:
		}
		stop()
	}
}

// export performs one export to its end.
func (h *house) export(ctx context.Context, t *testing.T, r jobs.Request) *jobs.Job {
	t.Helper()
	r.Level = jobs.LevelSystem
	job, first := jobs.New(r, "", time.Now())
	job.Authorization = json.RawMessage(`{"all":true}`)
	must(t, h.store.Create(ctx, job, first))
	for {
		job, err := h.store.Get(ctx, job.ID)
		if err != nil {
			t.Fatalf("the job did not end: %v", err)
		}
		if job.State.Ended() {
			return job
		}
		if err := h.store.Idle(ctx); err != nil {
			t.Fatalf("the job did not end: it is %s", job.State)
		}
	}
}

// gone waits until a deleted job has left nothing.
func (h *house) gone(ctx context.Context, t *testing.T, id jobs.ID) {
	t.Helper()
	must(t, h.store.Cancel(ctx, id))
	for {
		_, err := h.store.Get(ctx, id)
		if errors.Is(err, jobs.ErrNotFound) {
			break
		}
		if err != nil || h.store.Idle(ctx) != nil {
			t.Fatalf("the deleted job is still there (%v)", err)
		}
	}
	for o, err := range h.storage.List(ctx, "") {
		must(t, err)
		t.Errorf("the deleted job has left %s", o.Key)
		return
	}
}

type truth map[string]map[string][]byte // by type and id

// lines are the output and the outcome of a job.
func (h *house) lines(t *testing.T, job *jobs.Job) (output truth, issues []string) {
	t.Helper()
	output = make(truth)
	for _, f := range job.Files {
		var count, size int64
		for _, s := range f.Segments {
			r, err := h.storage.Open(t.Context(), s.Key, 0, -1)
			must(t, err)
			var text io.Reader = r
			if s.Encoding == jobs.EncodingGzip {
				text, err = gzip.NewReader(r)
				must(t, err)
			}
			scan := bufio.NewScanner(text)
			scan.Buffer(nil, 16<<20)
			for scan.Scan() {
				count, size = count+1, size+int64(len(scan.Bytes()))+1
				var line struct {
					ResourceType, ID string
					Issue            []struct{ Severity, Diagnostics string }
				}
				must(t, json.Unmarshal(scan.Bytes(), &line))
				for _, i := range line.Issue {
					issues = append(issues, i.Severity+": "+i.Diagnostics)
				}
				if f.Kind != jobs.KindOutput {
					continue
				}
				if output[f.Type] == nil {
					output[f.Type] = make(map[string][]byte)
				}
				if output[f.Type][line.ID] != nil || line.ResourceType != f.Type {
					t.Errorf("%s/%s in a file of %s, or twice", line.ResourceType, line.ID, f.Type)
				}
				output[f.Type][line.ID] = bytes.Clone(scan.Bytes())
			}
			must(t, scan.Err())
			_ = r.Close()
		}
		if count != f.Count || size != f.Size {
			t.Errorf("%s has %d lines and %d bytes, the manifest says %d and %d", f.Name, count, size, f.Count, f.Size)
		}
	}
	return output, issues
}

// differences counts in what output is not want, and shows some.
func differences(output, want truth) (n int, some []string) {
	types := maps.Clone(want)
	maps.Copy(types, output)
	for _, typ := range slices.Sorted(maps.Keys(types)) {
		for id, w := range want[typ] {
			if g := output[typ][id]; !bytes.Equal(g, w) {
				n++
				some = append(some, fmt.Sprintf("%s/%s: got %.200s, want %.200s", typ, id, g, w))
			}
		}
		for id := range output[typ] {
			if want[typ][id] == nil {
				n++
				some = append(some, fmt.Sprintf("%s/%s should not be there", typ, id))
			}
		}
	}
	return n, some[:min(len(some), 5)]
}

// said reports whether an issue tells that something may be missing or wrong.
func said(issues []string) bool {
	return slices.ContainsFunc(issues, func(s string) bool {
		return strings.HasPrefix(s, "error:") || strings.HasPrefix(s, "warning:")
	})
}

func compact(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	must(t, json.Compact(&out, b))
	return out.Bytes()
}
