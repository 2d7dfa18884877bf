package fakefhir

import (
	"fmt"
	"strings"
)

const metadataXML = `<CapabilityStatement xmlns="http://hl7.org/fhir"><status value="active"/><kind value="instance"/>` +
	`<fhirVersion value="4.0.1"/><format value="application/fhir+json"/></CapabilityStatement>`

// capabilities is a truthful CapabilityStatement.
func (s *Server) capabilities(root string) []byte {
	b := fmt.Appendf(nil, `{"resourceType":"CapabilityStatement","id":"fakefhir","name":"FakeFHIR","status":"active",`+
		`"date":"2025-01-01T00:00:00.000Z","publisher":"Spillway tests","kind":"instance",`+
		`"software":{"name":"fakefhir","version":"1.10"},"implementation":{"description":"A fake FHIR server","url":%q},`+
		`"fhirVersion":"4.0.1","format":["application/fhir+json","json"],`+
		`"rest":[{"mode":"server","resource":[`, root)
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
	b = append(b, searchParams(everyType)...)
	b = append(b, `,{"name":"_lastUpdated","type":"date"},{"name":"_has","type":"string"}]}]}`...)
	return b
}

func (s *Server) appendTypeCapability(b []byte, typ string) []byte {
	interactions := []string{"read", "vread", "search-type"}
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
	b = append(b, `{"name":"_id","type":"token"},{"name":"_lastUpdated","type":"date"}`...)
	if len(params) > 0 {
		b = append(b, ',')
		b = append(b, searchParams(params)...)
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

func searchParams(list []param) string {
	var out []string
	for _, p := range list {
		out = append(out, fmt.Sprintf(`{"name":%q,"type":%q}`, p.name, p.typ))
	}
	return strings.Join(out, ",")
}
