package fakefhir

import (
	"maps"
	"slices"
	"strings"
)

// paramType is a FHIR search parameter type, as a CapabilityStatement names it.
type paramType string

const (
	tokenParam     paramType = "token"
	referenceParam paramType = "reference"
	dateParam      paramType = "date"
	stringParam    paramType = "string"
	uriParam       paramType = "uri"
)

// param is a search parameter: where its values stand in a resource.
type param struct {
	name   string
	typ    paramType
	paths  string // dotted paths, separated by white space
	target string // for a reference that can only point to one type
}

// everyType are the parameters of all types. _lastUpdated and _has are
// handled apart.
var everyType = []param{
	{"_id", tokenParam, "id", ""},
	{"_tag", tokenParam, "meta.tag", ""},
	{"_security", tokenParam, "meta.security", ""},
	{"_profile", uriParam, "meta.profile", ""},
}

var (
	identifier    = param{"identifier", tokenParam, "identifier", ""}
	status        = param{"status", tokenParam, "status", ""}
	code          = param{"code", tokenParam, "code", ""}
	category      = param{"category", tokenParam, "category", ""}
	subject       = param{"subject", referenceParam, "subject", ""}
	patientByName = param{"patient", referenceParam, "patient", "Patient"}
	patient       = param{"patient", referenceParam, "subject", "Patient"}
	encounter     = param{"encounter", referenceParam, "encounter", "Encounter"}
	name          = param{"name", stringParam, "name", ""}
	active        = param{"active", tokenParam, "active", ""}
)

// typeParams says which types the server knows, and by what each can be
// searched. Their number is what a small HAPI with Synthea data would need.
var typeParams = map[string][]param{
	"AllergyIntolerance": {identifier, code, category, patientByName,
		{"clinical-status", tokenParam, "clinicalStatus", ""}, {"date", dateParam, "recordedDate", ""},
		{"recorder", referenceParam, "recorder", ""}, {"asserter", referenceParam, "asserter", ""}},
	"Basic":    {identifier, code, subject, patient},
	"CarePlan": {identifier, status, category, subject, patient, encounter, {"date", dateParam, "period", ""}},
	"CareTeam": {identifier, status, category, subject, patient, encounter, {"participant", referenceParam, "participant.member", ""}},
	"Claim": {identifier, status, patientByName, {"created", dateParam, "created", ""},
		{"provider", referenceParam, "provider", ""}, {"insurer", referenceParam, "insurer", ""},
		{"use", tokenParam, "use", ""}, {"encounter", referenceParam, "item.encounter", "Encounter"}},
	"Condition": {identifier, code, category, subject, patient, encounter,
		{"clinical-status", tokenParam, "clinicalStatus", ""}, {"recorded-date", dateParam, "recordedDate", ""},
		{"onset-date", dateParam, "onsetDateTime onsetPeriod", ""}, {"asserter", referenceParam, "asserter", ""}},
	"Coverage": {identifier, status, {"patient", referenceParam, "beneficiary", "Patient"},
		{"beneficiary", referenceParam, "beneficiary", "Patient"}, {"subscriber", referenceParam, "subscriber", ""},
		{"policy-holder", referenceParam, "policyHolder", ""}, {"payor", referenceParam, "payor", ""}},
	"Device": {identifier, status, patientByName, {"type", tokenParam, "type", ""}, {"manufacturer", stringParam, "manufacturer", ""}},
	"DiagnosticReport": {identifier, status, code, category, subject, patient, encounter,
		{"date", dateParam, "effectiveDateTime effectivePeriod", ""}, {"issued", dateParam, "issued", ""},
		{"performer", referenceParam, "performer", ""}, {"result", referenceParam, "result", "Observation"}},
	"DocumentReference": {identifier, status, category, subject, patient, {"date", dateParam, "date", ""},
		{"type", tokenParam, "type", ""}, {"author", referenceParam, "author", ""},
		{"encounter", referenceParam, "context.encounter", ""}},
	"Encounter": {identifier, status, subject, patient, {"class", tokenParam, "class", ""}, {"type", tokenParam, "type", ""},
		{"date", dateParam, "period", ""}, {"participant", referenceParam, "participant.individual", ""},
		{"service-provider", referenceParam, "serviceProvider", "Organization"}, {"location", referenceParam, "location.location", "Location"}},
	"ExplanationOfBenefit": {identifier, status, patientByName, {"created", dateParam, "created", ""},
		{"coverage", referenceParam, "insurance.coverage", "Coverage"}, {"provider", referenceParam, "provider", ""}},
	"Goal": {identifier, category, subject, patient, {"lifecycle-status", tokenParam, "lifecycleStatus", ""}},
	"Group": {identifier, code, {"type", tokenParam, "type", ""}, {"actual", tokenParam, "actual", ""},
		{"member", referenceParam, "member.entity", ""}, {"managing-entity", referenceParam, "managingEntity", ""}},
	"ImagingStudy": {identifier, status, subject, patient, encounter, {"started", dateParam, "started", ""}},
	"Immunization": {identifier, status, patientByName, {"date", dateParam, "occurrenceDateTime", ""},
		{"vaccine-code", tokenParam, "vaccineCode", ""}, {"performer", referenceParam, "performer.actor", ""},
		{"location", referenceParam, "location", "Location"}},
	"Location":   {identifier, status, name, {"type", tokenParam, "type", ""}, {"organization", referenceParam, "managingOrganization", "Organization"}},
	"Medication": {identifier, status, code},
	"MedicationAdministration": {identifier, status, subject, patient, {"code", tokenParam, "medicationCodeableConcept", ""},
		{"effective-time", dateParam, "effectiveDateTime effectivePeriod", ""}},
	"MedicationRequest": {identifier, status, category, subject, patient, encounter,
		{"intent", tokenParam, "intent", ""}, {"code", tokenParam, "medicationCodeableConcept", ""},
		{"authoredon", dateParam, "authoredOn", ""}, {"requester", referenceParam, "requester", ""}},
	"Observation": {identifier, status, code, category, subject, patient, encounter,
		{"date", dateParam, "effectiveDateTime effectivePeriod effectiveInstant", ""},
		{"performer", referenceParam, "performer", ""}, {"device", referenceParam, "device", ""},
		{"value-concept", tokenParam, "valueCodeableConcept", ""}},
	"Organization": {identifier, active, name, {"type", tokenParam, "type", ""}, {"partof", referenceParam, "partOf", "Organization"}},
	"Patient": {identifier, active, name, {"family", stringParam, "name.family", ""}, {"given", stringParam, "name.given", ""},
		{"gender", tokenParam, "gender", ""}, {"birthdate", dateParam, "birthDate", ""},
		{"address-city", stringParam, "address.city", ""}, {"general-practitioner", referenceParam, "generalPractitioner", ""},
		{"organization", referenceParam, "managingOrganization", "Organization"}, {"link", referenceParam, "link.other", ""}},
	"Practitioner": {identifier, active, name, {"family", stringParam, "name.family", ""}, {"gender", tokenParam, "gender", ""}},
	"PractitionerRole": {identifier, active, {"practitioner", referenceParam, "practitioner", "Practitioner"},
		{"organization", referenceParam, "organization", "Organization"}, {"location", referenceParam, "location", "Location"},
		{"specialty", tokenParam, "specialty", ""}},
	"Procedure": {identifier, status, code, category, subject, patient, encounter,
		{"date", dateParam, "performedDateTime performedPeriod", ""}, {"performer", referenceParam, "performer.actor", ""}},
	"Provenance": {{"target", referenceParam, "target", ""}, {"patient", referenceParam, "target", "Patient"},
		{"recorded", dateParam, "recorded", ""}, {"agent", referenceParam, "agent.who", ""}},
	"QuestionnaireResponse": {identifier, status, subject, patient, encounter, {"authored", dateParam, "authored", ""}},
	"RelatedPerson":         {identifier, active, name, patientByName},
	"ServiceRequest": {identifier, status, code, category, subject, patient, encounter,
		{"intent", tokenParam, "intent", ""}, {"authored", dateParam, "authoredOn", ""}},
	"SupplyDelivery": {identifier, status, patientByName},
}

// knownTypes are the types the server knows, sorted.
func knownTypes() []string { return slices.Sorted(maps.Keys(typeParams)) }

// findParam is the parameter of that name, nil if the type has none.
func findParam(typ, name string) *param {
	for _, list := range [][]param{typeParams[typ], everyType} {
		for i := range list {
			if list[i].name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// controlParam says whether a name is no search criterion but says how to
// answer.
func controlParam(name string) bool {
	return strings.HasPrefix(name, "_") && slices.Contains([]string{
		"_count", "_sort", "_summary", "_total", "_elements", "_format", "_pretty"}, name)
}
