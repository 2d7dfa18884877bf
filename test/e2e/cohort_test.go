//go:build e2e

package e2e

import (
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// cohort returns the patients that seed put into the group, and two that it
// put there as no current members.
func cohort(t *testing.T, base string) (members, former []string) {
	t.Helper()
	ids, err := firstPatients(base, 7)
	if err != nil {
		t.Fatal(err)
	}
	return ids[:4], ids[4:6]
}

// mustKnowAllTypes guards the oracle: a type of which it does not know how it
// belongs to patients would look as if nothing of it had been asked for.
func mustKnowAllTypes(t *testing.T, held world) {
	t.Helper()
	for typ := range held {
		if patientPaths[typ] == nil && !outside[typ] && typ != "Patient" {
			t.Fatalf("compartment_test.go does not say how %s belongs to patients", typ)
		}
	}
}

func TestPatientExport(t *testing.T) {
	base, held := server.ready(t)
	mustKnowAllTypes(t, held)
	g := serve(t, settings{upstream: base})
	members, _ := cohort(t, base)
	some := members[:2]

	t.Run("all patients", func(t *testing.T) {
		e := collect(t, g.kickOff(t, "/Patient/$export", nil))
		e.mustEqual(t, held.compartments())
	})
	t.Run("some patients by POST", func(t *testing.T) {
		var pairs [][2]string
		for _, id := range some {
			pairs = append(pairs, [2]string{"patient valueReference", `{"reference":"Patient/` + id + `"}`})
		}
		r := ask(t, http.MethodPost, g.base+"/Patient/$export", parameters(pairs...), "Content-Type: application/json", acceptFHIR, respondAsync).
			mustBe(t, http.StatusAccepted)
		want := held.compartments(some...)
		delete(want, "Group") // it names other patients
		collect(t, g.statusURL(t, r)).mustEqual(t, want)
	})
	t.Run("some patients by the command", func(t *testing.T) {
		r := export(t, "--upstream", base, "--patients", "--patient", some[0], "--patient", some[1])
		r.mustExit(t, 0)
		want := held.compartments(some...)
		delete(want, "Group")
		readFolder(t, r.dir).mustEqual(t, want)
	})
}

var literalReference = regexp.MustCompile(`"reference":"([A-Za-z]+)/([^"/]+)"`)

// withReferenced adds to some resources those of the types that a Group's export
// has for what they refer to, and the Provenance about them.
func (w world) withReferenced(some world) world {
	all := make(world)
	var add func(r resource)
	add = func(r resource) {
		if _, ok := all[r.Type][r.ID]; ok {
			return
		}
		all.add(r)
		for _, m := range literalReference.FindAllSubmatch(r.JSON, -1) {
			switch typ := string(m[1]); typ {
			case "Location", "Medication", "Organization", "Practitioner", "PractitionerRole":
				if to, ok := w[typ][string(m[2])]; ok {
					add(to)
				}
			}
		}
	}
	for _, byID := range some {
		for _, r := range byID {
			add(r)
		}
	}
	for _, r := range w["Provenance"] {
		var p struct{ Target []struct{ Reference string } }
		_ = json.Unmarshal(r.JSON, &p) // the server's own, which was read before
		for _, target := range p.Target {
			typ, id, _ := strings.Cut(target.Reference, "/")
			if _, ok := some[typ][id]; ok {
				add(r)
			}
		}
	}
	return all
}

func TestGroupExport(t *testing.T) {
	base, held := server.ready(t)
	mustKnowAllTypes(t, held)
	members, former := cohort(t, base)
	g := serve(t, settings{upstream: base})

	want := held.compartments(members...)
	want["Group"] = map[string]resource{cohortID: held["Group"][cohortID]}

	t.Run("GET", func(t *testing.T) {
		e := collect(t, g.kickOff(t, "/Group/"+cohortID+"/$export", nil))
		e.mustEqual(t, held.withReferenced(want))
		for _, id := range former {
			if _, ok := e.resources["Patient"][id]; ok {
				t.Errorf("Patient/%s is no current member", id)
			}
		}
	})
	t.Run("command with types", func(t *testing.T) {
		r := export(t, "--upstream", base, "--group", cohortID, "--type", "Patient,Encounter")
		r.mustExit(t, 0)
		readFolder(t, r.dir).mustEqual(t, want.of("Patient", "Encounter"))
	})
	t.Run("patient restricts the group", func(t *testing.T) {
		body := parameters([2]string{"patient valueReference", `{"reference":"Patient/` + members[1] + `"}`}, [2]string{"_type valueString", `"Patient"`})
		r := ask(t, http.MethodPost, g.base+"/Group/"+cohortID+"/$export", body, contentFHIR, acceptFHIR, respondAsync).mustBe(t, http.StatusAccepted)
		collect(t, g.statusURL(t, r)).mustEqual(t, held.where(func(r resource) bool { return r.Type == "Patient" && r.ID == members[1] }))
	})
	t.Run("provenance comes along", func(t *testing.T) {
		query := url.Values{"_type": {"Patient"}, "includeAssociatedData": {"LatestProvenanceResources"}}
		wanted := want.of("Patient")
		for _, id := range members {
			if newest, ok := newestProvenance(t, held, id); ok {
				wanted.add(newest)
			}
		}
		if len(wanted["Provenance"]) == 0 {
			t.Fatal("no member has a Provenance, so this would prove nothing")
		}
		collect(t, g.kickOff(t, "/Group/"+cohortID+"/$export", query)).mustEqual(t, wanted)
	})
	t.Run("a missing group", func(t *testing.T) {
		r := ask(t, http.MethodGet, g.base+"/Group/no-such-group/$export", "", acceptFHIR, respondAsync)
		if r.status == http.StatusAccepted {
			r = waitEnd(t, g.statusURL(t, r))
		}
		if r.status < 400 {
			t.Errorf("status %d, want a failure", r.status)
		}
		mustBeOutcome(t, r)
	})
}

// newestProvenance returns the Provenance of a patient that was recorded last.
func newestProvenance(t *testing.T, held world, patient string) (resource, bool) {
	t.Helper()
	var (
		newest resource
		at     time.Time
	)
	for _, r := range held["Provenance"] {
		var p struct{ Recorded time.Time }
		if err := json.Unmarshal(r.JSON, &p); err != nil {
			t.Fatal(err)
		}
		if slices.Contains(patientsOf(r), patient) && (newest.ID == "" || p.Recorded.After(at)) {
			newest, at = r, p.Recorded
		}
	}
	return newest, newest.ID != ""
}
