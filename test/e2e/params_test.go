//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// middle returns a lastUpdated that about half of the resources are older than.
func middle(held world) time.Time {
	var times []time.Time
	for _, byID := range held {
		for _, r := range byID {
			times = append(times, r.Meta.LastUpdated)
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	return times[len(times)/2]
}

func TestSince(t *testing.T) {
	base, held := server.ready(t)
	at := middle(held)
	want := held.where(func(r resource) bool { return !r.Meta.LastUpdated.Before(at) })
	if n := want.len(); n == 0 || n == held.len() {
		t.Fatalf("%d of %d resources are newer than the middle, so this would prove nothing", n, held.len())
	}
	r := export(t, "--upstream", base, "--since", at.Format(time.RFC3339Nano))
	r.mustExit(t, 0)
	readFolder(t, r.dir).mustEqual(t, want)
}

func TestUntil(t *testing.T) {
	base, held := server.ready(t)
	at := middle(held)
	want := held.of("Patient", "Condition", "Organization").where(func(r resource) bool { return !r.Meta.LastUpdated.After(at) })
	r := export(t, "--upstream", base, "--until", at.Format(time.RFC3339Nano), "--type", "Patient,Condition", "--type", "Organization")
	r.mustExit(t, 0)
	readFolder(t, r.dir).mustEqual(t, want)
}

func TestTypeFilter(t *testing.T) {
	base, held := server.ready(t)
	g := serve(t, settings{upstream: base})
	born := func(r resource) string { return member(t, r, "birthDate") }
	woman := func(r resource) bool { return member(t, r, "gender") == "female" }
	women := held.of("Patient").where(woman)
	if n := women.len(); n == 0 || n == len(held["Patient"]) {
		t.Fatalf("%d of %d patients are women, so this would prove nothing", n, len(held["Patient"]))
	}
	for _, tc := range []struct {
		name    string
		filters []string
		want    world
	}{
		{"one", []string{"Patient?gender=female"}, women},
		{"alternatives", []string{"Patient?gender=female", "Patient?birthdate=lt1970-01-01"},
			held.of("Patient").where(func(r resource) bool { return woman(r) || born(r) < "1970" })},
		{"two conditions", []string{"Patient?gender=female&birthdate=lt1970-01-01"},
			held.of("Patient").where(func(r resource) bool { return woman(r) && born(r) < "1970" })},
		{"a comma in the value", []string{"Patient?gender=female,male"}, held.of("Patient").where(func(r resource) bool {
			return woman(r) || member(t, r, "gender") == "male"
		})},
		{"nothing matches", []string{"Patient?gender=female&birthdate=lt1800-01-01"}, world{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			query := url.Values{"_type": {"Patient"}, "_typeFilter": tc.filters}
			e := collect(t, g.kickOff(t, "/$export", query))
			e.mustEqual(t, tc.want)
			if len(tc.want) == 0 && len(e.manifest.Output) != 0 {
				t.Errorf("output is %v, want none", e.manifest.Output)
			}
		})
	}
	t.Run("the command", func(t *testing.T) {
		r := export(t, "--upstream", base, "--type", "Patient,Organization", "--type-filter", "Patient?gender=female")
		r.mustExit(t, 0)
		want := held.of("Organization")
		want["Patient"] = women["Patient"]
		readFolder(t, r.dir).mustEqual(t, want)
	})
}

// member returns a root element that is a string, "" if it is absent.
func member(t *testing.T, r resource, name string) string {
	t.Helper()
	var members map[string]any
	if err := json.Unmarshal(r.JSON, &members); err != nil {
		t.Fatal(err)
	}
	value, _ := members[name].(string)
	return value
}

func TestElements(t *testing.T) {
	base, held := server.ready(t)
	r := export(t, "--upstream", base, "--type", "Patient,Encounter", "--elements", "Patient.birthDate,Patient.name,Encounter.subject")
	r.mustExit(t, 0)
	e := readFolder(t, r.dir)
	keep := map[string][]string{
		"Patient":   {"birthDate", "name"},
		"Encounter": {"subject", "status", "class"}, // status and class are mandatory
	}
	want := held.of("Patient", "Encounter")
	if got := e.resources.len(); got != want.len() || len(e.doubled) > 0 {
		t.Errorf("%d resources, want %d", got, want.len())
	}
	for typ, byID := range e.resources {
		for id, r := range byID {
			mustBeSubset(t, want[typ][id].JSON, r.JSON, keep[typ])
			if t.Failed() {
				return
			}
		}
	}
}

// mustBeSubset checks that got has only some root elements of a resource, each
// unharmed, and says so in its tags.
func mustBeSubset(t *testing.T, source, got []byte, keep []string) {
	t.Helper()
	var from, members map[string]json.RawMessage
	if err := json.Unmarshal(source, &from); err != nil {
		t.Fatalf("a resource that the upstream does not have: %s", got)
	}
	if err := json.Unmarshal(got, &members); err != nil {
		t.Fatal(err)
	}
	for name, value := range members {
		switch {
		case name == "meta":
			mustBeTagged(t, value)
		case name == "resourceType", name == "id", slices.Contains(keep, strings.TrimPrefix(name, "_")):
			if !bytes.Equal(value, from[name]) {
				t.Errorf("%s is %s, was %s", name, value, from[name])
			}
		default:
			t.Errorf("%s was not asked for", name)
		}
	}
	for _, name := range append(keep, "resourceType", "id", "meta") {
		if _, ok := members[name]; !ok && from[name] != nil {
			t.Errorf("%s is missing", name)
		}
	}
}

func mustBeTagged(t *testing.T, meta []byte) {
	t.Helper()
	var m struct{ Tag []map[string]string }
	if err := json.Unmarshal(meta, &m); err != nil {
		t.Fatal(err)
	}
	for _, tag := range m.Tag {
		if len(tag) == 2 && tag["code"] == "SUBSETTED" && tag["system"] == "http://terminology.hl7.org/CodeSystem/v3-ObservationValue" {
			return
		}
	}
	t.Errorf("meta has no SUBSETTED tag: %s", meta)
}
