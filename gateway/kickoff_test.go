package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spillway/jobs"
	"spillway/storage"
	"spillway/upstream/fhir"
)

// parametersOf builds a Parameters body from "name kind value" lines.
func parametersOf(lines ...string) string {
	var entries []string
	for _, line := range lines {
		part := strings.SplitN(line, " ", 3)
		value := fmt.Sprintf("%q", part[2])
		switch part[1] {
		case "valueReference":
			value = fmt.Sprintf(`{"reference":%q}`, part[2])
		case "valueCoding":
			value = fmt.Sprintf(`{"code":%q}`, part[2])
		}
		entries = append(entries, fmt.Sprintf(`{"name":%q,%q:%s}`, part[0], part[1], value))
	}
	return `{"resourceType":"Parameters","parameter":[` + strings.Join(entries, ",") + `]}`
}

// asPost turns a body into a kick-off request at a path.
func asPost(path, body string) string {
	return "POST " + path + "\n" + kickOffHeaders + "\nContent-Type: application/fhir+json\n\n" + body
}

func TestKickOff(t *testing.T) {
	const (
		h       = "\n" + kickOffHeaders
		lenient = "\nAccept: application/fhir+json\nPrefer: respond-async, handling=lenient"
		jsonCT  = "\nContent-Type: application/fhir+json"
	)
	post := asPost
	many := func(n int, line string) string {
		lines := make([]string, n)
		for i := range lines {
			lines[i] = fmt.Sprintf(line, i)
		}
		return parametersOf(lines...)
	}
	for _, c := range []struct {
		name    string
		request string
		status  int
		issue   fhir.IssueCode
		says    string // part of the diagnostics
	}{
		// Levels and headers.
		{"OKSystem", "GET /fhir/$export" + h, 202, "informational", "accepted"},
		{"OKPatient", "GET /fhir/Patient/$export" + h, 202, "informational", ""},
		{"OKGroup", "GET /fhir/Group/7/$export" + h, 202, "informational", ""},
		{"OKAcceptInList", "GET /fhir/$export\nAccept: application/json, application/fhir+json;q=0.9\nPrefer: respond-async", 202, "informational", ""},
		{"OKTwoAcceptLines", "GET /fhir/$export\nAccept: text/html\nAccept: Application/FHIR+JSON\nPrefer: respond-async", 202, "informational", ""},
		{"OKPreferVariants", "GET /fhir/$export\nAccept: application/fhir+json\nprefer: wait=10; RESPOND-ASYNC;handling=strict", 202, "informational", ""},
		{"OKTwoPreferLines", "GET /fhir/$export\nAccept: application/fhir+json\nPrefer: handling=lenient\nPrefer: respond-async", 202, "informational", ""},
		{"ErrNoAccept", "GET /fhir/$export\nPrefer: respond-async", 400, "not-supported", "Accept: application/fhir+json"},
		{"ErrAcceptAnything", "GET /fhir/$export\nAccept: */*\nPrefer: respond-async", 400, "not-supported", "Accept"},
		{"ErrAcceptJSON", "GET /fhir/$export\nAccept: application/json\nPrefer: respond-async", 400, "not-supported", "Accept"},
		{"ErrAcceptRefused", "GET /fhir/$export\nAccept: application/fhir+json;q=0, */*\nPrefer: respond-async", 400, "not-supported", "Accept"},
		{"ErrNoPrefer", "GET /fhir/$export\nAccept: application/fhir+json", 400, "not-supported", "Prefer: respond-async"},
		{"ErrOtherPrefer", "GET /fhir/$export\nAccept: application/fhir+json\nPrefer: respond-sync, return=minimal", 400, "not-supported", "Prefer"},
		{"ErrDelete", "DELETE /fhir/$export" + h, 405, "not-supported", "GET, POST"},

		// _outputFormat.
		{"OKOutputFormat", "GET /fhir/$export?_outputFormat=application%2Ffhir%2Bndjson" + h, 202, "informational", ""},
		{"OKOutputFormatBarePlus", "GET /fhir/$export?_outputFormat=application/fhir+ndjson" + h, 202, "informational", ""},
		{"OKOutputFormatNDJSON", "GET /fhir/$export?_outputFormat=application%2Fndjson" + h, 202, "informational", ""},
		{"OKOutputFormatShort", "GET /fhir/$export?_outputFormat=ndjson" + h, 202, "informational", ""},
		{"ErrOutputFormatXML", "GET /fhir/$export?_outputFormat=application/xml" + h, 400, "not-supported", "_outputFormat: only NDJSON"},
		{"ErrOutputFormatLenient", "GET /fhir/$export?_outputFormat=x-custom" + lenient, 400, "not-supported", "_outputFormat"},
		{"ErrOutputFormatTwice", "GET /fhir/$export?_outputFormat=ndjson&_outputFormat=ndjson" + h, 400, "invalid", "_outputFormat: this parameter may be given only once"},
		{"ErrOutputFormatCRLF", "GET /fhir/$export?_outputFormat=ndjson%0d%0aX:y" + h, 400, "invalid", "control characters"},

		// _since and _until.
		{"OKSince", "GET /fhir/$export?_since=2020-01-01T00:00:00%2B02:00" + h, 202, "informational", ""},
		{"OKSinceBarePlus", "GET /fhir/$export?_since=2020-01-01T00:00:00.5+02:00" + h, 202, "informational", ""},
		{"OKPeriod", "GET /fhir/$export?_since=2020-01-01T00:00:00Z&_until=2021-01-01T00:00:00Z" + h, 202, "informational", ""},
		{"OKSinceOnTheUpstreamsClock", "GET /fhir/$export?_since=2026-01-02T03:04:30Z" + h, 202, "informational", ""},
		{"ErrSinceBDT", "GET /fhir/$export?_since=0000-60-01T30:70:80%2B05:00" + h, 400, "value", "_since"},
		{"ErrSinceFuture", "GET /fhir/$export?_since=2057-01-01T00:00:00%2B05:00" + h, 400, "value", "_since: the instant lies in the future"},
		{"ErrSinceSoon", "GET /fhir/$export?_since=2026-01-02T04:00:00Z" + h, 400, "value", "future"},
		{"ErrSinceNoZone", "GET /fhir/$export?_since=2020-01-01T00:00:00" + h, 400, "value", "_since"},
		{"ErrSinceDate", "GET /fhir/$export?_since=2020-01-01" + h, 400, "value", "_since"},
		{"ErrSinceEmpty", "GET /fhir/$export?_since=" + h, 400, "value", "_since: the value is empty"},
		{"ErrSinceLong", "GET /fhir/$export?_since=" + strings.Repeat("1", 1000) + h, 400, "value", "_since"},
		{"ErrSinceTwice", "GET /fhir/$export?_since=2020-01-01T00:00:00Z&_since=2020-01-01T00:00:00Z" + h, 400, "invalid", "_since"},
		{"ErrSinceAfterUntil", "GET /fhir/$export?_since=2021-01-01T00:00:00Z&_until=2020-01-01T00:00:00Z" + h, 400, "value", "_until"},
		{"ErrUntilYear10000", "GET /fhir/$export?_until=9999-12-31T23:59:59-10:00" + h, 400, "value", "_until"},

		// _type.
		{"OKTypeComma", "GET /fhir/$export?_type=Patient,Observation" + h, 202, "informational", ""},
		{"OKTypeRepeated", "GET /fhir/$export?_type=Patient&_type=Observation" + h, 202, "informational", ""},
		{"OKTypeMixed", "GET /fhir/Patient/$export?_type=Patient,ActivityDefinition" + h, 202, "informational", ""},
		{"ErrTypeUnknown", "GET /fhir/$export?_type=MissingType" + h, 400, "not-supported", `_type: "MissingType" is not a FHIR resource type`},
		{"ErrTypeUnknownLenient", "GET /fhir/$export?_type=MissingType" + lenient, 400, "not-supported", "_type"},
		{"ErrTypeCase", "GET /fhir/$export?_type=patient" + h, 400, "not-supported", "_type"},
		{"ErrTypeAbstract", "GET /fhir/$export?_type=Resource" + h, 400, "not-supported", "_type"},
		{"ErrTypeNotUpstream", "GET /fhir/$export?_type=Patient,Basic" + h, 400, "not-supported", "_type: Basic is not exported"},
		{"OKTypeNotUpstreamLenient", "GET /fhir/$export?_type=Patient,Basic" + lenient, 202, "informational", ""},
		{"ErrTypeNothingLeftLenient", "GET /fhir/$export?_type=Basic" + lenient, 400, "not-supported", "_type: the upstream FHIR server offers none"},
		{"ErrTypeOutside", "GET /fhir/Patient/$export?_type=Organization" + h, 400, "not-supported", "patient compartment"},
		{"ErrTypeOutsideGroup", "GET /fhir/Group/1/$export?_type=Organization" + h, 400, "not-supported", "patient compartment"},
		{"OKTypeOutsideSystem", "GET /fhir/$export?_type=Organization" + h, 202, "informational", ""},
		{"OKTypeOutsideLenient", "GET /fhir/Patient/$export?_type=Organization" + lenient, 202, "informational", ""},
		{"ErrTypeEmpty", "GET /fhir/$export?_type=" + h, 400, "value", "_type"},
		{"ErrTypeTrailingComma", "GET /fhir/$export?_type=Patient," + h, 400, "value", "_type"},
		{"ErrTypeTooMany", post("/fhir/$export", many(500, "_type valueCode Patient%.0d")), 400, "too-costly", "_type"},

		// _typeFilter; more in TestTypeFilters.
		{"OKTypeFilter", "GET /fhir/$export?_typeFilter=Observation%3Fstatus%3Dfinal" + h, 202, "informational", ""},
		{"OKTypeFilterWithType", "GET /fhir/$export?_type=Observation&_typeFilter=Observation%3Fstatus%3Dfinal" + h, 202, "informational", ""},
		{"ErrTypeFilterBDT", "GET /fhir/$export?_typeFilter=Patient%3Fstatus%3Dactive" + h, 400, "not-supported", `no search parameter "status" for Patient`},
		{"OKTypeFilterBDTLenient", "GET /fhir/$export?_typeFilter=Patient%3Fstatus%3Dactive" + lenient, 202, "informational", ""},
		{"ErrTypeFilterOutsideType", "GET /fhir/$export?_type=Patient&_typeFilter=Observation%3Fstatus%3Dfinal" + h, 400, "not-supported", "_type does not include it"},
		{"OKTypeFilterOutsideTypeLenient", "GET /fhir/$export?_type=Patient&_typeFilter=Observation%3Fstatus%3Dfinal" + lenient, 202, "informational", ""},
		{"ErrTypeFilterBareSemicolon", "GET /fhir/$export?_typeFilter=Patient?active=true;x" + h, 400, "invalid", "semicolon"},
		{"ErrTypeFilterTooMany", post("/fhir/$export", many(10_000, "_typeFilter valueString Patient?name=%d")), 400, "too-costly", "_typeFilter"},

		// _elements.
		{"OKElements", "GET /fhir/$export?_elements=id,Patient.meta&_type=Patient" + h, 202, "informational", ""},
		{"OKElementsRepeated", "GET /fhir/$export?_elements=id&_elements=Patient.meta" + h, 202, "informational", ""},
		{"ErrElementsDeep", "GET /fhir/$export?_elements=a.b.c" + h, 400, "value", "_elements"},
		{"ErrElementsType", "GET /fhir/$export?_elements=x.id" + h, 400, "value", "_elements"},
		{"ErrElementsName", "GET /fhir/$export?_elements=x-y" + h, 400, "value", "_elements"},
		{"ErrElementsDot", "GET /fhir/$export?_elements=.id" + h, 400, "value", "_elements"},
		{"ErrElementsInjection", "GET /fhir/$export?_elements=id%26_count%3D1" + h, 400, "value", "_elements"},
		{"ErrElementsTooMany", "GET /fhir/$export?_elements=" + strings.Repeat("id,", 100) + "id" + h, 400, "too-costly", "_elements"},

		// patient.
		{"OKPatients", post("/fhir/Patient/$export", parametersOf("patient valueReference Patient/123", "patient valueReference Patient/456")), 202, "informational", ""},
		{"OKPatientsGroup", post("/fhir/Group/1/$export", parametersOf("patient valueReference Patient/123")), 202, "informational", ""},
		{"ErrPatientSystem", post("/fhir/$export", parametersOf("patient valueReference Patient/123", "patient valueReference Patient/456")), 400, "not-supported", "patient"},
		{"ErrPatientGet", "GET /fhir/Patient/$export?patient=Patient/1" + h, 400, "not-supported", "patient: this parameter is offered in the body of a POST only"},
		{"ErrPatientForeign", post("/fhir/Patient/$export", parametersOf("patient valueReference https://evil.example/Patient/1")), 400, "value", "patient"},
		{"ErrPatientOtherType", post("/fhir/Patient/$export", parametersOf("patient valueReference Group/1")), 400, "value", "patient"},
		{"ErrPatientID", post("/fhir/Patient/$export", parametersOf("patient valueReference Patient/a_b")), 400, "value", "patient"},
		{"ErrPatientDots", post("/fhir/Patient/$export", parametersOf("patient valueReference Patient/..")), 400, "value", "patient"},
		{"ErrPatientQuery", post("/fhir/Patient/$export", parametersOf("patient valueReference Patient/1?x=y")), 400, "value", "patient"},
		{"ErrPatientKind", post("/fhir/Patient/$export", parametersOf("patient valueCode Patient/1")), 400, "structure", "patient: the value must be a valueReference"},
		{"OKTenThousandPatients", post("/fhir/Patient/$export", many(10_000, "patient valueReference Patient/%d")), 202, "informational", ""},
		{"ErrTooManyPatients", post("/fhir/Patient/$export", many(10_001, "patient valueReference Patient/%d")), 400, "too-costly", "patient"},

		// includeAssociatedData.
		{"OKAssociated", "GET /fhir/$export?includeAssociatedData=LatestProvenanceResources" + h, 202, "informational", ""},
		{"OKAssociatedComma", "GET /fhir/$export?includeAssociatedData=LatestProvenanceResources,RelevantProvenanceResources" + h, 202, "informational", ""},
		{"OKAssociatedRepeated", "GET /fhir/$export?includeAssociatedData=LatestProvenanceResources&includeAssociatedData=RelevantProvenanceResources" + h, 202, "informational", ""},
		{"ErrAssociated", "GET /fhir/$export?includeAssociatedData=Other" + h, 400, "not-supported", "LatestProvenanceResources and RelevantProvenanceResources"},
		{"OKAssociatedLenient", "GET /fhir/$export?includeAssociatedData=Other" + lenient, 202, "informational", ""},

		// What is not supported.
		{"ErrOrganize", "GET /fhir/$export?organizeOutputBy=Patient" + h, 400, "not-supported", "organizeOutputBy: this parameter is not supported; supported are _outputFormat"},
		{"ErrPartial", "GET /fhir/$export?allowPartialManifests=true" + h, 400, "not-supported", "allowPartialManifests"},
		{"ErrUnknown", "GET /fhir/$export?_Type=Patient" + h, 400, "not-supported", "_Type: this parameter is unknown"},
		{"ErrUnknownHasNoName", "GET /fhir/$export?=x" + h, 400, "not-supported", `"": this parameter is unknown`},
		{"OKUnknownLenient", "GET /fhir/$export?organizeOutputBy=Patient&allowPartialManifests=true&x=y" + lenient, 202, "informational", ""},
		{"ErrUnknownStrictWins", "GET /fhir/$export?x=y\nAccept: application/fhir+json\nPrefer: respond-async; handling=strict, handling=lenient", 400, "not-supported", "x"},
		{"ErrTooManyUnknown", "GET /fhir/$export?" + unknowns(130) + lenient, 400, "too-costly", "More than 100 things"},

		// Malformed queries and bodies.
		{"ErrBadEscape", "GET /fhir/$export?_type=%zz" + h, 400, "invalid", "malformed"},
		{"ErrBareSemicolon", "GET /fhir/$export?_type=Patient;_type=Observation" + h, 400, "invalid", "malformed"},
		{"ErrNotUTF8", "GET /fhir/$export?_type=%ff" + h, 400, "invalid", "UTF-8"},
		{"ErrLongQuery", "GET /fhir/$export?_type=" + strings.Repeat("Patient,", 1200) + "Patient" + h, 414, "too-long", "POST"},
		{"OKEmptyParameters", "POST /fhir/$export" + h + "\nContent-Type: application/json\n\n" + `{"resourceType":"Parameters","parameter":[]}`, 202, "informational", ""},
		{"OKCharset", "POST /fhir/$export" + h + "\nContent-Type: application/fhir+json; charset=UTF-8\n\n" + `{"resourceType":"Parameters"}`, 202, "informational", ""},
		{"OKPostEverything", post("/fhir/Patient/$export", parametersOf("_outputFormat valueString ndjson", "_since valueInstant 2020-01-01T00:00:00+02:00", "_until valueInstant 2021-01-01T00:00:00Z",
			"_type valueString Patient,Observation", "_typeFilter valueString Observation?status=final", "_elements valueString id,Patient.meta",
			"includeAssociatedData valueCoding LatestProvenanceResources")), 202, "informational", ""},
		{"ErrCharset", "POST /fhir/$export" + h + "\nContent-Type: application/fhir+json; charset=utf-16\n\n{}", 415, "not-supported", "UTF-8"},
		{"ErrXMLBody", "POST /fhir/$export" + h + "\nContent-Type: application/fhir+xml\n\n<Parameters/>", 415, "not-supported", "application/fhir+json"},
		{"ErrGzipBody", "POST /fhir/$export" + h + jsonCT + "\nContent-Encoding: gzip\n\nxx", 415, "not-supported", "not compressed"},
		{"ErrNoBody", "POST /fhir/$export" + h + jsonCT, 400, "structure", "Parameters"},
		{"ErrEmptyObject", post("/fhir/$export", "{}"), 400, "structure", "Parameters"},
		{"ErrOtherResource", post("/fhir/$export", `{"resourceType":"Patient"}`), 400, "structure", "Parameters"},
		{"ErrDuplicateKeys", post("/fhir/$export", `{"resourceType":"Parameters","parameter":[],"parameter":[]}`), 400, "structure", ""},
		{"ErrParts", post("/fhir/$export", `{"resourceType":"Parameters","parameter":[{"name":"_type","part":[]}]}`), 400, "structure", ""},
		{"ErrWrongKind", post("/fhir/$export", parametersOf("_since valueReference Patient/1")), 400, "structure", "_since: the value must be a valueInstant"},
		{"ErrPostBDTSince", post("/fhir/$export", parametersOf("_since valueInstant 0000-60-01T30:70:80+05:00")), 400, "value", "_since"},
		{"ErrQueryOfPost", "POST /fhir/$export?_type=Patient" + h + jsonCT + "\n\n" + parametersOf(), 400, "not-supported", "query"},
		{"ErrLargeChunkedBody", "POST /fhir/$export" + h + jsonCT + "\nTransfer-Encoding: chunked\n\n" + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", 2<<20, strings.Repeat(" ", 2<<20)), 413, "too-long", "larger than"},
		{"ErrLargeBody", post("/fhir/$export", parametersOf("_type valueString "+strings.Repeat("x", 1<<20))), 413, "too-long", "larger than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, nil)
			r := w.send(t, c.request)
			if r.StatusCode != c.status || r.Header.Get("Content-Type") != "application/fhir+json" {
				t.Fatalf("%s, %s: %s", r.Status, r.Header.Get("Content-Type"), r.body)
			}
			issue := r.issue(t)
			if issue.Code != c.issue || !strings.Contains(issue.Diagnostics, c.says) {
				t.Errorf("got %+v", issue)
			}
			want := fhir.SeverityError
			if c.status == 202 {
				want = fhir.SeverityInformation
			}
			if issue.Severity != want {
				t.Errorf("severity %s", issue.Severity)
			}
			created, err := w.store.List(t.Context())
			if err != nil || (len(created) == 1) != (c.status == 202) {
				t.Errorf("%d exports, %v", len(created), err)
			}
			location := r.Header["Content-Location"]
			if c.status == 202 && (len(location) != 1 || location[0] != w.base+"/$bulk-status/"+string(created[0].ID)) {
				t.Errorf("Content-Location: %q", location)
			}
			if len(w.upstream.seen()) > 0 {
				t.Errorf("the upstream saw %q", w.upstream.seen())
			}
		})
	}
}

func unknowns(n int) string {
	q := make(url.Values)
	for i := range n {
		q.Set(fmt.Sprintf("unknown%d", i), "x")
	}
	return q.Encode()
}

func TestKickOffIsUnderstood(t *testing.T) {
	at := func(s string) time.Time {
		tm, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return tm.UTC()
	}
	warning := func(text string) jobs.Note {
		return jobs.Note{Severity: jobs.SeverityWarning, Code: "not-supported", Text: text}
	}
	for _, c := range []struct {
		name    string
		request string
		want    jobs.Request // URL is relative to the base
	}{
		{"Bare", "GET /fhir/%24export\n" + kickOffHeaders, jobs.Request{Level: jobs.LevelSystem, URL: "/$export"}},
		{"Group", "GET /fhir/Group/a.b/$export/\n" + kickOffHeaders, jobs.Request{Level: jobs.LevelGroup, GroupID: "a.b", URL: "/Group/a.b/$export"}},
		{
			"Query",
			"GET /fhir/Patient/$export?_type=Observation,Patient,Observation&_since=2020-01-01T00:00:00%2B02:00&_until=2021-01-01T00:00:00Z&_elements=id,Patient.name,id" +
				"&_typeFilter=Observation%3Fcode%3Da%252Cb%26status%3Dfinal,Observation%3Fdate%3Dge2020-01-01T00:00:00%2B02:00&includeAssociatedData=LatestProvenanceResources&_outputFormat=ndjson\n" + kickOffHeaders,
			jobs.Request{
				Level: jobs.LevelPatient, OutputFormat: "ndjson", Types: []string{"Observation", "Patient"},
				Since: at("2019-12-31T22:00:00Z"), Until: at("2021-01-01T00:00:00Z"),
				Elements: []jobs.Element{{Name: "id"}, {Type: "Patient", Name: "name"}},
				TypeFilters: []jobs.TypeFilter{
					{Type: "Observation", Query: "code=a%2Cb&status=final"},
					{Type: "Observation", Query: "date=ge2020-01-01T00%3A00%3A00%2B02%3A00"},
				},
				IncludeAssociatedData: []string{jobs.LatestProvenance},
				URL: "/Patient/$export?_type=Observation,Patient,Observation&_since=2020-01-01T00:00:00%2B02:00&_until=2021-01-01T00:00:00Z&_elements=id,Patient.name,id" +
					"&_typeFilter=Observation%3Fcode%3Da%252Cb%26status%3Dfinal,Observation%3Fdate%3Dge2020-01-01T00:00:00%2B02:00&includeAssociatedData=LatestProvenanceResources&_outputFormat=ndjson",
			},
		},
		{
			"Body", asPost("/fhir/Group/1/$export", parametersOf("patient valueReference Patient/2", "patient valueReference BASE/Patient/3", "patient valueReference Patient/2", "_type valueCode Patient", "_type valueString Observation,Condition")),
			jobs.Request{Level: jobs.LevelGroup, GroupID: "1", Patients: []string{"2", "3"}, Types: []string{"Patient", "Observation", "Condition"}, URL: "/Group/1/$export"},
		},
		{
			"Mixed", "GET /fhir/Patient/$export?_type=Patient,Organization\n" + kickOffHeaders,
			jobs.Request{
				Level: jobs.LevelPatient, Types: []string{"Patient", "Organization"}, URL: "/Patient/$export?_type=Patient,Organization",
				Notes: []jobs.Note{warning("_type: Organization is not exported, since it does not belong to the patient compartment; ask for it at the system level")},
			},
		},
		{
			"Lenient", "GET /fhir/$export?_type=Patient,Basic&organizeOutputBy=Patient&_typeFilter=Patient%3Fstatus%3Dactive%26gender%3Dfemale&x=y\nAccept: application/fhir+json\nPrefer: respond-async\nPrefer: handling=\"lenient\"",
			jobs.Request{
				Level: jobs.LevelSystem, Types: []string{"Patient"}, Lenient: true, TypeFilters: []jobs.TypeFilter{{Type: "Patient", Query: "gender=female"}},
				URL: "/$export?_type=Patient,Basic&organizeOutputBy=Patient&_typeFilter=Patient%3Fstatus%3Dactive%26gender%3Dfemale&x=y",
				Notes: []jobs.Note{
					warning("organizeOutputBy: this parameter is not supported; supported are _outputFormat, _since, _until, _type, _typeFilter, _elements, patient and includeAssociatedData"),
					warning("x: this parameter is unknown; supported are _outputFormat, _since, _until, _type, _typeFilter, _elements, patient and includeAssociatedData"),
					warning("_type: Basic is not exported, since the upstream FHIR server does not offer it"),
					warning(`_typeFilter: the upstream FHIR server offers no search parameter "status" for Patient`),
				},
			},
		},
		{
			"NothingOfAFilterLeft", "GET /fhir/$export?_typeFilter=Patient%3Fstatus%3Dactive&_typeFilter=Patient%3Fgender%3Dfemale\nAccept: application/fhir+json\nPrefer: respond-async,handling=lenient",
			jobs.Request{
				Level: jobs.LevelSystem, Lenient: true, URL: "/$export?_typeFilter=Patient%3Fstatus%3Dactive&_typeFilter=Patient%3Fgender%3Dfemale",
				Notes: []jobs.Note{warning(`_typeFilter: the upstream FHIR server offers no search parameter "status" for Patient`)},
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, nil)
			r := w.send(t, strings.ReplaceAll(c.request, "BASE", w.base))
			if r.StatusCode != 202 {
				t.Fatalf("%s: %s", r.Status, r.body)
			}
			created, err := w.store.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got := created[0]
			if !got.CreatedAt.Equal(w.clock.Now()) || got.State != jobs.Queued || got.Owner != "" {
				t.Errorf("%+v", got)
			}
			c.want.URL = w.base + c.want.URL
			if diff := cmp.Diff(c.want, got.Request); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestKickOffOutcomes(t *testing.T) {
	w := newWorld(t, nil)
	for name, target := range map[string]string{
		"accepted.json":          "/fhir/$export",
		"unknown-type.json":      "/fhir/$export?_type=MissingType",
		"unknown-parameter.json": "/fhir/$export?_Type=Patient",
		"no-export-here.json":    "/fhir/Observation/$export",
	} {
		golden(t, name, indented(t, w.send(t, "GET "+target+"\n"+kickOffHeaders).body))
	}
}

func TestKickOffSwitches(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.RequireAccept, c.RequirePreferAsync = false, false })
	if r := w.send(t, "GET /fhir/$export"); r.StatusCode != 202 {
		t.Errorf("%s: %s", r.Status, r.body)
	}
}

func TestKickOffWhenSomethingIsAway(t *testing.T) {
	errAway := errors.New("connection refused")
	const plain = "GET /fhir/$export\n" + kickOffHeaders
	for _, c := range []struct {
		name    string
		change  func(*Config)
		request string
		status  int
		issue   fhir.IssueCode
		retry   string
	}{
		{"ErrStorageFull", func(c *Config) { c.Storage = brokenStorage{err: fmt.Errorf("%w: 5 MB", storage.ErrFull)} }, plain, 503, "no-store", "120"},
		{"ErrStorageBroken", func(c *Config) { c.Storage = brokenStorage{err: errAway} }, plain, 503, "transient", "10"},
		{"ErrStorageSlow", func(c *Config) { c.Storage = brokenStorage{slow: 4 * time.Second} }, plain, 503, "transient", "10"},
		{"ErrStoreAway", func(c *Config) { c.Jobs = brokenJobs{} }, plain, 503, "transient", "5"},
		{"ErrStoreHangs", func(c *Config) { c.Jobs = brokenJobs{hang: true} }, plain, 503, "transient", "5"},
		{"ErrUpstreamAway", func(c *Config) {
			c.Capabilities = func(context.Context) (*fhir.Capabilities, error) { return nil, errAway }
		}, "GET /fhir/$export?_type=Patient\n" + kickOffHeaders, 503, "transient", "10"},
		{"OKUpstreamNotNeeded", func(c *Config) {
			c.Capabilities = func(context.Context) (*fhir.Capabilities, error) { return nil, errAway }
		}, plain, 202, "informational", ""},
		{"OKNoStatement", func(c *Config) { c.Capabilities = nil }, "GET /fhir/$export?_type=Basic\n" + kickOffHeaders, 202, "informational", ""},
		{"ErrStatusStoreAway", func(c *Config) { c.Jobs = brokenJobs{} }, "GET /fhir/$bulk-status/aaaaaaaaaaaaaaaaaaaaaaaaaa", 503, "transient", "5"},
		{"ErrDeleteStoreAway", func(c *Config) { c.Jobs = brokenJobs{} }, "DELETE /fhir/$bulk-status/aaaaaaaaaaaaaaaaaaaaaaaaaa", 503, "transient", "5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.change)
			start := time.Now()
			r := w.send(t, c.request)
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("took %s", took)
			}
			if issue := r.issue(t); r.StatusCode != c.status || issue.Code != c.issue || r.Header.Get("Retry-After") != c.retry {
				t.Errorf("%s, Retry-After %q, %+v", r.Status, r.Header.Get("Retry-After"), issue)
			}
			if r := w.send(t, "GET /fhir/Patient/1"); r.StatusCode != 200 {
				t.Errorf("pass-through: %s", r.Status)
			}
			if strings.Contains(string(r.body), errAway.Error()) {
				t.Error("the cause was told to the client")
			}
			if c.status == 503 && strings.Count(w.logged(), "request failed") != 1 {
				t.Errorf("the log does not have the failure once:\n%s", w.log)
			}
		})
	}
}

func TestLargeBodyIsNotWaitedFor(t *testing.T) {
	w := newWorld(t, nil)
	r := w.send(t, "POST /fhir/$export\n"+kickOffHeaders+"\nContent-Type: application/json\nContent-Length: 99999999\n\n")
	if r.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("%s: %s", r.Status, r.body)
	}
}
