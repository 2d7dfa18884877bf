package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"spillway/upstream/fhir"
)

// schedule answers by reply and keeps when requests came, in ms from the start.
func schedule(t *testing.T, reply func(w http.ResponseWriter, r *http.Request, n int), edit ...func(*Config)) (*Client, *memory, func() []int) {
	start := time.Now()
	var mu sync.Mutex
	var at []int
	c, m := serveMemory(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		at = append(at, int(time.Since(start).Milliseconds()))
		n := len(at)
		mu.Unlock()
		reply(w, r, n)
	}, edit...)
	return c, m, func() []int {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(at)
	}
}

// fails answers with a status n times, and then with a page.
func fails(n, status int, header ...string) func(http.ResponseWriter, *http.Request, int) {
	return func(w http.ResponseWriter, _ *http.Request, i int) {
		if i <= n {
			for j := 0; j+1 < len(header); j += 2 {
				w.Header().Set(header[j], header[j+1])
			}
			w.WriteHeader(status)
			return
		}
		answer(w, bundle("", "a"))
	}
}

func page(t *testing.T, c *Client) error {
	t.Helper()
	_, err := c.Page(t.Context(), observations, "", func(*fhir.Entry) error { return nil })
	return err
}

// patiently asks for a page, as often as a pause ends.
func patiently(t *testing.T, c *Client) error {
	t.Helper()
	for {
		err := page(t, c)
		var pause *PauseError
		if !errors.As(err, &pause) {
			return err
		}
		time.Sleep(time.Until(pause.Until))
	}
}

func TestRetryAfter(t *testing.T) {
	date := func(d time.Duration) string {
		return time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC).Add(d).Format(http.TimeFormat)
	}
	for _, tt := range []struct {
		name    string
		status  int
		value   string
		date    string // of the response
		seconds int    // before which nothing is sent; 0: as without the header
	}{
		{"Seconds", 429, "7", "", 7},
		{"Seconds503", 503, "7", "", 7},
		{"Date", 429, date(9 * time.Second), date(0), 9},
		{"DateByTheUpstreamsClock", 503, date(-time.Hour), date(-time.Hour - 20*time.Second), 20},
		{"Capped", 429, "999999999", "", 3600},
		{"CappedOverflow", 429, "99999999999999999999", "", 3600},
		{"CappedDate", 429, date(24 * time.Hour), date(0), 3600},
		{"Zero", 429, "0", "", 0},
		{"Negative", 429, "-5", "", 0},
		{"Garbage", 429, "soon", "", 0},
		{"DatePast", 429, date(-time.Hour), date(0), 0},
		{"None", 429, "", "", 0},
		{"Milliseconds", 429, "ms: 7000", "", 7},
		{"MillisecondsGarbage", 429, "ms: many", "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				name := "Retry-After"
				ms, found := strings.CutPrefix(tt.value, "ms: ")
				if found {
					name = "X-Ms-Retry-After-Ms"
				}
				c, _, at := schedule(t, fails(1, tt.status, name, ms, "Date", tt.date))
				c.vital.note(200)
				if err := patiently(t, c); err != nil {
					t.Fatal(err)
				}
				got := at()
				least, most := tt.seconds*1000, tt.seconds*1000+1000
				if tt.seconds == 0 {
					least, most = 250, 750
				}
				if len(got) != 2 || got[1] < least || got[1] > most {
					t.Errorf("requests at %v ms, want the second between %d and %d", got, least, most)
				}
			})
		})
	}
}

func TestRetryAfterHoldsEverybodyBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, at := schedule(t, func(w http.ResponseWriter, _ *http.Request, n int) {
			switch n {
			case 1:
				time.Sleep(time.Second)
				w.Header().Set("Retry-After", "30")
				w.WriteHeader(429)
			default:
				answer(w, bundle("", "a"))
			}
		}, func(c *Config) { c.MaxConcurrency = 2 })
		c.vital.note(200)
		var wg sync.WaitGroup
		for i := range 20 { // some wait in line, some come later
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 400 * time.Millisecond)
				if err := patiently(t, c); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		got := at()
		if len(got) != 21 {
			t.Errorf("%d requests, want 21", len(got))
		}
		for _, ms := range got {
			if ms > 1000 && ms < 31000 {
				t.Errorf("a request at %d ms", ms)
			}
		}
	})
}

// A request for the following page waits, so that those before it need not be
// read again.
func TestRetryAfterInTheMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, at := schedule(t, fails(1, 429, "Retry-After", "60"))
		c.vital.note(200)
		if _, err := c.Page(t.Context(), observations, "http://fhir.test/fhir/Observation?page=2", idsInto(new([]string))); err != nil {
			t.Error(err)
		}
		if got := at(); len(got) != 2 || got[1] != 60_000 {
			t.Errorf("requests at %v", got)
		}
	})
}

func TestBackoffWithoutRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, at := schedule(t, fails(5, 500))
		c.vital.note(200)
		if err := page(t, c); err != nil {
			t.Fatal(err)
		}
		got := at()
		if len(got) != 6 {
			t.Fatalf("%d requests", len(got))
		}
		for i, want := range []int{500, 1000, 2000, 4000, 8000} {
			if gap := got[i+1] - got[i]; gap < want/2 || gap > want*3/2 {
				t.Errorf("gap %d is %d ms, want about %d", i+1, gap, want)
			}
		}
	})
}

// A server that restarts is waited for; a request that alone fails is not.
func TestOutage(t *testing.T) {
	t.Run("OKBackInTime", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, m, _ := schedule(t, fails(0, 0))
			if err := page(t, c); err != nil {
				t.Fatal(err)
			}
			c.transport.CloseIdleConnections()
			m.setDown(true)
			time.AfterFunc(4*time.Minute, func() { m.setDown(false) })
			if err := page(t, c); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("ErrForGood", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, m, _ := schedule(t, fails(0, 0), func(c *Config) { c.MaxOutage = 2 * time.Minute })
			if err := page(t, c); err != nil {
				t.Fatal(err)
			}
			c.transport.CloseIdleConnections()
			m.setDown(true)
			start := time.Now()
			wantError(t, page(t, c), KindUnreachable, 0, "connection refused", "after")
			if s := since(start); s < 120 || s > 170 {
				t.Errorf("gave up after %d s", s)
			}
		})
	})
	t.Run("ErrBadGatewayForGood", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, _, _ := schedule(t, func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(502) })
			c.vital.note(200)
			start := time.Now()
			wantError(t, page(t, c), KindStatus, 0, "502 Bad Gateway")
			if s := since(start); s < 300 || s > 350 {
				t.Errorf("gave up after %d s", s)
			}
		})
	})
	t.Run("ErrAwayAgain", func(t *testing.T) { // patience begins anew with each answer
		synctest.Test(t, func(t *testing.T) {
			c, _, _ := schedule(t, func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(502) })
			c.vital.note(200)
			time.AfterFunc(3*time.Minute, func() { c.vital.note(200) }) // another request was answered
			start := time.Now()
			wantError(t, page(t, c), KindStatus, 0, "502 Bad Gateway")
			if s := since(start); s < 480 || s > 530 {
				t.Errorf("gave up after %d s", s)
			}
		})
	})
	t.Run("ErrOnlyThisRequestFails", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, _, _ := schedule(t, func(w http.ResponseWriter, r *http.Request, _ int) {
				if strings.Contains(r.URL.Path, "Observation") {
					w.WriteHeader(503)
					return
				}
				answer(w, total(1))
			})
			stop, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() {
				for stop.Err() == nil {
					_, _ = c.Count(stop, Search{Type: "Patient"})
					time.Sleep(100 * time.Millisecond)
				}
			})
			err := page(t, c)
			wantError(t, err, KindStatus, 0, "503 Service Unavailable")
			var f *RequestError
			if errors.As(err, &f); f.Tries > 7 { // one may have come before the others' first answer
				t.Errorf("gave up after %d tries", f.Tries)
			}
			cancel()
			wg.Wait()
		})
	})
	t.Run("ErrFirstContact", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, m, _ := schedule(t, fails(0, 0))
			m.setDown(true)
			start := time.Now()
			_, err := c.Learn(t.Context())
			wantError(t, err, KindUnreachable, 0, "GET /metadata failed after", "connection refused")
			if s := since(start); s < 3 || s > 10 {
				t.Errorf("gave up after %d s", s)
			}
		})
	})
}

// A server that only ever throttles is obeyed for as long as an outage.
func TestThrottledForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, at := schedule(t, fails(1<<30, 429, "Retry-After", "10"))
		c.vital.note(200)
		wantError(t, page(t, c), KindThrottled, 0, "429 Too Many Requests", "max_concurrency")
		if n := len(at()); n < 25 || n > 35 {
			t.Errorf("%d requests", n)
		}
	})
}

// The same where the pauses are so long that the work is given back each time:
// in the end it is told.
func TestThrottledForGoodWithPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, at := schedule(t, fails(1<<30, 429, "Retry-After", "61"))
		c.vital.note(200)
		wantError(t, patiently(t, c), KindThrottled, 1, "429 Too Many Requests")
		if n := len(at()); n != maxStrikes {
			t.Errorf("%d requests", n)
		}
		// An answer begins it anew.
		c.vital.note(200)
		c.governor.heard(200)
		var pause *PauseError
		if err := page(t, c); !errors.As(err, &pause) {
			t.Errorf("Page = %v", err)
		}
		time.Sleep(time.Until(pause.Until))
		if err := page(t, c); !errors.As(err, &pause) {
			t.Errorf("Page = %v", err)
		}
	})
}

func TestContextEnds(t *testing.T) {
	cause := errors.New("lease lost")
	for name, reply := range map[string]func(http.ResponseWriter, *http.Request, int){
		"InHeaders": func(_ http.ResponseWriter, r *http.Request, _ int) { <-r.Context().Done() },
		"InBody": func(w http.ResponseWriter, r *http.Request, _ int) {
			answer(w, bundle("", "a")[:60])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"InBackoff": fails(10, 500),
		"InPause":   fails(10, 429, "Retry-After", "12"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _, _ := schedule(t, reply)
				c.vital.note(200)
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(10*time.Second, func() { cancel(cause) })
				start := time.Now()
				_, err := c.Page(ctx, observations, "", func(*fhir.Entry) error { return nil })
				if !errors.Is(err, context.Canceled) || !errors.Is(err, cause) || since(start) != 10 {
					t.Errorf("Page = %v after %d s", err, since(start))
				}
				if c.governor.inFlight != 0 || len(c.governor.line) != 0 {
					t.Errorf("%d turns are lost, %d wait", c.governor.inFlight, len(c.governor.line))
				}
			})
		})
	}
}

func TestGovernorLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		now, most := 0, 0
		c, _, _ := schedule(t, func(w http.ResponseWriter, _ *http.Request, _ int) {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			now--
			mu.Unlock()
			answer(w, bundle("", "a"))
		}, func(c *Config) { c.MaxConcurrency = 3 })
		var wg sync.WaitGroup
		start := time.Now()
		for range 12 {
			wg.Go(func() {
				if err := page(t, c); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if most != 3 || since(start) != 4 {
			t.Errorf("%d at once, done after %d s", most, since(start))
		}
	})
}

func TestNotAcceptable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, at := schedule(t, func(w http.ResponseWriter, r *http.Request, _ int) {
			if r.Header.Get("Accept") != "" {
				w.WriteHeader(406)
				return
			}
			answer(w, bundle("", "a"))
		})
		for range 3 {
			if err := page(t, c); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(at()); n != 4 {
			t.Errorf("%d requests, want one more than pages", n)
		}
	})
}

func TestCapabilitiesAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, at := schedule(t, func(w http.ResponseWriter, _ *http.Request, n int) {
			time.Sleep(time.Second)
			answer(w, `{"resourceType":"CapabilityStatement","fhirVersion":"4.0.`+strconv.Itoa(n)+`"}`)
		})
		ask := func(want string, n int) {
			t.Helper()
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					caps, err := c.Capabilities(t.Context())
					if err != nil || caps.FHIRVersion != want {
						t.Errorf("Capabilities = %+v, %v; want version %s", caps, err, want)
					}
				})
			}
			wg.Wait()
			if got := len(at()); got != n {
				t.Errorf("%d requests, want %d", got, n)
			}
		}
		ask("4.0.1", 1)
		time.Sleep(9 * time.Minute)
		ask("4.0.1", 1)
		time.Sleep(2 * time.Minute)
		ask("4.0.2", 2)
		c.Forget()
		ask("4.0.3", 3)

		// A caller that leaves takes nobody with it.
		c.Forget()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Capabilities(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Capabilities = %v", err)
			}
		})
		synctest.Wait()
		ask("4.0.5", 5)
		wg.Wait()
	})
}

func TestCapabilitiesShareAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, at := schedule(t, func(w http.ResponseWriter, r *http.Request, n int) {
			time.Sleep(time.Second) // until all have asked
			fails(1, 404)(w, r, n)
		})
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				_, err := c.Capabilities(t.Context())
				wantError(t, err, KindStatus, 1)
			})
		}
		wg.Wait()
		if len(at()) != 1 {
			t.Errorf("%d requests", len(at()))
		}
	})
}

func TestErrorTexts(t *testing.T) {
	for _, tt := range []struct {
		err  RequestError
		want string
	}{
		{RequestError{Op: "count Patient", Kind: KindStatus, Status: 500, Tries: 6}, "count Patient failed after 6 tries: the upstream answered 500 Internal Server Error. Its own log says why."},
		{RequestError{Op: "read Group", Kind: KindStatus, Status: 404, Err: ErrNotFound}, "read Group failed: the upstream answered 404 Not Found, no such resource."},
		{RequestError{Op: "x", Kind: KindStatus, Status: 599}, "x failed: the upstream answered 599. Its own log says why."},
		{RequestError{Op: "x", Kind: KindUnreachable}, "x failed: the upstream cannot be reached. Is it running, and is upstream.url right?"},
		{RequestError{Op: "x", Kind: KindGone, Status: 410}, "x failed: the upstream answered 410 Gone. Its paging session has expired; begin again from the first page."},
		{RequestError{Op: "x", Kind: KindStatus, Status: 400, Issues: []fhir.Issue{{Code: "invalid"}, {Code: "invalid"}, {Code: "Zoë 1970"}, {Code: "too-costly"}}},
			"x failed: the upstream answered 400 Bad Request (issue invalid, too-costly). It does not accept these parameters for this type."},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
	for kind := KindUnreachable; kind <= KindThrottled; kind++ {
		e := RequestError{Op: "x", Kind: kind, Status: 200}
		if s := e.Error(); kind.String() == "unknown" || !strings.HasSuffix(s, ".") && !strings.HasSuffix(s, "?") {
			t.Errorf("kind %d: %q, %q", kind, kind, s)
		}
	}
	if got := fmt.Sprint(ErrorKind(99)); got != "unknown" {
		t.Error(got)
	}
}
