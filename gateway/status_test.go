package gateway

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"spillway/jobs"
	"spillway/upstream/fhir"
)

// status polls, and checks what every response of ours has.
func (w *world) status(t *testing.T, address string, want int) *reply {
	t.Helper()
	r := w.get(t, "GET", address, "Accept: application/json")
	if r.StatusCode != want {
		t.Fatalf("%s, want %d: %s", r.Status, want, r.body)
	}
	if r.Header.Get("Cache-Control") != "no-store" || r.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("unguarded: %v", r.Header)
	}
	return r
}

func TestLifeOfAnExport(t *testing.T) {
	w := newWorld(t, nil)
	id, address := w.kickOff(t, "/fhir/$export?_type=Patient")

	inProgress := func(progress, retry string) {
		t.Helper()
		r := w.status(t, address, http.StatusAccepted)
		if got := r.Header.Get("X-Progress"); got != progress || len(got) >= 100 {
			t.Errorf("X-Progress %q, want %q", got, progress)
		}
		if got := r.Header.Get("Retry-After"); got != retry {
			t.Errorf("Retry-After %q, want %q", got, retry)
		}
		if len(r.body) > 0 || r.Header.Get("Content-Type") != "" {
			t.Errorf("a body: %q, %q", r.Header.Get("Content-Type"), r.body)
		}
	}
	inProgress("0% done: waiting for its turn", "1")
	slices := []jobs.Unit{
		{ID: "slice-1", Kind: jobs.UnitSlice, Type: "Patient", Weight: 300},
		{ID: "slice-2", Kind: jobs.UnitSlice, Type: "Patient", Weight: 100},
	}
	w.plan(t, slices...)
	inProgress("0% done: 0 of 400 resources", "1")
	segment := w.segment(t, string(id)+"/1", jobs.EncodingGzip, `{"resourceType":"Patient","id":"1"}`)
	segment.Count = 300
	w.clock.advance(50 * time.Second)
	w.complete(t, jobs.Result{Segments: []jobs.Segment{segment}})
	inProgress("75% done: 300 of 400 resources", "4")
	w.clock.advance(time.Hour)
	second := segment
	second.Key, second.Count = string(id)+"/2", 150 // more than was counted
	w.complete(t, jobs.Result{Segments: []jobs.Segment{second}})
	inProgress("99% done: 450 of 450 resources", "10")
	w.complete(t, jobs.Result{Files: []jobs.File{
		{Name: "1.Patient.ndjson", Kind: jobs.KindOutput, Type: "Patient", Count: 450, Size: 2 * segment.Size, Segments: []jobs.Segment{segment, second}},
		{Name: "2.Bundle.ndjson", Kind: jobs.KindDeleted, Type: "Bundle", Count: 2},
		{Name: "3.OperationOutcome.ndjson", Kind: jobs.KindOutcome, Type: "OperationOutcome", Count: 1},
	}})

	r := w.status(t, address, http.StatusOK)
	if got := r.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type %q", got)
	}
	if want := w.clock.Now().Add(24 * time.Hour).Format(http.TimeFormat); r.Header.Get("Expires") != want {
		t.Errorf("Expires %q, want %q", r.Header.Get("Expires"), want)
	}
	stable := bytes.ReplaceAll(bytes.ReplaceAll(r.body, []byte(w.base), []byte("https://example.org/fhir")), []byte(id), []byte("JOB"))
	golden(t, "manifest.json", stable)
	if head := w.get(t, "HEAD", address, ""); head.StatusCode != 200 || head.Header.Get("Content-Length") != fmt.Sprint(len(r.body)) {
		t.Errorf("HEAD: %s, %v", head.Status, head.Header)
	}

	r = w.get(t, "DELETE", address, "")
	if issue := r.issue(t); r.StatusCode != 202 || issue.Severity != fhir.SeverityInformation {
		t.Errorf("DELETE: %s, %+v", r.Status, issue)
	}
	golden(t, "deleted.json", indented(t, r.body))
	gone := w.status(t, address, http.StatusNotFound)
	golden(t, "not-found.json", indented(t, gone.body))
	for _, again := range []*reply{
		w.get(t, "DELETE", address, ""),
		w.get(t, "GET", w.base+"/$bulk-files/"+string(id)+"/1.Patient.ndjson", ""),
	} {
		sameReply(t, again, gone)
	}
}

// sameReply compares all that a client can see, but for the date.
func sameReply(t *testing.T, a, b *reply) {
	t.Helper()
	a.Header.Del("Date")
	b.Header.Del("Date")
	if a.Status != b.Status || fmt.Sprint(a.Header) != fmt.Sprint(b.Header) || !bytes.Equal(a.body, b.body) {
		t.Errorf("these differ:\n%s %v %s\n%s %v %s", a.Status, a.Header, a.body, b.Status, b.Header, b.body)
	}
}

func TestNothingMatched(t *testing.T) {
	w := newWorld(t, nil)
	_, address := w.finished(t, "/fhir/$export")
	r := w.status(t, address, http.StatusOK)
	for _, array := range []string{`"output": []`, `"deleted": []`, `"error": []`} {
		if !strings.Contains(string(r.body), array) {
			t.Errorf("no %s in %s", array, r.body)
		}
	}
}

func TestFirstPollFindsItInProgress(t *testing.T) {
	w := newWorld(t, nil)
	_, address := w.kickOff(t, "/fhir/$export")
	w.plan(t)
	w.complete(t, jobs.Result{})
	r := w.status(t, address, http.StatusAccepted)
	if r.Header.Get("Retry-After") != "1" || !strings.Contains(r.Header.Get("X-Progress"), "%") {
		t.Errorf("%v", r.Header)
	}
	w.clock.advance(499 * time.Millisecond)
	w.status(t, address, http.StatusAccepted)
	w.clock.advance(time.Millisecond)
	w.status(t, address, http.StatusOK)
}

func TestFailedExport(t *testing.T) {
	w := newWorld(t, nil)
	id, address := w.kickOff(t, "/fhir/$export")
	lease, _, err := w.store.Claim(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	reason := "search Observation: the upstream answered 401; check upstream.headers."
	if err := w.store.Fail(t.Context(), lease, jobs.Failure{Reason: reason, Permanent: true}, 0); err != nil {
		t.Fatal(err)
	}
	w.status(t, address, http.StatusAccepted)
	w.clock.advance(time.Second)
	r := w.status(t, address, http.StatusInternalServerError)
	if issue := r.issue(t); issue.Diagnostics != reason || issue.Code == fhir.IssueTransient || r.Header.Get("Content-Type") != "application/fhir+json" {
		t.Errorf("%v %+v", r.Header, issue)
	}
	golden(t, "failed.json", indented(t, r.body))
	if f := w.get(t, "GET", w.base+"/$bulk-files/"+string(id)+"/1.Patient.ndjson", ""); f.StatusCode != 404 {
		t.Errorf("a file of a failed export: %s", f.Status)
	}
	if d := w.get(t, "DELETE", address, ""); d.StatusCode != 202 {
		t.Errorf("DELETE: %s", d.Status)
	}
	w.status(t, address, http.StatusNotFound)
}

func TestCanceledWhileItRuns(t *testing.T) {
	w := newWorld(t, nil)
	_, address := w.kickOff(t, "/fhir/$export")
	w.plan(t, jobs.Unit{ID: "slice-1", Kind: jobs.UnitSlice, Type: "Patient", Weight: 1})
	if r := w.get(t, "DELETE", address, ""); r.StatusCode != 202 {
		t.Fatalf("DELETE: %s", r.Status)
	}
	w.status(t, address, http.StatusNotFound)
	if _, _, err := w.store.Claim(t.Context(), "test"); err != jobs.ErrNoWork {
		t.Errorf("Claim: %v", err)
	}
}

func TestExpired(t *testing.T) {
	w := newWorld(t, nil)
	id, address := w.finished(t, "/fhir/$export", fileOf("1.Patient.ndjson", w.segment(t, "a", jobs.EncodingGzip, "{}")))
	file := w.base + "/$bulk-files/" + string(id) + "/1.Patient.ndjson"
	w.clock.advance(24*time.Hour - 2*time.Second)
	w.status(t, address, http.StatusOK)
	w.clock.advance(time.Second)
	gone := w.status(t, address, http.StatusNotFound)
	sameReply(t, w.get(t, "GET", file, ""), gone)
	sameReply(t, w.get(t, "DELETE", address, ""), gone)
}

func TestExportsOfOthersDoNotExist(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Auth = byHeader{} })
	r := w.send(t, "GET /fhir/$export\nX-Client: alice\n"+kickOffHeaders)
	address := r.Header.Get("Content-Location")
	if r.StatusCode != 202 {
		t.Fatalf("%s: %s", r.Status, r.body)
	}
	id := jobs.ID(address[strings.LastIndexByte(address, '/')+1:])
	w.plan(t)
	w.complete(t, jobs.Result{Files: []jobs.File{fileOf("1.Patient.ndjson", w.segment(t, "a", jobs.EncodingGzip, "{}"))}})
	w.clock.advance(time.Second)
	file := w.base + "/$bulk-files/" + string(id) + "/1.Patient.ndjson"
	unknown := w.base + "/$bulk-status/" + string(jobs.NewID())

	for _, c := range []struct {
		method, address string
		owner           int
	}{{"GET", address, 200}, {"GET", file, 200}, {"HEAD", file, 200}} {
		missing := w.get(t, c.method, unknown, "X-Client: mallory")
		if missing.StatusCode != 404 {
			t.Fatalf("unknown: %s", missing.Status)
		}
		sameReply(t, w.get(t, c.method, c.address, "X-Client: mallory"), missing)
		if r := w.get(t, c.method, c.address, "X-Client: alice"); r.StatusCode != c.owner {
			t.Errorf("the owner: %s", r.Status)
		}
	}
	sameReply(t, w.get(t, "DELETE", address, "X-Client: mallory"), w.get(t, "DELETE", unknown, "X-Client: mallory"))
	if r := w.get(t, "GET", address, "X-Client: alice"); r.StatusCode != 200 || !strings.Contains(string(r.body), `"requiresAccessToken": true`) {
		t.Errorf("after the foreign DELETE: %s %s", r.Status, r.body)
	}

	for _, c := range []struct {
		client    string
		status    int
		issue     fhir.IssueCode
		challenge string
	}{
		{"", 401, "login", `Bearer realm="fhir"`},
		{"bad", 401, "login", `Bearer error="invalid_token"`},
		{"unsure", 503, "transient", ""},
	} {
		headers := kickOffHeaders
		if c.client != "" {
			headers += "\nX-Client: " + c.client
		}
		for _, request := range []string{"GET " + w.base + "/$export", "GET " + address, "DELETE " + address, "GET " + file} {
			r := w.send(t, request+"\n"+headers)
			if issue := r.issue(t); r.StatusCode != c.status || issue.Code != c.issue || r.Header.Get("WWW-Authenticate") != c.challenge {
				t.Errorf("%q %s: %s %v", c.client, request, r.Status, r.Header)
			}
		}
	}
}

func TestOnlyAbuseIsThrottled(t *testing.T) {
	w := newWorld(t, nil)
	_, address := w.kickOff(t, "/fhir/$export")
	for range 40 { // as fast as can be, for a while
		w.status(t, address, http.StatusAccepted)
	}
	r := w.status(t, address, http.StatusTooManyRequests)
	if issue := r.issue(t); issue.Code != fhir.IssueThrottled || r.Header.Get("Retry-After") != "1" {
		t.Errorf("%v %+v", r.Header, issue)
	}
	_, other := w.kickOff(t, "/fhir/$export")
	w.status(t, other, http.StatusAccepted)
	w.clock.advance(time.Second) // as told
	for range 100 {              // five polls a second, for ever
		w.status(t, address, http.StatusAccepted)
		w.clock.advance(200 * time.Millisecond)
	}
	if r := w.get(t, "DELETE", address, ""); r.StatusCode != 202 {
		t.Errorf("DELETE: %s", r.Status)
	}
	w.kickOff(t, "/fhir/$export") // at once
}

func TestThrottleIsBounded(t *testing.T) {
	c := newThrottle(Rate{PerMinute: 60, Burst: 10}, Rate{})
	now := time.Unix(0, 0)
	for i := range maxThrottled + 10 {
		if c.take(string(jobs.NewID()), now) > 0 {
			t.Fatalf("the first poll of sender %d was throttled", i)
		}
	}
	if c.take("one more", now) == 0 {
		t.Error("those that are not remembered are not throttled")
	}
	if len(c.held) > maxThrottled {
		t.Errorf("%d senders are remembered", len(c.held))
	}
	if c.take("one more", now.Add(time.Minute)) > 0 || len(c.held) != 1 {
		t.Errorf("after a while there is room: %d senders are remembered", len(c.held))
	}
}

func TestProgressHeader(t *testing.T) {
	types := func(expected, done int64) map[string]jobs.TypeProgress {
		return map[string]jobs.TypeProgress{"Patient": {Expected: expected, Done: done}}
	}
	for _, c := range []struct {
		name string
		job  jobs.Job
		want string
	}{
		{"Queued", jobs.Job{State: jobs.Queued}, "0% done: waiting for its turn"},
		{"Planning", jobs.Job{State: jobs.Running}, "0% done: counting what there is"},
		{"Running", jobs.Job{State: jobs.Running, Progress: jobs.Progress{Types: types(39_000, 14_500)}}, "37% done: 14500 of 39000 resources"},
		{"Huge", jobs.Job{State: jobs.Running, Progress: jobs.Progress{Types: types(1<<62, 1<<61)}}, "50% done: 2305843009213693952 of 4611686018427387904 resources"},
		{"NothingCounted", jobs.Job{State: jobs.Running, Progress: jobs.Progress{Types: types(0, 0), UnitsDone: 1, UnitsTotal: 4}}, "25% done: 1 of 4 steps"},
	} {
		if got := progressHeader(&c.job); got != c.want || len(got) >= 100 {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
