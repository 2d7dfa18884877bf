package export_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway/jobs"
	"spillway/test/fakefhir"
	"spillway/upstream/profile"
)

// TestDialectsAreKnown asks each server that can be played for its statement.
func TestDialectsAreKnown(t *testing.T) {
	if want := slices.DeleteFunc(profile.Names(), func(n string) bool { return n == profile.Generic }); !slices.Equal(fakefhir.Dialects(), want) {
		t.Errorf("dialects %q, profiles %q", fakefhir.Dialects(), want)
	}
	for _, name := range fakefhir.Dialects() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, settings{server: fakefhir.Options{Like: name}})
			facts, err := w.client.Learn(t.Context())
			must(t, err)
			if facts.Profile.Name != name || !strings.Contains(facts.ProfileBy, " says ") {
				t.Errorf("taken for %s, because %s", facts.Profile.Name, facts.ProfileBy)
			}
			if facts.ProbeType == "" && !facts.Profile.Patients.Required {
				t.Errorf("nothing was probed: %q", facts.Problems)
			}
			if len(facts.Overruled) > 0 {
				t.Errorf("the probes found otherwise: %q", facts.Overruled)
			}
		})
	}
}

// everybody are the patients of smallSet.
var everybody = []string{"patient-1", "patient-2", "patient-3", "patient-4", "patient-5", "patient-6"}

// TestDialectsAreExactOrReported exports each server and compares with what it
// holds. What is missing must be of a type that an issue of severity error
// names.
func TestDialectsAreExactOrReported(t *testing.T) {
	member := jobs.Request{Level: jobs.LevelGroup, GroupID: "group-all"}
	// Types that belong to no patient.
	outside := []string{"Device", "Location", "Medication", "Organization", "Practitioner", "PractitionerRole"}
	alone := "resources of this type belong to none"
	strays := "Those that belong to none of these are not in this export"
	since := time.Date(2025, 1, 6, 8, 2, 0, 0, time.UTC)
	ofMembers := []string{"gives no usable counts", "cannot search by _lastUpdated", "what belongs to one by that alone is missing", "offers no history of changes"}
	withRequired := append([]string{"Condition: the upstream wants one of", "Observation: the upstream wants one of"}, ofMembers...)
	for _, tt := range []struct {
		name    string
		like    string
		profile string // YAML; "": by its statement
		server  fakefhir.Options
		settings
		request jobs.Request
		// incomplete are the types of which something is missing. issues are parts
		// of those that there must be; there may be no others.
		incomplete, issues []string
		failed             string // what the failure says
	}{
		{name: "hapi", like: "hapi"},
		{name: "microsoft", like: "microsoft"},
		{name: "google", like: "google"},
		{name: "google, large windows", like: "google", settings: settings{window: 1 << 20}},
		{name: "firely", like: "firely", settings: settings{pageSize: 1000, window: 1 << 20}},
		{name: "blaze", like: "blaze"},
		{name: "linuxforhealth", like: "linuxforhealth"},
		{name: "medplum", like: "medplum"},
		{
			name: "medplum, larger than its offsets", like: "medplum", settings: settings{window: 1 << 20},
			server: fakefhir.Options{OffsetMax: 300}, profile: "like: medplum\npaging: {chain_max: 300}",
		},
		{name: "medplum, larger than we know", like: "medplum", settings: settings{window: 1 << 20}, server: fakefhir.Options{OffsetMax: 300}},
		{
			name: "medplum, a transaction larger than its offsets", like: "medplum", server: fakefhir.Options{OffsetMax: 150},
			incomplete: []string{"Observation"}, issues: []string{"error: Observation: the upstream counts "},
		},

		{name: "cerner, everything", like: "cerner", failed: "Export a Group (Group/[id]/$export) or name patients"},
		{name: "epic, everything", like: "epic", failed: "Export a Group (Group/[id]/$export) or name patients"},
		{name: "epic, all patients", like: "epic", request: jobs.Request{Level: jobs.LevelPatient}, failed: "its patients cannot be listed"},
		{name: "cerner, a group", like: "cerner", request: member, incomplete: []string{}, issues: ofMembers},
		{
			name: "epic, a group", like: "epic", request: member, incomplete: []string{"Claim"},
			issues: append([]string{"error: Claim: searches by patient were refused"}, withRequired...),
		},
		{
			name: "epic, everything of a group that the profile names", like: "epic", profile: "like: epic\npatients: {group: group-all}",
			incomplete: append([]string{"Claim", "Group", "Observation", "Provenance"}, outside...),
			issues:     append([]string{"error: Claim", alone, "Group could not be exported", strays}, withRequired...),
		},
		{
			name: "epic, what is known to be whole", like: "epic", request: member, incomplete: []string{"Claim"},
			profile: "like: epic\ntypes: {Observation: {with: [category=vital-signs, category=laboratory, category=social-history], exhaustive: true}}",
			issues:  append([]string{"error: Claim", "Condition: the upstream wants one of"}, ofMembers...),
		},
		{
			name: "epic, with a filter that has what is required", like: "epic", incomplete: []string{},
			request: jobs.Request{
				Level: jobs.LevelGroup, GroupID: "group-all", Types: []string{"Observation"},
				TypeFilters: []jobs.TypeFilter{{Type: "Observation", Query: "category=laboratory,vital-signs,social-history"}},
			},
			issues: ofMembers,
		},
		{
			name: "by patient, and patients can be listed", like: "hapi", profile: "patients: {required: true}",
			incomplete: append([]string{"Group", "Observation", "Provenance"}, outside...),
			issues:     []string{alone, "Group could not be exported", strays, "what belongs to one by that alone is missing", "offers no history"},
		},
		{
			name: "one type by patient, and patients can be listed", like: "blaze", profile: "types: {Encounter: {search: patient}}",
			issues: []string{"Encounter: the upstream finds them by patient only"},
		},
		{
			name: "whole types with required parameters", like: "linuxforhealth",
			profile: "types: {Observation: {with: ['status=final', 'status:not=final'], exhaustive: true}}",
		},
		{
			name: "whole types with required parameters, not all of it", like: "linuxforhealth", incomplete: []string{"Observation"},
			profile: "types: {Observation: {with: [category=laboratory, category=vital-signs]}}",
			issues:  []string{"error: Observation: the upstream wants one of certain parameters"},
		},
		{
			name: "types that must not be searched", like: "hapi", incomplete: []string{"Claim", "Device"},
			profile: "types: {Claim: {search: none, why: 'it takes hours'}, Device: {search: none, why: 'it takes hours'}}",
			issues:  []string{"error: Claim, Device could not be exported: it takes hours."},
		},
		{name: "cerner, and patients cannot be listed after all", like: "cerner", profile: "like: cerner\npatients: {listing: works}", failed: "could not be listed"},
		{
			name: "cerner, since", like: "cerner", request: jobs.Request{Level: jobs.LevelGroup, GroupID: "group-all", Since: since},
			issues: append([]string{"cannot list what was deleted", "of its members joined after _since"}, ofMembers...),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.settings.server = tt.server
			tt.settings.server.Like = tt.like
			if tt.profile != "" {
				var err error
				tt.settings.profile, err = profile.Parse("test", []byte(tt.profile))
				must(t, err)
			}
			w := newWorld(t, tt.settings)
			job := w.run(t, tt.request)
			if tt.failed != "" {
				if job.State != jobs.Failed || !strings.Contains(job.Failure, tt.failed) {
					t.Errorf("job is %s: %s", job.State, job.Failure)
				}
				return
			}
			want := w.truth(t)
			if tt.request.Level == jobs.LevelGroup {
				inside := w.srv.CompartmentTruth(everybody...)
				want = only(want, func(typ, id string, _ []byte) bool {
					_, ok := inside[typ][id]
					return ok && typ != "Group" || typ == "Group" && id == tt.request.GroupID
				})
			}
			want = only(want, func(typ, id string, _ []byte) bool {
				return (len(tt.request.Types) == 0 || slices.Contains(tt.request.Types, typ)) &&
					!w.srv.All(typ)[id].LastUpdated.Before(tt.request.Since)
			})
			got, issues := w.exported(t, job), w.issues(t, job)
			for _, typ := range missing(t, got, want) {
				if !slices.Contains(tt.incomplete, typ) {
					t.Errorf("%s is incomplete", typ)
				}
				if !slices.ContainsFunc(issues, func(s string) bool { return strings.HasPrefix(s, "error: ") && strings.Contains(s, typ) }) {
					t.Errorf("%s is incomplete, and no issue says so", typ)
				}
			}
			for _, issue := range issues {
				if !slices.ContainsFunc(tt.issues, func(s string) bool { return strings.Contains(issue, s) }) {
					t.Errorf("%s", issue)
				}
			}
			for _, part := range tt.issues {
				if !anyContains(issues, part) {
					t.Errorf("no issue says %q", part)
				}
			}
			if t.Failed() {
				t.Log("issues:\n" + strings.Join(issues, "\n"))
			}
		})
	}
}

// missing returns the types of which got lacks something. What got has must be
// in want.
func missing(t *testing.T, got, want map[string]map[string][]byte) []string {
	t.Helper()
	lacking := make(map[string]bool)
	for typ, resources := range want {
		for id := range resources {
			if got[typ][id] == nil {
				lacking[typ] = true
			}
		}
	}
	kept := only(want, func(typ, id string, _ []byte) bool { return got[typ][id] != nil })
	if d := differences(got, kept); len(d) > 0 {
		t.Errorf("%s", fmt.Sprint(strings.Join(d, "\n")))
	}
	return slices.Sorted(maps.Keys(lacking))
}

// TestManyPatientsByAddressesOfLimitedLength exports a Group of 150 patients of
// a server that is searched by patient and takes no POST: each search names as
// many patients as its address may hold, and one at a server that wants that.
func TestManyPatientsByAddressesOfLimitedLength(t *testing.T) {
	for _, tt := range []struct {
		like, profile string
		most          int // requests of Encounter
		longest       int // of an address, in bytes
	}{
		{"cerner", "like: cerner", 10, 2000},
		{"cerner", "like: cerner\nurl_max: 1000", 20, 1000},
		{"cerner", "like: cerner\npatients: {per_search: 1}", 150, 300},
		{"firely", "like: firely\npatients: {required: true, parameter: patient}", 10, 2000},
	} {
		p, err := profile.Parse("test", []byte(tt.profile))
		must(t, err)
		w := newWorld(t, settings{profile: p, server: fakefhir.Options{
			Like: tt.like, Dataset: fakefhir.GenerateBrief(fakefhir.BriefOptions{Patients: 200, Members: 150}),
		}})
		types := []string{"Encounter", "Observation", "Patient"}
		got := w.exported(t, w.run(t, jobs.Request{Level: jobs.LevelGroup, GroupID: "brief", Types: types}))
		members := make(map[string]bool)
		for i := range 150 {
			members[fakefhir.BriefID(i*200/150)] = true
		}
		want := w.cohortTruth(t, func(id string) bool { return members[id] })
		same(t, got, only(want, func(typ, _ string, _ []byte) bool { return slices.Contains(types, typ) }))
		requests, longest := 0, 0
		for _, r := range w.srv.Log() {
			if r.Type == "Encounter" && r.Kind == fakefhir.KindSearch {
				requests++
				longest = max(longest, len(r.Path)+1+len(r.Query))
			}
		}
		if requests > tt.most || longest > tt.longest || requests < tt.most/3 {
			t.Errorf("%q: %d searches of Encounter, the longest with %d bytes", tt.profile, requests, longest)
		}
	}
}

// TestSettleOfTheProfile looks at when pages are read.
func TestSettleOfTheProfile(t *testing.T) {
	const settle = 400 * time.Millisecond
	p, err := profile.Parse("test", []byte("settle: 400ms"))
	must(t, err)
	w := newWorld(t, settings{profile: p, settleByProfile: true, server: fakefhir.Options{NoDirect: true}})
	job := w.run(t, jobs.Request{Types: []string{"Observation"}})
	pages := 0
	for _, r := range w.srv.Log() {
		if r.Kind != fakefhir.KindNext || !slices.Equal(r.Params["_count"], []string{"40"}) { // 1: the probes
			continue
		}
		if pages++; r.Time.Before(job.CreatedAt.Add(settle)) {
			t.Errorf("a page was read %v after the kick-off", r.Time.Sub(job.CreatedAt))
		}
	}
	if pages == 0 {
		t.Error("no page was read")
	}
}
