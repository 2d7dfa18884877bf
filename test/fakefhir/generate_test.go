package fakefhir

import (
	"bytes"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestGenerateIsDeterministic(t *testing.T) {
	a, b := Generate(GenerateOptions{Patients: 3, Seed: 7}), Generate(GenerateOptions{Patients: 3, Seed: 7})
	check(t, "versions", len(a.log), len(b.log))
	for i := range a.log {
		if !bytes.Equal(a.log[i].raw, b.log[i].raw) || a.log[i].id != b.log[i].id {
			t.Fatalf("version %d differs:\n%s\n%s", i, a.log[i].raw, b.log[i].raw)
		}
	}
	other := Generate(GenerateOptions{Patients: 3, Seed: 8})
	check(t, "another seed", bytes.Equal(a.latest[50].raw, other.latest[50].raw), false)
}

func TestGenerateScales(t *testing.T) {
	for _, patients := range []int{0, 1, 5, 50} {
		d := Generate(GenerateOptions{Patients: patients, Seed: 1})
		n := d.Counts()
		check(t, "patients", n["Patient"], patients)
		if patients < 50 {
			continue
		}
		if len(n) != 20 {
			t.Errorf("types: %v", n)
		}
		if each := d.Len() / patients; each < 350 || each > 450 {
			t.Errorf("%d resources for each patient", each)
		}
		if each := n["Observation"] / patients; each < 130 || each > 190 {
			t.Errorf("%d Observations for each patient", each)
		}
	}
}

var referencePattern = regexp.MustCompile(`"reference":"([A-Za-z]+/[^"]+)"`)

func TestGeneratedResources(t *testing.T) {
	d := Generate(GenerateOptions{Patients: 12, Seed: 1})
	seen := map[string]bool{}
	for _, v := range d.log {
		if v.deleted() {
			continue
		}
		var r struct {
			ResourceType, ID string
			Meta             struct {
				VersionID   string
				LastUpdated time.Time
			}
		}
		if err := json.Unmarshal(v.raw, &r); err != nil {
			t.Fatalf("%v in %s", err, v.raw)
		}
		if c, err := compact(v.raw); err != nil || !bytes.Equal(c, v.raw) {
			t.Fatalf("not compact: %s", v.raw)
		}
		if typeParams[r.ResourceType] == nil || r.ID != v.id || !idPattern.MatchString(r.ID) || r.Meta.LastUpdated.UnixMilli() != v.updated {
			t.Fatalf("wrong head: %s", v.raw)
		}
		for _, must := range strings.Fields(mandatory[v.typ]) {
			if ms, _ := members(v.raw); lookup(ms, must) == nil && !strings.Contains(must, "Reference") && !strings.HasSuffix(must, "String") {
				t.Fatalf("%s without %s", v.typ, must)
			}
		}
	}
	for _, v := range d.latest {
		seen[v.typ+"/"+v.id] = true
		for _, m := range referencePattern.FindAllSubmatch(v.raw, -1) {
			typ, id := splitReference(string(m[1]))
			if !seen[typ+"/"+id] {
				t.Fatalf("%s/%s points to %s, which is not before it", v.typ, v.id, m[1])
			}
		}
	}
	all := bytes.Join(allRaw(d), nil)
	for _, want := range []string{`.10,`, `.50,`, `e1,`, "山田", "🙂", `\ud83d\ude42`, `\"`, `\\`, `\n`, `\/`, `\u00fc`, `"data":"`, `/_history/1"`, `"tag":[`} {
		if !bytes.Contains(all, []byte(want)) {
			t.Errorf("nowhere %s", want)
		}
	}
}

func allRaw(d *Dataset) [][]byte {
	var all [][]byte
	for _, v := range d.latest {
		all = append(all, v.raw)
	}
	return all
}

func TestGeneratedTimes(t *testing.T) {
	d := Generate(GenerateOptions{Patients: 50, Seed: 1})
	current, deletions, updates := map[int64]int{}, 0, 0
	for _, v := range d.latest {
		current[v.updated]++
		if v.num > 1 {
			updates++
		}
	}
	for _, v := range d.log {
		if v.deleted() {
			deletions++
		}
	}
	largest := slices.Max(slices.Collect(maps.Values(current)))
	if largest < 500 || len(current) < 200 {
		t.Errorf("largest cluster %d, %d times", largest, len(current))
	}
	if deletions < 100 || updates < 500 {
		t.Errorf("%d deletions, %d updates", deletions, updates)
	}
	if !slices.IsSortedFunc(d.log, func(a, b *version) int { return int(a.updated - b.updated) }) {
		t.Error("the log is not in order")
	}
	start := time.Date(2020, 2, 3, 4, 5, 6, 7e6, time.UTC)
	check(t, "start", Generate(GenerateOptions{Patients: 1, Start: start}).log[0].updated, start.UnixMilli())
}

func TestAPatientDoesNotDependOnTheOthers(t *testing.T) {
	raw := func(n int) string {
		for _, v := range Generate(GenerateOptions{Patients: n, Seed: 1}).log {
			if v.id == "patient-3" {
				ms, _ := members(v.raw)
				return text(ms, "birthDate") + string(lookup(ms, "name"))
			}
		}
		return ""
	}
	check(t, "patient-3", raw(3), raw(9))
}

func TestGeneratedGroups(t *testing.T) {
	s := start(t, Options{Dataset: Generate(GenerateOptions{Patients: 12, Seed: 1})})
	for group, want := range map[string]string{
		"group-all":     "patient-1 patient-2 patient-3 patient-4 patient-5 patient-6 patient-7 patient-8 patient-9 patient-10 patient-11 patient-12",
		"group-few":     "patient-1 patient-3 patient-5",
		"group-nested":  "patient-2 patient-4 patient-6",
		"group-devices": "",
	} {
		check(t, group, s.bundle("/Patient?_has:Group:member:_id="+group).ids(), want)
	}
	check(t, "nested", s.bundle("/Group?member=Group/group-few").ids(), "group-nested")
	check(t, "a registration that was deleted", s.get("/Patient/patient-10-duplicate").status, 410)

	n := 0
	for range s.CompartmentTruth("patient-1")["Observation"] {
		n++
	}
	check(t, "compartment and search agree", n, *s.bundle("/Observation?patient=patient-1&_summary=count").Total)
}

// A dataset can be loaded into another server through transactions.
func TestTransactionsLoadAnotherServer(t *testing.T) {
	d := Generate(GenerateOptions{Patients: 2, Seed: 1})
	s := start(t, Options{})
	for b := range d.Transactions(300) {
		check(t, "load", s.do("POST", "", string(b)).status, 200)
	}
	for typ, n := range d.Counts() {
		check(t, typ, len(s.All(typ)), n)
	}
	check(t, "types", strings.Join(s.Types(), " "), strings.Join(d.Types(), " "))
}
