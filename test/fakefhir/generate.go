package fakefhir

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Generate makes synthetic resources of twenty types: hospitals and their
// staff in one transaction, then one transaction for each patient (sometimes
// two patients share one), then Groups, then some weeks of updates, deletions
// and nightly batches. The Groups are:
//
//   - group-all: every patient
//   - group-few: the first, the third and the fifth patient
//   - group-nested: group-few as a member, the second patient, one inactive
//     member (the fourth) and one whose period has ended (the sixth)
//   - group-devices: no patients at all
//
// Patients are called patient-1, patient-2 and so on.
func Generate(o GenerateOptions) *Dataset {
	if o.Start.IsZero() {
		o.Start = time.Date(2025, 1, 6, 8, 0, 0, 0, time.UTC)
	}
	g := &generator{o: o, now: o.Start.UnixMilli()}
	g.seed(0)
	g.hospitals()
	for k := 1; k <= o.Patients; k++ {
		g.seed(uint64(k))
		if g.rng.IntN(8) > 0 || k == 1 {
			g.now += 3_000 + g.rng.Int64N(57_000)
		}
		g.patient(k)
	}
	g.seed(1 << 40)
	g.now += 60_000
	g.groups()
	g.loaded = g.now
	return newDataset(g.finish())
}

// generator writes events; finish puts them in order.
type generator struct {
	o      GenerateOptions
	rng    *rand.Rand
	now    int64 // of the transaction being made
	loaded int64 // of the last one
	events []event
	later  []event // updates and deletions, without a time yet

	organizations, practitioners int
}

// event is a write. body is the JSON of the resource after its meta.
type event struct {
	at      int64
	typ, id string
	method  string
	body    string
	meta    string // more members of meta, with a comma in front
}

// seed starts a stream of random numbers that depends on nothing else, so that
// patient 7 is the same whatever the number of patients.
func (g *generator) seed(stream uint64) { g.rng = rand.New(rand.NewPCG(g.o.Seed, stream)) }

// put writes a resource now.
func (g *generator) put(typ, id, format string, args ...any) {
	e := event{at: g.now, typ: typ, id: id, method: "PUT", body: fmt.Sprintf(format, args...)}
	switch {
	case typ == "Patient":
		e.meta = `,"profile":["http://hl7.org/fhir/us/core/StructureDefinition/us-core-patient"]`
	case g.rng.IntN(10) == 0:
		e.meta = `,"tag":[{"system":"http://example.org/tags","code":"reviewed","display":"Reviewed \u2713"}]`
	}
	g.events = append(g.events, e)
}

// change replaces a part of the resource that was put last, some time later.
func (g *generator) change(old, new string) {
	e := g.events[len(g.events)-1]
	e.body = strings.Replace(e.body, old, new, 1)
	g.later = append(g.later, e)
}

// remove deletes the resource that was put last, some time later.
func (g *generator) remove() {
	e := g.events[len(g.events)-1]
	g.later = append(g.later, event{typ: e.typ, id: e.id, method: "DELETE"})
}

// finish gives the later events their times and makes versions of them all.
func (g *generator) finish() []*version {
	const day = 24 * 60 * 60 * 1000
	g.seed(2 << 40)
	for _, e := range g.later {
		e.at = g.loaded + day*g.rng.Int64N(40) + day/3
		if g.rng.IntN(3) > 0 { // else with the nightly batch
			e.at += 1 + g.rng.Int64N(day/2)
		}
		g.events = append(g.events, e)
	}
	slices.SortStableFunc(g.events, func(a, b event) int { return cmp.Compare(a.at, b.at) })

	last := make(map[string]*version, len(g.events))
	log := make([]*version, 0, len(g.events))
	for _, e := range g.events {
		key := e.typ + "/" + e.id
		v := &version{typ: e.typ, id: e.id, num: 1, updated: e.at, method: e.method}
		if former := last[key]; former != nil {
			if former.deleted() {
				continue
			}
			v.num = former.num + 1
		}
		if e.method != "DELETE" {
			v.raw = fmt.Appendf(nil, `{"resourceType":"%s","id":"%s","meta":{"versionId":"%d","lastUpdated":"%s"%s},%s}`,
				e.typ, e.id, v.num, formatMilli(e.at), e.meta, e.body)
		}
		last[key] = v
		log = append(log, v)
	}
	return log
}

// uuid is a random id.
func (g *generator) uuid() string {
	var b [16]byte
	for i := range b {
		b[i] = byte(g.rng.Uint32())
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func pick[T any](g *generator, list []T) T { return list[g.rng.IntN(len(list))] }

// chance is true in n of 100 cases.
func (g *generator) chance(n int) bool { return g.rng.IntN(100) < n }

// some is a number around n.
func (g *generator) some(n int) int { return max(1, n/2+g.rng.IntN(n+1)) }

// past is a dateTime of the last twenty years, after that many years.
func (g *generator) past(after int) time.Time {
	return time.Date(2004+after, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(g.rng.Int64N(int64(20-after)*365*24*60*60)) * time.Second)
}

// dateTime writes a time, sometimes with an offset or only as a date.
func (g *generator) dateTime(t time.Time) string {
	switch g.rng.IntN(6) {
	case 0:
		return t.Format("2006-01-02")
	case 1:
		return t.In(time.FixedZone("", 2*60*60)).Format("2006-01-02T15:04:05-07:00")
	}
	return t.Format("2006-01-02T15:04:05Z")
}

// decimal writes a number with exactly that many digits, such as 1.10.
func (g *generator) decimal(low, high float64, digits int) string {
	x := low + g.rng.Float64()*(high-low)
	switch g.rng.IntN(250) {
	case 0:
		return fmt.Sprintf("%.17f", x)
	case 1:
		return fmt.Sprintf("%.3fe1", x/10)
	}
	return fmt.Sprintf("%.*f", digits, x)
}

// coding is a Coding, concept a CodeableConcept with one.
func coding(system string, t term) string {
	return fmt.Sprintf(`{"system":"%s","code":"%s","display":"%s"}`, system, t.code, t.display)
}

func concept(system string, t term) string {
	return fmt.Sprintf(`{"coding":[%s],"text":"%s"}`, coding(system, t), t.display)
}

func ref(typ, id string) string { return fmt.Sprintf(`{"reference":"%s/%s"}`, typ, id) }

// Code systems.
const (
	snomed = "http://snomed.info/sct"
	loinc  = "http://loinc.org"
	rxnorm = "http://www.nlm.nih.gov/research/umls/rxnorm"
	cvx    = "http://hl7.org/fhir/sid/cvx"
	hl7    = "http://terminology.hl7.org/CodeSystem/"
)
