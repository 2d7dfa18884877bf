package export_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway/jobs"
	"spillway/jobs/export"
	"spillway/test/fakefhir"
	"spillway/upstream/fhir"
)

// cohortTypes are what GenerateBrief makes of patients.
var cohortTypes = []string{"Patient", "Observation", "Encounter", "MedicationRequest"}

// cohortTruth is what the server holds of some patients, of cohortTypes.
func (w *world) cohortTruth(t *testing.T, member func(id string) bool) map[string]map[string][]byte {
	t.Helper()
	all := w.truth(t)
	for typ := range all {
		if !slices.Contains(cohortTypes, typ) {
			delete(all, typ)
		}
	}
	return only(all, func(typ, id string, r []byte) bool {
		if typ == "Patient" {
			return member(id)
		}
		found := false
		must(t, fhir.R4.PatientRefs(typ, r, func(_, id string) bool { found = found || member(id); return true }))
		return found
	})
}

// searches counts the searches of a type, without counts, and those that name patients.
func (w *world) searches(typ string) (all, byPatient int) {
	for _, r := range w.srv.Log() {
		if r.Type != typ || r.Kind != fakefhir.KindSearch {
			continue
		}
		all++
		for _, name := range []string{"_id", "subject", "patient", "performer"} {
			if len(r.Params[name]) > 0 {
				byPatient++
				break
			}
		}
	}
	return all, byPatient
}

// TestCohorts exports Groups, small and large, in every way, and looks at the
// way that was chosen.
func TestCohorts(t *testing.T) {
	const patients = 2000
	data := fakefhir.GenerateBrief(fakefhir.BriefOptions{Patients: patients, Members: 10})
	for _, test := range []struct {
		members int
		cohorts export.Cohorts
		noPost  bool
		batches bool // how Observations are read
	}{
		{members: 10, batches: true},
		{members: 10, cohorts: export.CohortsScan},
		{members: 10, noPost: true, batches: true},
		{members: 1000, cohorts: export.CohortsBatches, batches: true},
		{members: 1000, cohorts: export.CohortsScan},
		{members: 1900},
		{members: 1900, noPost: true},
		{members: 1900, cohorts: export.CohortsBatches, noPost: true, batches: true},
	} {
		t.Run(fmt.Sprintf("%dOf%d%s", test.members, patients, test.cohorts), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, settings{server: fakefhir.Options{Dataset: data, NoPostSearch: test.noPost}, window: 500, pageSize: 200, cohorts: test.cohorts})
			member := func(id string) bool {
				var k int
				_, err := fmt.Sscanf(id, "p-%d", &k)
				return err == nil && k < test.members
			}
			w.group(t, "g", test.members)
			job := w.run(t, jobs.Request{Level: jobs.LevelGroup, GroupID: "g", Types: cohortTypes})
			same(t, w.exported(t, job), w.cohortTruth(t, member))
			if issues := w.issues(t, job); len(issues) > 0 {
				t.Errorf("issues: %q", issues)
			}
			for _, e := range job.Evidence {
				if !e.Proven {
					t.Errorf("not proven: %+v", e)
				}
			}
			if all, byPatient := w.searches("Observation"); test.batches != (byPatient > 0) {
				t.Errorf("%d of %d searches of Observation name patients", byPatient, all)
			}
		})
	}
}

// group makes a Group of the first patients of GenerateBrief, some of them twice.
func (w *world) group(t *testing.T, id string, members int, more ...string) {
	t.Helper()
	var b strings.Builder
	for i := range members {
		fmt.Fprintf(&b, `{"entity":{"reference":"Patient/%s"}},`, fakefhir.BriefID(i))
	}
	for _, m := range more {
		b.WriteString(m + ",")
	}
	fmt.Fprintf(&b, `{"entity":{"reference":"Patient/%s"}}`, fakefhir.BriefID(0))
	_, err := w.srv.Put("Group", id, []byte(`{"resourceType":"Group","id":"`+id+`","type":"person","actual":true,"member":[`+b.String()+`]}`))
	must(t, err)
}

// TestCohortOfStrangers exports a Group with members that do not exist, that
// have no data, that were deleted, and that are no patients.
func TestCohortOfStrangers(t *testing.T) {
	for _, cohorts := range []export.Cohorts{export.CohortsBatches, export.CohortsScan} {
		t.Run(string(cohorts), func(t *testing.T) {
			w := newWorld(t, settings{server: fakefhir.Options{Dataset: fakefhir.GenerateBrief(fakefhir.BriefOptions{Patients: 40, Members: 1})}, cohorts: cohorts})
			_, err := w.srv.Put("Patient", "empty", []byte(`{"resourceType":"Patient","id":"empty"}`))
			must(t, err)
			_, err = w.srv.Put("Patient", "dead", []byte(`{"resourceType":"Patient","id":"dead"}`))
			must(t, err)
			w.srv.Delete("Patient", "dead")
			w.group(t, "g", 3, `{"entity":{"reference":"Patient/empty"}}`, `{"entity":{"reference":"Patient/nobody"}}`, `{"entity":{"reference":"Patient/dead"}}`,
				`{"entity":{"reference":"`+w.base+`/Patient/`+fakefhir.BriefID(20)+`"}}`, `{"entity":{"reference":"https://elsewhere.example.org/fhir/Patient/`+fakefhir.BriefID(21)+`"}}`,
				`{"entity":{"reference":"Device/d"}}`, `{"entity":{"identifier":{"value":"17"}}}`)
			job := w.run(t, jobs.Request{Level: jobs.LevelGroup, GroupID: "g", Types: cohortTypes})
			same(t, w.exported(t, job), w.cohortTruth(t, func(id string) bool {
				return id == "empty" || id == fakefhir.BriefID(20) || id == fakefhir.BriefID(0) || id == fakefhir.BriefID(1) || id == fakefhir.BriefID(2)
			}))
			issues := w.issues(t, job)
			if len(issues) != 3 || !anyContains(issues, "1 members are on other servers") || !anyContains(issues, "2 of the patients asked for were not found on the upstream: dead, nobody.") || !anyContains(issues, "2 members are not patients or groups") {
				t.Errorf("issues: %q", issues)
			}
		})
	}
}

// TestLateCommitsOfACohort makes writes visible only after everything was read,
// though they are stamped before the transaction time, and changes more than
// that, so that counts go down at the same time.
func TestLateCommitsOfACohort(t *testing.T) {
	for _, cohorts := range []export.Cohorts{export.CohortsBatches, export.CohortsScan} {
		for _, history := range []bool{true, false} {
			t.Run(fmt.Sprintf("%sHistory%t", cohorts, history), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, settings{server: fakefhir.Options{
					Dataset: fakefhir.GenerateBrief(fakefhir.BriefOptions{Patients: 600, Members: 1}), NoHistory: !history,
				}, window: 100, cohorts: cohorts})
				w.group(t, "g", 300)
				time.Sleep(2 * time.Millisecond) // the group is older than what follows
				of := func(k int) string { return `,"subject":{"reference":"Patient/` + fakefhir.BriefID(k) + `"}` }
				put := func(put func(typ, id string, json []byte) error, id string, k int, more string) {
					must(t, put("Observation", id, observation(id, of(k)+more)))
				}
				tx := w.srv.Begin()
				for i := range 7 {
					put(tx.Put, fmt.Sprintf("late-%d", i), 100*i, "") // of members up to 200, then of others
				}
				put(tx.Put, "shared", 500, `,"performer":[{"reference":"Patient/`+fakefhir.BriefID(299)+`"}]`)
				must(t, tx.Put("Condition", "first", []byte(`{"resourceType":"Condition","id":"first"`+of(5)+`}`)))
				must(t, tx.Put("Condition", "other", []byte(`{"resourceType":"Condition","id":"other"`+of(555)+`}`)))
				time.Sleep(20 * time.Millisecond) // the transaction takes longer than the time that things may settle
				now := func(typ, id string, json []byte) error { _, err := w.srv.Put(typ, id, json); return err }
				member := func(id string) bool { return id < fakefhir.BriefID(300) }
				var want map[string]map[string][]byte
				w.before(jobs.UnitSlice, func() {
					want = w.cohortTruth(t, member)
					time.Sleep(2 * time.Millisecond) // past the transaction time
					for k := range 40 {              // before they are read
						put(now, "o"+fakefhir.BriefID(k), 599, "")
						put(now, "o"+fakefhir.BriefID(599-k), 3, "")
					}
				})
				read := w.silent
				var once sync.Once
				w.silent = func(l *jobs.Lease) bool {
					if l.Unit.Kind == jobs.UnitTail {
						once.Do(func() {
							for k := 50; k < 90; k++ { // after they were read
								put(now, "o"+fakefhir.BriefID(k), 599, "")
								put(now, "o"+fakefhir.BriefID(599-k), 3, "")
							}
							tx.Commit()
						})
					}
					return read(l)
				}
				job := w.run(t, jobs.Request{Level: jobs.LevelGroup, GroupID: "g", Types: append([]string{"Condition"}, cohortTypes...)})
				all := w.truth(t)
				for _, id := range []string{"late-0", "late-1", "late-2", "shared"} {
					want["Observation"][id] = all["Observation"][id]
				}
				want["Condition"] = map[string][]byte{"first": all["Condition"]["first"]}
				got := w.exported(t, job)
				issues := w.issues(t, job)
				same(t, got, want)
				if history && len(issues) > 0 || anyContains(issues, "error:") {
					t.Errorf("issues: %q", issues)
				}
				for _, e := range job.Evidence {
					if want := map[string]int64{"Observation": 4, "Condition": 1}[e.Type]; e.Late != want || !e.Proven {
						t.Errorf("%s: %d late, want %d; proven %t", e.Type, e.Late, want, e.Proven)
					}
				}
			})
		}
	}
}

// TestSearchByPatientRefused plays a server that takes searches by patient only.
func TestSearchByPatientRefused(t *testing.T) {
	w := newWorld(t, settings{server: fakefhir.Options{Dataset: fakefhir.GenerateBrief(fakefhir.BriefOptions{Patients: 40, Members: 1})}})
	_, err := w.client.Learn(t.Context())
	must(t, err)
	for _, kind := range []fakefhir.Kind{fakefhir.KindSearch, fakefhir.KindCount} {
		w.srv.Script(fakefhir.Fault{
			Match: fakefhir.Match{Type: "Observation", Kind: kind, Without: []string{"subject", "performer"}},
			Do:    fakefhir.Do{Status: &fakefhir.Status{Code: http.StatusForbidden}},
		})
	}
	w.group(t, "g", 20)
	job := w.run(t, jobs.Request{Level: jobs.LevelGroup, GroupID: "g", Types: cohortTypes})
	same(t, w.exported(t, job), w.cohortTruth(t, func(id string) bool { return id < fakefhir.BriefID(20) }))
}

// TestLargeCohort exports a Group of half of the patients: 100,000 of 200,000 in
// make soak, a twentieth of that otherwise.
func TestLargeCohort(t *testing.T) {
	patients := 200_000
	if os.Getenv("SPILLWAY_SOAK") == "" {
		patients /= 20
	}
	members := patients / 2
	data := fakefhir.GenerateBrief(fakefhir.BriefOptions{Patients: patients, Members: members})
	for _, cohorts := range []export.Cohorts{export.CohortsAuto, export.CohortsBatches, export.CohortsScan} {
		t.Run(string(cohorts), func(t *testing.T) {
			w := newWorld(t, settings{server: fakefhir.Options{Dataset: data}, window: 10_000, pageSize: 1000, cohorts: cohorts})
			began := time.Now()
			job := w.run(t, jobs.Request{Level: jobs.LevelGroup, GroupID: "brief", Types: cohortTypes})
			t.Logf("%v, %d requests", time.Since(began), len(w.srv.Log()))
			if job.State != jobs.Completed {
				t.Fatalf("job is %s: %s", job.State, job.Failure)
			}
			got := make(map[string]int)
			for _, f := range job.Files {
				for _, line := range w.lines(t, f) {
					var r struct{ ResourceType, ID string }
					must(t, json.Unmarshal(line, &r))
					var k int
					if _, err := fmt.Sscanf(r.ID[strings.IndexByte(r.ID, 'p'):], "p-%d", &k); err != nil || k%2 != 0 {
						t.Fatalf("%s/%s should not be there", r.ResourceType, r.ID)
					}
					got[r.ResourceType]++
				}
			}
			for typ, want := range map[string]int{"Patient": members, "Observation": members, "Encounter": members, "MedicationRequest": members / 2} {
				if got[typ] != want {
					t.Errorf("%d of %s, want %d", got[typ], typ, want)
				}
			}
			if issues := w.issues(t, job); len(issues) > 0 {
				t.Errorf("issues: %q", issues)
			}
		})
	}
}

// TestSinceNewMembers exports what changed of a Group whose membership has
// changed, with what is older of those who joined, and without.
func TestSinceNewMembers(t *testing.T) {
	for _, test := range []struct {
		name    string
		server  fakefhir.Options
		cohorts export.Cohorts
		joiners bool
		periods bool // the group has the same list all the time, with periods
		noPast  bool // it keeps no versions
		older   []int
		want    string
	}{
		{name: "OKBatches", cohorts: export.CohortsBatches, joiners: true, older: []int{5, 6, 7, 12}},
		{name: "OKScan", cohorts: export.CohortsScan, joiners: true, older: []int{5, 6, 7, 12}},
		{name: "OKPeriods", joiners: true, periods: true, older: []int{5}},
		{name: "OKNoVersions", joiners: true, periods: true, noPast: true, older: []int{5}, want: "warning: Group: the upstream keeps no version of it as of _since"},
		{name: "OKOff", want: "information: Group: 4 of its members joined after _since."},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.server.Dataset = fakefhir.GenerateBrief(fakefhir.BriefOptions{Patients: 40, Members: 1})
			w := newWorld(t, settings{server: test.server, window: 50, cohorts: test.cohorts, joiners: test.joiners})
			member := func(k int, more string) string {
				return `{"entity":{"reference":"Patient/` + fakefhir.BriefID(k) + `"}` + more + `}`
			}
			put := func(id string, members ...string) {
				_, err := w.srv.Put("Group", id, []byte(`{"resourceType":"Group","id":"`+id+`","type":"person","actual":true,"member":[`+strings.Join(members, ",")+`]}`))
				must(t, err)
			}
			nested := `{"entity":{"reference":"Group/inner"}}`
			period := func(at time.Time) string { return `,"period":{"start":"` + at.UTC().Format(time.RFC3339Nano) + `"}` }
			since := w.srv.Now().Add(20 * time.Millisecond)
			for range 3 {
				put("g", member(1, ""), member(2, ""), member(3, ""), member(5, `,"inactive":true`), nested)
			}
			put("inner", member(4, ""))
			both := observation("both", `,"subject":{"reference":"Patient/`+fakefhir.BriefID(1)+`"},"performer":[{"reference":"Patient/`+fakefhir.BriefID(5)+`"}]`)
			_, err := w.srv.Put("Observation", "both", both)
			must(t, err)
			if test.periods {
				put("g", member(1, ""), member(2, period(since.Add(-time.Hour))), member(5, period(since.Add(time.Millisecond))))
			}
			time.Sleep(time.Until(since) + 2*time.Millisecond) // membership is older than since, or younger
			changed := observation("changed", `,"subject":{"reference":"Patient/`+fakefhir.BriefID(2)+`"}`)
			_, err = w.srv.Put("Observation", "changed", changed)
			must(t, err)
			if !test.periods {
				put("g", member(1, ""), member(2, ""), member(4, ""), member(5, ""), member(6, ""), nested)
				put("g", member(1, ""), member(2, ""), member(4, ""), member(5, ""), member(6, ""), member(7, ""), nested)
				put("inner", member(4, ""), member(12, ""))
			}
			if test.noPast {
				put("g", member(1, ""), member(2, period(since.Add(-time.Hour))), member(5, period(since.Add(time.Millisecond))))
				for _, path := range []string{"/Group/g/_history", "/Group/inner/_history"} {
					w.srv.Script(fakefhir.Fault{Match: fakefhir.Match{PathContains: path}, Do: fakefhir.Do{Status: &fakefhir.Status{Code: http.StatusForbidden}}})
				}
			}
			job := w.run(t, jobs.Request{Level: jobs.LevelGroup, GroupID: "g", Since: since, Types: cohortTypes})
			want := w.cohortTruth(t, func(id string) bool {
				return slices.ContainsFunc(test.older, func(k int) bool { return id == fakefhir.BriefID(k) })
			})
			if want["Observation"] == nil {
				want["Observation"] = make(map[string][]byte)
			}
			want["Observation"]["changed"] = w.truth(t)["Observation"]["changed"]
			same(t, w.exported(t, job), want)
			if issues := w.issues(t, job); len(issues) > 1 || len(issues) == 1 != (test.want != "") || test.want != "" && !anyContains(issues, test.want) {
				t.Errorf("issues: %q", issues)
			}
		})
	}
}

// TestSinceNewMembersUnderFire moves what is older and what is newer while the
// export runs.
func TestSinceNewMembersUnderFire(t *testing.T) {
	w := newWorld(t, settings{server: fakefhir.Options{Dataset: fakefhir.GenerateBrief(fakefhir.BriefOptions{Patients: 200, Members: 1})}, window: 40, joiners: true})
	w.group(t, "g", 50)
	time.Sleep(2 * time.Millisecond)
	since := w.srv.Now().Truncate(time.Millisecond)
	for k := range 60 {
		_, err := w.srv.Put("Observation", fmt.Sprintf("new-%d", k), observation(fmt.Sprintf("new-%d", k), `,"subject":{"reference":"Patient/`+fakefhir.BriefID(k*3)+`"}`))
		must(t, err)
	}
	w.group(t, "g", 100)
	var want map[string]map[string][]byte
	w.before(jobs.UnitSlice, func() {
		want = only(w.cohortTruth(t, func(id string) bool { return id < fakefhir.BriefID(100) }), func(typ, id string, r []byte) bool {
			if lastUpdated(t, r).Before(since) { // only of those who joined
				owner := id[strings.Index(id, "p-"):]
				return owner >= fakefhir.BriefID(50)
			}
			return true
		})
		time.Sleep(2 * time.Millisecond) // past the transaction time
		for k := range 30 {
			for _, id := range []string{fmt.Sprintf("new-%d", k), "o" + fakefhir.BriefID(2*k), "o" + fakefhir.BriefID(60+k)} {
				if k%3 == 0 {
					w.srv.Delete("Observation", id)
					continue
				}
				_, err := w.srv.Put("Observation", id, observation(id, `,"subject":{"reference":"Patient/`+fakefhir.BriefID(k*6)+`"}`))
				must(t, err)
			}
		}
	})
	job := w.run(t, jobs.Request{Level: jobs.LevelGroup, GroupID: "g", Since: since, Types: cohortTypes})
	same(t, w.exported(t, job), want)
	if issues := w.issues(t, job); len(issues) > 0 {
		t.Errorf("issues: %q", issues)
	}
}
