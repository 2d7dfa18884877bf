package export

import (
	"context"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"spillway/jobs"
	"spillway/upstream"
	"spillway/upstream/fhir"
)

// closeBatches is closeType of a type that was read by naming patients. One
// count of the whole type shows that nothing of it became visible after the
// plan. Where it does not, as nearly always while the type is written to, the
// batches are counted again, and what grew is read again.
func (t *tailer) closeBatches(ctx context.Context, r *reader, planned plannedType, gone *departed, result *tailType) error {
	whole := windowSpec{From: planned.Read.Since, To: planned.Read.Until}
	if planned.Counted >= 0 {
		now, err := r.count(ctx, whole)
		if err != nil && !denied(err) {
			return err
		}
		if err == nil && now >= 0 && now <= planned.Counted-gone.changed*int64(len(planned.Read.Alternatives)) {
			return nil
		}
	}
	units, err := t.account.windows(planned)
	if err != nil {
		return err
	}
	grown, err := t.grownBatches(ctx, r, units, gone)
	if err != nil || len(grown) == 0 {
		return err
	}
	known, err := t.known(ctx, planned.Type)
	if err != nil {
		return err
	}
	g := &growth{tailer: t, reader: r, known: known, result: result}
	for _, u := range grown {
		b := *r.batch
		b.from, b.to, b.lenient = u.sliceSpec.Batch.From, u.sliceSpec.Batch.To, false
		b.parameters = u.sliceSpec.Batch.Parameters
		if err := g.reread(ctx, u.unit, &b, func(r *reader) error {
			return r.proveBatches(ctx, u.windowSpec, u.sliceSpec.Batch)
		}); err != nil {
			return err
		}
	}
	g.done()
	return nil
}

// grownBatches returns the units whose batches may hold more than was read of
// them. Those of which it has been said that counts prove nothing are passed over.
func (t *tailer) grownBatches(ctx context.Context, r *reader, units []provenWindow, gone *departed) ([]provenWindow, error) {
	var (
		mu    sync.Mutex // guards grown
		grown []provenWindow
	)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(t.c.PlanConcurrency)
	for _, u := range units {
		summary := t.account.units[u.unit].summary
		if !summary.Proven {
			continue
		}
		group.Go(func() error {
			now, err := r.countBatches(ctx, u.windowSpec, u.sliceSpec.Batch)
			if err != nil {
				return err
			}
			if now > summary.Read-u.sliceSpec.searches()*(gone.exported[u.unit]+gone.doubtful) {
				mu.Lock()
				defer mu.Unlock()
				grown = append(grown, u)
			}
			return nil
		})
	}
	return grown, group.Wait()
}

// missingPatients says which of the patients asked for the upstream does not
// have. Only a read of whole patients without filters can tell; and of patients
// that may not be read nothing is told.
func (t *tailer) missingPatients(ctx context.Context, r *reader, planned plannedType, added *idSet) error {
	if planned.Type != "Patient" || r.batch == nil || r.batch.cohort == nil ||
		!t.job.Request.Since.IsZero() || !t.job.Request.Until.IsZero() || t.filtered("Patient") || !t.allowed.Access("Patient").All {
		return nil
	}
	c := r.batch.cohort
	found := added.len()
	for _, u := range t.account.units {
		if u.Type == planned.Type && u.summary != nil {
			found += u.summary.Exported
		}
	}
	if found >= int64(c.len()) {
		return nil
	}
	exported := make([]bool, c.len())
	if err := t.eachExported(ctx, t.account, planned.Type, func(_ int, h fhir.Header, _ []byte) {
		if i := c.index(h.ID); i >= 0 {
			exported[i] = true
		}
	}); err != nil {
		return err
	}
	var missing []string
	for i, ok := range exported {
		if id := c.id(i); !ok && !added.has(id) {
			missing = append(missing, id)
		}
	}
	if missing, err := t.absent(ctx, "Patient", missing); err != nil || len(missing) == 0 {
		return err
	} else {
		t.said.add(jobs.SeverityWarning, fhir.IssueNotFound, "Patient: %d of the patients asked for were not found on the upstream: %s.", len(missing), someOf(missing))
	}
	return nil
}

// absent returns those ids that the upstream does not find.
func (a *attempt) absent(ctx context.Context, typ string, ids []string) ([]string, error) {
	var absent []string
	for len(ids) > 0 {
		n := min(len(ids), idBatch)
		if most := a.facts.Profile.Patients.PerSearch; typ == "Patient" && most > 0 {
			n = min(n, most)
		}
		found := newIDSet()
		err := follow(func(next string) (upstream.PageInfo, bool, error) {
			fresh := false
			page, err := a.c.Upstream.Page(ctx, upstream.Search{Type: typ, Query: idQuery(ids[:n])}, next, func(e *fhir.Entry) error {
				if e.Header.Type == typ {
					fresh = found.add(e.Header.ID) || fresh
				}
				return nil
			})
			return page, fresh, err
		})
		if err != nil {
			return nil, err
		}
		for _, id := range ids[:n] {
			if !found.has(id) {
				absent = append(absent, id)
			}
		}
		ids = ids[n:]
	}
	return absent, nil
}

// idBatch is how many ids one search names, so that its address stays short
// enough for everybody.
const idBatch = 25

// idQuery is the search for some ids.
func idQuery(ids []string) string { return "_id=" + strings.Join(ids, "%2C") }

// someOf lists the first ids.
func someOf(ids []string) string {
	const show = 20
	if len(ids) > show {
		return strings.Join(ids[:show], ", ") + ", …"
	}
	return strings.Join(ids, ", ")
}
