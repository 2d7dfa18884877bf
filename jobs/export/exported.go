package export

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"spillway/jobs"
	"spillway/upstream/fhir"
)

// account is what the units of a job have left so far.
type account struct {
	plan  planSummary
	units []accountUnit // those that wrote or proved something, in the order of their ids
	tail  tailSummary
	// references are the storage keys of lists of what exported resources refer
	// to, stray is the number of references that could not be listed.
	references []string
	stray      int64
}

type accountUnit struct {
	jobs.Unit
	segments []jobs.Segment
	summary  *readSummary // of slices, and of the associated unit one for each type; nil if it was cut into others
}

// account reads what the completed units have left.
func (a *attempt) account(ctx context.Context) (*account, error) {
	done, err := a.c.Jobs.Done(ctx, a.job.ID)
	if err != nil {
		return nil, err
	}
	// The order of units, not of their completion, decides the order of lines.
	slices.SortFunc(done, func(x, y jobs.Done) int { return strings.Compare(x.Unit.ID, y.Unit.ID) })
	var all account
	for _, d := range done {
		u := accountUnit{Unit: d.Unit, segments: d.Result.Segments}
		var into any
		var plan planSummary
		switch {
		case d.Result.Summary == nil: // the root, or what was cut into others
		case d.Unit.Kind == jobs.UnitPlan:
			into = &plan
		case d.Unit.Kind == jobs.UnitSlice:
			u.summary = &readSummary{}
			into = u.summary
		case d.Unit.Kind == jobs.UnitAssociated:
			var s associatedSummary
			if err := json.Unmarshal(d.Result.Summary, &s); err != nil {
				return nil, fmt.Errorf("export: summary of %s: %w", d.Unit.ID, err)
			}
			all.tail.Types = append(all.tail.Types, s.Tail...)
			for i := range s.Reads {
				all.units = append(all.units, accountUnit{Unit: d.Unit, summary: &s.Reads[i]})
			}
		case d.Unit.Kind == jobs.UnitTail, d.Unit.Kind == jobs.UnitDeleted:
			var s tailSummary
			if err := json.Unmarshal(d.Result.Summary, &s); err != nil {
				return nil, fmt.Errorf("export: summary of %s: %w", d.Unit.ID, err)
			}
			all.tail.Types = append(all.tail.Types, s.Types...)
			all.refer(s.References, s.Stray)
		}
		if into != nil {
			if err := json.Unmarshal(d.Result.Summary, into); err != nil {
				return nil, fmt.Errorf("export: summary of %s: %w", d.Unit.ID, err)
			}
		}
		if u.summary != nil {
			all.refer(u.summary.References, u.summary.Stray)
		}
		all.plan.add(plan)
		all.units = append(all.units, u)
	}
	return &all, nil
}

// refer takes in what a unit found of references.
func (c *account) refer(list string, stray int64) {
	if list != "" {
		c.references = append(c.references, list)
	}
	c.stray += stray
}

func (s *planSummary) add(more planSummary) {
	s.Types = append(s.Types, more.Types...)
	s.Searched += more.Searched
	s.Refused += more.Refused
	if more.Refusal != "" {
		s.Refusal = more.Refusal
	}
}

// late is how many resources of a type the slices left to the tail.
func (c *account) late(typ string) (sum int64) {
	for _, u := range c.units {
		if u.Type == typ && u.summary != nil {
			sum += u.summary.Late
		}
	}
	return sum
}

// windows returns what the slices of a planned type have read, in the order of
// time, with what should still be found there.
func (c *account) windows(planned plannedType) ([]provenWindow, error) {
	var all []provenWindow
	for i, u := range c.units {
		if u.Kind != jobs.UnitSlice || u.Type != planned.Type || u.summary == nil {
			continue
		}
		spec, err := decodeSpec[sliceSpec](u.Unit)
		if err != nil {
			return nil, err
		}
		if spec.Read.Part != planned.Read.Part {
			continue
		}
		w := provenWindow{sliceSpec: spec, windowSpec: spec.Window, unit: i, holds: u.summary.Seen, exact: spec.searches() == 1}
		if !w.exact || w.holds == 0 {
			w.holds = u.summary.Read - u.summary.Late
		}
		all = append(all, w)
	}
	slices.SortFunc(all, func(x, y provenWindow) int { return x.From.Compare(y.From) })
	return all, nil
}

// provenWindow is a window that a slice has read.
type provenWindow struct {
	windowSpec
	sliceSpec sliceSpec
	unit      int   // index in account.units
	holds     int64 // resources that have not left it as far as we know
	exact     bool  // not summed over alternatives that may find the same
}

// eachExported calls f with every exported line of a type, or of all if that is
// empty, and its header. The line is valid until f returns.
func (a *attempt) eachExported(ctx context.Context, c *account, typ string, f func(unit int, h fhir.Header, line []byte)) error {
	for i, u := range c.units {
		for _, s := range u.segments {
			if s.Kind != jobs.KindOutput || typ != "" && s.Type != typ {
				continue
			}
			if err := a.readLines(ctx, s, func(line []byte) error {
				h, err := fhir.ReadHeader(line)
				if err == nil {
					f(i, h, line)
				}
				return err
			}); err != nil {
				return fmt.Errorf("export: reading a segment back: %w", err)
			}
		}
	}
	return nil
}

// exportTypes are the types that the plan found searchable.
func (c *account) exportTypes() map[string]bool {
	types := make(map[string]bool)
	for _, t := range c.plan.Types {
		types[t.Type] = true
	}
	return types
}

// settling is how long after kick-off everything that was stamped up to the
// transaction time is visible. An offset that was read from a Date header is an
// upper bound and may be a second too high: the upstream's clock may then be
// behind the transaction time at kick-off.
func (a *attempt) settling() time.Duration {
	settle := a.c.Settle
	if known := a.facts.Profile.Settle; a.c.SettleByProfile && known != nil {
		settle = *known
	}
	if a.facts.ClockOffset != 0 {
		settle += time.Second
	}
	return settle
}

// settled is when that is, as the NotBefore of a unit.
func (a *attempt) settled() time.Time {
	if d := a.settling(); d > 0 {
		return a.job.CreatedAt.Add(d)
	}
	return time.Time{}
}
