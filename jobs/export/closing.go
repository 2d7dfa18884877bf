package export

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"spillway/jobs"
	"spillway/upstream"
	"spillway/upstream/fhir"
)

// maxCensus is how often a type is counted in search of a moment in which
// nothing of it changed.
const maxCensus = 5

// takeCensus counts every type once more, and then looks for changes again:
// what left its window before the count is known only after it. A count that
// came after the last look would hide as many missing resources as left between
// the two. So what the later look finds is taken as gone, and to know better a
// type is counted again until a look finds nothing that the one before had not.
func (t *tailer) takeCensus(ctx context.Context) error {
	t.census = make(map[int]int64)
	var (
		mu    sync.Mutex // guards the census
		types = make(map[string]bool)
		plan  = t.account.plan.Types
	)
	group, counting := errgroup.WithContext(ctx)
	group.SetLimit(t.c.PlanConcurrency)
	for i, planned := range plan {
		if !t.closable(planned) {
			continue
		}
		types[planned.Type] = true
		group.Go(func() error {
			n, err := t.countWhole(counting, planned.Read)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			t.census[i] = n
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	first, err := t.lookAgain(ctx, types)
	if err != nil {
		return err
	}
	for i, planned := range plan {
		fresh := first[planned.Type]
		for n := 1; n < maxCensus && t.closable(planned) && len(fresh) > 0; n++ {
			if t.census[i], err = t.countWhole(ctx, planned.Read); err != nil {
				return err
			}
			found, err := t.lookAgain(ctx, map[string]bool{planned.Type: true})
			if err != nil {
				return err
			}
			fresh = found[planned.Type]
		}
	}
	return nil
}

// closable reports whether one count of a whole type can be compared with what
// was counted or read before.
func (t *tailer) closable(planned plannedType) bool {
	if planned.Empty || planned.Read.Whole { // the whole type grows, and the plan has said what that means
		return false
	}
	if planned.Read.Scope == scopeCohort {
		return planned.Counted >= 0
	}
	return planned.Recount
}

// countWhole counts a type in the time asked for; -1 if the upstream no longer
// does.
func (t *tailer) countWhole(ctx context.Context, spec readSpec) (int64, error) {
	n, err := t.newReader(spec, nil, &notes{}, nil).count(ctx, windowSpec{From: spec.Since, To: spec.Until})
	if err != nil && denied(err) {
		return -1, nil
	}
	return n, err
}

// closeType compares the census of a type with what its windows held. Where
// there may be more than that, something became visible late, or was not on the
// pages that should have held it: the windows with more are read again.
func (t *tailer) closeType(ctx context.Context, r *reader, planned plannedType, counted int64, gone *departed, result *tailType) error {
	switch {
	case planned.Empty:
		return t.reopen(ctx, r, planned, result)
	case planned.Read.Scope == scopeCohort:
		return t.closeBatches(ctx, r, planned, counted, gone, result)
	case !planned.Recount || counted < 0:
		return nil
	}
	g, err := t.newGrowth(r, planned, gone, result)
	if err != nil || len(g.windows) == 0 {
		return err
	}
	var read int64
	exact := len(gone.outside) == 0
	for _, w := range g.windows {
		if !t.account.units[w.unit].summary.Proven {
			return nil // it has been said that counts prove nothing here
		}
		read += t.account.units[w.unit].summary.Read
		exact = exact && w.exact
	}
	if counted <= g.least(g.windows) {
		if planned.Read.Scope != scopeMembers {
			t.sayShrunk(planned, read+result.Past+result.Newer)
		}
		return nil
	}
	if err := g.search(ctx, g.windows); err != nil {
		return err
	}
	missing, _, err := g.compare(ctx, g.windows)
	if err != nil {
		return err
	}
	if missing > 0 && exact && g.slack == 0 && r.summary.Proven {
		r.summary.Proven = false
		t.said.add(jobs.SeverityError, fhir.IssueIncomplete,
			"%s: at the end of this export the upstream counts %d resources more than its windows hold; they may be missing from this export.",
			planned.Type, missing)
	}
	g.done()
	return nil
}

// sayShrunk says how many resources left a type whose deletions cannot be
// known, beside those that were found again.
func (t *tailer) sayShrunk(planned plannedType, has int64) {
	missing := planned.Counted - has
	if missing <= 0 || t.checked[planned.Type] {
		return
	}
	t.said.add(jobs.SeverityWarning, fhir.IssueIncomplete,
		"%s: %d resources changed or were deleted while this export ran, before they could be read, and are not in it; an export with _since set to this one's transactionTime has those that changed.",
		planned.Type, missing)
}

// reopen looks again at a type that the plan found empty.
func (t *tailer) reopen(ctx context.Context, r *reader, planned plannedType, result *tailType) error {
	whole := windowSpec{From: planned.Read.Since, To: planned.Read.Until}
	none, err := t.nothing(ctx, r, whole)
	if err != nil || none {
		return err
	}
	g, err := t.newGrowth(r, planned, &departed{}, result)
	if err != nil {
		return err
	}
	if err := g.rereadWindow(ctx, &provenWindow{windowSpec: whole, unit: -1}); err != nil {
		return err
	}
	g.done()
	return nil
}

const (
	// longCommit is how long before the transaction time a transaction may have
	// begun that fills a type which the plan found empty.
	longCommit = time.Minute
	// maxTouches is how many changes are looked through for that. Where there are
	// more, asking each empty type whether it still is costs less.
	maxTouches = 2000
)

var errManyTouches = errors.New("export: much changed shortly before the transaction time")

// touched returns the types of which something changed so short before the
// transaction time that the plan may not have seen it. Nil means any type.
func (t *tailer) touched(ctx context.Context) (map[string]bool, error) {
	if t.facts.SystemHistory != upstream.Works || len(t.checked) == 0 ||
		!slices.ContainsFunc(t.account.plan.Types, func(p plannedType) bool { return p.Empty }) {
		return nil, nil
	}
	since := t.unsettled(t.job.TransactionTime)
	if long := t.job.TransactionTime.Add(-longCommit).Truncate(tick); long.Before(since) {
		since = long
	}
	found, n := make(map[string]bool), 0
	_, err := t.history(ctx, t.account.exportTypes(), since, func(e event) error {
		if n++; n > maxTouches {
			return errManyTouches
		}
		found[e.typ] = true
		return nil
	})
	if err != nil && (denied(err) || errors.Is(err, errChain) || errors.Is(err, errManyTouches)) {
		return nil, nil
	}
	return found, err
}
