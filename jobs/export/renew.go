package export

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"spillway/jobs"
)

const (
	// renewAfter is after how many silent tries a unit is replaced by fresh,
	// smaller ones: what is too long for the life of its worker becomes short,
	// and what crashes it becomes isolated.
	renewAfter = 2
	// maxRenewals bounds that, so that what always crashes ends quarantined; but
	// not in the first renewTime of an export. A process that is killed takes all
	// units in its hands down with it, and where processes are killed again and
	// again for minutes, most of the silence is not the fault of the unit that is
	// blamed for it.
	maxRenewals = 10
	renewTime   = 15 * time.Minute
	// renewParts is into how many parts a window is cut.
	renewParts = 8
	// renewFloor is how many resources a part should hold at least.
	renewFloor = 50
)

// renewable reports whether the unit may be replaced.
func (a *attempt) renewable() bool {
	return a.lease.Unit.Kind != jobs.UnitFinish &&
		(a.lease.Unit.Renewals < maxRenewals || a.c.Now().Sub(a.job.StartedAt) < renewTime)
}

// renew replaces a unit by fresh ones that together do the same.
func (a *attempt) renew(ctx context.Context) (jobs.Result, error) {
	u := a.lease.Unit
	var specs [][]byte
	var err error
	switch {
	case a.lease.Silent > renewAfter:
		specs = [][]byte{u.Spec} // even the cutting took too long
	case u.Kind == jobs.UnitSlice:
		specs, err = a.renewSlice(ctx)
	case u.Kind == jobs.UnitPlan && u.Spec != nil:
		specs, err = a.renewPlan()
	default:
		specs = [][]byte{u.Spec}
	}
	if err != nil {
		return jobs.Result{}, err
	}
	// A unit may be renewed many times, so its id must not grow with each.
	origin, _, _ := strings.Cut(u.ID, "-r")
	generation := fmt.Sprintf("%s-r%d-%s", origin, u.Renewals+1, rand.Text()[:8])
	result := jobs.Result{Next: make([]jobs.Unit, len(specs))}
	for i, spec := range specs {
		// Weight 0: the whole was counted as expected when it was planned.
		result.Next[i] = jobs.Unit{
			ID: fmt.Sprintf("%s-%d", generation, i+1), Kind: u.Kind, Type: u.Type, Renewals: u.Renewals + 1, Spec: spec,
		}
	}
	return result, nil
}

// renewSlice cuts a slice by patients, or else by time; one that cannot be cut
// stays whole.
func (a *attempt) renewSlice(ctx context.Context) ([][]byte, error) {
	spec, err := decodeSpec[sliceSpec](a.lease.Unit)
	if err != nil {
		return nil, err
	}
	w := spec.Window
	switch {
	case spec.Batch.To-spec.Batch.From > 1:
		first, second := spec, spec
		first.Batch.To = (spec.Batch.From + spec.Batch.To) / 2
		second.Batch.From = first.Batch.To
		return [][]byte{encode(first), encode(second)}, nil
	case spec.Read.Whole || spec.Read.Scope == scopeCohort || w.Counted < 2*renewFloor:
		return [][]byte{encode(spec)}, nil
	}
	count := a.newReader(spec.Read, nil, &notes{}, nil).countFunc()
	windows, err := cutWindows(ctx, count, w, cutting{limit: max(w.Counted/renewParts, renewFloor), parallel: 2})
	if err != nil {
		return nil, err
	}
	parts := make([][]byte, len(windows))
	for i, window := range windows {
		spec.Window = window
		parts[i] = encode(spec)
	}
	return parts, nil
}

// renewPlan gives each type a plan unit of its own.
func (a *attempt) renewPlan() ([][]byte, error) {
	spec, err := decodeSpec[planSpec](a.lease.Unit)
	if err != nil || len(spec.Types) < 2 {
		return [][]byte{a.lease.Unit.Spec}, err
	}
	var parts [][]byte
	for _, typ := range spec.Types {
		part := spec
		part.Types = []string{typ}
		parts = append(parts, encode(part))
	}
	return parts, nil
}
