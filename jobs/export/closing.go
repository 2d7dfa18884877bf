package export

import (
	"context"

	"spillway/jobs"
	"spillway/upstream/fhir"
)

// closeType counts a type once more. Where there is more than the windows held,
// something became visible late: the windows that grew are read again.
func (t *tailer) closeType(ctx context.Context, r *reader, planned plannedType, gone *departed, result *tailType) error {
	switch {
	case planned.Empty:
		return t.reopen(ctx, r, planned, result)
	case planned.Read.Scope == scopeCohort:
		return t.closeBatches(ctx, r, planned, gone, result)
	case !planned.Recount:
		return nil
	}
	windows, err := t.account.windows(planned)
	if err != nil || len(windows) == 0 {
		return err
	}
	var holds, read int64
	exact := len(gone.outside) == 0 && gone.doubtful == 0
	gone.from(windows)
	for _, w := range windows {
		if !t.account.units[w.unit].summary.Proven {
			return nil // it has been said that counts prove nothing here
		}
		read += t.account.units[w.unit].summary.Read
		holds += w.holds
		exact = exact && w.exact
	}
	slack := gone.doubtful * windows[0].sliceSpec.searches()
	now, err := r.count(ctx, windowSpec{From: planned.Read.Since, To: planned.Read.Until})
	if err != nil {
		if denied(err) {
			return nil
		}
		return err
	}
	added := result.Past + result.Newer
	if now <= holds-slack {
		if missing := planned.Counted - read - added; missing > 0 && !t.checked[planned.Type] && planned.Read.Scope != scopeMembers {
			t.said.add(jobs.SeverityInformation, fhir.IssueInformational,
				"%s: %d resources changed or were deleted while this export ran and are not in it; an export with _since set to this one's transactionTime has those that changed.",
				planned.Type, missing)
		}
		return nil
	}
	known, err := t.known(ctx, planned.Type)
	if err != nil {
		return err
	}
	g := &growth{tailer: t, reader: r, known: known, result: result, slack: slack}
	if err := g.search(ctx, windows, now); err != nil {
		return err
	}
	if missing := now - holds - g.found; exact && missing > 0 && r.summary.Proven {
		r.summary.Proven = false
		t.said.add(jobs.SeverityError, fhir.IssueIncomplete,
			"%s: the upstream counts %d at the end of this export, but its windows hold only %d; %d may be missing from this export.",
			planned.Type, now, holds+g.found, missing)
	}
	g.done()
	return nil
}

// reopen looks again at a type that the plan found empty.
func (t *tailer) reopen(ctx context.Context, r *reader, planned plannedType, result *tailType) error {
	whole := windowSpec{From: planned.Read.Since, To: planned.Read.Until}
	none, err := t.nothing(ctx, r, whole)
	if err != nil || none {
		return err
	}
	known, err := t.known(ctx, planned.Type)
	if err != nil {
		return err
	}
	g := &growth{tailer: t, reader: r, known: known, result: result}
	if err := g.rereadWindow(ctx, provenWindow{windowSpec: whole, unit: -1}); err != nil {
		return err
	}
	g.done()
	return nil
}

// known returns which unit exported what of a type; those that this unit has
// written are of unit -1.
func (t *tailer) known(ctx context.Context, typ string) (map[string]int, error) {
	known := make(map[string]int)
	err := t.eachExported(ctx, t.account, typ, func(unit int, h fhir.Header, _ []byte) { known[h.ID] = unit })
	return known, err
}

// growth finds and reads what became visible after its window was read.
type growth struct {
	*tailer
	reader *reader
	known  map[string]int // exported so far, by id
	result *tailType
	slack  int64 // how much less than their holds windows may hold
	found  int64 // resources that were not in their windows
	stale  int64 // of them, those that are in the export already, in an older version
}

// search bisects the windows by counts down to those that grew. now is what
// all of them hold.
func (g *growth) search(ctx context.Context, windows []provenWindow, now int64) error {
	var holds int64
	for _, w := range windows {
		holds += w.holds
	}
	if now <= holds-g.slack {
		return nil
	}
	if len(windows) == 1 {
		return g.rereadWindow(ctx, windows[0])
	}
	first, second := windows[:len(windows)/2], windows[len(windows)/2:]
	n, err := g.reader.count(ctx, windowSpec{From: first[0].From, To: first[len(first)-1].To})
	if err != nil {
		return err
	}
	if err := g.search(ctx, first, n); err != nil {
		return err
	}
	return g.search(ctx, second, now-n)
}

func (g *growth) rereadWindow(ctx context.Context, w provenWindow) error {
	return g.reread(ctx, w.unit, g.reader.batch, func(r *reader) (err error) {
		if w.Counted, err = r.count(ctx, w.windowSpec); err != nil {
			return err
		}
		return r.prove(ctx, w.windowSpec)
	})
}

// reread reads again what a unit has read, and exports what is new in it.
func (g *growth) reread(ctx context.Context, of int, b *batch, prove func(*reader) error) error {
	write := g.reader.sink
	r := g.newReader(g.reader.spec, b, g.reader.notes, func(ctx context.Context, h fhir.Header, resource []byte) error {
		unit, exported := g.known[h.ID]
		switch {
		case exported && unit == of:
			return nil
		case exported:
			g.stale++
			g.found++
			return nil
		}
		g.found++
		g.known[h.ID] = of
		g.result.Late++
		return write(ctx, h, resource)
	})
	if err := prove(r); err != nil {
		return err
	}
	g.reader.summary.Proven = g.reader.summary.Proven && r.summary.Proven
	return nil
}

// done says what was found.
func (g *growth) done() {
	g.result.Unproven = g.result.Unproven || !g.reader.summary.Proven
	if g.stale > 0 {
		g.said.add(jobs.SeverityWarning, fhir.IssueProcessing,
			"%s: %d resources were changed by writes that the upstream made visible only after they had been read, longer than its settle time after they were stamped; they are here in their older version. A longer upstream.settle avoids that.",
			g.reader.spec.Type, g.stale)
	}
}
