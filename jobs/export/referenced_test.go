package export_test

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway/jobs"
	"spillway/jobs/export"
	"spillway/test/fakefhir"
)

var anyReference = regexp.MustCompile(`"reference":"([A-Za-z]+)/([^"/]+)"`)

// withReferenced adds to what belongs to a cohort what belongs to that: the
// Provenance about it and, of some types, what it refers to.
func withReferenced(all, cohort map[string]map[string][]byte, types []string) map[string]map[string][]byte {
	want := make(map[string]map[string][]byte)
	var add func(typ, id string)
	add = func(typ, id string) {
		r := all[typ][id]
		if r == nil || want[typ][id] != nil {
			return
		}
		if want[typ] == nil {
			want[typ] = make(map[string][]byte)
		}
		want[typ][id] = r
		for _, m := range anyReference.FindAllSubmatch(r, -1) {
			if to := string(m[1]); to != "Provenance" && slices.Contains(types, to) {
				add(to, string(m[2]))
			}
		}
	}
	for typ, resources := range cohort {
		for id := range resources {
			add(typ, id)
		}
	}
	if slices.Contains(types, "Provenance") {
		for id, r := range all["Provenance"] {
			target := anyReference.FindSubmatch(r)
			if cohort[string(target[1])][string(target[2])] != nil {
				add("Provenance", id)
			}
		}
	}
	return want
}

// TestReferenced exports Groups with what belongs to their data.
func TestReferenced(t *testing.T) {
	data := fakefhir.GenerateBrief(fakefhir.BriefOptions{Patients: 1200, Members: 1})
	for _, test := range []struct {
		name       string
		members    int
		referenced []string
		request    jobs.Request
		noPost     bool
	}{
		{name: "OKFew", members: 3, referenced: export.ReferencedTypes()},
		{name: "OKMany", members: 700, referenced: export.ReferencedTypes()},
		{name: "OKNoPost", members: 60, referenced: export.ReferencedTypes(), noPost: true},
		{name: "OKSome", members: 30, referenced: []string{"PractitionerRole", "Provenance"}},
		{name: "OKNone", members: 30},
		{name: "OKTypes", members: 30, referenced: export.ReferencedTypes(), request: jobs.Request{Types: []string{"Patient", "Observation", "Encounter", "MedicationRequest", "Practitioner", "Location"}}},
		{name: "OKAllPatients", members: 1200, referenced: export.ReferencedTypes(), request: jobs.Request{
			Level: jobs.LevelPatient, Types: append([]string{"Organization", "PractitionerRole"}, cohortTypes...),
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, settings{server: fakefhir.Options{Dataset: data, NoPostSearch: test.noPost}, window: 150, pageSize: 70, referenced: test.referenced})
			w.group(t, "g", test.members)
			r := test.request
			if r.Level == "" {
				r.Level, r.GroupID = jobs.LevelGroup, "g"
			}
			job := w.run(t, r)
			all := w.truth(t)
			types := test.referenced
			if len(r.Types) > 0 {
				types = r.Types
			}
			want := withReferenced(all, w.cohortTruth(t, func(id string) bool { return id < fakefhir.BriefID(test.members) }), types)
			if len(r.Types) == 0 {
				want["Group"] = map[string][]byte{"g": all["Group"]["g"]}
			}
			same(t, w.exported(t, job), want)
			if issues := w.issues(t, job); len(issues) > 0 {
				t.Errorf("issues: %q", issues)
			}
			for _, e := range job.Evidence {
				if !e.Proven || e.Exported != int64(len(want[e.Type])) {
					t.Errorf("evidence: %+v, want %d", e, len(want[e.Type]))
				}
			}
		})
	}
}

// TestKindsOfReferences exports what refers to others in all the ways that the
// standard knows.
func TestKindsOfReferences(t *testing.T) {
	w := newWorld(t, settings{server: fakefhir.Options{Dataset: fakefhir.GenerateBrief(fakefhir.BriefOptions{Patients: 2, Members: 1})}, referenced: export.ReferencedTypes()})
	base := w.base
	put := func(typ, id, more string) {
		_, err := w.srv.Put(typ, id, []byte(`{"resourceType":"`+typ+`","id":"`+id+`"`+more+`}`))
		must(t, err)
	}
	for i := range 5 {
		put("Practitioner", fmt.Sprintf("r%d", i), "")
	}
	put("Patient", "x", "")
	put("Observation", "refers", `,"subject":{"reference":"Patient/x"},"contained":[{"resourceType":"PractitionerRole","id":"c","practitioner":{"reference":"Practitioner/r0"}}],
		"performer":[{"reference":"#c"},{"reference":"Practitioner/r1/_history/1"},{"reference":"`+base+`/Practitioner/r2"},{"reference":"`+base+`/Practitioner/r3/_history/7"},
		{"reference":"https://elsewhere.example.org/fhir/Practitioner/r4"},{"reference":"urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0"},{"reference":"Practitioner?identifier=a%7Cb"},
		{"reference":"Practitioner/nobody"},{"reference":"Organization/none"},{"identifier":{"value":"17"}},{"reference":"Device/d"}]`)
	w.group(t, "g", 0, `{"entity":{"reference":"Patient/x"}}`)
	job := w.run(t, jobs.Request{Level: jobs.LevelGroup, GroupID: "g", Types: []string{"Observation", "Practitioner", "Organization"}})
	got := w.exported(t, job)
	if ids := slices.Sorted(maps.Keys(got["Practitioner"])); !slices.Equal(ids, []string{"doc-99", "r0", "r1", "r2", "r3"}) && !slices.Equal(ids, []string{"r0", "r1", "r2", "r3"}) {
		t.Errorf("practitioners: %q", ids)
	}
	issues := w.issues(t, job)
	for _, want := range []string{
		"Practitioner: 1 resources that exported ones refer to were not found on the upstream: nobody.",
		"Organization: 1 resources that exported ones refer to were not found on the upstream: none.",
		"3 references of exported resources could not be followed",
	} {
		if !anyContains(issues, want) {
			t.Errorf("issues: %q, want %s", issues, want)
		}
	}
	if anyContains(issues, "error:") {
		t.Errorf("issues: %q", issues)
	}
}

// TestReferencedUnderFire changes, deletes and makes what is referred to, and
// Provenance, after the transaction time.
func TestReferencedUnderFire(t *testing.T) {
	for _, members := range []int{4, 500} {
		t.Run(fmt.Sprint(members), func(t *testing.T) {
			w := newWorld(t, settings{server: fakefhir.Options{Dataset: fakefhir.GenerateBrief(fakefhir.BriefOptions{Patients: 600, Members: 1})}, window: 100, pageSize: 50, referenced: export.ReferencedTypes()})
			w.group(t, "g", members)
			var want map[string]map[string][]byte
			w.before(jobs.UnitSlice, func() {
				all := w.truth(t)
				want = withReferenced(all, w.cohortTruth(t, func(id string) bool { return id < fakefhir.BriefID(members) }), export.ReferencedTypes())
				want["Group"] = map[string][]byte{"g": all["Group"]["g"]}
				time.Sleep(2 * time.Millisecond) // past the transaction time
				put := func(typ, id, more string) {
					_, err := w.srv.Put(typ, id, []byte(`{"resourceType":"`+typ+`","id":"`+id+`"`+more+`}`))
					must(t, err)
				}
				// An Observation moves away with what it refers to; the tail brings it back.
				put("Observation", "o"+fakefhir.BriefID(0), `,"subject":{"reference":"Patient/`+fakefhir.BriefID(599)+`"}`)
				put("Practitioner", "doc-99", `,"active":false`)
				w.srv.Delete("Organization", "org-0")
				w.srv.Delete("Organization", "org-1")
				put("Organization", "org-1", "")
				put("Location", "loc-0", `,"managingOrganization":{"reference":"Organization/org-49"}`)
				put("Provenance", "v"+fakefhir.BriefID(0), `,"target":[{"reference":"Observation/o`+fakefhir.BriefID(599)+`"}]`)
				put("Provenance", "fresh", `,"target":[{"reference":"Observation/o`+fakefhir.BriefID(0)+`"}]`)
			})
			job := w.run(t, jobs.Request{Level: jobs.LevelGroup, GroupID: "g"})
			same(t, w.exported(t, job), want)
			if issues := w.issues(t, job); len(issues) > 0 {
				t.Errorf("issues: %q", issues)
			}
			for _, e := range job.Evidence {
				if !e.Proven || e.Exported != int64(len(want[e.Type])) {
					t.Errorf("evidence: %+v, want %d", e, len(want[e.Type]))
				}
			}
		})
	}
}

// TestReferencedSince exports what changed, with all that it refers to, however
// old that is.
func TestReferencedSince(t *testing.T) {
	w := newWorld(t, settings{server: fakefhir.Options{Dataset: fakefhir.GenerateBrief(fakefhir.BriefOptions{Patients: 40, Members: 1})}, referenced: export.ReferencedTypes()})
	w.group(t, "g", 20)
	time.Sleep(2 * time.Millisecond)
	since := w.srv.Now()
	_, err := w.srv.Put("Observation", "new", observation("new", `,"subject":{"reference":"Patient/`+fakefhir.BriefID(1)+`"},"performer":[{"reference":"Practitioner/doc-70"}]`))
	must(t, err)
	for id, target := range map[string]string{"about-new": "Observation/new", "about-patient": "Patient/" + fakefhir.BriefID(2), "about-other": "Patient/" + fakefhir.BriefID(30),
		"about-old": "Observation/o" + fakefhir.BriefID(3), "about-older-of-other": "Observation/o" + fakefhir.BriefID(31)} {
		_, err := w.srv.Put("Provenance", id, []byte(`{"resourceType":"Provenance","id":"`+id+`","target":[{"reference":"`+target+`"}]}`))
		must(t, err)
	}
	job := w.run(t, jobs.Request{Level: jobs.LevelGroup, GroupID: "g", Since: since})
	var got []string
	for typ, resources := range w.exported(t, job) {
		for id := range resources {
			got = append(got, typ+"/"+id)
		}
	}
	slices.Sort(got)
	if want := "Observation/new Practitioner/doc-70 Provenance/about-new Provenance/about-old Provenance/about-patient"; strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s\nissues %q", got, want, w.issues(t, job))
	}
}

// TestReferencedIgnoredIds plays a server that ignores _id: nothing is handed out.
func TestReferencedIgnoredIds(t *testing.T) {
	w := newWorld(t, settings{server: fakefhir.Options{Dataset: fakefhir.GenerateBrief(fakefhir.BriefOptions{Patients: 400, Members: 1})}, referenced: []string{"Medication"}})
	_, err := w.client.Learn(t.Context())
	must(t, err)
	w.srv.Script(fakefhir.Fault{Match: fakefhir.Match{Type: "Medication"}, Do: fakefhir.Do{IgnoreParams: []string{"_id"}}})
	w.group(t, "g", 1)
	job := w.run(t, jobs.Request{Level: jobs.LevelGroup, GroupID: "g"})
	if job.State != jobs.Failed || !strings.Contains(job.Failure, "ignores the parameter _id") {
		t.Errorf("job is %s: %q", job.State, job.Failure)
	}
}
