package export

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// tick is the grain of meta.lastUpdated: windows begin and end on whole ticks.
const tick = time.Millisecond

// countFunc counts the resources whose meta.lastUpdated lies in [from, to); a
// zero from is open.
type countFunc func(ctx context.Context, from, to time.Time) (int64, error)

// gallop are the distances from the end of a range at which a range that is
// open to the past is cut first, until what is left is small. They are wide
// apart: within a band the bisection takes over.
var gallop = [...]time.Duration{
	time.Minute, 16 * time.Minute, 4 * time.Hour, 64 * time.Hour,
	45 * 24 * time.Hour, 720 * 24 * time.Hour, 30 * 365 * 24 * time.Hour, 250 * 365 * 24 * time.Hour,
}

// earliest is before any clock that stamped a resource. What claims to be older
// stays in one window.
func earliest() time.Time { return time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC) }

// before is the instant at a distance before at, but not before earliest.
func before(at time.Time, distance time.Duration) time.Time {
	if begin := at.Add(-distance).Truncate(tick); begin.After(earliest()) {
		return begin
	}
	return earliest()
}

// divisible reports whether a window can be cut in two by time.
func (w windowSpec) divisible() bool {
	if w.From.IsZero() {
		return w.To.After(earliest())
	}
	return w.To.Sub(w.From) >= 2*tick
}

// cutting says how to cut.
type cutting struct {
	limit    int64     // resources that a window should hold at most
	parallel int       // counts at once
	until    time.Time // when to stop, leaving larger windows; zero: never
	// oldest and newest are where the resources are said to begin and to end.
	// They only say where to cut first. Zero: nobody has said it.
	oldest, newest time.Time
}

const (
	// minCuts is how many counts are made whatever the time, so that a window
	// that is cut again and again does get smaller.
	minCuts = 8
	// manyParts is into how many parts a window is cut at once at most.
	manyParts = 64
	// evenLevels is how many times in a row a window must have fallen into
	// halves of about the same size before it is cut into many parts at once.
	evenLevels = 2
)

// cutWindows returns windows that cover w without a gap, in order, each holding
// at most h.limit resources by count, except where one tick alone holds more or
// the time ran out. A bulk load puts millions into one minute of many years, so
// the cuts follow the counts, never equal widths, until they show that the
// resources are spread evenly; empty stretches belong to a neighbour, so none
// goes unread.
func cutWindows(ctx context.Context, count countFunc, w windowSpec, h cutting) ([]windowSpec, error) {
	h.limit = max(h.limit, 1)
	turns := make(chan struct{}, max(h.parallel, 1))
	group, ctx := errgroup.WithContext(ctx)
	c := &cutter{cutting: h, group: group, count: func(ctx context.Context, from, to time.Time) (int64, error) {
		select {
		case turns <- struct{}{}:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		defer func() { <-turns }()
		return count(ctx, from, to)
	}}
	root := &cut{windowSpec: w}
	if !h.oldest.IsZero() && !h.newest.Before(h.oldest) && h.oldest.After(w.From) && h.newest.Before(w.To) {
		root.lo, root.hi = h.oldest.Truncate(tick), h.newest.Truncate(tick).Add(tick)
	}
	group.Go(func() error { return c.split(ctx, root) })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return merge(root.leaves(nil), h.limit), nil
}

// cutter cuts by counting.
type cutter struct {
	cutting
	count countFunc // as many at once as may be
	group *errgroup.Group
	made  atomic.Int64 // counts
}

// late reports whether it is time to stop.
func (c *cutter) late() bool {
	return c.made.Load() > minCuts && !c.until.IsZero() && time.Now().After(c.until)
}

// cut is a node of the tree of cuts; a leaf is a window.
type cut struct {
	windowSpec
	lo, hi time.Time // where its resources are said to be; zero: From and To
	even   int       // how many times in a row what it is a part of fell into even parts
	parts  []*cut
}

func (c *cut) leaves(into []windowSpec) []windowSpec {
	if c.parts == nil {
		return append(into, c.windowSpec)
	}
	for _, p := range c.parts {
		into = p.leaves(into)
	}
	return into
}

// span is between which instants w should be cut.
func (w *cut) span() (lo, hi time.Time) {
	lo, hi = w.From, w.To
	if !w.lo.IsZero() {
		lo = w.lo
	}
	if !w.hi.IsZero() {
		hi = w.hi
	}
	return lo, hi
}

// split cuts w until each leaf is small enough or one tick wide.
func (c *cutter) split(ctx context.Context, w *cut) error {
	if w.Counted <= c.limit {
		return nil
	}
	lo, hi := w.span()
	if hinted := !w.lo.IsZero() || !w.hi.IsZero(); hinted && hi.Sub(lo) < 2*tick {
		w.lo, w.hi = time.Time{}, time.Time{} // what was said does not help any more
		return c.split(ctx, w)
	}
	var err error
	switch {
	case lo.IsZero():
		w.parts, err = c.bands(ctx, w.To, w.Counted)
	case hi.Sub(lo) < 2*tick || c.late():
		return nil
	default:
		err = c.divide(ctx, w, lo, hi)
	}
	if err != nil {
		return err
	}
	for _, p := range w.parts {
		if p.Counted > c.limit && (!p.From.IsZero() || !p.lo.IsZero()) {
			c.group.Go(func() error { return c.split(ctx, p) })
		}
	}
	return nil
}

// divide cuts w into parts between lo and hi: two halves, or as many parts as it
// takes where it is known to be even. Every fourth of those is half as wide: what
// is heaviest is read first, so that at the end the work can be shared out well.
// The first part is not counted: it has what the others have not.
func (c *cutter) divide(ctx context.Context, w *cut, lo, hi time.Time) error {
	n, wide := int64(2), int64(2)
	if w.even >= evenLevels {
		// A wide part of 4/5 of the limit leaves room, since even is not equal.
		n = min(w.Counted*10/(7*c.limit)+1, manyParts)
		wide = n - n/4
	}
	n = max(min(n, int64(hi.Sub(lo)/tick)/2), 2)
	wide = min(wide, n)
	unit := hi.Sub(lo) / time.Duration(n+wide)
	at := lo
	parts := make([]*cut, n)
	for i := range parts {
		parts[i] = &cut{}
		parts[i].From = at.Truncate(tick)
		if i > 0 {
			parts[i-1].To = parts[i].From
		}
		if at = at.Add(unit); int64(i) < wide {
			at = at.Add(unit)
		}
	}
	first, last := parts[0], parts[n-1]
	first.From, first.lo = w.From, w.lo
	last.To, last.hi = w.To, w.hi
	counts, ctx := errgroup.WithContext(ctx)
	for _, p := range parts[1:] {
		counts.Go(func() (err error) {
			c.made.Add(1)
			p.Counted, err = c.count(ctx, p.From, p.To)
			return err
		})
	}
	if err := counts.Wait(); err != nil {
		return err
	}
	first.Counted = w.Counted
	for _, p := range parts[1:] {
		first.Counted -= p.Counted
	}
	first.Counted = max(first.Counted, 0)
	even := w.even + 1
	for _, p := range parts {
		if p.Counted*n > w.Counted*3/2 {
			even = 0
		}
	}
	for _, p := range parts {
		p.even = even
	}
	w.parts = parts
	return nil
}

// bands cuts a range that is open to the past, oldest band first. The oldest
// stays open and holds what no count placed elsewhere.
func (c *cutter) bands(ctx context.Context, to time.Time, rest int64) ([]*cut, error) {
	var newestFirst []*cut
	end := to
	for _, distance := range gallop {
		begin := before(to, distance)
		if rest <= c.limit || !begin.Before(end) {
			break
		}
		n, err := c.count(ctx, begin, end)
		if err != nil {
			return nil, err
		}
		newestFirst = append(newestFirst, &cut{windowSpec: windowSpec{From: begin, To: end, Counted: n}})
		rest, end = max(rest-n, 0), begin
	}
	newestFirst = append(newestFirst, &cut{windowSpec: windowSpec{To: end, Counted: rest}})
	slices.Reverse(newestFirst)
	return newestFirst, nil
}

// merge joins neighbours that together are small enough.
func merge(windows []windowSpec, limit int64) []windowSpec {
	var merged []windowSpec
	for _, w := range windows {
		if n := len(merged); n > 0 && merged[n-1].Counted+w.Counted <= limit {
			merged[n-1].To = w.To
			merged[n-1].Counted += w.Counted
			continue
		}
		merged = append(merged, w)
	}
	return merged
}
