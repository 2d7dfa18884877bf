package fakefhir

import (
	"iter"
	"maps"
	"slices"
	"time"
)

// GenerateOptions say what Generate makes.
type GenerateOptions struct {
	// Patients is their number; about 400 resources come with each.
	Patients int
	// Seed makes another set. The same options give the same bytes.
	Seed uint64
	// Start is the time of the first write; zero is 2025-01-06T08:00:00Z. The
	// last one is about six weeks later, for up to some thousand patients.
	Start time.Time
}

// Dataset is a set of resources with their history. It is immutable.
type Dataset struct {
	log    []*version // in the order of commits
	latest []*version // current versions, in the order of creation
}

func newDataset(log []*version) *Dataset {
	type key struct{ typ, id string }
	current := make(map[key]*version, len(log))
	var order []key
	for _, v := range log {
		k := key{v.typ, v.id}
		if current[k] == nil {
			order = append(order, k)
		}
		current[k] = v
	}
	d := &Dataset{log: log}
	for _, k := range order {
		if v := current[k]; !v.deleted() {
			d.latest = append(d.latest, v)
		}
	}
	return d
}

// Types are the types with at least one resource that is not deleted, sorted.
func (d *Dataset) Types() []string { return slices.Sorted(maps.Keys(d.Counts())) }

// Counts are the numbers of resources by type that are not deleted.
func (d *Dataset) Counts() map[string]int {
	n := map[string]int{}
	for _, v := range d.latest {
		n[v.typ]++
	}
	return n
}

// Len is the number of resources that are not deleted.
func (d *Dataset) Len() int { return len(d.latest) }

// Transactions yields the current resources as transaction Bundles of PUT
// entries, n entries each, so ordered that every reference points into the
// same Bundle or an earlier one. They load another server.
func (d *Dataset) Transactions(n int) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for chunk := range slices.Chunk(d.latest, max(1, n)) {
			b := []byte(`{"resourceType":"Bundle","type":"transaction","entry":[`)
			for i, v := range chunk {
				if i > 0 {
					b = append(b, ',')
				}
				b = append(b, `{"resource":`...)
				b = append(b, v.raw...)
				b = append(b, `,"request":{"method":"PUT","url":"`+v.typ+"/"+v.id+`"}}`...)
			}
			if !yield(append(b, "]}"...)) {
				return
			}
		}
	}
}
