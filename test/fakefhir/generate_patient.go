package fakefhir

import (
	"encoding/base64"
	"fmt"
	"strings"
	"time"
)

// chart is what a patient's resources refer to.
type chart struct {
	patient      string // its reference
	encounters   []string
	observations []string
	conditions   []string
	coverage     string
}

// patient makes a patient and all of its resources, about 400.
func (g *generator) patient(k int) {
	id := fmt.Sprintf("patient-%d", k)
	c := &chart{patient: ref("Patient", id)}
	g.person(id, k)
	for range g.some(44) {
		g.encounter(c)
	}
	for range g.some(24) {
		g.condition(c)
	}
	for i := range g.some(160) {
		g.observation(c, i)
	}
	for range g.some(34) {
		g.procedure(c)
	}
	for range g.some(16) {
		g.medicationRequest(c)
	}
	for range g.some(12) {
		g.immunization(c)
	}
	for range g.rng.IntN(4) {
		g.allergy(c)
	}
	for range g.some(24) {
		g.diagnosticReport(c)
	}
	for i := range g.some(20) {
		g.documentReference(c, i)
	}
	for range g.some(2) {
		g.carePlan(c)
	}
	g.coverage(c, k)
	for i := range g.some(40) {
		g.claim(c, k, i)
	}
	g.provenances(c)
	if g.chance(60) {
		g.put("Device", g.uuid(), `"status":"active","serialNumber":"SN-%06d","type":%s,"patient":%s`,
			g.rng.IntN(1_000_000), concept(snomed, term{"14106009", "Cardiac pacemaker"}), c.patient)
	}
}

func (g *generator) person(id string, k int) {
	born := time.Date(1930+g.rng.IntN(90), 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, g.rng.IntN(365))
	birthDate := born.Format([]string{"2006-01-02", "2006-01-02", "2006-01-02", "2006-01", "2006"}[g.rng.IntN(5)])
	deceased := ""
	if g.chance(8) {
		deceased = fmt.Sprintf(`,"deceasedDateTime":"%s"`, g.past(15).Format(time.RFC3339))
	}
	body := `"identifier":[{"use":"usual","system":"http://example.org/mrn","value":"MRN-%06d"}],"active":%t,` +
		`"name":[{"use":"official","family":"%s","given":["%s","%s"]}],"telecom":[{"system":"phone","value":"+41 44 %07d"}],` +
		`"gender":"%s","birthDate":"%s"%s,"address":[{"line":["%d Old Road"],"city":"%s","country":"XX"}],` +
		`"multipleBirthBoolean":%t,"generalPractitioner":[%s],"managingOrganization":%s`
	write := func(id, mrn string, active bool) {
		g.put("Patient", id, strings.Replace(body, "MRN-%06d", mrn, 1), active, pick(g, familyNames), pick(g, givenNames), pick(g, givenNames),
			g.rng.IntN(10_000_000), pick(g, []string{"male", "female", "other", "unknown"}), birthDate, deceased,
			1+g.rng.IntN(99), pick(g, cities), g.chance(3), g.practitioner(), g.organization())
	}
	if k%10 == 0 { // registered twice; the second entry was deleted later
		write(id+"-duplicate", fmt.Sprintf("MRN-%06d-D", k), false)
		g.remove()
	}
	write(id, fmt.Sprintf("MRN-%06d", k), k%9 != 0)
	if g.chance(30) {
		g.change(" Old Road", " New Road")
	}
	if g.chance(10) {
		g.change(" Old Road", " Last Road")
	}
}

func (g *generator) practitioner() string {
	return ref("Practitioner", fmt.Sprintf("pract-%d", 1+g.rng.IntN(g.practitioners)))
}

func (g *generator) organization() string {
	return ref("Organization", fmt.Sprintf("org-%d", 1+g.rng.IntN(g.organizations)))
}

func (g *generator) encounter(c *chart) {
	id, start := g.uuid(), g.past(0)
	c.encounters = append(c.encounters, ref("Encounter", id))
	status := "finished"
	if g.chance(4) {
		status = "in-progress"
	}
	g.put("Encounter", id,
		`"status":"%s","class":{"system":"`+hl7+`v3-ActCode","code":"%s"},"type":[%s],"subject":%s,"participant":[{"individual":%s}],`+
			`"period":{"start":"%s","end":"%s"},"location":[{"location":%s}],"serviceProvider":%s`,
		status, pick(g, []string{"AMB", "EMER", "IMP", "HH"}), concept(snomed, term{"185345009", "Encounter for symptom"}),
		c.patient, g.practitioner(), start.Format(time.RFC3339), start.Add(time.Duration(10+g.rng.IntN(300))*time.Minute).Format(time.RFC3339),
		ref("Location", fmt.Sprintf("loc-%d", 1+g.rng.IntN(g.organizations))), g.organization())
	if status == "in-progress" {
		g.change("in-progress", "finished")
	}
}

func (g *generator) condition(c *chart) {
	id, onset := g.uuid(), g.past(0)
	c.conditions = append(c.conditions, ref("Condition", id))
	clinical := func(code string) string {
		return fmt.Sprintf(`"clinicalStatus":{"coding":[{"system":"`+hl7+`condition-clinical","code":"%s"}]}`, code)
	}
	g.put("Condition", id,
		`%s,"verificationStatus":{"coding":[{"system":"`+hl7+`condition-ver-status","code":"confirmed"}]},"category":[%s],"code":%s,`+
			`"subject":%s,"encounter":%s,"onsetDateTime":"%s","recordedDate":"%s","note":[{"text":"%s"}]`,
		clinical("active"), concept(hl7+"condition-category", term{"encounter-diagnosis", "Encounter Diagnosis"}), concept(snomed, pick(g, conditions)),
		c.patient, pick(g, c.encounters), g.dateTime(onset), onset.AddDate(0, 0, 1).Format("2006-01-02"), pick(g, notes))
	if g.chance(8) {
		g.change(clinical("active"), clinical("resolved"))
	}
}

// observation makes vital signs and laboratory values of several shapes.
func (g *generator) observation(c *chart, i int) {
	id, m, at := g.uuid(), pick(g, measurements), g.past(0)
	status, kind := "final", term{"vital-signs", "Vital Signs"}
	if m.lab {
		kind = term{"laboratory", "Laboratory"}
		c.observations = append(c.observations, ref("Observation", id))
		if g.chance(10) {
			status = "preliminary"
		}
	}
	quantity := func(m measurement) string {
		return fmt.Sprintf(`{"value":%s,"unit":"%s","system":"http://unitsofmeasure.org","code":"%s"}`, g.decimal(m.low, m.high, m.digits), m.unit, m.ucum)
	}
	code, val := m.term, `"valueQuantity":`+quantity(m)
	switch {
	case i%20 == 3:
		code, kind = term{"85354-9", "Blood pressure panel"}, term{"vital-signs", "Vital Signs"}
		part := func(t term, low, high float64) string {
			return fmt.Sprintf(`{"code":%s,"valueQuantity":%s}`, concept(loinc, t), quantity(measurement{unit: "mmHg", ucum: "mm[Hg]", low: low, high: high}))
		}
		val = `"component":[` + part(term{"8480-6", "Systolic blood pressure"}, 90, 190) + "," + part(term{"8462-4", "Diastolic blood pressure"}, 50, 110) + `]`
	case i%20 == 7:
		code, kind = term{"72166-2", "Tobacco smoking status"}, term{"social-history", "Social History"}
		val = `"valueCodeableConcept":` + concept(snomed, pick(g, []term{{"266919005", "Never smoker"}, {"8517006", "Ex-smoker"}}))
	case i%40 == 11:
		val = `"dataAbsentReason":` + concept(hl7+"data-absent-reason", term{"unknown", "Unknown"})
	}
	performer := g.practitioner()
	if g.chance(5) {
		performer = c.patient // measured at home
	}
	note := ""
	if g.chance(10) {
		note = `,"note":[{"text":"` + pick(g, notes) + `"}]`
	}
	g.put("Observation", id,
		`"status":"%s","category":[%s],"code":%s,"subject":%s,"encounter":%s,"effectiveDateTime":"%s","issued":"%s","performer":[%s],%s%s`,
		status, concept(hl7+"observation-category", kind), concept(loinc, code), c.patient, pick(g, c.encounters),
		g.dateTime(at), at.Add(time.Hour).Format("2006-01-02T15:04:05.000-07:00"), performer, val, note)
	switch {
	case status == "preliminary":
		g.change(`"preliminary"`, `"final"`)
	case !m.lab && g.chance(2): // nothing refers to it
		g.remove()
	case g.chance(2):
		g.change(`"final"`, `"corrected"`)
	}
}

func (g *generator) procedure(c *chart) {
	at := g.past(0)
	g.put("Procedure", g.uuid(),
		`"status":"completed","code":%s,"subject":%s,"encounter":%s,"performedPeriod":{"start":"%s","end":"%s"},"performer":[{"actor":%s}],"reasonReference":[%s]`,
		concept(snomed, pick(g, procedures)), c.patient, pick(g, c.encounters), at.Format(time.RFC3339), at.Add(45*time.Minute).Format(time.RFC3339),
		g.practitioner(), pick(g, c.conditions))
	if g.chance(1) {
		g.remove()
	}
}

func (g *generator) medicationRequest(c *chart) {
	g.put("MedicationRequest", g.uuid(),
		`"status":"active","intent":"order","category":[%s],"medicationCodeableConcept":%s,"subject":%s,"encounter":%s,"authoredOn":"%s","requester":%s,`+
			`"dosageInstruction":[{"text":"%s","timing":{"repeat":{"frequency":%d,"period":1.0,"periodUnit":"d"}},"doseAndRate":[{"doseQuantity":{"value":%s}}]}]`,
		concept(hl7+"medicationrequest-category", term{"outpatient", "Outpatient"}), concept(rxnorm, pick(g, drugs)), c.patient, pick(g, c.encounters),
		g.dateTime(g.past(0)), g.practitioner(), pick(g, notes), 1+g.rng.IntN(4), g.decimal(0.5, 3, 2))
	if g.chance(25) {
		g.change(`"active"`, `"completed"`)
	}
}

func (g *generator) immunization(c *chart) {
	g.put("Immunization", g.uuid(),
		`"status":"completed","vaccineCode":%s,"patient":%s,"encounter":%s,"occurrenceDateTime":"%s","primarySource":true,"location":%s,"performer":[{"actor":%s}]`,
		concept(cvx, pick(g, vaccines)), c.patient, pick(g, c.encounters), g.dateTime(g.past(0)),
		ref("Location", fmt.Sprintf("loc-%d", 1+g.rng.IntN(g.organizations))), g.practitioner())
	if g.chance(3) {
		g.remove()
	}
}

func (g *generator) allergy(c *chart) {
	g.put("AllergyIntolerance", g.uuid(),
		`"clinicalStatus":{"coding":[{"system":"`+hl7+`allergyintolerance-clinical","code":"active"}]},"verificationStatus":{"coding":[{"system":"`+hl7+
			`allergyintolerance-verification","code":"confirmed"}]},"type":"allergy","category":["food"],"criticality":"%s","code":%s,"patient":%s,"recordedDate":"%s","recorder":%s`,
		pick(g, []string{"low", "high"}), concept(snomed, pick(g, allergens)), c.patient, g.dateTime(g.past(0)), g.practitioner())
}

// attachment is base64 text, now and then a long one.
func (g *generator) attachment(size int) string {
	var b strings.Builder
	for b.Len() < size {
		fmt.Fprintf(&b, "%s %s: %s\n", pick(g, givenNames), pick(g, familyNames), pick(g, notes))
		if b.Len() > 4096 { // what a scan looks like
			for range 4096 {
				b.WriteByte(byte(g.rng.Uint32()))
			}
		}
	}
	return base64.StdEncoding.EncodeToString([]byte(b.String()))
}

func (g *generator) diagnosticReport(c *chart) {
	at, kind := g.past(0), pick(g, reports)
	var results []string
	for range 1 + g.rng.IntN(4) {
		results = append(results, pick(g, c.observations))
	}
	g.put("DiagnosticReport", g.uuid(),
		`"status":"final","category":[%s],"code":%s,"subject":%s,"encounter":%s,"effectiveDateTime":"%s","issued":"%s","performer":[%s],"result":[%s],`+
			`"presentedForm":[{"contentType":"text/plain; charset=utf-8","data":"%s","title":"%s"}]`,
		concept(loinc, term{"LP29693-6", "Laboratory studies"}), concept(loinc, kind), c.patient, pick(g, c.encounters), g.dateTime(at),
		at.Format("2006-01-02T15:04:05.000Z"), g.organization(), strings.Join(results, ","), g.attachment(200+g.rng.IntN(800)), kind.display)
}

func (g *generator) documentReference(c *chart, i int) {
	size := 300 + g.rng.IntN(3000)
	if i == 0 {
		size = 24_000
	}
	g.put("DocumentReference", g.uuid(),
		`"status":"current","docStatus":"final","type":%s,"category":[%s],"subject":%s,"date":"%s","author":[%s],"custodian":%s,`+
			`"content":[{"attachment":{"contentType":"text/plain","data":"%s","creation":"%s"}}],"context":{"encounter":[%s]}`,
		concept(loinc, pick(g, documents)), concept("http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category", term{"clinical-note", "Clinical Note"}),
		c.patient, g.past(0).Format("2006-01-02T15:04:05.000Z"), g.practitioner(), g.organization(), g.attachment(size),
		g.past(0).Format("2006-01-02"), pick(g, c.encounters))
	if g.chance(3) {
		g.change(`"current"`, `"superseded"`)
	}
}

func (g *generator) carePlan(c *chart) {
	g.put("CarePlan", g.uuid(),
		`"text":{"status":"generated","div":"<div xmlns=\"http://www.w3.org/1999/xhtml\">Care plan for <b>hypertension</b> &amp; co.</div>"},`+
			`"status":"active","intent":"plan","category":[%s],"subject":%s,"encounter":%s,"period":{"start":"%s"},"addresses":[%s],`+
			`"activity":[{"detail":{"kind":"ServiceRequest","status":"in-progress","description":"%s","performer":[%s]}}]`,
		concept("http://hl7.org/fhir/us/core/CodeSystem/careplan-category", term{"assess-plan", "Assessment and Plan of Treatment"}),
		c.patient, pick(g, c.encounters), g.dateTime(g.past(0)), pick(g, c.conditions), pick(g, notes), g.practitioner())
}

func (g *generator) coverage(c *chart, k int) {
	id := g.uuid()
	c.coverage = ref("Coverage", id)
	g.put("Coverage", id,
		`"status":"active","type":{"text":"Public health insurance"},"subscriberId":"S-%06d","beneficiary":%s,"relationship":%s,"period":{"start":"2015-01-01"},"payor":[%s]`,
		k, c.patient, concept(hl7+"subscriber-relationship", term{"self", "Self"}), g.organization())
}

func (g *generator) claim(c *chart, k, i int) {
	price := g.decimal(20, 2000, 2)
	money := fmt.Sprintf(`{"value":%s,"currency":"USD"}`, price)
	g.put("Claim", g.uuid(),
		`"identifier":[{"system":"http://example.org/claims","value":"C-%d-%d"}],"status":"active","type":%s,"use":"claim","patient":%s,`+
			`"billablePeriod":{"start":"%s"},"created":"%s","provider":%s,"priority":%s,"insurance":[{"sequence":1,"focal":true,"coverage":%s}],`+
			`"item":[{"sequence":1,"productOrService":%s,"encounter":[%s],"net":%s}],"total":%s`,
		k, i, concept(hl7+"claim-type", term{"institutional", "Institutional"}), c.patient, g.past(0).Format("2006-01-02"), g.dateTime(g.past(0)),
		g.organization(), concept(hl7+"processpriority", term{"normal", "Normal"}), c.coverage, concept(snomed, pick(g, procedures)),
		pick(g, c.encounters), money, money)
}

// provenances tell where some resources come from, the patient among them.
func (g *generator) provenances(c *chart) {
	write := func(targets ...string) {
		g.put("Provenance", g.uuid(), `"target":[%s],"recorded":"%s","agent":[{"type":%s,"who":%s,"onBehalfOf":%s}]`,
			strings.Join(targets, ","), g.past(0).Format("2006-01-02T15:04:05.000Z"),
			concept(hl7+"provenance-participant-type", term{"author", "Author"}), g.practitioner(), g.organization())
	}
	write(c.patient)
	for range g.some(11) {
		write(pick(g, c.observations), pick(g, c.conditions))
	}
	write(c.coverage, strings.Replace(pick(g, c.encounters), `"}`, `/_history/1"}`, 1))
}
