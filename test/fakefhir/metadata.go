package fakefhir

import (
	"fmt"
	"slices"
	"strings"
)

const metadataXML = `<CapabilityStatement xmlns="http://hl7.org/fhir"><status value="active"/><kind value="instance"/>` +
	`<fhirVersion value="4.0.1"/><format value="application/fhir+json"/></CapabilityStatement>`

// capabilities is a truthful CapabilityStatement.
func (s *Server) capabilities(root string) []byte {
	d := dialect{software: "fakefhir", version: "1.10", publisher: "Spillway tests", description: "A fake FHIR server"}
	if s.o.Like != "" {
		d = s.d
	}
	b := []byte(`{"resourceType":"CapabilityStatement","id":"fakefhir","name":"FakeFHIR","status":"active","date":"2025-01-01T00:00:00.000Z","kind":"instance",`)
	if d.publisher != "" {
		b = fmt.Appendf(b, `"publisher":%q,`, d.publisher)
	}
	if d.software != "" {
		b = fmt.Appendf(b, `"software":{"name":%q,"version":%q},`, d.software, d.version)
	}
	b = fmt.Appendf(b, `"implementation":{"description":%q,"url":%q},"fhirVersion":"4.0.1","format":["application/fhir+json","json"],`+
		`"rest":[{"mode":"server","resource":[`, d.description, root)
	for i, typ := range knownTypes() {
		if i > 0 {
			b = append(b, ',')
		}
		b = s.appendTypeCapability(b, typ)
	}
	system := []string{"transaction", "batch"}
	if !s.o.NoHistory && !s.o.NoSystemHistory {
		system = append(system, "history-system")
	}
	b = append(b, `],"interaction":[`+codes(system)+`],"searchParam":[`...)
	b = append(b, s.searchParams(everyType, "_lastUpdated", "_has")...)
	return append(b, `]}]}`...)
}

func (s *Server) appendTypeCapability(b []byte, typ string) []byte {
	interactions := []string{"read", "vread"}
	if !slices.Contains(s.d.unsearchable, typ) {
		interactions = append(interactions, "search-type")
	}
	params := typeParams[typ]
	if s.bulk(typ) {
		params = nil
	} else {
		interactions = append(interactions, "create", "update", "delete", "history-instance")
		if !s.o.NoHistory {
			interactions = append(interactions, "history-type")
		}
	}
	b = fmt.Appendf(b, `{"type":%q,"profile":"http://hl7.org/fhir/StructureDefinition/%s","interaction":[%s],`+
		`"versioning":"versioned","conditionalCreate":false,"searchParam":[`, typ, typ, codes(interactions))
	b = append(b, `{"name":"_id","type":"token"}`...)
	if rest := s.searchParams(params, "_lastUpdated"); rest != "" {
		b = append(b, ',')
		b = append(b, rest...)
	}
	return append(b, `]}`...)
}

func codes(list []string) string {
	var out []string
	for _, c := range list {
		out = append(out, fmt.Sprintf(`{"code":%q}`, c))
	}
	return strings.Join(out, ",")
}

// searchParams lists those that the server knows, and others that stand in no table.
func (s *Server) searchParams(list []param, others ...string) string {
	var out []string
	add := func(name, typ string) {
		if !s.d.hides(name) {
			out = append(out, fmt.Sprintf(`{"name":%q,"type":%q}`, name, typ))
		}
	}
	for _, p := range list {
		add(p.name, string(p.typ))
	}
	for _, name := range others {
		add(name, map[string]string{"_lastUpdated": "date", "_has": "string"}[name])
	}
	return strings.Join(out, ",")
}
