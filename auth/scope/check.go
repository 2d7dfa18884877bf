package scope

import (
	"bytes"
	"errors"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
)

// ErrUncheckable says that a query has a parameter that is not evaluated here,
// so that nobody but the upstream knows whether a resource is one that it finds.
var ErrUncheckable = errors.New("scope: the query cannot be evaluated")

// kind is what a search parameter looks at.
type kind int

const (
	unknown  kind = iota
	codings       // a list of Coding
	concepts      // a CodeableConcept, or a list of them
	codes         // a code, or a list of them; its system is implied
)

// element returns where the values of a parameter are, for those whose meaning
// is the value of one element. A path with two names is below meta.
// Source: FHIR R4, the search parameters of each type.
func element(typ, param string) (string, kind) {
	switch param {
	case "_security":
		return "security", codings
	case "_tag":
		return "tag", codings
	case "category":
		switch typ {
		case "AllergyIntolerance":
			return "category", codes
		case "CarePlan", "CareTeam", "Communication", "CommunicationRequest", "Composition", "Condition", "Consent",
			"DiagnosticReport", "DocumentReference", "Goal", "MedicationRequest", "MedicationStatement", "Observation",
			"Procedure", "ServiceRequest":
			return "category", concepts
		}
	case "code":
		switch typ {
		case "Basic", "ChargeItem", "Condition", "DetectedIssue", "DiagnosticReport", "List", "Medication", "Observation",
			"Procedure", "ServiceRequest", "Substance":
			return "code", concepts
		case "MedicationAdministration", "MedicationDispense", "MedicationRequest", "MedicationStatement":
			return "medicationCodeableConcept", concepts
		}
	case "status":
		switch typ {
		case "Account", "Appointment", "CarePlan", "CareTeam", "Claim", "Communication", "CommunicationRequest", "Composition",
			"Consent", "Coverage", "Device", "DeviceRequest", "DiagnosticReport", "DocumentReference", "Encounter",
			"EpisodeOfCare", "ExplanationOfBenefit", "ImagingStudy", "Immunization", "List", "MedicationAdministration",
			"MedicationDispense", "MedicationRequest", "MedicationStatement", "NutritionOrder", "Observation", "Procedure",
			"QuestionnaireResponse", "ResearchStudy", "ResearchSubject", "ServiceRequest", "Slot", "SupplyDelivery",
			"SupplyRequest", "Task":
			return "status", codes
		}
	}
	return "", unknown
}

// Checkable reports whether the query can be evaluated on resources of a type.
func (q Query) Checkable(typ string) bool {
	return !slices.ContainsFunc(q, func(p Param) bool { return !p.checkable(typ) })
}

func (p Param) checkable(typ string) bool {
	_, k := element(typ, p.Name)
	return k != unknown &&
		(k != codes || !slices.ContainsFunc(alternatives(p.Value), func(t token) bool { return !t.anySystem }))
}

// Admits reports whether a resource of a type, as JSON, is one that may be
// read. Of the queries, those that cannot be evaluated count only with
// unchecked, and then for any resource that those of their parameters admit which
// can. It is false for what is no JSON object
// or has a member twice.
func (a Access) Admits(typ string, resource []byte, unchecked bool) bool {
	if a.All {
		return true
	}
	for _, q := range a.Any {
		if len(q) == 0 {
			continue
		}
		switch ok, err := q.Matches(typ, resource); {
		case err != nil && unchecked, err == nil && ok:
			return true
		}
	}
	return false
}

// Matches reports whether a resource of a type, as JSON, is one that the query
// finds. ErrUncheckable: that is not known here, though nothing that can be
// evaluated speaks against it.
func (q Query) Matches(typ string, resource []byte) (bool, error) {
	var open error
	for _, p := range q {
		if !p.checkable(typ) {
			open = ErrUncheckable
			continue
		}
		name, k := element(typ, p.Name)
		within := jsontext.Value(resource)
		if k == codings {
			within = member(within, "meta")
		}
		value := member(within, name)
		if value == nil || !has(value, k, alternatives(p.Value)) {
			return false, nil
		}
	}
	return open == nil, open
}

// has reports whether a value has one of the tokens.
func has(v jsontext.Value, k kind, want []token) bool {
	for _, item := range items(v) {
		switch k {
		case codes:
			if text := textOf(item); text != "" && slices.ContainsFunc(want, func(t token) bool { return t.code == text }) {
				return true
			}
		case codings:
			if isCoding(item, want) {
				return true
			}
		case concepts:
			list := member(item, "coding")
			if list != nil && slices.ContainsFunc(items(list), func(c jsontext.Value) bool { return isCoding(c, want) }) {
				return true
			}
		}
	}
	return false
}

func isCoding(v jsontext.Value, want []token) bool {
	system, code := textOf(member(v, "system")), textOf(member(v, "code"))
	return slices.ContainsFunc(want, func(t token) bool {
		return (t.anySystem || t.system == system) && (t.anyCode || t.code == code && code != "")
	})
}

// member returns a member of an object; nil if there is none. Names are
// compared to the letter, and must stand once.
func member(object jsontext.Value, name string) jsontext.Value {
	if object.Kind() != jsontext.BeginObject.Kind() {
		return nil
	}
	d := jsontext.NewDecoder(bytes.NewReader(object))
	if _, err := d.ReadToken(); err != nil {
		return nil
	}
	var found jsontext.Value
	for d.PeekKind() != jsontext.EndObject.Kind() {
		key, err := d.ReadToken()
		if err != nil {
			return nil
		}
		wanted := key.String() == name
		value, err := d.ReadValue()
		if err != nil {
			return nil
		}
		if wanted {
			found = value.Clone()
		}
	}
	return found
}

// items returns the items of an array, or the value itself.
func items(v jsontext.Value) []jsontext.Value {
	if v.Kind() != jsontext.BeginArray.Kind() {
		return []jsontext.Value{v}
	}
	d := jsontext.NewDecoder(bytes.NewReader(v))
	if _, err := d.ReadToken(); err != nil {
		return nil
	}
	var list []jsontext.Value
	for d.PeekKind() != jsontext.EndArray.Kind() {
		item, err := d.ReadValue()
		if err != nil {
			return nil
		}
		list = append(list, item.Clone())
	}
	return list
}

func textOf(v jsontext.Value) string {
	if v.Kind() != '"' {
		return ""
	}
	b, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return ""
	}
	return string(b)
}
