package export

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"spillway/jobs"
	"spillway/upstream"
	"spillway/upstream/fhir"
)

// census counts a type. none says that a page showed that there is nothing.
func (p *planner) census(ctx context.Context, read readSpec) (counted int64, none bool, err error) {
	whole := windowSpec{From: read.Since, To: read.Until, Counted: -1}
	var said notes
	r := p.newReader(read, nil, &said, nil)
	if !read.Whole {
		// Most types of most servers hold nothing; one request shows that.
		if none, err := p.nothing(ctx, r, whole); err != nil || none {
			return 0, none, err
		}
	}
	counted, err = r.count(ctx, whole)
	if err == nil && counted == 0 {
		// A zero is believed only together with an empty page.
		none, err = p.empty(ctx, r, whole)
	}
	return counted, none, err
}

// windows cuts a type that was counted.
func (p *planner) windows(ctx context.Context, read readSpec, counted int64) ([]windowSpec, error) {
	whole := windowSpec{From: read.Since, To: read.Until, Counted: counted}
	r := p.newReader(read, nil, &notes{}, nil)
	switch {
	case counted < 0 && read.Paging.LastTotal && !read.Whole:
		return p.estimatedWindows(ctx, r, whole)
	case counted <= 0 || read.Whole:
		return []windowSpec{whole}, nil
	}
	limit := p.most()
	if p.fine(read, counted) {
		limit = min(limit, finePages*int64(read.Paging.Direct))
	}
	how := p.cutting(limit)
	if counted > how.limit && read.Paging.Sort {
		var err error
		if how.oldest, how.newest, err = p.ends(ctx, r, whole); err != nil {
			return nil, err
		}
	}
	return cutWindows(ctx, r.countFunc(), whole, how)
}

// ends asks for the times of the oldest and the newest resource of a window. It
// saves the counts that it would take to find the part of it that is not empty.
// Zero times where the upstream does not say.
func (p *planner) ends(ctx context.Context, r *reader, w windowSpec) (oldest, newest time.Time, err error) {
	var found [2][]time.Time
	g, ctx := errgroup.WithContext(ctx)
	for i := range found {
		g.Go(func() error {
			for _, alternative := range r.spec.Alternatives {
				s := r.search(alternative, w)
				s.Sorted, s.Newest, s.Limit, s.Direct = true, i == 1, 1, r.spec.Paging.Direct
				_, err := p.c.Upstream.Page(ctx, s, "", func(entry *fhir.Entry) error {
					if at, err := fhir.ParseDateTime(entry.Header.LastUpdated); err == nil && entry.Header.Type == r.spec.Type {
						found[i] = append(found[i], at)
					}
					return nil
				})
				if err != nil && !refused(err) {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return oldest, newest, err
	}
	if len(found[0]) > 0 && len(found[1]) > 0 {
		oldest, newest = slices.MinFunc(found[0], time.Time.Compare), slices.MaxFunc(found[1], time.Time.Compare)
	}
	return oldest, newest, nil
}

// estimatedWindows cuts a window by estimates. What they are wrong by makes
// windows larger or smaller, but leaves no gap; the last page of each window
// states what proves it.
func (p *planner) estimatedWindows(ctx context.Context, r *reader, whole windowSpec) ([]windowSpec, error) {
	estimate := func(ctx context.Context, from, to time.Time) (sum int64, err error) {
		for _, alternative := range r.spec.Alternatives {
			n, err := p.c.Upstream.Estimate(ctx, r.search(alternative, windowSpec{From: from, To: to}))
			if err != nil {
				return 0, err
			}
			sum += n
		}
		return sum, nil
	}
	about, err := estimate(ctx, whole.From, whole.To)
	windows := []windowSpec{whole}
	if err == nil && about > p.most() {
		w := whole
		w.Counted = about
		windows, err = cutWindows(ctx, estimate, w, p.cutting(p.most()))
	}
	if errors.Is(err, upstream.ErrNoCount) || err != nil && denied(err) {
		return []windowSpec{whole}, nil
	}
	for i := range windows {
		windows[i].Counted = -1
	}
	return windows, err
}

// fine reports whether a type of so many resources is cut into small slices, of
// which the last to end does not keep the others waiting.
func (p *planner) fine(read readSpec, counted int64) bool {
	return counted <= pageWindows*int64(read.Paging.Direct)
}

// finePages is how many pages such a slice has.
const finePages = 2

// nothing reports whether a window holds nothing: a page without entries that
// states a total of none, or a count of none beside a page without entries.
func (a *attempt) nothing(ctx context.Context, r *reader, w windowSpec) (bool, error) {
	for _, alternative := range r.spec.Alternatives {
		s := r.search(alternative, w)
		s.Direct, s.Limit = r.spec.Paging.Direct, 1
		page, err := a.c.Upstream.Page(ctx, s, "", func(*fhir.Entry) error { return nil })
		if err != nil || page.Entries > 0 || page.Next != "" {
			return false, err
		}
		if page.Total != nil && *page.Total == 0 {
			continue
		}
		n, err := a.c.Upstream.Count(ctx, s)
		if errors.Is(err, upstream.ErrNoCount) {
			return false, nil
		}
		if err != nil || n > 0 {
			return false, err
		}
	}
	return true, nil
}

// errSeen ends the reading of a page at its first resource.
var errSeen = errors.New("export: a resource was seen")

// empty reports whether the first page of every alternative is empty.
func (p *planner) empty(ctx context.Context, r *reader, w windowSpec) (bool, error) {
	for _, alternative := range r.spec.Alternatives {
		_, err := p.c.Upstream.Page(ctx, r.search(alternative, w), "", func(entry *fhir.Entry) error {
			if entry.Header.Type == r.spec.Type && entry.Mode != "include" && entry.Mode != "outcome" {
				return errSeen
			}
			return nil
		})
		if errors.Is(err, errSeen) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// countFunc counts the reader's alternatives in any range. An upstream that
// stops giving counts half-way is an error: the cuts would be guesses.
func (r *reader) countFunc() countFunc {
	return func(ctx context.Context, from, to time.Time) (int64, error) {
		n, err := r.count(ctx, windowSpec{From: from, To: to})
		if err == nil && n < 0 {
			return 0, &jobs.UnitError{Reason: fmt.Sprintf("count %s: the upstream gave counts before but none now.", r.spec.Type)}
		}
		return n, err
	}
}
