package fakefhir

import (
	"bytes"
	"slices"
	"sync"
)

// references finds the records of a table by what any version of them ever
// pointed to, so that a search by patient does not look at all of a large type.
type references struct {
	mu sync.Mutex
	to map[string][]*record // by "Type/id"; nil: not needed so far
}

var referenceMember = []byte(`"reference":"`)

// find returns the records that may point to one of the targets, in the order
// of all, which is the table's. The caller holds the lock of the store.
func (x *references) find(all []*record, targets []string) []*record {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.to == nil {
		x.to = map[string][]*record{}
		for _, r := range all {
			for _, v := range r.versions {
				x.index(r, v)
			}
		}
	}
	var found []*record
	for _, t := range targets {
		found = append(found, x.to[t]...)
	}
	slices.SortFunc(found, func(a, b *record) int { return a.n - b.n })
	return slices.Compact(found)
}

// add takes in a new version. The caller holds the lock of the store for writing.
func (x *references) add(r *record, v *version) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.to != nil {
		x.index(r, v)
	}
}

func (x *references) index(r *record, v *version) {
	for rest := v.raw; ; {
		i := bytes.Index(rest, referenceMember)
		if i < 0 {
			return
		}
		rest = rest[i+len(referenceMember):]
		end := bytes.IndexByte(rest, '"')
		if end < 0 {
			return
		}
		typ, id := splitReference(string(rest[:end]))
		to := typ + "/" + id
		if list := x.to[to]; id != "" && (len(list) == 0 || list[len(list)-1] != r) {
			x.to[to] = append(list, r)
		}
	}
}

// fullReferences splits the value of a reference parameter. ok is false unless
// all of it names resources by type and id.
func fullReferences(val string) (full []string, ok bool) {
	for _, want := range split(val, ',') {
		typ, id := splitReference(want)
		if id == "" {
			return nil, false
		}
		full = append(full, typ+"/"+id)
	}
	return full, true
}
