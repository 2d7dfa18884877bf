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

// pageWindows is up to how many pages of a type it is cut into small slices and
// read with a look ahead from the first page on, where the upstream reads pages
// directly. The server has the least work so, but of larger types that would be
// too many requests, where few resources have the same time.
//
// Measured on HAPI 8.8 with H2, CPU of its warm process: a direct page of 1000
// Observations 180 ms, sorted or not, with bounds or without, and 0.18 ms each on
// smaller pages too; the same page with a next link 260 ms, the ones after it 280
// to 650; one row far into the order 2 ms; a count 1 ms directly, else 2.5; a type
// that is empty 1 to 3. So entries decide, not requests, and not what of a
// resource is asked for: with _elements=meta a page costs as much.
const pageWindows = 32

// lookAhead is up to which part of a page may be read twice, because it ends
// amid resources of one time, before the walk looks ahead.
const lookAhead = 16

// onePage reports whether a window of so many resources fits on one page that
// the upstream reads directly, with room to show that it is the last.
func (r *reader) onePage(counted int64) bool {
	return counted >= 0 && counted < int64(r.spec.Paging.Direct)
}

// walk reads a window by keyset: each page begins at the time at which the one
// before ended, and what is met again there counts once. A page of one
// timestamp only is finished by next links in that tick. Where the pages are
// not in order the window is read by next links.
//
// Where many have the same time, much would be met again. So the walk looks
// ahead to where a page would end, and asks for what is before that time: the
// page then has room left, which shows that it is complete.
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
	ahead := r.spec.Fine && r.spec.Paging.Skip
	for pages := 0; ; pages++ {
		if s.To = w.To; ahead && !r.onePage(counted-r.ids.passed) {
			end, err := r.pageEnd(ctx, s)
			if err != nil {
				return err
			}
			if end.Equal(s.From) && !end.IsZero() {
				if done, err := r.tie(ctx, &s, end, w, counted); done || err != nil {
					return err
				}
				continue
			}
			s.To = end
		}
		order := pageOrder{from: s.From, to: s.To}
		page, err := r.c.Upstream.Page(ctx, s, "", func(entry *fhir.Entry) error {
			order.note(entry.Header)
			return r.entry(ctx, entry, w)
		})
		if err != nil {
			return err
		}
		full := page.Full || page.Next != ""
		switch {
		case order.broken || order.none() && (page.Entries > 0 && full || page.Next != ""):
			return r.chain(ctx, r.plain(s, w), w, counted)
		case !full && s.To.Equal(w.To), order.none() && s.To.Equal(w.To):
			return nil
		case pages >= maxPages, r.runaway(counted):
			return r.endless(counted)
		}
		s.Begun = true
		if !full || order.none() {
			s.From = s.To
			continue
		}
		ahead = ahead || r.spec.Paging.Skip && order.ties > 1 && order.ties*lookAhead > page.Entries
		if order.last.After(order.first) {
			s.From = order.last
			continue
		}
		if done, err := r.tie(ctx, &s, order.last, w, counted); done || err != nil {
			return err
		}
	}
}

// tie reads a tick that fills a page by next links, and sets s to go on after
// it. done reports that it was the last of w.
func (r *reader) tie(ctx context.Context, s *upstream.Search, at time.Time, w windowSpec, counted int64) (done bool, err error) {
	tie := windowSpec{From: at, To: at.Add(tick)}
	if err := r.chain(ctx, r.plain(*s, tie), w, counted); err != nil {
		return false, err
	}
	s.From, s.Begun = tie.To, true
	return !w.To.IsZero() && !s.From.Before(w.To), nil
}

// pageEnd returns the time of the last resource that a full page of s would
// hold, or the end of s if less is left or that cannot be told. It decides on
// nothing but where a page ends, so a wrong one does no harm.
func (r *reader) pageEnd(ctx context.Context, s upstream.Search) (time.Time, error) {
	end := s.To
	s.Skip, s.Limit = s.Direct-1, 1
	_, err := r.c.Upstream.Page(ctx, s, "", func(entry *fhir.Entry) error {
		at, err := fhir.ParseDateTime(entry.Header.LastUpdated)
		if at = at.Truncate(tick); err == nil && !at.Before(s.From) && (s.To.IsZero() || at.Before(s.To)) {
			end = at
		}
		return nil
	})
	return end, err
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
	ties        int // resources of the last time
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
	if o.ties++; !at.Equal(o.last) {
		o.ties = 1
	}
	o.last = at
}

// none reports whether the page held nothing of the window.
func (o *pageOrder) none() bool { return o.first.IsZero() }
