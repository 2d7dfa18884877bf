package fakefhir

import (
	"fmt"
	"slices"
	"strings"
)

// hospitals makes what patients share. Their number grows with the patients.
func (g *generator) hospitals() {
	g.organizations = 2 + g.o.Patients/25
	g.practitioners = 4 + g.o.Patients/5
	for i := 1; i <= g.organizations; i++ {
		partOf := ""
		if i > 1 && i%3 == 0 {
			partOf = `,"partOf":` + ref("Organization", "org-1")
		}
		city := pick(g, cities)
		g.put("Organization", fmt.Sprintf("org-%d", i),
			`"identifier":[{"system":"http://hl7.org/fhir/sid/us-npi","value":"%d"}],"active":true,`+
				`"type":[%s],"name":"%s General Hospital","address":[{"line":["%d Main Street"],"city":"%s"}]%s`,
			1000000000+i, concept(hl7+"organization-type", term{"prov", "Healthcare Provider"}), city, 1+g.rng.IntN(200), city, partOf)
		g.put("Location", fmt.Sprintf("loc-%d", i),
			`"status":"active","name":"%s General Hospital, ward %d","mode":"instance","position":{"longitude":%s,"latitude":%s},"managingOrganization":%s`,
			city, i, g.decimal(-70, 20, 6), g.decimal(-30, 60, 6), ref("Organization", fmt.Sprintf("org-%d", i)))
	}
	for i := 1; i <= g.practitioners; i++ {
		id := fmt.Sprintf("pract-%d", i)
		g.put("Practitioner", id,
			`"identifier":[{"system":"http://hl7.org/fhir/sid/us-npi","value":"%d"}],"active":%t,`+
				`"name":[{"family":"%s","given":["%s"],"prefix":["Dr."]}],"gender":"%s"`,
			2000000000+i, i%7 != 0, pick(g, familyNames), pick(g, givenNames), pick(g, []string{"male", "female", "other", "unknown"}))
		org := 1 + g.rng.IntN(g.organizations)
		g.put("PractitionerRole", fmt.Sprintf("role-%d", i),
			`"active":true,"practitioner":%s,"organization":%s,"specialty":[%s],"location":[%s]`,
			ref("Practitioner", id), ref("Organization", fmt.Sprintf("org-%d", org)),
			concept(snomed, pick(g, specialties)), ref("Location", fmt.Sprintf("loc-%d", org)))
	}
	g.now += 1_000
	g.put("Device", "freezer-1", `"status":"active","deviceName":[{"name":"Vaccine freezer","type":"user-friendly-name"}],"location":%s`,
		ref("Location", "loc-1"))
	g.put("Observation", "freezer-1-temperature", `"status":"final","code":%s,"subject":%s,"device":%s,"valueQuantity":{"value":-18.50,"unit":"°C"}`,
		concept(loinc, term{"60832-3", "Room temperature"}), ref("Location", "loc-1"), ref("Device", "freezer-1"))
}

// groups makes the Groups. Members that do not exist are left out.
func (g *generator) groups() {
	member := func(k int, more string) string {
		if k > g.o.Patients {
			return ""
		}
		return fmt.Sprintf(`{"entity":%s%s}`, ref("Patient", fmt.Sprintf("patient-%d", k)), more)
	}
	var all []string
	for k := 1; k <= g.o.Patients; k++ {
		all = append(all, member(k, ""))
	}
	g.group("group-all", "person", "All patients", all...)
	g.group("group-few", "person", "A few patients", member(1, ""), member(3, ""), member(5, ""))
	g.group("group-nested", "person", "A Group within a Group",
		`{"entity":`+ref("Group", "group-few")+`}`, member(2, ""), member(4, `,"inactive":true`),
		member(6, `,"period":{"start":"2020-01-01","end":"2021-06-30"}`))
	g.group("group-devices", "device", "No patients", `{"entity":`+ref("Device", "freezer-1")+`}`)
}

func (g *generator) group(id, typ, name string, list ...string) {
	list = slices.DeleteFunc(list, func(m string) bool { return m == "" })
	members := ""
	if len(list) > 0 {
		members = `,"member":[` + strings.Join(list, ",") + `]`
	}
	g.put("Group", id, `"identifier":[{"system":"http://example.org/groups","value":"%s"}],"active":true,"type":"%s","actual":true,"name":"%s","quantity":%d%s`,
		id, typ, name, len(list), members)
}
