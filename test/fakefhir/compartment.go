package fakefhir

// compartment lists the reference elements that put a resource into a
// patient's compartment, by the R4 CompartmentDefinition.
var compartment = map[string][]string{
	"AllergyIntolerance":       {"patient", "recorder", "asserter"},
	"Basic":                    {"subject", "author"},
	"CarePlan":                 {"subject", "activity.detail.performer"},
	"CareTeam":                 {"subject", "participant.member"},
	"Claim":                    {"patient", "payee.party"},
	"Condition":                {"subject", "asserter"},
	"Coverage":                 {"policyHolder", "subscriber", "beneficiary", "payor"},
	"DiagnosticReport":         {"subject"},
	"DocumentReference":        {"subject", "author"},
	"Encounter":                {"subject"},
	"ExplanationOfBenefit":     {"patient", "payee.party"},
	"Goal":                     {"subject"},
	"Group":                    {"member.entity"},
	"ImagingStudy":             {"subject"},
	"Immunization":             {"patient"},
	"MedicationAdministration": {"subject", "performer.actor"},
	"MedicationRequest":        {"subject"},
	"Observation":              {"subject", "performer"},
	"Patient":                  {"link.other"},
	"Procedure":                {"subject", "performer.actor"},
	"Provenance":               {"target"},
	"QuestionnaireResponse":    {"subject", "author"},
	"RelatedPerson":            {"patient"},
	"ServiceRequest":           {"subject", "performer"},
}

// patientsIndex is the name under which the index holds the patients whose
// compartments a resource is in; no search parameter is called so.
const patientsIndex = "$compartment"

// inCompartment says whether v belongs to the compartment of a patient.
func (v *version) inCompartment(patientID string) bool {
	if v.typ == "Patient" && v.id == patientID {
		return true
	}
	for _, val := range v.values(&param{name: patientsIndex}) {
		if val.text == "Patient/"+patientID {
			return true
		}
	}
	return false
}
