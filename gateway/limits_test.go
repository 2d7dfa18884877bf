package gateway

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"spillway/auth"
	"spillway/jobs"
	"spillway/upstream/fhir"
)

// Each client has its own limits, whatever others do, and is told how long to
// wait.
func TestLimitsAreOfEachClient(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Auth = byToken{"a": principal(t, "a", "system/*.rs"), "a2": principal(t, "a", "system/*.rs"), "b": principal(t, "b", "system/*.rs")}
		c.Limits = Limits{
			KickOffs: Rate{PerMinute: 6, Burst: 2}, Polls: Rate{PerMinute: 12, Burst: 3}, Downloads: Rate{PerMinute: 30, Burst: 4},
		}
	})
	first, job := w.kickOffAs(t, "a", "/fhir/$export", "")
	status := first.Header.Get("Content-Location")
	w.plan(t)
	w.complete(t, jobs.Result{Files: []jobs.File{fileOf("1.Patient.ndjson", w.segment(t, "x", jobs.EncodingGzip, "{}"))}})
	file := w.base + "/$bulk-files/" + string(job.ID) + "/1.Patient.ndjson"
	w.clock.advance(time.Minute)
	for _, c := range []struct {
		name  string
		ask   func(token string) *reply
		burst int
		wait  string
	}{
		{"KickOffs", func(token string) *reply { r, _ := w.kickOffAs(t, token, "/fhir/$export", ""); return r }, 2, "10"},
		{"Polls", func(token string) *reply { return w.get(t, "GET", status, bearer(token)) }, 3, "5"},
		{"Downloads", func(token string) *reply { return w.get(t, "GET", file, bearer(token)) }, 4, "2"},
	} {
		for i := range c.burst {
			if r := c.ask("a"); r.StatusCode == 429 {
				t.Errorf("%s: number %d: %s", c.name, i+1, r.Status)
			}
		}
		for _, token := range []string{"a", "a2"} { // another token is the same client
			r := c.ask(token)
			if issue := r.issue(t); r.StatusCode != 429 || issue.Code != fhir.IssueThrottled || r.Header.Get("Retry-After") != c.wait {
				t.Errorf("%s: %s Retry-After %q %s", c.name, r.Status, r.Header.Get("Retry-After"), r.body)
			}
		}
		if r := c.ask("b"); r.StatusCode == 429 {
			t.Errorf("%s: another client: %s", c.name, r.Status)
		}
	}
	w.clock.advance(10 * time.Second) // as told
	if r, _ := w.kickOffAs(t, "a", "/fhir/$export", ""); r.StatusCode != 202 {
		t.Errorf("after waiting: %s", r.Status)
	}
}

// The defaults are far above what a polite client does.
func TestDefaultLimitsAreGenerous(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Auth = byToken{"a": principal(t, "a", "system/*.rs")} })
	var addresses []string
	for range 20 {
		r, job := w.kickOffAs(t, "a", "/fhir/$export", "")
		if job == nil {
			t.Fatalf("kick-off %d: %s", len(addresses)+1, r.Status)
		}
		addresses = append(addresses, r.Header.Get("Content-Location"))
	}
	for range 10 { // each export, each second
		for _, address := range addresses {
			if r := w.get(t, "GET", address, bearer("a")); r.StatusCode != 202 {
				t.Fatalf("poll: %s", r.Status)
			}
		}
		w.clock.advance(time.Second)
	}
}

func TestUnfinishedExportsAreLimited(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Auth = byToken{"a": principal(t, "a", "system/*.rs"), "b": principal(t, "b", "system/*.rs")}
		c.Limits = Limits{Exports: 3}
	})
	var statuses []string
	var mu sync.Mutex
	var all sync.WaitGroup
	refused := 0
	for range 8 { // at once: none of them takes the place of another
		all.Go(func() {
			r, job := w.kickOffAs(t, "a", "/fhir/$export", "")
			mu.Lock()
			defer mu.Unlock()
			if job != nil {
				statuses = append(statuses, r.Header.Get("Content-Location"))
				return
			}
			refused++
			if issue := r.issue(t); r.StatusCode != 429 || r.Header.Get("Retry-After") != "30" || issue.Code != fhir.IssueThrottled {
				t.Errorf("%s %s", r.Status, r.body)
			}
		})
	}
	all.Wait()
	if len(statuses) != 3 || refused != 5 {
		t.Fatalf("%d were taken, %d refused", len(statuses), refused)
	}
	if r, _ := w.kickOffAs(t, "b", "/fhir/$export", ""); r.StatusCode != 202 {
		t.Errorf("another client: %s", r.Status)
	}
	if r := w.get(t, "DELETE", statuses[0], bearer("a")); r.StatusCode != 202 {
		t.Fatal(r.Status)
	}
	if r, _ := w.kickOffAs(t, "a", "/fhir/$export", ""); r.StatusCode != 202 {
		t.Errorf("after one was deleted: %s", r.Status)
	}
}

// Nobody who is not authenticated shares a limit with those who are.
func TestWhomARequestIsCountedFor(t *testing.T) {
	s := &server{}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = "192.0.2.1:5000"
	for want, p := range map[string]auth.Principal{
		" 192.0.2.1": {}, "192.0.2.1": {ClientID: "192.0.2.1"}, "+192.0.2.1": {ClientID: " 192.0.2.1"}, "lab+a@https%3A%2F%2Fx": {ClientID: "lab a", Issuer: "https://x"},
	} {
		if got := s.sender(r, p); got != want {
			t.Errorf("%+v: %q, want %q", p, got, want)
		}
	}
}

// Guessing credentials is counted for the address, also where clients are known.
func TestGuessesAreLimited(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Auth = byToken{"a": principal(t, "a", "system/*.rs")}
		c.Limits = Limits{Polls: Rate{PerMinute: 60, Burst: 5}}
	})
	address := w.base + "/$bulk-status/" + string(jobs.NewID())
	for range 5 {
		if r := w.get(t, "GET", address, bearer("guess")); r.StatusCode != 401 {
			t.Errorf("%s", r.Status)
		}
	}
	if r := w.get(t, "GET", address, bearer("guess")); r.StatusCode != 429 {
		t.Errorf("%s", r.Status)
	}
	if r := w.get(t, "GET", address, bearer("a")); r.StatusCode != 404 {
		t.Errorf("a client at the same address: %s", r.Status)
	}
}

func TestNoLimits(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Limits = Limits{KickOffs: Rate{PerMinute: -1}, Polls: Rate{PerMinute: -1}, Downloads: Rate{PerMinute: -1}, Exports: -1}
	})
	for range 150 {
		_, address := w.kickOff(t, "/fhir/$export")
		w.status(t, address, http.StatusAccepted)
	}
}
