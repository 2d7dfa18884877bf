package fhir

import (
	"bytes"
	"encoding/json"
	"slices"
)

// The canonical addresses of the Bulk Data Access IG, without version, since
// that is what test suites compare with.
const (
	bulkStatement      = "http://hl7.org/fhir/uv/bulkdata/CapabilityStatement/bulk-data"
	exportDefinition   = "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/export"
	patientDefinition  = "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/patient-export"
	groupDefinition    = "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/group-export"
	systemOperations   = `{"name":"export","definition":"` + exportDefinition + `"}`
	patientOperations  = `{"name":"export","definition":"` + patientDefinition + `"},{"name":"patient-export","definition":"` + patientDefinition + `"}`
	groupOperations    = `{"name":"export","definition":"` + groupDefinition + `"},{"name":"group-export","definition":"` + groupDefinition + `"}`
	newPatientResource = `{"type":"Patient","operation":[` + patientOperations + `]}`
	newGroupResource   = `{"type":"Group","operation":[` + groupOperations + `]}`
	newRest            = `{"mode":"server","resource":[` + newPatientResource + `,` + newGroupResource + `],"operation":[` + systemOperations + `]}`
)

// MergeCapabilities returns the upstream's CapabilityStatement with the export
// operations in it: instantiates names the Bulk Data statement; the first rest
// entry with mode server gets export, its Patient export and patient-export,
// its Group export and group-export, instead of operations of these names that
// the upstream has there. What is missing on the way (rest, Patient, Group) is
// added. All else stays byte for byte, but for white space between the
// operations of a list that changes. With smart, the security of that rest entry
// is replaced by it. statement itself is not changed. The error is a *BodyError:
// statement is no valid CapabilityStatement.
func MergeCapabilities(statement []byte, smart *SMART) ([]byte, error) {
	const want = "a CapabilityStatement"
	b, err := checkDocument(statement, want, ErrNotCapabilities)
	if err != nil {
		return nil, err
	}
	m := merge{c: cursor{b: b}, security: smart.security()}
	typ := m.statement()
	switch {
	case m.c.problem != "":
		return nil, &BodyError{Kind: ErrMalformed, Want: want, Offset: int64(m.c.at), Problem: m.c.problem}
	case typ != "CapabilityStatement":
		return nil, &BodyError{Kind: ErrNotCapabilities, Want: want, Got: describeType(typ)}
	}
	return m.apply(), nil
}

// SMART is how a server is protected.
type SMART struct {
	// TokenURL is where access tokens are fetched. Empty: the statement does not say.
	TokenURL string
}

// security is rest.security of a statement; "" for nil.
// Source: SMART App Launch 2.2, "Declaring Support for OAuth2 Endpoints"; Bulk Data
// clients look for the token endpoint there.
func (s *SMART) security() string {
	if s == nil {
		return ""
	}
	text := `{`
	if s.TokenURL != "" {
		url, err := json.Marshal(s.TokenURL)
		if err != nil {
			panic("fhir: a string does not encode: " + err.Error()) // impossible
		}
		text += `"extension":[{"url":"http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris",` +
			`"extension":[{"url":"token","valueUri":` + string(url) + `}]}],`
	}
	return text + `"service":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/restful-security-service",` +
		`"code":"SMART-on-FHIR","display":"SMART-on-FHIR"}],"text":"OAuth2 using SMART Backend Services"}]}`
}

// A merge walks over a statement once and notes what to splice where.
type merge struct {
	c        cursor
	edits    []edit
	security string // rest.security; "": as it is
}

// newRest is a rest entry where there is none.
func (m *merge) newRest() string {
	if m.security == "" {
		return newRest
	}
	return newRest[:len(newRest)-1] + `,"security":` + m.security + `}`
}

// An edit replaces the bytes from..to of the statement.
type edit struct {
	from, to int
	text     string
}

func (m *merge) edit(from, to int, text string) { m.edits = append(m.edits, edit{from, to, text}) }

func (m *merge) apply() []byte {
	slices.SortStableFunc(m.edits, func(a, b edit) int { return a.from - b.from })
	var out bytes.Buffer
	out.Grow(len(m.c.b) + 2048)
	at := 0
	for _, e := range m.edits {
		out.Write(m.c.b[at:e.from])
		out.WriteString(e.text)
		at = e.to
	}
	out.Write(m.c.b[at:])
	return out.Bytes()
}

func (m *merge) statement() (typ string) {
	c := &m.c
	c.object("a statement")
	hasInstantiates, hasRest := false, false
	for name, ok := c.member(); ok; name, ok = c.member() {
		switch string(name) {
		case "resourceType":
			typ = string(c.optionalText("resourceType"))
		case "instantiates":
			hasInstantiates = true
			m.instantiates()
		case "rest":
			hasRest = true
			m.rests()
		default:
			c.value()
		}
	}
	end := c.i - 1 // the statement has resourceType at least, so a comma is right
	if !hasInstantiates {
		m.edit(end, end, `,"instantiates":["`+bulkStatement+`"]`)
	}
	if !hasRest {
		m.edit(end, end, `,"rest":[`+m.newRest()+`]`)
	}
	return typ
}

// array enters an array that must stand next.
func (m *merge) array(where string) {
	if !m.c.open('[') {
		m.c.fail(where + " is no array")
	}
}

// grow notes that text is appended to the array that was just left.
func (m *merge) grow(empty bool, text string) {
	if !empty {
		text = "," + text
	}
	m.edit(m.c.i-1, m.c.i-1, text)
}

func (m *merge) instantiates() {
	m.array("instantiates")
	empty, present := true, false
	for m.c.element() {
		empty = false
		s, _ := m.c.text()
		present = present || string(s) == bulkStatement
	}
	if !present {
		m.grow(empty, `"`+bulkStatement+`"`)
	}
}

// rests merges into the first entry of rest with mode server. An entry may say
// its mode after its resources, so the edits of others are dropped again.
func (m *merge) rests() {
	m.array("rest")
	empty, found := true, false
	for m.c.element() {
		empty = false
		if found {
			m.c.value()
			continue
		}
		before := len(m.edits)
		if found = m.rest(); !found {
			m.edits = m.edits[:before]
		}
	}
	if !found {
		m.grow(empty, m.newRest())
	}
}

func (m *merge) rest() (server bool) {
	c := &m.c
	c.object("an entry of rest")
	hasOperations, hasResources, hasSecurity, empty := false, false, false, true
	for name, ok := c.member(); ok; name, ok = c.member() {
		empty = false
		switch string(name) {
		case "mode":
			server = string(c.optionalText("rest.mode")) == "server"
		case "operation":
			hasOperations = true
			m.operations(systemOperations, "export")
		case "resource":
			hasResources = true
			m.resources()
		case "security":
			hasSecurity = true
			c.kind()
			from := c.i
			if c.value(); m.security != "" {
				m.edit(from, c.i, m.security)
			}
		default:
			c.value()
		}
	}
	if !hasResources {
		m.grow(empty, `"resource":[`+newPatientResource+`,`+newGroupResource+`]`)
	}
	if !hasOperations {
		m.grow(false, `"operation":[`+systemOperations+`]`)
	}
	if !hasSecurity && m.security != "" {
		m.grow(false, `"security":`+m.security)
	}
	return server
}

func (m *merge) resources() {
	m.array("rest.resource")
	empty, patient, group := true, false, false
	for m.c.element() {
		empty = false
		switch look := (&cursor{b: m.c.b, i: m.c.i}); look.typeOfEntry() {
		case "Patient":
			m.resource(!patient, patientOperations, "export", "patient-export")
			patient = true
		case "Group":
			m.resource(!group, groupOperations, "export", "group-export")
			group = true
		default:
			m.c.value()
		}
	}
	if !patient {
		m.grow(empty, newPatientResource)
		empty = false
	}
	if !group {
		m.grow(empty, newGroupResource)
	}
}

// typeOfEntry returns the type of the entry of rest.resource at the cursor.
func (c *cursor) typeOfEntry() (typ string) {
	if !c.open('{') {
		return ""
	}
	for name, ok := c.member(); ok; name, ok = c.member() {
		if string(name) == "type" {
			s, _ := c.text()
			return string(s)
		}
		c.value()
	}
	return ""
}

// resource merges ours into an entry of rest.resource; only the first entry of
// a type is changed.
func (m *merge) resource(first bool, ours string, names ...string) {
	if !first {
		m.c.value()
		return
	}
	m.c.object("an entry of rest.resource")
	has := false
	for name, ok := m.c.member(); ok; name, ok = m.c.member() {
		if string(name) == "operation" {
			has = true
			m.operations(ours, names...)
			continue
		}
		m.c.value()
	}
	if !has {
		m.grow(false, `"operation":[`+ours+`]`) // there is a type, so a comma is right
	}
}

// operations replaces those of a list of operations that have one of the names
// by ours.
func (m *merge) operations(ours string, names ...string) {
	c := &m.c
	m.array("operation")
	from, empty, replaced := c.i, true, false
	var kept []byte
	for c.element() {
		empty = false
		c.kind()
		start := c.i
		c.object("an operation")
		ours := false
		for name, ok := c.member(); ok; name, ok = c.member() {
			if string(name) != "name" {
				c.value()
				continue
			}
			s, _ := c.text()
			ours = slices.Contains(names, string(s))
		}
		if ours {
			replaced = true
			continue
		}
		kept = append(append(kept, c.b[start:c.i]...), ',')
	}
	if replaced {
		m.edit(from, c.i-1, string(kept)+ours)
		return
	}
	m.grow(empty, ours)
}
