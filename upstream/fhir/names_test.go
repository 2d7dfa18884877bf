package fhir

import (
	"strings"
	"testing"
)

func TestValidID(t *testing.T) {
	for _, s := range []string{"a", "0", "-", "a.b", "...", ".a", "A-b.9", strings.Repeat("x", 64)} {
		if !ValidID(s) {
			t.Errorf("%q was refused", s)
		}
	}
	for _, s := range []string{"", ".", "..", "a/b", "a b", "a_b", "é", "a\n", "a%20", "a$", strings.Repeat("x", 65)} {
		if ValidID(s) {
			t.Errorf("%q was taken", s)
		}
	}
}

func TestKnownType(t *testing.T) {
	for _, s := range []string{
		"Patient", "Observation", "Binary", "Parameters", "MedicinalProduct", // R4
		"Citation", "EvidenceReport", "SubscriptionTopic", // came with R4B
		"RequestOrchestration", "DeviceUsage", "Permission", // came with R5
	} {
		if !KnownType(s) {
			t.Errorf("%s is not known", s)
		}
	}
	for _, s := range []string{"", "patient", "Resource", "DomainResource", "CanonicalResource", "MetadataResource", "HumanName", "Patients", "Conformance"} {
		if KnownType(s) {
			t.Errorf("%s is known", s)
		}
	}
	if len(definitions) != 178 { // 146 of R4, 13 more of R4B, 19 more of R5
		t.Errorf("%d types", len(definitions))
	}
}

func TestParseReference(t *testing.T) {
	tests := []struct{ ref, typ, id string }{ // typ "": not ok
		{"Patient/x", "Patient", "x"},
		{"Patient/x/_history/1", "Patient", "x"},
		{"http://h/fhir/Patient/x", "Patient", "x"},
		{"https://h:8080/a/b/Patient/x/_history/v.2", "Patient", "x"},
		{"https://h/Patient/x", "Patient", "x"},
		{"OwnType/1", "OwnType", "1"},
		{"", "", ""},
		{"#p1", "", ""},
		{"Patient", "", ""},
		{"Patient/", "", ""},
		{"/Patient/x", "", ""},
		{"fhir/Patient/x", "", ""},
		{"ftp://h/Patient/x", "", ""},
		{"urn:uuid:7d2a5b3e-0000-0000-0000-000000000000", "", ""},
		{"urn:oid:1.2.3", "", ""},
		{"Patient?identifier=x", "", ""},
		{"Patient/x?a=b", "", ""},
		{"Patient/x#y", "", ""},
		{"Patient/..", "", ""},
		{"patient/x", "", ""},
		{"Patient/x/_history/", "", ""},
		{"Patient/x/y", "", ""},
		{"http://h/?a=/Patient/x", "", ""},
		{"http://h/Questionnaire/q|1.0", "", ""},
		{"Patient/" + strings.Repeat("x", 65), "", ""},
	}
	for _, tt := range tests {
		typ, id, ok := ParseReference(tt.ref)
		if typ != tt.typ || id != tt.id || ok != (tt.typ != "") {
			t.Errorf("%q: got %q, %q, %v", tt.ref, typ, id, ok)
		}
	}
}
