//go:build e2e

package chaos

import (
	"context"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestChaos kills, freezes or stops one of three processes every two seconds
// while they export.
func TestChaos(t *testing.T) {
	t.Parallel()
	seed := setting(t, "SPILLWAY_TEST_SEED", time.Now().UnixNano(), func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) })
	resources := setting(t, "SPILLWAY_TEST_RESOURCES", 200_000, strconv.Atoi)
	span := setting(t, "SPILLWAY_TEST_SPAN", 45*time.Second, time.ParseDuration)
	awake := setting(t, "SPILLWAY_TEST_AWAKE", 1, strconv.Atoi)
	freeze := setting(t, "SPILLWAY_TEST_FREEZE", 25*time.Second, time.ParseDuration)
	const pageSize = 50
	t.Logf("SPILLWAY_TEST_SEED=%d SPILLWAY_TEST_RESOURCES=%d SPILLWAY_TEST_FREEZE=%s", seed, resources, freeze)

	// Undisturbed, it takes about half a minute: 8 requests at once.
	page := time.Duration(int64(8*30*time.Second) / int64(resources/pageSize))
	w := newWorld(t, options{resources: resources, page: page, pageSize: pageSize, window: 10 * pageSize})
	status := kickOff(t, w.front.url)
	d := &disturber{world: w, freeze: freeze, awake: awake, rng: rand.New(rand.NewPCG(uint64(seed), 0)), begun: time.Now(), log: t.Logf}
	d.progress = func() string {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		r, _ := ask(ctx, http.MethodGet, status) // nobody may answer at the moment
		return r.header.Get("X-Progress")
	}
	stop := d.begin()
	if span > 0 {
		time.AfterFunc(span, stop)
	}
	finish(t, status, resources, 10*time.Minute, away)
	t.Logf("exact %s after the kick-off", time.Since(d.begun).Round(time.Second))
	stop()
	d.mustBeWell(t)
	w.remove(t, status, time.Minute)
}

// setting reads a variable of the environment.
func setting[T any](t *testing.T, name string, otherwise T, parse func(string) (T, error)) T {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	v, err := parse(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}

// A disturber harms the replicas of a world, one every two seconds, and brings
// each back.
type disturber struct {
	*world
	freeze   time.Duration
	awake    int // so many replicas are never frozen
	rng      *rand.Rand
	begun    time.Time
	progress func() string // of the export, for the log
	log      func(format string, args ...any)

	mu       sync.Mutex
	harmed   map[*replica]bool // frozen, or on its way down
	problems []error
	revivals sync.WaitGroup
}

const disturbEvery = 2 * time.Second

// begin disturbs until the function that it returns is called; that brings all
// replicas back first.
func (d *disturber) begin() (stop func()) {
	d.harmed = make(map[*replica]bool)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(disturbEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				d.disturb(ctx)
			}
		}
	}()
	return sync.OnceFunc(func() {
		cancel()
		<-done
		d.revivals.Wait()
	})
}

func (d *disturber) disturb(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var up []int
	for i, r := range d.replicas {
		if !d.harmed[r] {
			up = append(up, i)
		}
	}
	if len(up) == 0 {
		return
	}
	i := up[d.rng.IntN(len(up))]
	what := []string{"SIGKILL", "SIGSTOP", "SIGTERM"}[d.rng.IntN(3)]
	if what == "SIGSTOP" && len(up) <= d.awake {
		what = "SIGKILL"
	}
	r := d.replicas[i]
	d.harmed[r] = true
	d.log("%5.1fs %s replica %d; %s", time.Since(d.begun).Seconds(), what, i, d.progress())
	d.revivals.Go(func() {
		err := d.harm(ctx, r, what)
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.harmed, r)
		if err != nil {
			d.problems = append(d.problems, err)
		}
	})
}

// harm does something to a replica and brings it back.
func (d *disturber) harm(ctx context.Context, r *replica, what string) error {
	switch what {
	case "SIGSTOP":
		if err := r.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(d.freeze):
		}
		return r.Signal(syscall.SIGCONT)
	case "SIGKILL":
		r.Kill()
	case "SIGTERM":
		if _, err := r.Stop(30 * time.Second); err != nil {
			return err
		}
	}
	return r.Start()
}

// mustBeWell checks that all replicas came back.
func (d *disturber) mustBeWell(t *testing.T) {
	t.Helper()
	d.mu.Lock()
	problems := d.problems
	d.mu.Unlock()
	for _, err := range problems {
		t.Error(err)
	}
	for i, r := range d.replicas {
		eventually(t, 30*time.Second, "replica "+strconv.Itoa(i)+" to be ready", r.well)
	}
}
