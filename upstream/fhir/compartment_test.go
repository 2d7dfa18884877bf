package fhir

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPatientCompartment(t *testing.T) {
	tests := []struct {
		typ  string
		want []CompartmentParam
	}{
		{"Patient", []CompartmentParam{{"_id", nil}, {"link", []string{"link.other"}}}},
		{"Observation", []CompartmentParam{{"subject", []string{"subject"}}, {"performer", []string{"performer"}}}},
		{"Encounter", []CompartmentParam{{"patient", []string{"subject"}}}},
		{"Appointment", []CompartmentParam{{"actor", []string{"participant.actor"}}}},
		{"AuditEvent", []CompartmentParam{{"patient", []string{"agent.who", "entity.what"}}}},
		{"Provenance", []CompartmentParam{{"patient", []string{"target"}}}},
		{"Person", []CompartmentParam{{"patient", []string{"link.target"}}}},
		{"Group", []CompartmentParam{{"member", []string{"member.entity"}}}},
		{"CarePlan", []CompartmentParam{{"patient", []string{"subject"}}, {"performer", []string{"activity.detail.performer"}}}},
		{"SupplyRequest", []CompartmentParam{{"subject", []string{"deliverTo"}}}},
		{"DocumentManifest", []CompartmentParam{{"subject", []string{"subject"}}, {"author", []string{"author"}}, {"recipient", []string{"recipient"}}}},
		{"Practitioner", nil},
		{"Device", nil},
		{"Task", nil},
		{"", nil},
		{"patient", nil},
	}
	for _, tt := range tests {
		if d := cmp.Diff(tt.want, R4.PatientCompartment(tt.typ)); d != "" {
			t.Errorf("%s: -want +got\n%s", tt.typ, d)
		}
		if got := R4.InPatientCompartment(tt.typ); got != (tt.want != nil) {
			t.Errorf("%s: InPatientCompartment is %v", tt.typ, got)
		}
	}
	for release, types := range map[Release]int{R4: 66, R5: 73} {
		if n := len(release.compartment()); n != types {
			t.Errorf("release %d has %d types, want %d", release, n, types)
		}
		for typ, params := range release.compartment() {
			if !KnownType(typ) {
				t.Errorf("%s is no type", typ)
			}
			for _, p := range params {
				if len(p.Paths) == 0 && p.Name != "_id" {
					t.Errorf("%s: %s has no path", typ, p.Name)
				}
			}
		}
	}
}

// TestCompartmentOfReleases is about where R5 differs from R4.
func TestCompartmentOfReleases(t *testing.T) {
	tests := []struct {
		version, typ, resource string
		want                   []string
	}{
		{"4.0.1", "Task", `{"for":{"reference":"Patient/a"}}`, nil},
		{"4.3.0", "Task", `{"for":{"reference":"Patient/a"}}`, nil},
		{"5.0.0", "Task", `{"for":{"reference":"Patient/a"}}`, []string{"patient a"}},
		{"4.3.0", "Media", `{"subject":{"reference":"Patient/a"}}`, []string{"subject a"}},
		{"5.0.0", "Media", `{"subject":{"reference":"Patient/a"}}`, nil},
		{"", "Consent", `{"patient":{"reference":"Patient/a"},"subject":{"reference":"Patient/b"}}`, []string{"patient a"}},
		{"5.0.0", "Consent", `{"patient":{"reference":"Patient/a"},"subject":{"reference":"Patient/b"}}`, []string{"subject b"}},
		{"5.0.0", "DeviceRequest", `{"performer":{"reference":{"reference":"Patient/a"}}}`, []string{"performer a"}},
		{"5.0.0", "NutritionIntake", `{"reportedReference":{"reference":"Patient/a"}}`, []string{"source a"}},
		{"5.0.0-ballot", "RequestOrchestration", `{"action":[{"participant":[{"actorReference":{"reference":"Patient/a"}}]}]}`, []string{"participant a"}},
	}
	for _, tt := range tests {
		var got []string
		err := ReleaseOf(tt.version).PatientRefs(tt.typ, []byte(tt.resource), func(param, id string) bool {
			got = append(got, param+" "+id)
			return true
		})
		if d := cmp.Diff(tt.want, got); d != "" || err != nil {
			t.Errorf("%s %s: %v, -want +got\n%s", tt.version, tt.typ, err, d)
		}
	}
}

func TestPatientCompartmentIsTheCallers(t *testing.T) {
	R4.PatientCompartment("Observation")[0].Paths[0] = "x"
	if got := R4.PatientCompartment("Observation")[0].Paths[0]; got != "subject" {
		t.Errorf("got %s", got)
	}
}

func TestPatientRefs(t *testing.T) {
	tests := []struct {
		name, typ, in string
		want          []string
	}{
		{"subject", "Observation", `{"resourceType":"Observation","subject":{"reference":"Patient/a"},"performer":[{"reference":"Practitioner/p"},{"display":"x"},{"reference":"Patient/b"}]}`, []string{"subject a", "performer b"}},
		{"in the order of the document", "Observation", `{"performer":[{"reference":"Patient/b"}],"subject":{"reference":"Patient/a"}}`, []string{"performer b", "subject a"}},
		{"absolute and with version", "Condition", `{"subject":{"reference":"http://h/fhir/Patient/a/_history/2"},"asserter":{"reference":"https://other/Patient/b"}}`, []string{"patient a", "asserter b"}},
		{"nested in arrays", "Appointment", `{"participant":[{"actor":{"reference":"Patient/a"}},{"status":"x"},{"actor":{"reference":"Location/l"}},{"actor":{"reference":"Patient/b"}}]}`, []string{"actor a", "actor b"}},
		{"three levels", "CarePlan", `{"activity":[{"detail":{"performer":[{"reference":"Patient/a"}]}}],"subject":{"reference":"Patient/b"}}`, []string{"performer a", "patient b"}},
		{"two paths of a parameter", "AuditEvent", `{"agent":[{"who":{"reference":"Patient/a"}}],"entity":[{"what":{"reference":"Patient/b"}}]}`, []string{"patient a", "patient b"}},
		{"two parameters on one path", "MedicationAdministration", `{"subject":{"reference":"Patient/a"}}`, []string{"patient a", "subject a"}},
		{"a Patient is its own", "Patient", `{"link":[{"other":{"reference":"Patient/b"}}],"id":"a"}`, []string{"_id a", "link b"}},
		{"a Patient without id", "Patient", `{}`, nil},
		{"a Group", "Group", `{"member":[{"entity":{"reference":"Patient/a"}},{"entity":{"reference":"Group/g"}}]}`, []string{"member a"}},
		{"what is no reference to a Patient", "Observation", `{"subject":{"reference":"#p"},"performer":[{"reference":"urn:uuid:1"},{"reference":"Patient?x=y"},{"reference":17},{"identifier":{"reference":"Patient/x"}},"Patient/x",[{"reference":"Patient/x"}]]}`, nil},
		{"elements that are not in the compartment", "Observation", `{"focus":[{"reference":"Patient/a"}],"contained":[{"subject":{"reference":"Patient/b"}}],"Subject":{"reference":"Patient/c"}}`, nil},
		{"a type outside", "Practitioner", `{"subject":{"reference":"Patient/a"}}`, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			err := R4.PatientRefs(tt.typ, []byte(tt.in), func(param, id string) bool {
				got = append(got, param+" "+id)
				return true
			})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
			n := 0
			if err := R4.PatientRefs(tt.typ, []byte(tt.in), func(string, string) bool { n++; return false }); err != nil || n > 1 {
				t.Errorf("%d calls, %v", n, err)
			}
		})
	}
	for _, in := range []string{``, `[]`, `{"subject":`} {
		for _, typ := range []string{"Observation", "Patient"} {
			if err := R4.PatientRefs(typ, []byte(in), nil); !errors.Is(err, ErrMalformed) {
				t.Errorf("%q: got %v", in, err)
			}
		}
	}
}

func TestReferences(t *testing.T) {
	const in = `{"reference":"root","a":{"reference":"1","b":[{"reference":"2"},{"b":{"reference":"x"}},{"reference":"\u0033"}]},"c":"s","b":{"reference":"4"}}`
	tests := []struct {
		path string
		want []string
	}{
		{"a", []string{"1"}}, {"a.b", []string{"2", "3"}}, {"a.b.b", []string{"x"}}, {"b", []string{"4"}}, {"c", nil}, {"c.d", nil}, {"none", nil},
	}
	for _, tt := range tests {
		var got []string
		if err := References([]byte(in), tt.path, func(ref string) bool { got = append(got, ref); return true }); err != nil {
			t.Error(err)
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s: -want +got\n%s", tt.path, d)
		}
	}
	n := 0
	if err := References([]byte(in), "a.b", func(string) bool { n++; return false }); err != nil || n != 1 {
		t.Errorf("%d calls, %v", n, err)
	}
	for _, bad := range []string{``, `[{"a":{"reference":"x"}}]`, `{"a":{`} {
		if err := References([]byte(bad), "a", func(string) bool { return true }); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}

// Nesting in bytes that were not checked must not end the process.
func TestDeepNestingUnchecked(t *testing.T) {
	deep := []byte(`{"subject":` + strings.Repeat("[", 5_000_000))
	_, _ = ReadHeader(deep)
	_, _ = AppendLine(nil, deep)
	_, _ = Subset(nil, deep, "Observation", []string{"subject"})
	if err := R4.PatientRefs("Observation", deep, func(string, string) bool { return true }); !errors.Is(err, ErrMalformed) {
		t.Errorf("got %v", err)
	}
	if err := References(deep, "subject", func(string) bool { return true }); !errors.Is(err, ErrMalformed) {
		t.Errorf("got %v", err)
	}
}
