package upstream

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"spillway/upstream/fhir"
	"spillway/upstream/profile"
)

func profiled(t *testing.T, text string) *profile.Profile {
	t.Helper()
	p, err := profile.Parse("test", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestProfileSupplies learns servers with a profile: what the probes find wins,
// and what they do not find comes from the profile.
func TestProfileSupplies(t *testing.T) {
	for _, tt := range []struct {
		name      string
		profile   string
		e         engine
		empty     bool
		want      func(f *Facts) bool
		supplied  string // one of Supplied
		overruled string // one of Overruled
		requests  int    // 0: any number
	}{
		{
			name: "ProbesWin", profile: "supports: {post: refused, last_updated: ignored}\ncounts: none\npaging: {max: 5}",
			want: func(f *Facts) bool {
				return f.PostSearch == Works && f.LastUpdated == Works && f.Counts == Works && f.PageSize == 1000
			},
			overruled: "POST search: works, the profile says refused",
		},
		{
			name: "ProbesWinAgainstGoodNews", profile: "supports: {last_updated: works}\ncounts: summary", e: engine{ignoreLastUpdated: true, silentSummary: true, silentTotal: true},
			want:      func(f *Facts) bool { return f.LastUpdated == Ignored && f.Counts == Refused },
			overruled: "counts: refused (none), the profile says summary",
		},
		{
			name: "NothingToProbeWith", empty: true, profile: "supports: {last_updated: works, sort: works, direct: works}\npaging: {max: 50}",
			want: func(f *Facts) bool {
				return f.LastUpdated == Works && f.Sort == Works && f.PageSize == 50
			},
			supplied: "_lastUpdated: works",
		},
		{
			name: "DirectOnlyIfProbed", empty: true, profile: "supports: {direct: works, sort: works}",
			want: func(f *Facts) bool { return f.Direct == Unknown && f.DirectSize == 0 },
		},
		{
			name: "ProbeForbidden", profile: "counts: last-page\nsupports: {post: refused}\nskip_probes: [counts, post]",
			want:     func(f *Facts) bool { return f.Counts == Ignored && f.LastPageTotal && f.PostSearch == Refused },
			supplied: "counts: last-page",
		},
		{
			name: "ByPatientOnly", profile: "patients: {required: true}\npaging: {max: 20}\nsupports: {last_updated: refused}\ncounts: none", e: engine{clock: func() time.Time { return time.Now().Add(time.Hour) }},
			want: func(f *Facts) bool {
				return f.LastUpdated == Refused && f.Counts == Refused && f.PageSize == 20 && f.ProbeType == "" && len(f.Problems) == 0 &&
					f.ClockSkewKnown && f.ClockOffset > 59*time.Minute
			},
			supplied: "counts: none", requests: 2, // the statement, and again for the clock
		},
		{
			name: "OneTypeIsWhole", profile: "patients: {required: true}\ntypes: {Observation: {search: whole}}",
			want: func(f *Facts) bool { return f.ProbeType == "Observation" },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := tt.e
				e.data = map[string][]string{"Patient": instants(20), "Observation": instants(50)}
				if tt.empty {
					e.data = map[string][]string{"Patient": nil, "Observation": nil}
				}
				c, _ := serveMemory(t, e.ServeHTTP, func(c *Config) { c.Profile = profiled(t, tt.profile) })
				f, err := c.Learn(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if !tt.want(f) {
					t.Errorf("got %+v", f)
				}
				if f.Profile.Name != "test" || !strings.Contains(f.ProfileBy, "configuration") {
					t.Errorf("profile %s by %s", f.Profile.Name, f.ProfileBy)
				}
				if tt.supplied != "" && !slices.Contains(f.Supplied, tt.supplied) || tt.overruled != "" && !slices.Contains(f.Overruled, tt.overruled) {
					t.Errorf("supplied %q, overruled %q", f.Supplied, f.Overruled)
				}
				if tt.requests > 0 && len(e.requests) != tt.requests {
					t.Errorf("%d requests:\n%s", len(e.requests), strings.Join(e.requests, "\n"))
				}
			})
		})
	}
}

func TestProfileLimitsPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &engine{data: map[string][]string{"Patient": instants(2), "Observation": instants(2)}}
		c, _ := serveMemory(t, e.ServeHTTP, func(c *Config) { c.Profile = profiled(t, "types: {Observation: {max: 7}}") })
		if _, err := c.Learn(t.Context()); err != nil {
			t.Fatal(err)
		}
		n := len(e.requests)
		_ = page(t, c)
		if last := e.requests[n]; !strings.Contains(last, "_count=7") {
			t.Errorf("a page is asked for by %s", last)
		}
	})
}

func TestProfileKeepsStrictBack(t *testing.T) {
	for text, want := range map[string]string{"supports: {strict: refused}": "", "supports: {strict: works}": "handling=strict", "title: x": "handling=strict"} {
		synctest.Test(t, func(t *testing.T) {
			e := &engine{data: map[string][]string{"Patient": instants(2)}}
			var mu sync.Mutex // probes run side by side
			sent := make(map[string]bool)
			c, _ := serveMemory(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/fhir/metadata" {
					mu.Lock()
					sent[r.Header.Get("Prefer")] = true
					mu.Unlock()
				}
				e.ServeHTTP(w, r)
			}, func(c *Config) { c.Profile = profiled(t, text) })
			if _, err := c.Learn(t.Context()); err != nil {
				t.Fatal(err)
			}
			if len(sent) != 1 || !sent[want] {
				t.Errorf("%s: sent %v", text, sent)
			}
		})
	}
}

func TestRule(t *testing.T) {
	for _, tt := range []struct {
		profile, typ string
		want         profile.Scope
	}{
		{"title: x", "Observation", profile.ScopeWhole},
		{"title: x", "Organization", profile.ScopeWhole},
		{"patients: {required: true}", "Observation", profile.ScopePatient},
		{"patients: {required: true}", "Patient", profile.ScopePatient},
		{"patients: {required: true, listing: works}", "Patient", profile.ScopeWhole},
		{"patients: {required: true}", "Group", profile.ScopeID},
		{"patients: {required: true}", "Organization", profile.ScopeNone},
		{"patients: {required: true}\ntypes: {Organization: {search: whole}}", "Organization", profile.ScopeWhole},
		{"types: {Binary: {search: none}}", "Binary", profile.ScopeNone},
	} {
		f := Facts{}
		f.Capabilities, f.Profile = &fhir.Capabilities{FHIRVersion: "4.0.1"}, profiled(t, tt.profile)
		if r := f.Rule(tt.typ); r.Search != tt.want || (r.Search == profile.ScopeNone || r.Search == profile.ScopeID) && r.Why == "" {
			t.Errorf("%s: %s is %+v", tt.profile, tt.typ, r)
		}
	}
}
