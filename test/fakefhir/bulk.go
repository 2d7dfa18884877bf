package fakefhir

import (
	"slices"
	"sort"
	"strconv"
	"time"
)

// bulkType is the type of the computed resources.
const bulkType = "Observation"

// BulkObservations is a number of Observations that are computed when they are
// asked for. They take no memory. Observation i+1 is never older than i; they
// come in clusters of one lastUpdated, as transactions make them.
type BulkObservations struct{ n int }

// Bulk is n Observations of about 1 kB.
func Bulk(n int) *BulkObservations { return &BulkObservations{n} }

// bulkStart is the lastUpdated of the first of them.
const bulkStart = 1704272400000 // 2024-01-03T09:00:00Z

// The clusters repeat: cycleLen Observations in every cycleMillis.
const (
	cycleLen    = 10_000
	cycleMillis = 60_000
)

// clusterEnds are the ends of the clusters within a cycle: one of 1,500, some
// of hundreds, many of tens and a few single Observations. Cluster k is stamped
// k*clusterMillis after the beginning of its cycle.
var clusterEnds = makeClusters()

const clusterMillis = 257

func makeClusters() []int {
	var ends []int
	end := 0
	for _, part := range []struct{ clusters, size int }{{1, 1500}, {12, 400}, {80, 40}, {10, 1}, {7, 70}} {
		for range part.clusters {
			end += part.size
			ends = append(ends, end)
		}
	}
	return ends // the last one is cycleLen, which a test asserts
}

// Len is their number.
func (b *BulkObservations) Len() int { return b.n }

// ID is the id of Observation i, from 0. Ids sort as i does.
func (b *BulkObservations) ID(i int) string { return string(b.appendID(nil, i)) }

func (b *BulkObservations) appendID(dst []byte, i int) []byte {
	dst = append(dst, "bulk-"...)
	return appendPadded(dst, i, 10)
}

// index is the inverse of ID.
func (b *BulkObservations) index(id string) (int, bool) {
	if len(id) != len("bulk-")+10 {
		return 0, false
	}
	i, err := strconv.Atoi(id[len("bulk-"):])
	return i, err == nil && i >= 0 && i < b.n && b.ID(i) == id
}

// LastUpdated is the meta.lastUpdated of Observation i.
func (b *BulkObservations) LastUpdated(i int) time.Time {
	return time.UnixMilli(b.updated(i)).UTC()
}

func (b *BulkObservations) updated(i int) int64 {
	k := sort.SearchInts(clusterEnds, i%cycleLen+1)
	return bulkStart + int64(i/cycleLen)*cycleMillis + int64(k)*clusterMillis
}

// firstAt is the first index that is not older than ms.
func (b *BulkObservations) firstAt(ms int64) int {
	switch {
	case ms <= bulkStart:
		return 0
	case ms > b.updated(max(0, b.n-1)):
		return b.n
	}
	return sort.Search(b.n, func(i int) bool { return b.updated(i) >= ms })
}

// search knows _lastUpdated, _id and _sort; nothing else gets here.
func (b *BulkObservations) search(q *query, limit int) rows {
	r := &bulkRows{b: b, lo: b.firstAt(q.window.lo)}
	r.hi = max(r.lo, b.firstAt(q.window.hi))
	r.desc = len(q.sort) > 0 && q.sort[0].desc
	if q.ids != nil {
		for _, id := range q.ids {
			if i, ok := b.index(id); ok && i >= r.lo && i < r.hi && !slices.Contains(r.some, i) {
				r.some = append(r.some, i)
			}
		}
		slices.Sort(r.some)
		r.lo, r.hi = 0, len(r.some)
	}
	if limit > 0 && r.hi-r.lo > limit {
		if r.desc {
			r.lo = r.hi - limit
		} else {
			r.hi = r.lo + limit
		}
	}
	return r
}

// bulkRows are the Observations lo to hi-1, or those of some at lo to hi-1.
type bulkRows struct {
	b      *BulkObservations
	lo, hi int
	desc   bool
	some   []int
}

func (r *bulkRows) len() int { return r.hi - r.lo }

func (r *bulkRows) at(i int) int {
	i += r.lo
	if r.desc {
		i = r.lo + r.hi - 1 - i
	}
	if r.some != nil {
		return r.some[i]
	}
	return i
}

func (r *bulkRows) appendID(dst []byte, i int) []byte { return r.b.appendID(dst, r.at(i)) }

func (r *bulkRows) appendResource(dst []byte, i int) ([]byte, bool) {
	return r.b.AppendResource(dst, r.at(i)), true
}

// AppendResource appends the JSON of Observation i.
func (b *BulkObservations) AppendResource(dst []byte, i int) []byte {
	ms := b.updated(i)
	dst = append(dst, `{"resourceType":"Observation","id":"`...)
	dst = b.appendID(dst, i)
	dst = append(dst, `","meta":{"versionId":"1","lastUpdated":"`...)
	dst = time.UnixMilli(ms).UTC().AppendFormat(dst, instantLayout)
	dst = append(dst, `","source":"#Rk3vQy0aGv7wJtcT","profile":["http://hl7.org/fhir/StructureDefinition/vitalsigns"]},`+
		`"identifier":[{"system":"http://example.org/observations","value":"`...)
	dst = appendPadded(dst, i*7919%1_000_003, 7)
	dst = append(dst, `"}],"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category",`+
		`"code":"vital-signs","display":"Vital Signs"}],"text":"Vital Signs"}],"code":{"coding":[{"system":"http://loinc.org","code":"8867-4",`+
		`"display":"Heart rate"}],"text":"Heart rate"},"subject":{"reference":"Patient/patient-`...)
	dst = appendPadded(dst, i/160+1, 6)
	dst = append(dst, `"},"encounter":{"reference":"Encounter/encounter-`...)
	dst = appendPadded(dst, i/4+1, 9)
	dst = append(dst, `"},"effectiveDateTime":"2023-`...)
	dst = appendPadded(dst, i%12+1, 2)
	dst = append(dst, '-')
	dst = appendPadded(dst, i/12%28+1, 2)
	dst = append(dst, `T08:30:00+01:00","issued":"2023-12-31T08:31:17.250+01:00","performer":[{"reference":"Practitioner/practitioner-`...)
	dst = appendPadded(dst, i%97+1, 4)
	dst = append(dst, `","display":"Dr. Ang\u00e9lique O'Neill-Łukaszewicz"}],"valueQuantity":{"value":`...)
	dst = strconv.AppendInt(dst, int64(50+i%70), 10)
	dst = append(dst, '.')
	dst = appendPadded(dst, i%10*10, 2)
	return append(dst, `,"unit":"beats/minute","system":"http://unitsofmeasure.org","code":"/min"},`+
		`"interpretation":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation","code":"N",`+
		`"display":"Normal"}]}],"referenceRange":[{"low":{"value":60.0,"unit":"beats/minute"},"high":{"value":100.0,"unit":"beats/minute"}}]}`...)
}

// appendPadded appends n with leading zeros.
func appendPadded(dst []byte, n, width int) []byte {
	var digits [20]byte
	for i := width - 1; i >= 0; i-- {
		digits[i] = byte('0' + n%10)
		n /= 10
	}
	return append(dst, digits[:width]...)
}
