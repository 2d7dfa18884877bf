//go:build e2e

package e2e

import (
	"encoding/json"
	"strings"
)

// patientPaths are the elements by which the types of the test data belong to
// a patient's compartment.
// Source: FHIR R4, CompartmentDefinition patient, and its search parameters.
var patientPaths = map[string][]string{
	"AllergyIntolerance":       {"patient", "recorder", "asserter"},
	"Appointment":              {"participant.actor"},
	"Basic":                    {"subject", "author"},
	"CarePlan":                 {"subject", "activity.detail.performer"},
	"CareTeam":                 {"subject", "participant.member"},
	"Claim":                    {"patient", "payee.party"},
	"Communication":            {"subject", "sender", "recipient"},
	"Composition":              {"subject", "author", "attester.party"},
	"Condition":                {"subject", "asserter"},
	"Consent":                  {"patient"},
	"Coverage":                 {"policyHolder", "subscriber", "beneficiary", "payor"},
	"DiagnosticReport":         {"subject"},
	"DocumentReference":        {"subject", "author"},
	"Encounter":                {"subject"},
	"EpisodeOfCare":            {"patient"},
	"ExplanationOfBenefit":     {"patient", "payee.party"},
	"FamilyMemberHistory":      {"patient"},
	"Flag":                     {"subject"},
	"Goal":                     {"subject"},
	"Group":                    {"member.entity"},
	"ImagingStudy":             {"subject"},
	"Immunization":             {"patient"},
	"List":                     {"subject", "source"},
	"Media":                    {"subject"},
	"MedicationAdministration": {"subject", "performer.actor"},
	"MedicationDispense":       {"subject", "receiver"},
	"MedicationRequest":        {"subject"},
	"MedicationStatement":      {"subject"},
	"Observation":              {"subject", "performer"},
	"Procedure":                {"subject", "performer.actor"},
	"Provenance":               {"target"},
	"QuestionnaireResponse":    {"subject", "author"},
	"RelatedPerson":            {"patient"},
	"RiskAssessment":           {"subject"},
	"Schedule":                 {"actor"},
	"ServiceRequest":           {"subject", "performer"},
	"Specimen":                 {"subject"},
}

// outside are the types of the test data that no compartment holds.
var outside = map[string]bool{
	"Device": true, "HealthcareService": true, "Location": true, "Medication": true, "Organization": true,
	"Practitioner": true, "PractitionerRole": true, "Binary": true, "Substance": true,
}

// patientsOf returns the ids of the patients to whose compartments a resource
// belongs.
func patientsOf(r resource) []string {
	if r.Type == "Patient" {
		return []string{r.ID}
	}
	var tree any
	if json.Unmarshal(r.JSON, &tree) != nil {
		return nil
	}
	var ids []string
	for _, path := range patientPaths[r.Type] {
		for _, ref := range references(tree, strings.Split(path, ".")) {
			ref, _, _ = strings.Cut(ref, "/_history/")
			if id, ok := strings.CutPrefix(ref, "Patient/"); ok {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// references returns the reference strings below a path, through arrays.
func references(tree any, path []string) []string {
	var found []string
	switch node := tree.(type) {
	case []any:
		for _, item := range node {
			found = append(found, references(item, path)...)
		}
	case map[string]any:
		if len(path) > 0 {
			return references(node[path[0]], path[1:])
		}
		if ref, ok := node["reference"].(string); ok {
			found = append(found, ref)
		}
	}
	return found
}

// compartments returns what belongs to any of the patients; with none named,
// to any patient at all.
func (w world) compartments(patients ...string) world {
	wanted := make(map[string]bool)
	for _, id := range patients {
		wanted[id] = true
	}
	return w.where(func(r resource) bool {
		for _, id := range patientsOf(r) {
			if len(patients) == 0 || wanted[id] {
				return true
			}
		}
		return false
	})
}
