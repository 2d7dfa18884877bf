package export

import (
	"context"
	"slices"
	"time"

	"spillway/upstream/fhir"
)

// departed is what has left the windows of a type since they were read, as far
// as that is known. A closing count is compared with what the windows hold
// without it, so what may have left counts as gone: a count that is then too
// high costs a reading, while one that is taken for complete would hide what
// came late.
type departed struct {
	changed  int64         // resources that have changed and had been there
	exported map[int]int64 // by unit: its lines whose resource has changed
	// outside are when the last versions were stamped that belong to nobody of
	// the export: whether they were counted in their window is not known.
	outside []time.Time
	// doubtful counts changed resources that may have been in any window.
	doubtful int64
}

// departed reads which exported lines have changed since, and marks them in
// t.changed.
func (t *tailer) departed(ctx context.Context, planned plannedType, b *batch) (*departed, error) {
	if d := t.left[planned.Type]; d != nil {
		return &departed{changed: d.changed, exported: d.exported, doubtful: d.doubtful}, nil
	}
	d := &departed{exported: make(map[int]int64)}
	changed := t.changed[planned.Type]
	for _, c := range changed {
		if !c.made() {
			d.changed++
		}
	}
	if len(changed) > 0 {
		subset := elementsOf(t.job.Request, planned.Type) != nil
		err := t.eachExported(ctx, t.account, planned.Type, func(unit int, h fhir.Header, line []byte) {
			c := changed[h.ID]
			if c == nil {
				return
			}
			d.exported[unit]++
			c.exported = true
			if planned.Read.Scope == scopeCohort && (subset || b.shares(h, line)) {
				d.doubtful++ // a batch of another patient may have counted it
			}
		})
		if err != nil {
			return nil, err
		}
	}
	if t.left == nil {
		t.left = make(map[string]*departed)
	}
	t.left[planned.Type] = &departed{changed: d.changed, exported: d.exported, doubtful: d.doubtful}
	return d, nil
}

// shares reports whether a resource belongs to several patients of the cohort.
func (b *batch) shares(h fhir.Header, resource []byte) bool {
	_, shared, err := b.owner(h, resource)
	return shared || err != nil
}

// note takes in a changed resource that was not exported before.
func (d *departed) note(r *reader, was former, h fhir.Header, wanted bool) {
	free := r.allowed.Access(r.spec.Type).All
	switch scope := r.spec.Scope; {
	case free && (scope == scopeAll || scope == scopeID):
		return // what was counted was exported
	case scope == scopeCohort:
		if was.doubtful || was.resource != nil && (!wanted && !free || wanted && r.batch.shares(h, was.resource)) {
			d.doubtful++
		}
		return
	}
	if at, err := fhir.ParseDateTime(h.LastUpdated); was.doubtful || was.resource != nil && err != nil {
		d.doubtful++
	} else if was.resource != nil && !wanted {
		d.outside = append(d.outside, at.Truncate(tick))
	}
}

// from takes off what each window does not hold any more.
func (d *departed) from(windows []*provenWindow) {
	slices.SortFunc(d.outside, time.Time.Compare)
	for _, w := range windows {
		gone := d.exported[w.unit]
		first, _ := slices.BinarySearchFunc(d.outside, w.From, time.Time.Compare)
		last := len(d.outside)
		if !w.To.IsZero() {
			last, _ = slices.BinarySearchFunc(d.outside, w.To, time.Time.Compare)
		}
		gone += int64(max(last-first, 0))
		w.holds -= gone * w.sliceSpec.searches()
	}
}
