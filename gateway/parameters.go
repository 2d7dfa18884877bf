package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"spillway/upstream/fhir"
)

// bodyKinds are the kinds of value that a parameter may have in the body of a
// POST. STU 1 to 3 say which; clients also write codes and instants as strings.
var bodyKinds = map[string][]string{
	paramOutputFormat: {"valueString", "valueCode"},
	paramSince:        {"valueInstant", "valueDateTime", "valueString"},
	paramUntil:        {"valueInstant", "valueDateTime", "valueString"},
	paramType:         {"valueString", "valueCode"},
	paramTypeFilter:   {"valueString"},
	paramElements:     {"valueString"},
	paramPatient:      {"valueReference", "valueString"},
	paramAssociated:   {"valueCode", "valueCoding", "valueString"},
}

// readBody turns the Parameters body of a POST into named values. base is the
// public FHIR base: references below it are made relative.
func readBody(body []byte, base string) (url.Values, error) {
	parameters, err := fhir.ReadParameters(body)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, fhir.IssueStructure, "The body of the kick-off is not a Parameters resource that can be used: %v.", err)
	}
	values := make(url.Values)
	for _, p := range parameters {
		if kinds, known := bodyKinds[p.Name]; known && !slices.Contains(kinds, p.Kind) {
			return nil, refuseParameter(p.Name, fhir.IssueStructure, "the value must be a %s", strings.Join(kinds, " or a "))
		}
		value := p.Value
		if p.Kind == "valueReference" {
			value = strings.TrimPrefix(p.Reference, base+"/")
		}
		if p.Name == paramPatient && !strings.HasPrefix(value, "Patient/") {
			return nil, refuseParameter(paramPatient, fhir.IssueValue, "a value is not a reference to a patient of this server; write Patient/[id]")
		}
		values.Add(p.Name, value)
	}
	return values, nil
}
