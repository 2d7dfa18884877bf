package fakefhir

import (
	"bytes"
	"slices"
	"strings"
)

// mandatory are the root elements with a minimum of one, as R4 has them.
var mandatory = map[string]string{
	"AllergyIntolerance":       "patient",
	"Basic":                    "code",
	"CarePlan":                 "status intent subject",
	"Claim":                    "status type use patient created provider priority insurance",
	"Condition":                "subject",
	"Coverage":                 "status beneficiary payor",
	"DiagnosticReport":         "status code",
	"DocumentReference":        "status content",
	"Encounter":                "status class",
	"ExplanationOfBenefit":     "status type use patient created insurer provider outcome insurance",
	"Goal":                     "lifecycleStatus description subject",
	"Group":                    "type actual",
	"ImagingStudy":             "status subject",
	"Immunization":             "status vaccineCode patient occurrenceDateTime occurrenceString",
	"MedicationAdministration": "status medicationCodeableConcept medicationReference subject effectiveDateTime effectivePeriod",
	"MedicationRequest":        "status intent medicationCodeableConcept medicationReference subject",
	"Observation":              "status code",
	"Procedure":                "status subject",
	"Provenance":               "target recorded agent",
	"QuestionnaireResponse":    "status",
	"RelatedPerson":            "patient",
	"ServiceRequest":           "status intent subject",
}

const subsetted = `{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue","code":"SUBSETTED"}`

// subset keeps the root elements that _elements names, those that a resource
// must have, and adds the SUBSETTED tag.
func subset(resource []byte, typ string, elements []string) []byte {
	ms, err := members(resource)
	if err != nil {
		return resource
	}
	keep := append(strings.Fields(mandatory[typ]), "resourceType", "id", "meta")
	for _, e := range elements {
		e = strings.TrimSpace(e)
		e = strings.TrimPrefix(e, typ+".")
		keep = append(keep, e)
	}
	var out []member
	for _, m := range ms {
		if !slices.Contains(keep, strings.TrimPrefix(m.name, "_")) {
			continue
		}
		if m.name == "meta" {
			m.raw = addTag(m.raw)
		}
		out = append(out, m)
	}
	return appendObject(nil, out)
}

func addTag(meta []byte) []byte {
	ms, err := members(meta)
	if err != nil {
		return meta
	}
	for i, m := range ms {
		if m.name == "tag" {
			ms[i].raw = slices.Concat(bytes.TrimSuffix(m.raw, []byte("]")), []byte(","+subsetted+"]"))
			return appendObject(nil, ms)
		}
	}
	return appendObject(nil, append(ms, member{"tag", []byte("[" + subsetted + "]")}))
}
