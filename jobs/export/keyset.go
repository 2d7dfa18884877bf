package export

import (
	"context"
	"time"

	"spillway/upstream"
	"spillway/upstream/fhir"
)

// method is how a pass reads a window.
type method int

const (
	byLinks  method = iota // the upstream's next links
	byKeyset               // searches sorted by _lastUpdated, each from where the last page ended
)

// methods returns how the passes over a window read it. The first is what the
// probes favour: a keyset where the upstream then reads past its store of
// searches, or where its next links do not work. The second is the other way,
// so that what is wrong with one does not repeat itself.
func methods(spec readSpec) [maxPasses]method {
	switch p := spec.Paging; {
	case spec.Whole || !p.Sort || p.LastTotal:
		return [maxPasses]method{byLinks, byLinks}
	case p.NoNext:
		return [maxPasses]method{byKeyset, byKeyset}
	case p.Direct > 0:
		return [maxPasses]method{byKeyset, byLinks}
	}
	return [maxPasses]method{byLinks, byKeyset}
}

// pageWindows is up to how many pages of a type its windows are cut down to
// one page each where the upstream reads such pages directly: a page that need
// not be sorted costs it less than the counts that the cutting takes. Of larger
// types that would be too many requests.
const pageWindows = 32

// onePage reports whether a window of so many resources fits on one page that
// the upstream reads directly, with room to show that it is the last.
func (r *reader) onePage(counted int64) bool {
	return counted >= 0 && counted < int64(r.spec.Paging.Direct)
}

// pages cuts the window of a slice into such that fit on one page, where the
// plan wants that.
func (r *reader) pages(ctx context.Context, w windowSpec) ([]windowSpec, error) {
	if !r.spec.Fine || r.ways[0] != byKeyset || w.Counted < 0 || r.onePage(w.Counted) {
		return []windowSpec{w}, nil
	}
	return cutWindows(ctx, r.countFunc(), w, cutting{limit: int64(max(r.spec.Paging.Direct-1, 1)), parallel: 2})
}

// walk reads a window by keyset: each page begins at the time at which the one
// before ended, and what is met again there counts once. A page of one
// timestamp only is finished by next links in that tick. Where the pages are
// not in order the window is read by next links.
func (r *reader) walk(ctx context.Context, s upstream.Search, w windowSpec, counted int64) error {
	if !r.onePage(counted) && !w.divisible() {
		return r.chain(ctx, s, w, counted) // a tick that fills a page has no order
	}
	s.Direct, s.Fits = r.spec.Paging.Direct, r.spec.Paging.Fits
	if r.onePage(counted) {
		page, err := r.c.Upstream.Page(ctx, s, "", func(entry *fhir.Entry) error { return r.entry(ctx, entry, w) })
		if err != nil || !page.Full && page.Next == "" {
			return err
		}
	}
	s.Sorted = true
	for pages := 0; ; pages++ {
		order := pageOrder{from: s.From, to: w.To}
		page, err := r.c.Upstream.Page(ctx, s, "", func(entry *fhir.Entry) error {
			order.note(entry.Header)
			return r.entry(ctx, entry, w)
		})
		if err != nil {
			return err
		}
		switch {
		case order.broken || order.none() && page.Entries > 0 && (page.Full || page.Next != ""):
			return r.chain(ctx, r.plain(s, w), w, counted)
		case !page.Full && page.Next == "", order.none():
			return nil
		case pages >= maxPages, r.runaway(counted):
			return r.endless(counted)
		}
		s.Begun = true
		if order.last.After(order.first) {
			s.From = order.last
			continue
		}
		tie := windowSpec{From: order.last, To: order.last.Add(tick)}
		if err := r.chain(ctx, r.plain(s, tie), w, counted); err != nil {
			return err
		}
		if s.From = tie.To; !s.To.IsZero() && !s.From.Before(s.To) {
			return nil
		}
	}
}

// plain is the search of a walk without its order, in a window.
func (r *reader) plain(s upstream.Search, w windowSpec) upstream.Search {
	s.Sorted, s.Direct = false, 0
	s.From, s.To = w.From, w.To
	return s
}

// pageOrder looks at the times of a page that should be sorted.
type pageOrder struct {
	from, to    time.Time // what was asked for; entries outside changed while the page was made
	first, last time.Time
	broken      bool
}

func (o *pageOrder) note(h fhir.Header) {
	at, err := fhir.ParseDateTime(h.LastUpdated)
	if err != nil {
		o.broken = true
		return
	}
	at = at.Truncate(tick)
	if at.Before(o.from) || !o.to.IsZero() && !at.Before(o.to) {
		return
	}
	if o.first.IsZero() {
		o.first = at
	}
	o.broken = o.broken || at.Before(o.last)
	o.last = at
}

// none reports whether the page held nothing of the window.
func (o *pageOrder) none() bool { return o.first.IsZero() }
