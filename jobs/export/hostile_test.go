package export_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway/gateway"
	"spillway/jobs"
	"spillway/test/fakefhir"
)

// The upstream's challenge to us, and what it says beside, are no matter of the
// client's.
func TestUpstreamChallengeIsNotShown(t *testing.T) {
	for _, status := range []int{401, 403} {
		w := newWorld(t, settings{})
		_, err := w.client.Learn(t.Context())
		must(t, err)
		w.srv.Script(fakefhir.Fault{Do: fakefhir.Do{Status: &fakefhir.Status{
			Code: status, Header: http.Header{"Www-Authenticate": {`Bearer realm="canary-realm"`}},
			Body: `{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"login","diagnostics":"canary-diagnostics"}]}`,
		}}})
		job := w.run(t, jobs.Request{Types: []string{"Patient"}})
		told := job.Failure + strings.Join(w.issues(t, job), " ")
		if job.State != jobs.Failed || told == "" || strings.Contains(told, "canary") {
			t.Errorf("%d: %s, %q", status, job.State, told)
		}
	}
}

// What the upstream says in its own words may be patient data.
func TestUpstreamDiagnosticsAreNotCopied(t *testing.T) {
	const canary = "canary-7c1b"
	outcome := json.RawMessage(`{"resourceType":"OperationOutcome","id":"` + canary + `","issue":[{"severity":"warning","code":"processing","diagnostics":"` + canary + `","details":{"text":"` + canary + `"}}]}`)
	w := newWorld(t, settings{})
	w.srv.Script(fakefhir.Fault{Match: fakefhir.Match{Kind: fakefhir.KindSearch}, Do: fakefhir.Do{AddEntry: &fakefhir.AddEntry{Mode: "outcome", Resource: outcome}}})
	job := w.run(t, jobs.Request{Types: []string{"Patient", "Encounter"}})
	same(t, w.exported(t, job), only(w.truth(t), func(typ, _ string, _ []byte) bool { return typ == "Patient" || typ == "Encounter" }))
	if issues := w.issues(t, job); !anyContains(issues, "added an OperationOutcome") {
		t.Errorf("issues: %q", issues)
	}
	w.nowhere(t, canary)
}

// TestFiltersStayInTheGroup: whatever filter the gateway takes for a Group, each
// resource of the export belongs to a member.
func TestFiltersStayInTheGroup(t *testing.T) {
	w := newWorld(t, settings{})
	capabilities, err := w.client.Capabilities(t.Context())
	must(t, err)
	members := []string{"patient-1", "patient-3", "patient-5"} // of group-few
	inside := make(map[string]map[string]bool)
	for typ, held := range w.srv.CompartmentTruth(members...) {
		inside[typ] = make(map[string]bool)
		for id := range held {
			inside[typ][id] = true
		}
	}
	inside["Group"] = map[string]bool{"group-few": true}
	taken, empty := 0, 0
	for _, filter := range []string{
		"Observation?status=final", "Observation?status:not=final", "Observation?code:missing=true", "Observation?category=laboratory,vital-signs",
		"Observation?code=x%26patient%3DPatient/patient-2", "Observation?code=x%2526subject%253DPatient/patient-2", "Observation?status=final,preliminary,amended",
		"Observation?patient=Patient/patient-2", "Observation?patient:missing=true", "Observation?subject:not=Patient/patient-1", "Observation?subject=Patient/patient-2", "Observation?performer=Practitioner/x",
		"Observation?_id=freezer-1-temperature", "Observation?encounter:missing=true", "Observation?_has:Group:member:_id=group-all", "Observation?subject.name=x", "Observation?patient:Patient.gender=female",
		"Patient?gender=female", "Patient?gender:not=female", "Patient?_id=patient-2", "Patient?link=Patient/patient-1", "Patient?_security:not=R",
		"Encounter?status=finished", "Encounter?class:not=IMP", "Group?type=person", "Group?member=Patient/patient-2", "Group?_id=group-all", "Device?status=active",
	} {
		for _, lenient := range []bool{false, true} {
			request, err := gateway.ParseRequest(jobs.LevelGroup, "group-few", url.Values{"_typeFilter": {filter}}, lenient, capabilities, nil, time.Now())
			if err != nil {
				continue
			}
			typ, _, _ := strings.Cut(filter, "?")
			request.Types = []string{typ}
			job := w.run(t, request)
			if job.State != jobs.Completed {
				continue // such as a parameter that the upstream refuses: nothing was handed out
			}
			taken++
			if len(w.exported(t, job)[typ]) == 0 {
				empty++
			}
			for typ, held := range w.exported(t, job) {
				for id := range held {
					if !inside[typ][id] {
						t.Errorf("%s: %s/%s belongs to no member", filter, typ, id)
					}
				}
			}
		}
	}
	if taken < 10 || taken-empty < 5 {
		t.Errorf("%d exports, %d of them empty: this proves nothing", taken, empty)
	}
}

// What _elements leaves out is looked at before: it cannot hide whose a
// resource is, or that it may not be read.
func TestElementsHideNothing(t *testing.T) {
	w := newWorld(t, settings{})
	w.srv.Script(fakefhir.Fault{Match: fakefhir.Match{Type: "Observation"}, Do: fakefhir.Do{IgnoreParams: []string{"subject", "patient", "performer"}}})
	request := jobs.Request{Level: jobs.LevelPatient, Types: []string{"Observation"}, Patients: []string{"patient-1"}, Elements: []jobs.Element{{Name: "id"}}}
	if job := w.run(t, request); job.State != jobs.Failed || !strings.Contains(job.Failure, "ignores the patient filter") {
		t.Errorf("%s: %q", job.State, job.Failure)
	}
	w.srv.Reset()
	w.put(t, "Observation", "canary", canary)
	w.srv.Script(fakefhir.Fault{Match: fakefhir.Match{Type: "Observation"}, Do: fakefhir.Do{IgnoreParams: []string{"category"}}})
	request = jobs.Request{Types: []string{"Observation"}, Elements: []jobs.Element{{Name: "id"}}}
	job := w.runAllowed(t, request, w.allow(t, request, false, "system/Observation.rs?category=laboratory"))
	got := w.exported(t, job)["Observation"]
	want := only(w.truth(t), inCategory(nil, "laboratory"))["Observation"]
	if len(got) != len(want) || got["canary"] != nil {
		t.Errorf("%d Observations, want %d", len(got), len(want))
	}
	for _, line := range got {
		if strings.Contains(string(line), `"category"`) {
			t.Fatalf("not cut down: %s", line)
		}
	}
}

// What resources link to and carry is neither followed nor fetched.
func TestAttachmentsAreNotFetched(t *testing.T) {
	asked := make(chan string, 100)
	stranger := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.Path }))
	defer stranger.Close()
	address := stranger.URL
	w := newWorld(t, settings{})
	_, err := w.srv.Put("DocumentReference", "linked", []byte(`{"resourceType":"DocumentReference","id":"linked","status":"current","subject":{"reference":"`+address+`/Patient/1"},`+
		`"content":[{"attachment":{"url":"`+address+`/secret.pdf"}}]}`))
	must(t, err)
	job := w.run(t, jobs.Request{Types: []string{"DocumentReference"}})
	if got := w.exported(t, job)["DocumentReference"]["linked"]; !strings.Contains(string(got), address+"/secret.pdf") {
		t.Errorf("exported %s", got)
	}
	select {
	case path := <-asked:
		t.Errorf("%s was fetched", path)
	default:
	}
	var types []string
	for _, r := range w.srv.Log() {
		if !slices.Contains(types, r.Type) {
			types = append(types, r.Type)
		}
	}
	if slices.Contains(types, "Binary") {
		t.Errorf("asked for %q", types)
	}
}
