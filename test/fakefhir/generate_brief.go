package fakefhir

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// BriefOptions say what GenerateBrief makes.
type BriefOptions struct {
	Patients int // their number
	Members  int // how many of them are in the Group "brief", spread over all
}

// briefStart is when the first resource of GenerateBrief is stamped.
const briefStart = 1_736_150_400_000 // 2025-01-06T08:00:00Z

// GenerateBrief makes many patients with little data, some 2.5 small resources
// each, so that cohorts of 100,000 fit into a test: a Patient and an
// Observation, for every second an Encounter, for every fourth a
// MedicationRequest and a Provenance of the Observation. They refer to 50
// Organizations, 100 Practitioners, 60 PractitionerRoles, 40 Locations and 200
// Medications, of which some are referred to by nobody or only by each other.
// Patients are p-0000000, p-0000001 and so on.
func GenerateBrief(o BriefOptions) *Dataset {
	b := &brief{at: briefStart}
	b.staff()
	for k := range o.Patients {
		b.patient(k)
	}
	var members strings.Builder
	for i := range o.Members {
		if i > 0 {
			members.WriteByte(',')
		}
		fmt.Fprintf(&members, `{"entity":{"reference":"Patient/%s"}}`, BriefID(i*o.Patients/o.Members))
	}
	b.put("Group", "brief", `"type":"person","actual":true,"member":[%s]`, members.String())
	return newDataset(b.log)
}

// BriefID is the id of a patient of GenerateBrief, counted from 0.
func BriefID(k int) string { return fmt.Sprintf("p-%07d", k) }

type brief struct {
	at  int64
	log []*version
}

func (b *brief) put(typ, id, format string, args ...any) {
	raw := fmt.Appendf(nil, `{"resourceType":"%s","id":"%s","meta":{"versionId":"1","lastUpdated":"%s"},`, typ, id, formatMilli(b.at))
	raw = append(fmt.Appendf(raw, format, args...), '}')
	b.log = append(b.log, &version{typ: typ, id: id, num: 1, updated: b.at, method: "PUT", raw: slices.Clip(raw)})
}

func (b *brief) staff() {
	for i := range 50 {
		more := ""
		if i%5 > 0 {
			more = fmt.Sprintf(`,"partOf":{"reference":"Organization/org-%d"}`, i-i%5)
		}
		b.put("Organization", fmt.Sprintf("org-%d", i), `"name":"Organization %d"%s`, i, more)
	}
	for i := range 40 {
		b.put("Location", fmt.Sprintf("loc-%d", i), `"managingOrganization":{"reference":"Organization/org-%d"}`, i+5)
	}
	for i := range 100 {
		b.put("Practitioner", fmt.Sprintf("doc-%d", i), `"name":[{"family":"Doctor %d"}]`, i)
	}
	for i := range 60 {
		b.put("PractitionerRole", fmt.Sprintf("role-%d", i),
			`"practitioner":{"reference":"Practitioner/doc-%d"},"organization":{"reference":"Organization/org-%d"},"location":[{"reference":"Location/loc-%d"}]`, 99-i, i%45, i%35)
	}
	for i := range 200 {
		b.put("Medication", fmt.Sprintf("med-%d", i), `"code":{"text":"Medication %d"}`, i)
	}
	b.at += time.Minute.Milliseconds()
}

func (b *brief) patient(k int) {
	id := BriefID(k)
	subject := fmt.Sprintf(`"subject":{"reference":"Patient/%s"}`, id)
	b.at += int64(k % 7 * 3)
	b.put("Patient", id, `"name":[{"family":"F%d"}],"generalPractitioner":[{"reference":"Practitioner/doc-%d"}]`, k, k%30)
	b.put("Observation", "o"+id, `"status":"final","code":{"text":"x"},%s,"performer":[{"reference":"PractitionerRole/role-%d"}]`, subject, k%50)
	if k%2 == 0 {
		b.put("Encounter", "e"+id, `"status":"finished","class":{"code":"AMB"},%s,"location":[{"location":{"reference":"Location/loc-%d"}}],"serviceProvider":{"reference":"Organization/org-%d"}`, subject, k%20, k%10)
	}
	if k%4 == 0 {
		b.put("MedicationRequest", "m"+id, `"status":"active","intent":"order",%s,"medicationReference":{"reference":"Medication/med-%d"}`, subject, k%190)
		b.put("Provenance", "v"+id, `"target":[{"reference":"Observation/o%s"}],"recorded":"2025-01-06T08:00:00Z","agent":[{"who":{"reference":"Practitioner/doc-%d"}}]`, id, 30+k%4)
	}
}
