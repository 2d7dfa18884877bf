package upstream

import (
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// passes sends requests of the pass-through as clients do, each second so many
// for a while; usual is multiplied by the factor.
func passes(g *governor, perSecond int, d time.Duration, factor float64) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second / time.Duration(perSecond)) {
		class, usual := passRead, 30.0
		if rand.N(3) == 0 {
			class, usual = passSearch, 200.0
		}
		g.observePass(class, time.Duration(usual*factor*math.Exp(rand.NormFloat64()/2)*float64(time.Millisecond)))
	}
}

func TestPassThroughSlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		m, err := newGovernorMetrics(reg)
		if err != nil {
			t.Fatal(err)
		}
		g := newGovernor(Config{MaxConcurrency: 8}.withDefaults(), newVital(), m)
		limit := func() int {
			g.mu.Lock()
			defer g.mu.Unlock()
			return g.limit
		}
		var exports sync.WaitGroup
		passes(g, 5, time.Minute, 1)
		exports.Go(func() { work(t, g, &plant{serve: flat}, 8, 10*time.Minute) })
		passes(g, 5, time.Minute, 1.2)
		if limit() != 8 {
			t.Errorf("the limit is %d while all is well", limit())
		}
		passes(g, 5, 20*time.Second, 5)
		if n := limit(); n > 2 {
			t.Errorf("the limit is %d while the pass-through is slow", n)
		}
		passes(g, 5, time.Minute, 1.1)
		if limit() != 8 {
			t.Errorf("the limit is %d after the pass-through is well again", limit())
		}
		exports.Wait()
		// Without exports there is nothing to step back.
		time.Sleep(passObserved)
		before := g.epoch
		passes(g, 5, time.Minute, 10)
		if g.epoch != before {
			t.Error("stepped back without exports")
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, f := range families {
			for _, x := range f.Metric {
				if f.GetName() == "spillway_upstream_step_backs_total" && x.Label[0].GetValue() == "pass_through" {
					found = x.Counter.GetValue() > 0
				}
			}
		}
		if !found {
			t.Error("no metric tells of the step backs")
		}
	})
}

// Few samples, outliers and what takes no time at all lead to nothing.
func TestPassThroughIsNotJudgedByLittle(t *testing.T) {
	for _, tt := range []struct {
		name string
		feed func(g *governor)
	}{
		{"NoBase", func(g *governor) {
			for i := range passKnown {
				g.observePass(passRead, time.Duration(i*i)*10*time.Millisecond)
			}
		}},
		{"Few", func(g *governor) {
			passes(g, 5, time.Minute, 1)
			time.Sleep(passWindow)
			for range passSamples - 1 {
				g.observePass(passRead, time.Second)
			}
		}},
		{"Rare", func(g *governor) {
			passes(g, 5, time.Minute, 1)
			time.Sleep(passWindow)
			for range 100 {
				time.Sleep(passWindow / (passSamples - 2))
				g.observePass(passRead, time.Second)
			}
		}},
		{"Outlier", func(g *governor) {
			for i := range 1000 {
				wait := 30 * time.Millisecond
				if i%9 == 0 {
					wait = 30 * time.Second
				}
				g.observePass(passRead, wait)
				time.Sleep(100 * time.Millisecond)
			}
		}},
		{"Tiny", func(g *governor) {
			for i := range 1000 {
				wait := time.Millisecond
				if i > 500 {
					wait = 8 * time.Millisecond
				}
				g.observePass(passRead, wait)
				time.Sleep(100 * time.Millisecond)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newTestGovernor(8)
				var exports sync.WaitGroup
				exports.Go(func() { work(t, g, &plant{serve: flat}, 8, 10*time.Minute) })
				tt.feed(g)
				g.mu.Lock()
				if g.epoch != 0 {
					t.Errorf("%d step backs", g.epoch)
				}
				g.mu.Unlock()
				exports.Wait()
			})
		})
	}
}

// A process that only passes through tells those that export.
func TestPassThroughOfAnotherProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t, 2, 8)
		web := k.clients[1].governor
		passes(web, 5, time.Minute, 1)
		calls := k.board.called()
		passes(web, 5, 5*time.Minute, 6) // slow, but nobody exports
		if n := k.board.called() - calls; n > 25 {
			t.Errorf("the store was called %d times in five minutes without exports", n)
		}
		passes(web, 5, 10*time.Minute, 1)
		k.run(t, 0, 8, 3*time.Minute)
		passes(web, 5, time.Minute, 1)
		k.seen()
		passes(web, 5, 30*time.Second, 6)
		k.seen()
		passes(web, 5, 10*time.Second, 6)
		if _, most, _ := k.seen(); most > 2 {
			t.Errorf("%d exports' requests at once while the pass-through is slow", most)
		}
		k.work.Wait()
	})
}

func TestProxyObserves(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/2") {
			w.WriteHeader(404)
		}
		_, _ = io.WriteString(w, "{}")
	}))
	defer up.Close()
	var mu sync.Mutex
	var seen []string
	reg := prometheus.NewRegistry()
	p := NewProxy(ProxyConfig{Upstream: parse(t, up.URL+"/fhir"), Registerer: reg, Logger: slog.New(slog.DiscardHandler), Observe: func(r *http.Request, status int, wait time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		if wait <= 0 {
			t.Errorf("waited %s", wait)
		}
		seen = append(seen, fmt.Sprint(r.Method, " ", r.URL.RequestURI(), " ", status))
	}})
	defer p.(*proxy).CloseIdleConnections()
	get := func(method, path string) {
		p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(method, path, nil))
	}
	get("GET", "/Patient/1")
	get("GET", "/Patient/2")
	get("DELETE", "/Patient?x=y")
	up.Close()
	get("GET", "/Patient/3")
	get("TRACE", "/Patient/4")
	if got := strings.Join(seen, ", "); got != "GET /fhir/Patient/1 200, GET /fhir/Patient/2 404, DELETE /fhir/Patient?x=y 200, GET /fhir/Patient/3 0" {
		t.Errorf("observed %s", got)
	}
	wantMetric(t, reg, "spillway_passthrough_wait_seconds_count 4")

	// The client makes of it what it can.
	c := client(t, up.URL)
	for _, tt := range []struct {
		method, target string
		status         int
		class          passClass
		counts         bool
	}{
		{"GET", "/Patient/1", 200, passRead, true}, {"HEAD", "/Patient/1", 404, passRead, true},
		{"GET", "/Patient?name=x", 200, passSearch, true}, {"GET", "/Patient?name=x", 504, passSearch, true},
		{"GET", "/Patient/1", 0, passRead, true},
		{"POST", "/Patient", 201, 0, false}, {"PUT", "/Patient/1", 200, 0, false}, {"GET", "/Patient/1", 502, 0, false},
	} {
		var before [passClasses]int
		for class := range passClasses {
			before[class] = c.governor.pass.bases[class].n
		}
		c.ObservePassThrough(httptest.NewRequest(tt.method, tt.target, nil), tt.status, time.Second)
		for class := range passClasses {
			grew := c.governor.pass.bases[class].n - before[class]
			if want := tt.counts && class == tt.class; (grew == 1) != want {
				t.Errorf("%s %s %d: class %d grew by %d", tt.method, tt.target, tt.status, class, grew)
			}
		}
	}
}
