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
}

// minCuts is how many bisections are made whatever the time, so that a window
// that is cut again and again does get smaller.
const minCuts = 8

// cutWindows returns windows that cover w without a gap, in order, each holding
// at most h.limit resources by count, except where one tick alone holds more or
// the time ran out. A bulk load puts millions into one minute of many years, so
// the cuts follow the counts, never equal widths; empty stretches belong to a
// neighbour, so none goes unread.
func cutWindows(ctx context.Context, count countFunc, w windowSpec, h cutting) ([]windowSpec, error) {
	h.limit = max(h.limit, 1)
	c := &cutter{count: count, cutting: h}
	roots := []*cut{{windowSpec: w}}
	if w.From.IsZero() {
		bands, err := c.bands(ctx, w.To, w.Counted)
		if err != nil {
			return nil, err
		}
		roots = bands
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(h.parallel, 1))
	c.group = group
	for _, root := range roots {
		group.Go(func() error { return c.split(ctx, root) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var windows []windowSpec
	for _, root := range roots {
		windows = root.leaves(windows)
	}
	return merge(windows, h.limit), nil
}

// cutter bisects by counting.
type cutter struct {
	cutting
	count countFunc
	group *errgroup.Group
	made  atomic.Int64 // bisections
}

// late reports whether it is time to stop.
func (c *cutter) late() bool {
	return c.made.Add(1) > minCuts && !c.until.IsZero() && time.Now().After(c.until)
}

// cut is a node of the tree of cuts; a leaf is a window.
type cut struct {
	windowSpec
	left, right *cut
}

func (c *cut) leaves(into []windowSpec) []windowSpec {
	if c.left == nil {
		return append(into, c.windowSpec)
	}
	return c.right.leaves(c.left.leaves(into))
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

// split bisects w until each leaf is small enough or one tick wide. The lighter
// half goes to another goroutine where one is free.
func (c *cutter) split(ctx context.Context, w *cut) error {
	for w.Counted > c.limit && !w.From.IsZero() {
		half := (w.To.Sub(w.From) / 2).Truncate(tick)
		if half < tick || c.late() {
			return nil
		}
		middle := w.From.Add(half)
		later, err := c.count(ctx, middle, w.To)
		if err != nil {
			return err
		}
		w.left = &cut{windowSpec: windowSpec{From: w.From, To: middle, Counted: max(w.Counted-later, 0)}}
		w.right = &cut{windowSpec: windowSpec{From: middle, To: w.To, Counted: later}}
		light, heavy := w.left, w.right
		if light.Counted > heavy.Counted {
			light, heavy = heavy, light
		}
		if light.Counted > c.limit && !c.group.TryGo(func() error { return c.split(ctx, light) }) {
			if err := c.split(ctx, light); err != nil {
				return err
			}
		}
		w = heavy
	}
	return nil
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
