//go:build e2e

package e2e

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"spillway/test/process"
)

// outcome is how an export through a faulty server ended.
type outcome string

const (
	exact    outcome = "exact"    // exit status 0, and nothing missing, foreign, doubled or harmed
	reported outcome = "reported" // exit status 3, and the error file says so
	failed   outcome = "failed"   // exit status 1, a message, no manifest
)

// faultTypes are exported through faulty servers: enough for many pages and
// windows, few enough to be quick.
var faultTypes = []string{"Patient", "Condition", "Encounter", "Practitioner", "Immunization"}

// A fault makes a server misbehave.
type fault struct {
	name string
	make func(p *proxy)
	// ends are the outcomes that are allowed. An export that is short, and
	// says nothing, is none of them.
	ends []outcome
	// whole says that a reported export must still hold everything.
	whole bool
	// settings changes the configuration.
	settings func(s *settings)
	// after checks more.
	after func(t *testing.T, p *proxy)
}

func TestFaults(t *testing.T) {
	base, held := server.ready(t)
	want := held.of(faultTypes...)
	foreign := trap(t)
	for _, f := range []fault{
		{name: "none", make: func(*proxy) {}, ends: []outcome{exact}},
		{name: "connections are cut in the middle of pages", make: everyNth(3, cutHalf), ends: []outcome{exact}},
		{name: "pages end half-way as if they were whole", make: everyNth(7, halve), ends: []outcome{exact}},
		{name: "connections are closed without an answer", make: hangUpOn(5), ends: []outcome{exact}},
		{name: "429 with Retry-After", make: throttle, ends: []outcome{exact}, after: mustObeyRetryAfter},
		{name: "503 in a row", make: unavailable(6), ends: []outcome{exact}},
		{name: "the server is away for three seconds", make: away(3 * time.Second), ends: []outcome{exact}},
		{name: "a page hangs", make: hangOnce, ends: []outcome{exact}, settings: func(s *settings) { s.timeout = 3 * time.Second }},
		{name: "next chains end early, now and then", make: endChains(1), ends: []outcome{exact, reported}},
		{name: "next chains always end early", make: endChains(1000), ends: []outcome{exact, reported}},
		{name: "pages are repeated in place of others", make: repeatPages, ends: []outcome{exact, reported}},
		{name: "totals are doubled", make: lie(func(n int64) int64 { return 2 * n }), ends: []outcome{exact, reported, failed}, whole: true},
		{name: "totals are halved", make: lie(func(n int64) int64 { return n / 2 }), ends: []outcome{exact, reported, failed}, whole: true},
		{name: "totals are one too high", make: lie(func(n int64) int64 { return n + 1 }), ends: []outcome{exact, reported, failed}, whole: true},
		{name: "counts have no total", make: noTotals, ends: []outcome{exact, reported}, whole: true},
		{name: "_lastUpdated is ignored", make: ignoreLastUpdated(kindSearch, kindCount), ends: []outcome{exact, reported}, whole: true},
		{name: "_lastUpdated is ignored by searches, not by counts", make: ignoreLastUpdated(kindSearch), ends: []outcome{exact, reported, failed}, whole: true},
		{name: "pages lose entries", make: loseEntries, ends: []outcome{exact, reported}},
		{name: "pages hold entries twice", make: doubleEntries, ends: []outcome{exact}},
		{name: "pages hold other types", make: addForeignType, ends: []outcome{exact, reported}},
		{name: "next links lead to another host", make: foreignNext(foreign.URL), ends: []outcome{reported, failed}},
		{name: "next links are gone", make: goneNext, ends: []outcome{exact, reported, failed}},
		{name: "401", make: status(http.StatusUnauthorized), ends: []outcome{failed}},
		{name: "a login page", make: loginPage, ends: []outcome{failed}},
		{name: "an OperationOutcome with 200", make: outcomeWith200, ends: []outcome{reported, failed}},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			p := spoil(t, base)
			f.make(p)
			s := p.settings()
			s.pageSize, s.window = 100, 400
			if f.settings != nil {
				f.settings(&s)
			}
			r := export(t, "--config", s.file(t), "--type", strings.Join(faultTypes, ","))
			end, problem := judge(t, r, want, f.whole)
			allowed := false
			for _, e := range f.ends {
				allowed = allowed || e == end
			}
			if !allowed {
				t.Errorf("the export ended %q (%s), want one of %q\n%s", end, problem, f.ends, process.Tail(r.stderr, 10))
			}
			t.Logf("ended %s: %s", end, problem)
			if f.after != nil {
				f.after(t, p)
			}
		})
	}
	t.Cleanup(func() {
		if n := foreign.hits.Load(); n > 0 {
			t.Errorf("%d requests went to a host that a next link named", n)
		}
	})
}

// judge says how an export ended, and fails the test where what it says of
// itself is not true.
func judge(t *testing.T, r run, want world, whole bool) (outcome, string) {
	t.Helper()
	if r.code == 1 {
		if _, err := os.Stat(filepath.Join(r.dir, "manifest.json")); err == nil {
			t.Error("a failed export left a manifest")
		}
		if strings.TrimSpace(r.stderr) == "" {
			t.Error("a failed export says nothing")
		}
		return failed, process.Tail(r.stderr, 1)
	}
	if r.code != 0 && r.code != 3 {
		t.Fatalf("exit status %d\n%s", r.code, r.stderr)
	}
	e := readFolder(t, r.dir)
	said := e.errors()
	if (r.code == 3) != (len(said) > 0) {
		t.Errorf("exit status %d with %d errors in the error file", r.code, len(said))
	}
	problem := e.compare(want)
	if len(e.doubled) > 0 || strings.Contains(problem, "not asked for") || strings.Contains(problem, "differing") {
		t.Errorf("worse than short: %s", problem)
	}
	if r.code == 0 {
		if problem != "" {
			t.Fatalf("silently wrong: %s", problem)
		}
		return exact, ""
	}
	if whole && problem != "" {
		t.Errorf("reported, but short for no reason: %s", problem)
	}
	return reported, said[0].String() + " (" + problem + ")"
}

// pages matches what carries entries.
func (a asked) pages() bool { return a.kind == kindSearch || a.kind == kindNext }

// everyNth spoils every nth page.
func everyNth(n int64, spoil func(*answer)) func(*proxy) {
	return func(p *proxy) {
		var seen atomic.Int64
		p.change = func(a asked, got *answer) {
			if a.pages() && seen.Add(1)%n == 0 {
				spoil(got)
			}
		}
	}
}

func cutHalf(got *answer) { got.cut = len(got.body) / 2 }

func halve(got *answer) { got.body = got.body[:len(got.body)/2] }

func hangUpOn(n int64) func(*proxy) {
	return func(p *proxy) {
		var seen atomic.Int64
		p.before = func(a asked, _ http.ResponseWriter, _ *http.Request) bool {
			if a.kind != kindMetadata && seen.Add(1)%n == 0 {
				panic(http.ErrAbortHandler)
			}
			return false
		}
	}
}

// retryAfter is what throttle asks for.
const retryAfter = 2 * time.Second

// throttle answers 429 to every twentieth request, six times.
func throttle(p *proxy) {
	var seen atomic.Int64
	p.before = func(a asked, w http.ResponseWriter, _ *http.Request) bool {
		if n := seen.Add(1); n%20 != 0 || n > 120 {
			return false
		}
		p.throttled(time.Now())
		w.Header().Set("Retry-After", "2")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	}
}

// mustObeyRetryAfter checks that nobody asks while the server wants peace.
// Requests that were on their way, and the edges, are left out.
func mustObeyRetryAfter(t *testing.T, p *proxy) {
	const edge = 500 * time.Millisecond
	if len(p.pauses) == 0 {
		t.Fatal("no request was throttled, so this proves nothing")
	}
	for _, begun := range p.pauses {
		for _, a := range p.requests() {
			if since := a.at.Sub(begun); since > edge && since < retryAfter-edge {
				t.Errorf("a request (%s) came %s after a 429 that asked for %s", a.kind, since, retryAfter)
				return
			}
		}
	}
}

// unavailable answers 503 to the first n pages.
func unavailable(n int64) func(*proxy) {
	return func(p *proxy) {
		var seen atomic.Int64
		p.before = func(a asked, w http.ResponseWriter, _ *http.Request) bool {
			if !a.pages() || seen.Add(1) > n {
				return false
			}
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
	}
}

// away hangs up on everybody for a while after the tenth page.
func away(d time.Duration) func(*proxy) {
	return func(p *proxy) {
		var (
			mu    sync.Mutex
			seen  int
			until time.Time
		)
		p.before = func(a asked, _ http.ResponseWriter, _ *http.Request) bool {
			mu.Lock()
			if a.pages() {
				if seen++; seen == 10 {
					until = time.Now().Add(d)
				}
			}
			gone := time.Now().Before(until)
			mu.Unlock()
			if gone {
				panic(http.ErrAbortHandler)
			}
			return false
		}
	}
}

// hangOnce never answers the fifth page, until the client gives up.
func hangOnce(p *proxy) {
	var seen atomic.Int64
	p.before = func(a asked, _ http.ResponseWriter, r *http.Request) bool {
		if a.pages() && seen.Add(1) == 5 {
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}
		return false
	}
}

// endChains takes the next link from the first n pages of encounters that have one.
func endChains(n int64) func(*proxy) {
	return func(p *proxy) {
		var seen atomic.Int64
		p.change = func(a asked, got *answer) {
			if a.pages() && strings.Contains(string(got.body), `"Encounter"`) && hasNext(got.body) && seen.Add(1) <= n {
				got.edit(withoutNext)
			}
		}
	}
}

// repeatPages serves the entries of the second page of a search in place of
// those of its third.
func repeatPages(p *proxy) {
	var mu sync.Mutex
	former := make(map[string]json.RawMessage) // by search
	p.change = func(a asked, got *answer) {
		if a.kind != kindNext {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		search := a.query.Get("_getpages")
		got.edit(func(members map[string]json.RawMessage) {
			if held, ok := former[search]; ok {
				members["entry"] = held
				delete(former, search)
			} else {
				former[search] = members["entry"]
			}
		})
	}
}

// lie changes the totals of counts.
func lie(change func(int64) int64) func(*proxy) {
	return func(p *proxy) {
		p.change = func(a asked, got *answer) {
			if a.kind != kindCount {
				return
			}
			got.edit(func(members map[string]json.RawMessage) {
				var n int64
				if json.Unmarshal(members["total"], &n) == nil && n > 0 {
					members["total"], _ = json.Marshal(change(n))
				}
			})
		}
	}
}

func noTotals(p *proxy) {
	p.change = func(a asked, got *answer) {
		if a.kind == kindCount || a.pages() {
			got.edit(func(members map[string]json.RawMessage) { delete(members, "total") })
		}
	}
}

// ignoreLastUpdated drops the parameter from requests of some kinds.
func ignoreLastUpdated(kinds ...kind) func(*proxy) {
	return func(p *proxy) {
		p.before = func(a asked, _ http.ResponseWriter, r *http.Request) bool {
			for _, k := range kinds {
				if a.kind == k {
					query := r.URL.Query()
					query.Del("_lastUpdated")
					r.URL.RawQuery = query.Encode()
				}
			}
			return false
		}
	}
}

// entries changes the entries of every page of conditions.
func entries(change func([]json.RawMessage) []json.RawMessage) func(*proxy) {
	return func(p *proxy) {
		p.change = func(a asked, got *answer) {
			if !a.pages() {
				return
			}
			got.edit(func(members map[string]json.RawMessage) {
				var list []json.RawMessage
				if json.Unmarshal(members["entry"], &list) == nil && len(list) > 1 && strings.Contains(string(list[0]), `"resourceType":"Condition"`) {
					changed := change(list)
					joined := make([]string, len(changed))
					for i, entry := range changed {
						joined[i] = string(entry)
					}
					members["entry"] = json.RawMessage("[" + strings.Join(joined, ",") + "]")
				}
			})
		}
	}
}

func loseEntries(p *proxy) {
	entries(func(list []json.RawMessage) []json.RawMessage { return list[1:] })(p)
}

func doubleEntries(p *proxy) {
	entries(func(list []json.RawMessage) []json.RawMessage { return append(list, list[0]) })(p)
}

func addForeignType(p *proxy) {
	entries(func(list []json.RawMessage) []json.RawMessage {
		return append(list, json.RawMessage(`{"resource":{"resourceType":"Basic","id":"stranger"},"search":{"mode":"match"}}`))
	})(p)
}

// foreignNext puts all next links under another host.
func foreignNext(host string) func(*proxy) {
	return func(p *proxy) {
		p.change = func(a asked, got *answer) {
			if a.pages() && hasNext(got.body) {
				got.body = []byte(strings.ReplaceAll(string(got.body), p.target+"?_getpages", host+"/fhir?_getpages"))
			}
		}
	}
}

func goneNext(p *proxy) {
	p.before = func(a asked, w http.ResponseWriter, _ *http.Request) bool {
		if a.kind != kindNext {
			return false
		}
		w.WriteHeader(http.StatusGone)
		return true
	}
}

// status answers everything but the statement with an error.
func status(code int) func(*proxy) {
	return func(p *proxy) {
		p.before = func(a asked, w http.ResponseWriter, _ *http.Request) bool {
			if a.kind == kindMetadata {
				return false
			}
			w.WriteHeader(code)
			return true
		}
	}
}

func loginPage(p *proxy) {
	p.before = func(_ asked, w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html><form>Please log in</form></html>"))
		return true
	}
}

func outcomeWith200(p *proxy) {
	p.before = func(a asked, w http.ResponseWriter, _ *http.Request) bool {
		if a.typ != "Condition" || !a.pages() {
			return false
		}
		w.Header().Set("Content-Type", "application/fhir+json")
		_, _ = w.Write([]byte(`{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"exception"}]}`))
		return true
	}
}

// A trapped host counts who comes.
type trapped struct {
	URL  string
	hits atomic.Int64
}

func trap(t *testing.T) *trapped {
	h := &trapped{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h.hits.Add(1)
		w.WriteHeader(http.StatusTeapot)
	}))
	t.Cleanup(s.Close)
	h.URL = s.URL
	return h
}
