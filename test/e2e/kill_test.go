//go:build e2e

package e2e

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway/test/process"
)

const (
	kills = 10
	// allowance is how many pages a life may read before the brake holds it, so
	// that the export cannot end before all kills have happened.
	allowance = 6
	// atWork is how many units of work a process may have had in hand when it
	// was killed; each may read a page or two again.
	atWork = 8
	// probeSize is the largest page that a probe asks for within a window.
	probeSize = 10
)

// A brake lets some first pages with resources through and holds the others
// until it is released.
type brake struct {
	mu   sync.Mutex
	left int           // pages that may pass; negative: all of them
	more chan struct{} // closed when left grows
	read map[string]int
}

func newBrake() *brake { return &brake{more: make(chan struct{}), read: make(map[string]int)} }

// allow sets how many pages may pass from now on.
func (b *brake) allow(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = n
	close(b.more)
	b.more = make(chan struct{})
}

// hold is a proxy's change. Probes and empty pages pass: the plan may end.
func (b *brake) hold(a asked, got *answer) {
	if a.size() <= probeSize || a.kind != kindSearch || !a.query.Has("_lastUpdated") || !bytes.Contains(got.body, []byte(`"entry"`)) {
		return
	}
	for {
		b.mu.Lock()
		if b.left != 0 {
			b.left--
			b.read[a.typ+"?"+a.query.Encode()]++
			b.mu.Unlock()
			return
		}
		more := b.more
		b.mu.Unlock()
		select {
		case <-more:
		case <-a.gone:
			panic(http.ErrAbortHandler)
		}
	}
}

// mustNotRepeat checks that finished units were not worked off again: beyond
// one reading of every page there is only what was in hand at a kill.
func (b *brake) mustNotRepeat(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	total := 0
	for _, n := range b.read {
		total += n
	}
	again := total - len(b.read)
	t.Logf("%d different pages were read, %d of them again", len(b.read), again)
	if len(b.read) < kills*allowance {
		t.Errorf("only %d pages were needed, so the kills did not come in the middle", len(b.read))
	}
	if limit := kills * atWork; again > limit {
		t.Errorf("%d pages were read again after %d kills, want at most %d: finished work was redone", again, kills, limit)
	}
}

// moment is a random time to live once a process is at work.
func moment() time.Duration { return time.Duration(300+rand.IntN(4000)) * time.Millisecond }

// atWorkAgain waits until a process does more than learn about the upstream.
func atWorkAgain(t *testing.T, p *proxy, before int) {
	t.Helper()
	waitFor(t, "the export to go on", func() bool {
		for _, a := range p.requests()[before:] {
			if a.kind == kindCount && a.query.Has("_lastUpdated") || a.kind == kindSearch && a.size() > probeSize {
				return true
			}
		}
		return false
	})
}

// manyWindows cuts the export into a hundred units and more.
func manyWindows(held world) int { return max(held.len()/100, 5) }

func TestServeSurvivesKills(t *testing.T) {
	base, held := server.ready(t)
	p, b := spoil(t, base), newBrake()
	p.change = b.hold
	s := p.settings()
	s.window = manyWindows(held)
	b.allow(allowance)
	g := serve(t, s)
	status := g.kickOff(t, "/$export", nil)
	before := 0
	for range kills {
		atWorkAgain(t, p, before)
		time.Sleep(moment()) // a random moment to be killed at, nothing is waited for
		g.program.Kill()
		before = len(p.requests())
		b.allow(allowance)
		g.start(t, "/healthz") // while the brake holds its requests it may learn nothing
		ask(t, http.MethodGet, status, "").mustBe(t, http.StatusAccepted)
	}
	b.allow(-1)
	collect(t, status).mustEqual(t, held)
	b.mustNotRepeat(t)
	if n := g.metric(t, "spillway_units_total", `kind="slice"`); n == 0 {
		t.Error("the last life worked off no unit, or the metric is gone")
	}
}

func TestExportCommandSurvivesKills(t *testing.T) {
	base, held := server.ready(t)
	p, b := spoil(t, base), newBrake()
	p.change = b.hold
	s := p.settings()
	s.window = manyWindows(held)
	dir := filepath.Join(t.TempDir(), "out")
	args := []string{"export", "--config", s.file(t), "--out", dir, "--quiet"}
	for range kills {
		b.allow(allowance)
		before := len(p.requests())
		var stderr strings.Builder
		cmd := process.Command(t.Context(), binary, args...)
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		atWorkAgain(t, p, before)
		time.Sleep(moment())   // as above
		_ = cmd.Process.Kill() // it may have ended by itself
		err := cmd.Wait()
		if cmd.ProcessState.Exited() {
			t.Fatalf("the export ended by itself, before it was killed: %v\n%s", err, &stderr)
		}
		if _, err := os.Stat(filepath.Join(dir, "manifest.json")); err == nil {
			t.Fatal("an unfinished export left a manifest")
		}
	}
	b.allow(-1)
	r := spillway(t, args...)
	r.mustExit(t, 0)
	readFolder(t, dir).mustEqual(t, held)
	b.mustNotRepeat(t)
}

func TestTerminate(t *testing.T) {
	base, held := server.ready(t)
	p, b := spoil(t, base), newBrake()
	p.change = b.hold
	b.allow(-1)
	s := p.settings()
	s.window = manyWindows(held)
	g := serve(t, s)
	done := collect(t, g.kickOff(t, "/$export", types("Patient", "Organization", "Observation")))
	done.mustEqual(t, held.of("Patient", "Organization", "Observation"))

	// A second export is in the middle, and a download is under way.
	b.allow(allowance)
	running := g.kickOff(t, "/$export", nil)
	file := largest(done.manifest.Output)
	whole := ask(t, http.MethodGet, file.URL, "")
	slow := newSlowDownload(t, file.URL)
	if code := g.terminateDuring(t, slow.rest); code != 0 {
		t.Errorf("exit status %d after SIGTERM, want 0", code)
	}
	if got := slow.content(t); string(got) != string(whole.body) {
		t.Errorf("the download that was under way got %d bytes of %d", len(got), len(whole.body))
	}

	b.allow(-1)
	g.start(t, "/readyz")
	collect(t, running).mustEqual(t, held)
}

func TestExportCommandIsInterrupted(t *testing.T) {
	base, held := server.ready(t)
	p, b := spoil(t, base), newBrake()
	p.change = b.hold
	s := p.settings()
	s.window = manyWindows(held)
	dir := filepath.Join(t.TempDir(), "out")
	args := []string{"export", "--config", s.file(t), "--out", dir, "--quiet", "--type", "Patient,Observation,Encounter"}
	b.allow(allowance)
	cmd := process.Command(t.Context(), binary, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the export to be in the middle", func() bool { return p.count(kindSearch) >= allowance })
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit status %d after an interrupt, want 130", code)
	}
	b.allow(-1)
	r := spillway(t, args...)
	r.mustExit(t, 0)
	readFolder(t, dir).mustEqual(t, held.of("Patient", "Observation", "Encounter"))
}

// waitFor polls until something is true.
func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}
