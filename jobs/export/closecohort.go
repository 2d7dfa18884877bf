package export

import (
	"context"
	"strings"

	"golang.org/x/sync/errgroup"

	"spillway/jobs"
	"spillway/upstream"
	"spillway/upstream/fhir"
)

// closeBatches is closeType of a type that was read by naming patients. One
// count of the whole type shows that nothing of it became visible after the
// plan. Where it does not, as nearly always while the type is written to, the
// batches are counted again, and what grew is read again.
func (t *tailer) closeBatches(ctx context.Context, r *reader, planned plannedType, counted int64, gone *departed, result *tailType) error {
	if counted >= 0 && planned.Counted >= 0 && counted <= planned.Counted-gone.changed*int64(len(planned.Read.Alternatives)) {
		return nil
	}
	g, err := t.newGrowth(r, planned, gone, result)
	if err != nil {
		return err
	}
	var grown []*provenWindow
	for n := 1; ; n++ {
		counts, err := g.countUnits(ctx)
		if err != nil {
			return err
		}
		had := g.slack
		changed, err := g.follow(ctx) // what left before the counts is known only now
		if err != nil {
			return err
		}
		grown = grown[:0]
		for i, u := range g.windows {
			if t.account.units[u.unit].summary.Proven && counts[i] > u.holds-g.slack {
				grown = append(grown, u)
			}
		}
		if len(grown) == 0 || !changed || n >= tries && g.slack == had || n >= maxCensus {
			break
		}
	}
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

// countUnits counts the batches of all units but those of which it has been said
// that counts prove nothing.
func (g *growth) countUnits(ctx context.Context) ([]int64, error) {
	counts := make([]int64, len(g.windows))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(g.c.PlanConcurrency)
	for i, u := range g.windows {
		if !g.account.units[u.unit].summary.Proven {
			continue
		}
		group.Go(func() (err error) {
			counts[i], err = g.reader.countBatches(ctx, u.windowSpec, u.sliceSpec.Batch)
			return err
		})
	}
	return counts, group.Wait()
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
