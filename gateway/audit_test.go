package gateway

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"spillway/auth/audit"
	"spillway/jobs"
)

// A recorder keeps events, or fails to.
type recorder struct {
	mu     sync.Mutex
	events []audit.Event
	broken bool
}

func (a *recorder) record(_ context.Context, e audit.Event) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.broken {
		return fmt.Errorf("%w: disk full", audit.ErrUnavailable)
	}
	a.events = append(a.events, e)
	return nil
}

func (a *recorder) breaks(broken bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.broken = broken
}

// taken returns the events since the last call, once all handlers have returned.
func (a *recorder) taken(w *world) []audit.Event {
	w.busy.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	events := a.events
	a.events = nil
	return events
}

// audited is a gateway with a record, whose clients alice and mallory may read
// Patient, or everything.
func audited(t *testing.T, change func(*Config)) (*world, *recorder) {
	a := &recorder{}
	w := newWorld(t, func(c *Config) {
		c.Auth = byToken{"alice": principal(t, "alice", "system/Patient.rs system/Group.rs", "g1"), "less": principal(t, "alice", "system/Group.rs"), "mallory": principal(t, "mallory", "system/*.rs")}
		c.Audit, c.AuditDeny = a.record, true
		c.AuditDigest = func(values ...string) string { return fmt.Sprintf("digest of %d", len(values)) }
		if change != nil {
			change(c)
		}
	})
	return w, a
}

// wants compares what was recorded, but for times and addresses.
func wants(t *testing.T, got []audit.Event, want ...audit.Event) {
	t.Helper()
	for i := range got {
		if got[i].Address != "127.0.0.1" {
			t.Errorf("address %q", got[i].Address)
		}
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(audit.Event{}, "Address", "Duration"), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

const issuer = "https://as.example.org"

// Each thing that is done is recorded once, with who, what and how much.
func TestEvents(t *testing.T) {
	w, a := audited(t, nil)
	r := w.send(t, "POST /fhir/Group/g1/$export\n"+kickOffHeaders+"\nX-Request-Id: r-1\nContent-Type: application/fhir+json\n"+bearer("alice")+"\n\n"+
		parametersOf("_type valueString Patient", "_since valueInstant 2020-01-01T00:00:00Z", "patient valueReference Patient/canary-1", "patient valueReference Patient/canary-2", "_typeFilter valueString Patient?gender=female"))
	if r.StatusCode != 202 {
		t.Fatalf("%s %s", r.Status, r.body)
	}
	status := r.Header.Get("Content-Location")
	id := status[strings.LastIndexByte(status, '/')+1:]
	wants(t, a.taken(w), audit.Event{
		Kind: audit.KindKickOff, Outcome: audit.OutcomeDone, Client: "alice", Issuer: issuer, TokenID: "jti-alice", Scope: "system/Patient.rs system/Group.rs", RequestID: "r-1",
		Job: id, Level: "group", Group: "g1", Types: []string{"Patient"}, Since: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		Filters: 1, FiltersDigest: "digest of 1", Patients: 2, PatientsDigest: "digest of 2",
	})
	w.status2(t, status, "alice", 202)
	wants(t, a.taken(w)) // polls are not recorded

	w.plan(t)
	segment := w.segment(t, "a", jobs.EncodingGzip, `{"resourceType":"Patient","id":"canary-1"}`, `{"resourceType":"Patient","id":"canary-2"}`)
	w.complete(t, jobs.Result{Files: []jobs.File{fileOf("1.Patient.ndjson", segment)}})
	w.clock.advance(time.Second)
	w.status2(t, status, "alice", 200)
	who := audit.Event{Client: "alice", Issuer: issuer, TokenID: "jti-alice", Job: id}
	manifest, download, removal := who, who, who
	manifest.Kind, manifest.Outcome, manifest.Files, manifest.Resources, manifest.Bytes, manifest.Delivery = audit.KindManifest, audit.OutcomeDone, 1, 2, segment.Size, "gateway"
	wants(t, a.taken(w), manifest)

	file := w.base + "/$bulk-files/" + id + "/1.Patient.ndjson"
	w.get(t, "GET", file, bearer("alice"))
	download.Kind, download.Outcome, download.File, download.Resources, download.Delivery = audit.KindDownload, audit.OutcomeBegun, "1.Patient.ndjson", 2, "gateway"
	download.SHA256 = segment.LinesSHA256()
	whole := download
	whole.Outcome, whole.Bytes = audit.OutcomeDone, segment.Size
	wants(t, a.taken(w), download, whole)
	w.get(t, "GET", file, bearer("alice")+"\nRange: bytes=0-9")
	part := whole
	part.Bytes = 10
	wants(t, a.taken(w), download, part)
	for _, headers := range []string{"\nIf-None-Match: *", "\nRange: bytes=99999-"} { // no byte of the file
		w.get(t, "GET", file, bearer("alice")+headers)
	}
	w.get(t, "HEAD", file, bearer("alice"))
	w.get(t, "HEAD", status, bearer("alice"))
	wants(t, a.taken(w))

	w.get(t, "DELETE", status, bearer("alice"))
	removal.Kind, removal.Outcome = audit.KindRemoval, audit.OutcomeBegun
	wants(t, a.taken(w), removal)
}

func (w *world) status2(t *testing.T, address, token string, want int) {
	t.Helper()
	if r := w.get(t, "GET", address, bearer(token)); r.StatusCode != want {
		t.Fatalf("%s, want %d", r.Status, want)
	}
}

// What is refused is recorded with a word for why; what anybody may ask for
// as often as they like is not.
func TestRefusalsAreRecorded(t *testing.T) {
	w, a := audited(t, func(c *Config) { c.Limits.KickOffs = Rate{PerMinute: 600, Burst: 20} })
	for _, c := range []struct{ token, target, reason string }{
		{"", "/fhir/$export", reasonNoCredential}, {"nobody", "/fhir/$export", reasonCredential}, {"a b", "/fhir/$export", reasonMalformed},
		{"alice", "/fhir/$export?_type=Observation", reasonScope}, {"alice", "/fhir/Group/g2/$export?_type=Patient", reasonGroup}, {"alice", "/fhir/$export?_nope=1", reasonParameters},
	} {
		header := ""
		if c.token != "" {
			header = "\n" + bearer(c.token)
		}
		r := w.send(t, "GET "+c.target+"\n"+kickOffHeaders+header)
		got := a.taken(w)
		if len(got) != 1 || got[0].Kind != audit.KindKickOff || got[0].Outcome != audit.OutcomeRefused || got[0].Reason != c.reason || got[0].Job != "" || (got[0].Client != "") != (c.token == "alice") {
			t.Errorf("%s %s: %s, %+v", c.token, c.target, r.Status, got)
		}
	}
	for range 40 { // more than the limit
		w.send(t, "GET /fhir/$export\n"+kickOffHeaders+"\n"+bearer("nobody"))
	}
	if n := len(a.taken(w)); n > 20 {
		t.Errorf("%d refusals were recorded", n)
	}
}

// Trying to get at exports is an alert, with the export in question. A missing
// one is none: clients ask for what they have deleted.
func TestAlerts(t *testing.T) {
	w, a := audited(t, nil)
	r, job := w.kickOffAs(t, "alice", "/fhir/$export?_type=Patient", "")
	status := r.Header.Get("Content-Location")
	w.plan(t)
	w.complete(t, jobs.Result{Files: []jobs.File{fileOf("1.Patient.ndjson", w.segment(t, "a", jobs.EncodingGzip, "{}"))}})
	w.clock.advance(time.Second)
	file := w.base + "/$bulk-files/" + string(job.ID) + "/1.Patient.ndjson"
	a.taken(w)
	for _, address := range []string{status, file} {
		for _, c := range []struct{ headers, client, reason string }{
			{"Accept: */*", "", reasonNoCredential}, {bearer("nobody"), "", reasonCredential}, {bearer("mallory"), "mallory", reasonOwner}, {bearer("less"), "alice", reasonScope},
		} {
			w.get(t, "GET", address, c.headers)
			got := a.taken(w)
			if len(got) != 1 || got[0].Kind != audit.KindAlert || got[0].Outcome != audit.OutcomeRefused || got[0].Reason != c.reason || got[0].Job != string(job.ID) || got[0].Client != c.client {
				t.Errorf("%s %q: %+v", address, c.headers, got)
			}
		}
	}
	w.get(t, "GET", w.base+"/$bulk-status/"+string(jobs.NewID()), bearer("mallory"))
	wants(t, a.taken(w))
}

// Without a record nothing is given: no export, no manifest, not one byte.
func TestNothingIsGivenUnrecorded(t *testing.T) {
	w, a := audited(t, nil)
	r, job := w.kickOffAs(t, "alice", "/fhir/$export?_type=Patient", "")
	status := r.Header.Get("Content-Location")
	w.plan(t)
	w.complete(t, jobs.Result{Files: []jobs.File{fileOf("1.Patient.ndjson", w.segment(t, "a", jobs.EncodingGzip, `{"id":"canary"}`))}})
	w.clock.advance(time.Second)
	file := w.base + "/$bulk-files/" + string(job.ID) + "/1.Patient.ndjson"
	a.breaks(true)

	if r, job := w.kickOffAs(t, "alice", "/fhir/$export?_type=Patient", ""); job != nil || r.StatusCode != 503 || r.Header.Get("Retry-After") == "" || r.Header.Get("Content-Location") != "" {
		t.Errorf("kick-off: %s %v", r.Status, r.Header)
	}
	all, err := w.store.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n := len(slices.DeleteFunc(all, func(j *jobs.Job) bool { return j.State == jobs.Canceled })); n != 1 {
		t.Errorf("%d exports are left, want the first alone", n)
	}
	for _, c := range []struct{ method, address string }{{"GET", status}, {"GET", file}} {
		r := w.get(t, c.method, c.address, bearer("alice"))
		if r.StatusCode != 503 || strings.Contains(string(r.body), "canary") || strings.Contains(string(r.body), "$bulk-files") || r.Header.Get("ETag") != "" || r.Header.Get("Retry-After") == "" {
			t.Errorf("%s %s: %s %v %s", c.method, c.address, r.Status, r.Header, r.body)
		}
	}
	for _, c := range []struct { // what gives nothing is answered as ever
		token, address string
		status         int
	}{{"mallory", file, 404}, {"nobody", file, 401}, {"less", status, 403}} {
		if r := w.get(t, "GET", c.address, bearer(c.token)); r.StatusCode != c.status {
			t.Errorf("%s: %s", c.token, r.Status)
		}
	}
	if !strings.Contains(w.logged(), "could not be recorded") {
		t.Error("the failure is not logged")
	}
	a.breaks(false)
	if r := w.get(t, "GET", file, bearer("alice")); r.StatusCode != 200 || !strings.Contains(string(r.body), "canary") {
		t.Errorf("afterwards: %s", r.Status)
	}
}

func TestUnrecordedWhereThatIsTolerated(t *testing.T) {
	w, a := audited(t, func(c *Config) { c.AuditDeny = false })
	a.breaks(true)
	if r, job := w.kickOffAs(t, "alice", "/fhir/$export?_type=Patient", ""); job == nil {
		t.Errorf("%s", r.Status)
	}
}

// A download that breaks off, for whatever reason, is recorded as failed.
func TestBrokenDownloadsAreRecorded(t *testing.T) {
	w, a := audited(t, nil)
	_, job := w.kickOffAs(t, "alice", "/fhir/$export?_type=Patient", "")
	w.plan(t)
	segment := w.segment(t, "a", jobs.EncodingIdentity, strings.Repeat("x", 400_000))
	segment.Size, segment.StoredSize = segment.Size+1, segment.StoredSize+1
	gone := segment
	gone.Key = "gone"
	w.complete(t, jobs.Result{Files: []jobs.File{fileOf("1.Patient.ndjson", segment), fileOf("2.Patient.ndjson", gone)}})
	w.clock.advance(time.Second)
	a.taken(w)
	for name, some := range map[string]bool{"1.Patient.ndjson": true, "2.Patient.ndjson": false} {
		w.get(t, "GET", w.base+"/$bulk-files/"+string(job.ID)+"/"+name, bearer("alice"))
		got := a.taken(w)
		if len(got) != 2 || got[1].Outcome != audit.OutcomeFailed || (got[1].Bytes >= 100_000) != some || got[1].Bytes > 400_000 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// What is recorded of an attempt to get at another's export is recorded after
// the answer, so that the time it takes does not tell that there is one.
func TestAlertsComeAfterTheAnswer(t *testing.T) {
	answered := make(chan struct{})
	var late sync.Once
	w, _ := audited(t, func(c *Config) {
		keep := c.Audit
		c.Audit = func(ctx context.Context, e audit.Event) error {
			if e.Reason == reasonOwner {
				select {
				case <-answered:
				case <-time.After(10 * time.Second):
					late.Do(func() { t.Error("the answer waits for the record") })
				}
			}
			return keep(ctx, e)
		}
	})
	r, _ := w.kickOffAs(t, "alice", "/fhir/$export?_type=Patient", "")
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.Header.Get("Content-Location"), nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer mallory")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	close(answered)
	if err := answer.Body.Close(); err != nil || answer.StatusCode != 404 {
		t.Errorf("%s %v", answer.Status, err)
	}
	w.busy.Wait()
}
