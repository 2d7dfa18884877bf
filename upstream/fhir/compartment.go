package fhir

import (
	"slices"
	"strings"
)

// A CompartmentParam is a search parameter by which resources of a type get
// into the Patient compartment.
type CompartmentParam struct {
	Name string // of the search parameter, such as "actor"
	// Paths are the elements that the parameter looks at, such as
	// "participant.actor": member names as in JSON, so a choice stands with its
	// type. Arrays on the way are not marked. Nil for "_id" of Patient, which is
	// the resource itself.
	Paths []string
}

// A Release is a release of FHIR, as far as it decides on compartments. The
// zero value is R4.
type Release int

// R4B (4.3.0) has the Patient compartment of R4 (4.0.1), word for word.
const (
	R4 Release = iota
	R5
)

// ReleaseOf returns the release of a fhirVersion, such as "4.3.0". What is not
// known is taken for R4.
func ReleaseOf(version string) Release {
	if strings.HasPrefix(version, "5.") {
		return R5
	}
	return R4
}

// compartment is the definition, by type. It is shared.
func (r Release) compartment() map[string][]CompartmentParam {
	if r == R5 {
		return patientCompartmentR5
	}
	return patientCompartmentR4
}

// PatientCompartment returns the parameters that make up the Patient
// compartment for a type, as HL7 defines it for the release; nil if the type is
// outside of it. For Patient, "_id" comes first. The result is the caller's.
func (r Release) PatientCompartment(typ string) []CompartmentParam {
	params := slices.Clone(r.compartment()[typ])
	for i := range params {
		params[i].Paths = slices.Clone(params[i].Paths)
	}
	return params
}

// InPatientCompartment reports whether resources of the type can be in the
// Patient compartment.
func (r Release) InPatientCompartment(typ string) bool {
	return len(r.compartment()[typ]) > 0
}

// PatientRefs calls yield with the id of each Patient in whose compartment the
// resource is, and the name of the parameter by which it is; the same id may
// come more than once. A Patient's own id comes first, under "_id". References
// are understood as by ParseReference, so the base of an absolute one does not
// matter. It ends early when yield returns false. The error wraps ErrMalformed:
// resource is no JSON object.
func (r Release) PatientRefs(typ string, resource []byte, yield func(param, patientID string) bool) error {
	if typ == "Patient" {
		h, err := ReadHeader(resource)
		if err != nil {
			return err
		}
		if h.ID != "" && !yield("_id", h.ID) {
			return nil
		}
	}
	params := r.compartment()[typ]
	c := cursor{b: resource}
	c.object("a resource")
	for name, ok := c.member(); ok; name, ok = c.member() {
		value := c.value()
		for i := range params {
			for _, path := range params[i].Paths {
				first, rest, _ := strings.Cut(path, ".")
				if first != string(name) {
					continue
				}
				v := cursor{b: value}
				more := v.references(rest, func(ref []byte) bool {
					id, ok := patientID(ref)
					return !ok || yield(params[i].Name, id)
				})
				if !more {
					return nil
				}
			}
		}
	}
	return c.err()
}

func patientID(ref []byte) (id string, ok bool) {
	typ, id, ok := ParseReference(string(ref))
	return id, ok && typ == "Patient"
}

// References calls yield with each Reference.reference under a dotted path of
// member names, such as "participant.actor", in document order. Arrays are
// flattened. It ends early when yield returns false. The error wraps
// ErrMalformed: resource is no JSON object.
func References(resource []byte, path string, yield func(ref string) bool) error {
	c := cursor{b: resource}
	if c.kind() != '{' {
		c.fail("a resource is no object")
	}
	c.references(path, func(ref []byte) bool { return yield(string(ref)) })
	return c.err()
}

// references steps over the next value, an object or an array of objects, and
// calls yield for each reference under the path in it. It returns false once
// yield has.
func (c *cursor) references(path string, yield func(ref []byte) bool) bool {
	if !c.open('[') {
		return c.referencesIn(path, yield)
	}
	for c.element() {
		if !c.referencesIn(path, yield) {
			return false
		}
	}
	return true
}

func (c *cursor) referencesIn(path string, yield func(ref []byte) bool) bool {
	if !c.open('{') {
		c.value()
		return true
	}
	first, rest, _ := strings.Cut(path, ".")
	for name, ok := c.member(); ok; name, ok = c.member() {
		switch {
		case path == "" && string(name) == "reference":
			if ref, ok := c.text(); ok && !yield(ref) {
				return false
			}
		case path != "" && string(name) == first:
			if !c.references(rest, yield) {
				return false
			}
		default:
			c.value()
		}
	}
	return true
}
