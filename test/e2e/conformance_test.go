//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestConformance makes the requests that the public suites make (the Bulk Data
// Tester of SMART Health IT and the Inferno Bulk Data test kit) and expects
// what they expect of a server without authorization.
func TestConformance(t *testing.T) {
	base, _ := server.ready(t)
	g := serve(t, settings{upstream: base})
	for level, path := range map[string]string{"system": "/$export", "patient": "/Patient/$export", "group": "/Group/" + cohortID + "/$export"} {
		t.Run(level, func(t *testing.T) {
			for _, tc := range kickOffs(level) {
				t.Run(tc.name, func(t *testing.T) { tc.run(t, g, path) })
			}
		})
	}
}

// A suiteKickOff is one kick-off that a suite makes.
type suiteKickOff struct {
	name    string
	query   string // GET
	post    string // body of a POST, if not empty
	headers []string
	refused bool // 4xx, but not 404 or 405, with an OperationOutcome; else 202
}

func kickOffs(level string) []suiteKickOff {
	usual := []string{acceptFHIR, respondAsync}
	post := append([]string{"Content-Type: application/json"}, usual...)
	lenient := []string{acceptFHIR, "Prefer: respond-async, handling=lenient"}
	list := []suiteKickOff{
		{name: "plain", headers: usual},
		{name: "without Prefer", headers: []string{acceptFHIR}, refused: true},
		{name: "Accept of another format", headers: []string{"Accept: application/json", respondAsync}, refused: true},
		{name: "POST without Prefer", post: parameters(), headers: []string{"Content-Type: application/json", acceptFHIR}, refused: true},
		{name: "POST with Accept of another format", post: parameters(), headers: []string{"Content-Type: application/json", "Accept: application/json", respondAsync}, refused: true},
		{name: "POST of empty Parameters", post: `{"resourceType":"Parameters","parameter":[]}`, headers: post},
		{name: "POST of something else", post: `{"resourceType":"Patient"}`, headers: post, refused: true},
		{name: "POST of nothing", post: `{}`, headers: post, refused: true},
		{name: "lenient", query: "_type=Patient", headers: lenient},
		{name: "prefer in lower case, in parts", query: "_type=Patient", headers: []string{acceptFHIR, "prefer: handling=lenient", "prefer: respond-async"}},
		{name: "Accept within a list", query: "_type=Patient", headers: []string{"Accept: text/html, application/fhir+json;q=0.9", respondAsync}},
		{name: "malformed _since", query: "_since=0000-60-01T30:70:80%2B05:00", headers: usual, refused: true},
		{name: "future _since", query: "_since=2057-01-01T00:00:00%2B05:00", headers: usual, refused: true},
		{name: "_since of last week", query: "_since=" + url.QueryEscape(time.Now().AddDate(0, 0, -7).Format("2006-01-02T15:04:05.000-07:00")), headers: usual},
		{name: "_since whose plus became a space", query: "_since=2020-01-01T00:00:00+05:00", headers: usual},
		{name: "POST of malformed _since", post: parameters([2]string{"_since valueInstant", `"0000-60-01T30:70:80+05:00"`}), headers: post, refused: true},
		{name: "unknown _type", query: "_type=MissingType", headers: usual, refused: true},
		{name: "POST of unknown _type", post: parameters([2]string{"_type valueString", `"MissingType"`}), headers: post, refused: true},
		{name: "repeated _type", query: "_type=Patient&_type=Observation", headers: usual},
		{name: "comma in _type", query: "_type=Patient,Observation", headers: usual},
		{name: "lenient includeAssociatedData", query: "includeAssociatedData=LatestProvenanceResources", headers: lenient},
		{name: "includeAssociatedData list", query: "includeAssociatedData=LatestProvenanceResources,RelevantProvenanceResources", headers: usual},
		{name: "includeAssociatedData repeated", query: "includeAssociatedData=LatestProvenanceResources&includeAssociatedData=RelevantProvenanceResources", headers: usual},
		{name: "lenient _typeFilter", query: "_typeFilter=Patient%3Fstatus%3Dactive", headers: lenient},
		{name: "two lenient _typeFilter", query: "_typeFilter=Patient%3Fstatus%3Dactive&_typeFilter=Patient%3Fgender%3Dmale", headers: lenient},
		{name: "_elements", query: "_elements=id,Patient.meta&_type=Patient", headers: usual},
		{name: "POST of _elements", post: parameters([2]string{"_elements valueString", `"id,Patient.meta"`}, [2]string{"_type valueString", `"Patient"`}), headers: post},
	}
	for _, format := range []string{"application/fhir+ndjson", "application/ndjson", "ndjson"} {
		list = append(list,
			suiteKickOff{name: "format " + format, query: "_outputFormat=" + url.QueryEscape(format), headers: usual},
			suiteKickOff{name: "POST of format " + format, post: parameters([2]string{"_outputFormat valueString", fmt.Sprintf("%q", format)}), headers: post})
	}
	for _, format := range []string{"application/xml", "text/html", "x-custom"} {
		list = append(list, suiteKickOff{name: "format " + format, query: "_outputFormat=" + url.QueryEscape(format), headers: usual, refused: true})
	}
	patients := parameters([2]string{"patient valueReference", `{"reference":"Patient/123"}`}, [2]string{"patient valueReference", `{"reference":"Patient/456"}`})
	return append(list, suiteKickOff{name: "POST of patients that do not exist", post: patients, headers: post, refused: level == "system"})
}

func (k suiteKickOff) run(t *testing.T, g *gateway, path string) {
	method := http.MethodGet
	if k.post != "" {
		method = http.MethodPost
	}
	if k.query != "" {
		path += "?" + k.query
	}
	r := ask(t, method, g.base+path, k.post, k.headers...)
	if k.refused {
		if r.status < 400 || r.status >= 500 || r.status == http.StatusNotFound || r.status == http.StatusMethodNotAllowed {
			t.Errorf("status %d, want a refusal: %.300s", r.status, r.body)
		}
		mustBeOutcome(t, r)
		return
	}
	r.mustBe(t, http.StatusAccepted)
	mustBeEmptyOrOutcome(t, r)
	status := g.statusURL(t, r)
	first := ask(t, http.MethodGet, status, "").mustBe(t, http.StatusAccepted)
	if after := first.header.Get("Retry-After"); strings.Trim(after, "0123456789") != "" {
		t.Errorf("Retry-After %q is no integer", after)
	}
	mustBeEmptyOrOutcome(t, ask(t, http.MethodDelete, status, "").mustBe(t, http.StatusAccepted))
	mustBeGone(t, status)
}

func mustBeEmptyOrOutcome(t *testing.T, r reply) {
	t.Helper()
	if len(r.body) == 0 {
		return
	}
	mustBeOutcome(t, r)
}

// TestConformanceOfResults checks what suites read of a finished export.
func TestConformanceOfResults(t *testing.T) {
	base, _ := server.ready(t)
	g := serve(t, settings{upstream: base})
	status := g.kickOff(t, "/Group/"+cohortID+"/$export", types("Patient"))
	e := collect(t, status)
	if n := len(e.resources["Patient"]); n < 2 {
		t.Fatalf("%d patients, want several", n)
	}
	r := ask(t, http.MethodGet, status, "", "Accept: application/json").mustBe(t, http.StatusOK)
	expires, err := http.ParseTime(r.header.Get("Expires"))
	if err != nil {
		t.Fatalf("Expires: %v", err)
	}
	date, err := http.ParseTime(r.header.Get("Date"))
	if err != nil || expires.Before(date) {
		t.Errorf("Expires %s is before Date %s (%v)", expires, date, err)
	}
	if _, err := time.Parse("2006-01-02T15:04:05.999999999Z07:00", e.manifest.TransactionTime); err != nil {
		t.Errorf("transactionTime: %v", err)
	}

	t.Run("nothing matches", func(t *testing.T) {
		query := types("Patient")
		query.Set("_since", time.Now().Add(-time.Second).UTC().Format(time.RFC3339))
		raw := wait(t, g.kickOff(t, "/$export", query))
		if !bytes.Contains(bytes.ReplaceAll(raw, []byte(" "), nil), []byte(`"output":[]`)) {
			t.Errorf("output is not an empty array: %s", raw)
		}
	})
	t.Run("patients that do not exist are named in the error file", func(t *testing.T) {
		body := parameters([2]string{"patient valueReference", `{"reference":"Patient/no-such-patient"}`}, [2]string{"_type valueString", `"Patient"`})
		r := ask(t, http.MethodPost, g.base+"/Group/"+cohortID+"/$export", body, contentFHIR, acceptFHIR, respondAsync).mustBe(t, http.StatusAccepted)
		e := collect(t, g.statusURL(t, r))
		if e.lines != 0 || len(e.issues) == 0 {
			t.Errorf("%d lines and %d issues, want none and some", e.lines, len(e.issues))
		}
	})
}
