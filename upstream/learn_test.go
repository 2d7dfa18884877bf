package upstream

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spillway/upstream/profile"
)

// instants are n times a minute apart, some of them alike.
func instants(n int) []string {
	var ts []string
	for i := range n {
		ts = append(ts, time.Date(1999, 1, 1, 0, i/3, 0, 123e6, time.UTC).Format("2006-01-02T15:04:05.000Z"))
	}
	return ts
}

func denyPatients(r *http.Request) int {
	if strings.HasPrefix(r.URL.Path, "/fhir/Patient") {
		return 403
	}
	return 0
}

func TestLearn(t *testing.T) {
	well := Facts{
		LastUpdated: Works, Counts: Works, CountMode: CountSummary, Sort: Works, PostSearch: Works, History: Works,
		NextLinks: Works, PageSize: 1000, ProbeType: "Patient", ClockSkewKnown: true,
	}
	with := func(edit func(*Facts)) Facts { f := well; edit(&f); return f }
	for _, tt := range []struct {
		name    string
		e       engine
		data    map[string]int
		want    Facts
		problem string // in one of the sentences

		pageSize int
	}{
		{name: "Well", want: well},
		{name: "PageSizeClamped", e: engine{maxPage: 7}, want: with(func(f *Facts) { f.PageSize = 7 })},
		{name: "PageSizeRefused", e: engine{refuseCountAbove: 100}, want: with(func(f *Facts) { f.PageSize = 100 }), problem: "Pages of 1000 are refused"},
		{name: "OtherType", data: map[string]int{"Patient": 0, "Zebra": 2, "Device": 9},
			want: with(func(f *Facts) { f.ProbeType = "Device" })},
		{name: "OneResource", data: map[string]int{"Patient": 1}, want: with(func(f *Facts) { f.NextLinks = Unknown })},
		{name: "Empty", data: map[string]int{"Patient": 0, "Observation": 0}, want: Facts{
			Counts: Works, CountMode: CountSummary, PostSearch: Works, History: Works, PageSize: 1000, ClockSkewKnown: true,
		}, problem: "No data was found in the 2 types"},
		{name: "LastUpdatedIgnored", e: engine{ignoreLastUpdated: true},
			want: with(func(f *Facts) { f.LastUpdated = Ignored }), problem: "the year 9999"},
		{name: "LastUpdatedOneBound", e: engine{ignoreOneBound: true},
			want: with(func(f *Facts) { f.LastUpdated = Refused }), problem: "from outside"},
		{name: "LastUpdatedFindsNothing", e: engine{blindLastUpdated: true},
			want: with(func(f *Facts) { f.LastUpdated = Refused }), problem: "does not find it"},
		{name: "LastUpdatedRefused", e: engine{refuseLastUpdated: true},
			want: with(func(f *Facts) { f.LastUpdated = Refused }), problem: "400 Bad Request"},
		{name: "CountsByTotal", e: engine{refuseSummary: true}, want: with(func(f *Facts) { f.CountMode = CountTotal })},
		{name: "CountsByTotalSilently", e: engine{silentSummary: true}, want: with(func(f *Facts) { f.CountMode = CountTotal })},
		{name: "CountsLie", e: engine{lyingSummary: true, lyingTotal: true},
			want: with(func(f *Facts) { f.Counts, f.CountMode = Ignored, CountNone }), problem: "it counts 23 where a page of Patient shows 20"},
		{name: "CountsLieBelow", e: engine{silentSummary: true, lyingTotal: true},
			want: with(func(f *Facts) { f.Counts, f.CountMode = Ignored, CountNone }), problem: "wrong"},
		{name: "CountsIgnoreTheWindow", e: engine{countsIgnoreWindow: true},
			want: with(func(f *Facts) { f.Counts, f.CountMode = Ignored, CountNone }), problem: "do not keep to a window"},
		{name: "NoCounts", e: engine{silentSummary: true, silentTotal: true},
			want: with(func(f *Facts) { f.Counts, f.CountMode = Refused, CountNone }), problem: "states no total"},
		{name: "SortIgnored", e: engine{ignoreSort: true}, want: with(func(f *Facts) { f.Sort = Ignored })},
		{name: "SortBackwards", e: engine{swapSort: true, maxPage: 1}, want: with(func(f *Facts) { f.Sort, f.PageSize = Ignored, 1 })},
		{name: "SortRefused", e: engine{refuseSort: true}, want: with(func(f *Facts) { f.Sort = Refused }), problem: "400"},
		{name: "PostRefused", e: engine{postIs404: true}, want: with(func(f *Facts) { f.PostSearch = Refused }), problem: "search Patient by POST failed"},
		{name: "PostIgnored", e: engine{postIgnoresBody: true}, want: with(func(f *Facts) { f.PostSearch = Ignored }), problem: "from the body"},
		{name: "NoHistory", e: engine{noHistory: true}, want: with(func(f *Facts) { f.History = Refused }), problem: "history of Patient failed"},
		{name: "HistoryIgnoresSince", e: engine{historyIgnoresSince: true}, want: with(func(f *Facts) { f.History = Ignored }), problem: "_since"},
		{name: "NextLinksForeign", e: engine{nextBase: "http://localhost:8080/fhir/"},
			want: with(func(f *Facts) { f.NextLinks = Refused }), problem: "http://localhost:8080, which is not the configured upstream"},
		{name: "NextLinksRepeat", e: engine{sameNext: true},
			want: with(func(f *Facts) { f.NextLinks = Ignored }), problem: "brings the same page again"},
		{name: "NoNextLinks", e: engine{noNext: true},
			want: with(func(f *Facts) { f.NextLinks = Refused }), problem: "has no next link"},
		{name: "ChainEndsEarly", e: engine{noNextAboveOne: true}, pageSize: 7, want: with(func(f *Facts) { f.PageSize = 7 })},
		{name: "DeniedOrEmpty", data: map[string]int{"Patient": 3, "Observation": 0}, e: engine{deny: denyPatients}, want: Facts{
			Counts: Works, CountMode: CountSummary, PostSearch: Works, History: Works, PageSize: 1000, ClockSkewKnown: true,
		}, problem: "403"},
		{name: "STU3", e: engine{version: "3.0.2"}, want: well, problem: "STU3"},
		{name: "DSTU2", e: engine{version: "1.0.2"}, want: well, problem: "DSTU2"},
		{name: "R4B", e: engine{version: "4.3.0"}, want: well},
		{name: "R5", e: engine{version: "5.0.0"}, want: well},
		{name: "R6", e: engine{version: "6.0.0-ballot2"}, want: well, problem: "not known"},
		{name: "NoDate", e: engine{noDate: true}, want: with(func(f *Facts) { f.ClockSkewKnown = false })},
		{name: "ClockAhead", e: engine{clock: func() time.Time { return time.Now().Add(90 * time.Second) }},
			want: with(func(f *Facts) { f.ClockOffset = 91 * time.Second })},
		{name: "ClockBehind", e: engine{clock: func() time.Time { return time.Now().Add(-90 * time.Second) }},
			want: with(func(f *Facts) { f.ClockOffset = -89 * time.Second })},
		{name: "ProbesFailInPassing", e: engine{deny: func(r *http.Request) int {
			if strings.Contains(r.URL.RawQuery, "_sort") {
				return 500
			}
			return 0
		}}, want: with(func(f *Facts) { f.Sort = Unknown }), problem: "500"},
		{name: "SomeTypesDenied", data: map[string]int{"Patient": 3, "Observation": 20}, e: engine{deny: denyPatients},
			want: with(func(f *Facts) { f.ProbeType = "Observation" })},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := tt.e
				if tt.data == nil {
					tt.data = map[string]int{"Patient": 20, "Observation": 50}
				}
				e.data = map[string][]string{}
				for typ, n := range tt.data {
					e.data[typ] = instants(n)
				}
				c, _ := serveMemory(t, e.ServeHTTP, func(c *Config) { c.PageSize = tt.pageSize })
				f, err := c.Learn(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				got := *f
				if got.Capabilities == nil || got.Capabilities.FHIRVersion == "" {
					t.Errorf("Capabilities = %+v", got.Capabilities)
				}
				problems := strings.Join(got.Problems, "\n")
				got.Capabilities, got.Problems = nil, nil
				got.Direct, got.DirectSize, got.SystemHistory = 0, 0, 0 // see TestLearnWays
				if got.Profile.Name != profile.Generic || len(got.Supplied)+len(got.Overruled) > 0 {
					t.Errorf("profile %s, %q, %q", got.Profile.Name, got.Supplied, got.Overruled)
				}
				got.Profile, got.ProfileBy = nil, ""
				if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", tt.want) {
					t.Errorf("got  %+v\nwant %+v\nproblems: %s", got, tt.want, problems)
				}
				if !strings.Contains(problems, tt.problem) || tt.problem == "" && problems != "" {
					t.Errorf("problems %q do not say %q", problems, tt.problem)
				}
				if len(e.requests) > 25 {
					t.Errorf("%d requests:\n%s", len(e.requests), strings.Join(e.requests, "\n"))
				}
				if f.PageSize == 100 {
					n := len(e.requests)
					_ = page(t, c)
					if last := e.requests[n]; !strings.Contains(last, "_count=100") {
						t.Errorf("after a refusal a page is asked for by %s", last)
					}
				}
			})
		})
	}
}

func TestLearnFails(t *testing.T) {
	for _, tt := range []struct {
		name  string
		deny  func(r *http.Request) int
		kind  ErrorKind
		words string
	}{
		{"MetadataDenied", func(*http.Request) int { return 401 }, KindAuth, "GET /metadata failed: the upstream answered 401 Unauthorized. Check upstream.headers"},
		{"SearchesDenied", func(r *http.Request) int {
			if r.URL.Path == "/fhir/metadata" {
				return 0
			}
			return 403
		}, KindAuth, "failed: the upstream answered 403 Forbidden. Check upstream.headers"},
		{"NoMetadata", func(*http.Request) int { return 404 }, KindStatus, "Check upstream.url"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &engine{deny: tt.deny, data: map[string][]string{"Patient": instants(2), "Observation": instants(2)}}
				c, _ := serveMemory(t, e.ServeHTTP)
				f, err := c.Learn(t.Context())
				wantError(t, err, tt.kind, 1, tt.words)
				if f != nil {
					t.Errorf("Facts = %+v", f)
				}
			})
		})
	}
}

func TestLearnStopsWhenTheUpstreamGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &engine{data: map[string][]string{"Patient": instants(2)}}
		var m *memory
		var c *Client
		c, m = serveMemory(t, func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.RawQuery, "_summary") {
				m.setDown(true)
				panic(http.ErrAbortHandler)
			}
			e.ServeHTTP(w, r)
		})
		_, err := c.Learn(t.Context())
		wantError(t, err, KindUnreachable, 0, "connection refused")
	})
}

func TestLearnIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &engine{data: map[string][]string{"Patient": instants(2)}}
		c, _ := serveMemory(t, e.ServeHTTP)
		learn := func() (asked bool) {
			t.Helper()
			n := len(e.requests)
			if _, err := c.Learn(t.Context()); err != nil {
				t.Fatal(err)
			}
			return len(e.requests) > n
		}
		for _, step := range []struct {
			do   func()
			asks bool
		}{
			{func() {}, true},
			{func() {}, false},
			{func() { time.Sleep(9 * time.Minute) }, false},
			{func() { time.Sleep(2 * time.Minute) }, true},
			{func() { c.Forget() }, true},
			{func() {
				c.Forget()
				e.deny = func(r *http.Request) int { return map[bool]int{true: 500}[strings.Contains(r.URL.RawQuery, "_sort")] }
			}, true},
			{func() { e.deny = nil; time.Sleep(2 * time.Minute) }, true}, // what failed in passing is asked again soon
			{func() { time.Sleep(2 * time.Minute) }, false},
		} {
			step.do()
			if asked := learn(); asked != step.asks {
				t.Errorf("Learn asked: %v, want %v", asked, step.asks)
			}
		}
		n := len(e.requests)
		if _, err := c.Capabilities(t.Context()); err != nil || len(e.requests) != n {
			t.Errorf("Capabilities after Learn asks again, %v", err)
		}
	})
}

func TestClockOffset(t *testing.T) {
	date := time.Date(2024, 1, 1, 12, 0, 0, 0, time.UTC) // the upstream's clock is in [12:00:00, 12:00:01)
	for _, tt := range []struct {
		name           string
		sent, received time.Duration // from date, by our clock
		want           time.Duration
	}{
		{"Inside", 300 * time.Millisecond, 310 * time.Millisecond, 0},
		{"AtTheStart", 0, time.Millisecond, 0},
		{"LateInTheSecond", 990 * time.Millisecond, 999 * time.Millisecond, 0},
		{"JustAfter", 1040 * time.Millisecond, 1060 * time.Millisecond, 0},
		{"JustBefore", -50 * time.Millisecond, -40 * time.Millisecond, 0},
		{"SlowAnswer", -10 * time.Second, 10 * time.Second, 0},
		{"WeAreBehind", -5 * time.Second, -4900 * time.Millisecond, 6 * time.Second},
		{"WeAreALittleBehind", -70 * time.Millisecond, -60 * time.Millisecond, 1070 * time.Millisecond},
		{"WeAreAhead", 5 * time.Second, 5100 * time.Millisecond, -4 * time.Second},
		{"WeAreALittleAhead", 1060 * time.Millisecond, 1070 * time.Millisecond, -60 * time.Millisecond},
	} {
		s := clockSample{date: date, sent: date.Add(tt.sent), received: date.Add(tt.received)}
		if got := s.offset(); got != tt.want {
			t.Errorf("%s: offset %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestSupportWords(t *testing.T) {
	got := fmt.Sprint(Unknown, Works, Ignored, Refused, CountNone, CountSummary, CountTotal)
	if want := "unknown works ignored refused none _summary=count _total=accurate&_count=0"; got != want {
		t.Errorf("got %q", got)
	}
}

// TestLearnWays probes the shortcuts, whose absence is no problem.
func TestLearnWays(t *testing.T) {
	for _, tt := range []struct {
		name    string
		e       engine
		n       int // patients
		direct  Support
		size    int
		counts  Support // directly
		skip    Support
		history Support
	}{
		{name: "Ignored", n: 20, direct: Ignored, history: Works},
		{name: "Direct", n: 20, e: engine{direct: 1000}, direct: Works, size: 1000, counts: Works, skip: Works, history: Works},
		{name: "DirectClamped", n: 20, e: engine{direct: 1000, maxPage: 7}, direct: Works, size: 7, counts: Works, skip: Works, history: Works},
		{name: "DirectCountsWrong", n: 20, e: engine{direct: 1000, lyingDirect: true}, direct: Works, size: 1000, counts: Ignored, skip: Works, history: Works},
		{name: "OffsetIgnored", n: 20, e: engine{direct: 1000, ignoreOffset: true}, direct: Works, size: 1000, counts: Works, skip: Ignored, history: Works},
		{name: "DirectTooSmall", n: 20, e: engine{direct: 50}, direct: Refused, history: Works},
		{name: "DirectRefused", n: 20, e: engine{deny: func(r *http.Request) int {
			if strings.Contains(r.Header.Get("Cache-Control"), "no-store") {
				return 400
			}
			return 0
		}}, direct: Refused, history: Works},
		{name: "OneResource", n: 1, e: engine{direct: 1000}, history: Works},
		{name: "NoSystemHistory", n: 20, e: engine{direct: 1000, noSystemHistory: true}, direct: Works, size: 1000, counts: Works, skip: Works, history: Refused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := tt.e
				e.data = map[string][]string{"Patient": instants(tt.n)}
				c, _ := serveMemory(t, e.ServeHTTP)
				f, err := c.Learn(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if f.Direct != tt.direct || f.DirectSize != tt.size || f.SystemHistory != tt.history {
					t.Errorf("direct %v of %d, system history %v; want %v of %d, %v", f.Direct, f.DirectSize, f.SystemHistory, tt.direct, tt.size, tt.history)
				}
				if f.DirectCounts != tt.counts || f.Skip != tt.skip {
					t.Errorf("direct counts %v, skip %v; want %v, %v", f.DirectCounts, f.Skip, tt.counts, tt.skip)
				}
				if len(f.Problems) > 0 {
					t.Errorf("problems: %q", f.Problems)
				}
			})
		})
	}
}
