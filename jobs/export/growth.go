package export

import (
	"context"
	"hash/maphash"

	"spillway/jobs"
	"spillway/upstream/fhir"
)

// growth finds and reads what should be in the windows or batches of a planned
// type and was not read there.
type growth struct {
	*tailer
	planned plannedType
	reader  *reader
	windows []*provenWindow
	slack   int64 // how much less than their holds windows may hold
	result  *tailType
	known   *unitsByID // exported so far; nil before it was needed
	stale   int64      // resources that are in the export already, in an older version
}

// newGrowth knows what the windows still hold without what is gone.
func (t *tailer) newGrowth(r *reader, planned plannedType, gone *departed, result *tailType) (*growth, error) {
	windows, err := t.account.windows(planned)
	if err != nil {
		return nil, err
	}
	g := &growth{tailer: t, planned: planned, reader: r, result: result}
	for i := range windows {
		g.windows = append(g.windows, &windows[i])
	}
	g.take(gone)
	return g, nil
}

// take takes what is gone from the windows.
func (g *growth) take(gone *departed) {
	gone.from(g.windows)
	if len(g.windows) > 0 {
		g.slack += gone.doubtful * g.windows[0].sliceSpec.searches()
	}
}

// least is how many resources windows hold at least.
func (g *growth) least(windows []*provenWindow) int64 {
	sum := -g.slack
	for _, w := range windows {
		sum += w.holds
	}
	return sum
}

// tries is how often some windows are counted in search of a moment in which
// nothing of them changed, before they are looked at in halves.
const tries = 2

// search bisects windows by counts down to those that hold more than was read,
// or may do so.
func (g *growth) search(ctx context.Context, windows []*provenWindow) error {
	for n := 1; ; n++ {
		sure, possible, err := g.compare(ctx, windows)
		if err != nil || possible <= 0 {
			return err
		}
		if sure > 0 || n >= tries {
			break
		}
	}
	if len(windows) == 1 {
		return g.rereadWindow(ctx, windows[0])
	}
	if err := g.search(ctx, windows[:len(windows)/2]); err != nil {
		return err
	}
	return g.search(ctx, windows[len(windows)/2:])
}

// compare counts some windows and looks for changes. Sure is how many more
// resources they hold than were read, possible how many more it may be: what a
// look finds now may have left before the count or after it.
func (g *growth) compare(ctx context.Context, windows []*provenWindow) (sure, possible int64, err error) {
	had := g.least(windows)
	now, err := g.reader.count(ctx, windowSpec{From: windows[0].From, To: windows[len(windows)-1].To})
	if err != nil {
		return 0, 0, err
	}
	if _, err := g.follow(ctx); err != nil {
		return 0, 0, err
	}
	return now - had, now - g.least(windows), nil
}

// follow looks for changes, takes what left from the windows that held it, and
// brings back what was not exported. It reports whether there was any.
func (g *growth) follow(ctx context.Context) (bool, error) {
	typ := g.planned.Type
	found, err := g.lookAgain(ctx, map[string]bool{typ: true})
	if err != nil || len(found[typ]) == 0 {
		return false, err
	}
	if err := g.learnKnown(ctx); err != nil {
		return false, err
	}
	delete(g.left, typ)
	gone := &departed{exported: make(map[int]int64)}
	missed := make(map[string]*change)
	for id, c := range found[typ] {
		unit, shared, exported := g.known.get(id)
		if !exported {
			missed[id] = c
			continue
		}
		c.exported = true
		gone.exported[unit]++
		if shared {
			gone.doubtful++
		}
	}
	if err := g.bringBack(ctx, g.reader, missed, gone, g.result); err != nil {
		return false, err
	}
	g.take(gone)
	return true, nil
}

func (g *growth) rereadWindow(ctx context.Context, w *provenWindow) error {
	return g.reread(ctx, w.unit, g.reader.batch, func(r *reader) (err error) {
		if w.Counted, err = r.count(ctx, w.windowSpec); err != nil {
			return err
		}
		return r.prove(ctx, w.windowSpec)
	})
}

// reread reads again what a unit has read, and exports what is new in it.
func (g *growth) reread(ctx context.Context, of int, b *batch, prove func(*reader) error) error {
	if err := g.learnKnown(ctx); err != nil {
		return err
	}
	write := g.reader.sink
	r := g.newReader(g.reader.spec, b, g.reader.notes, func(ctx context.Context, h fhir.Header, resource []byte) error {
		unit, _, exported := g.known.get(h.ID)
		switch {
		case exported && unit == of:
			return nil
		case exported:
			g.stale++
			g.holds(unit, -1)
			g.holds(of, 1)
			return nil
		}
		g.known.set(h.ID, of, false)
		g.holds(of, 1)
		g.result.Late++
		return write(ctx, h, resource)
	})
	if err := prove(r); err != nil {
		return err
	}
	g.reader.summary.Proven = g.reader.summary.Proven && r.summary.Proven
	return nil
}

// holds changes what the window of a unit holds.
func (g *growth) holds(unit int, by int64) {
	for _, w := range g.windows {
		if w.unit == unit {
			w.holds += by
		}
	}
}

// done says what was found.
func (g *growth) done() {
	g.result.Unproven = g.result.Unproven || !g.reader.summary.Proven
	if g.stale > 0 {
		g.said.add(jobs.SeverityWarning, fhir.IssueProcessing,
			"%s: %d resources were changed by writes that the upstream made visible only after they had been read, longer than its settle time after they were stamped; they are here in their older version. A longer upstream.settle avoids that.",
			g.planned.Type, g.stale)
	}
}

// learnKnown reads which unit exported what of the type. What this unit has
// written is not among it.
func (g *growth) learnKnown(ctx context.Context) error {
	if g.known != nil {
		return nil
	}
	g.known = newUnitsByID()
	subset := elementsOf(g.job.Request, g.planned.Type) != nil
	return g.eachExported(ctx, g.account, g.planned.Type, func(unit int, h fhir.Header, line []byte) {
		shared := g.planned.Read.Scope == scopeCohort && (subset || g.reader.batch.shares(h, line))
		g.known.set(h.ID, unit, shared)
	})
}

// unitsByID says which unit exported a resource, by 128 bits of its id, and
// whether it belongs to several patients of a cohort.
type unitsByID struct {
	seeds [2]maphash.Seed
	units map[[2]uint64]int32 // twice the unit, and one more if shared
}

func newUnitsByID() *unitsByID {
	return &unitsByID{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, units: make(map[[2]uint64]int32)}
}

func (u *unitsByID) key(id string) [2]uint64 {
	return [2]uint64{maphash.String(u.seeds[0], id), maphash.String(u.seeds[1], id)}
}

func (u *unitsByID) set(id string, unit int, shared bool) {
	n := int32(unit) << 1
	if shared {
		n |= 1
	}
	u.units[u.key(id)] = n
}

func (u *unitsByID) get(id string) (unit int, shared, ok bool) {
	n, ok := u.units[u.key(id)]
	return int(n >> 1), n&1 != 0, ok
}
