package upstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"spillway/upstream/fhir"
)

// never is later than any resource: a search from it on finds nothing.
func never() time.Time { return time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC) }

// probeLastUpdated asks for a window that holds nothing, and for one that holds
// the resource that was found.
func (l *learner) probeLastUpdated(ctx context.Context) error {
	if l.f.ProbeType == "" {
		return nil
	}
	g, _, err := l.look(ctx, Search{Type: l.typ, From: never()}, "_count=1")
	switch {
	case err != nil:
		l.f.LastUpdated, err = l.failed(err)
		return err
	case len(g.resources) > 0:
		l.f.LastUpdated = Ignored
		l.problem("_lastUpdated is ignored: a search of %s for the year 9999 returned resources.", l.typ)
		return nil
	}
	l.f.LastUpdated = Works
	var complaint string
	for range 2 { // the resource may be updated while we look for it
		if complaint, err = l.findAgain(ctx); err != nil {
			l.f.LastUpdated, err = l.failed(err)
			return err
		}
		if complaint == "" {
			return nil
		}
		again, _, err := l.look(ctx, Search{Type: l.typ}, "_count=1")
		if err != nil {
			l.f.LastUpdated, err = l.failed(err)
			return err
		}
		if len(again.resources) > 0 {
			l.found = again.resources[0]
		}
	}
	l.f.LastUpdated = Refused
	l.problem("_lastUpdated is of no use: %s", complaint)
	return nil
}

// findAgain searches the second in which the resource that was found was last
// updated. The complaint is "" if all is well.
func (l *learner) findAgain(ctx context.Context) (complaint string, err error) {
	s := Search{Type: l.typ, From: time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC)}
	at, parseErr := fhir.ParseInstant(l.found.LastUpdated)
	if parseErr == nil {
		s.From = at.UTC().Truncate(time.Millisecond)
		s.To = s.From.Add(time.Second)
	}
	g, _, err := l.look(ctx, s, "_count=10")
	if err != nil {
		return "", err
	}
	if len(g.resources) == 0 {
		return fmt.Sprintf("a window around the time of a %s does not find it.", l.typ), nil
	}
	if parseErr != nil {
		return "", nil
	}
	for _, h := range g.resources {
		if t, err := fhir.ParseInstant(h.LastUpdated); err == nil && (t.Before(s.From) || !t.Before(s.To)) {
			return fmt.Sprintf("a window with both ends returned a %s from outside.", l.typ), nil
		}
	}
	return "", nil
}

// probeCounts tries both ways to count.
func (l *learner) probeCounts(ctx context.Context) error {
	if l.typ == "" {
		return nil
	}
	had := len(l.problems)
	for _, mode := range []CountMode{CountSummary, CountTotal} {
		verdict, complaint, err := l.tryCounts(ctx, mode, 0)
		if err != nil {
			return err
		}
		if verdict == Works {
			l.f.Counts, l.f.CountMode = Works, mode
			l.problems = l.problems[:had] // what is wrong with the other way does not matter
			return nil
		}
		l.f.Counts = verdict
		if complaint != "" {
			l.problem("%s", complaint)
		}
	}
	return nil
}

// tryCounts says whether counts asked for in one way are right, as usual or if
// direct is 1 past the upstream's store of searches.
func (l *learner) tryCounts(ctx context.Context, mode CountMode, direct int) (verdict Support, complaint string, err error) {
	ask := func(s Search) (int64, error) {
		s.Direct = direct
		n, last, err := l.c.count(ctx, s, mode, kindProbe, probeStrikes)
		l.note(last)
		return n, err
	}
	judge := func(err error) (Support, string, error) {
		if errors.Is(err, ErrNoCount) {
			return Refused, fmt.Sprintf("A search with %s states no total.", mode), nil
		}
		verdict, err := l.failed(err)
		return verdict, "", err
	}
	n, err := ask(Search{Type: l.typ})
	if err != nil {
		return judge(err)
	}
	if !l.plausible(n) { // once more: the data may have changed in between
		g, err := l.fullPage(ctx, l.c.pageCount())
		if err != nil {
			return judge(err)
		}
		l.take(g)
		if n, err = ask(Search{Type: l.typ}); err != nil {
			return judge(err)
		}
		if !l.plausible(n) {
			return Ignored, fmt.Sprintf("Counts by %s are wrong: it counts %d where a page of %s shows %d.", mode, n, l.typ, l.seen), nil
		}
	}
	if l.f.LastUpdated == Works {
		if n, err = ask(Search{Type: l.typ, From: never()}); err != nil {
			return judge(err)
		}
		if n != 0 {
			return Ignored, fmt.Sprintf("Counts by %s do not keep to a window on _lastUpdated.", mode), nil
		}
	}
	return Works, "", nil
}

// plausible reports whether n can be the count of the type that is probed.
func (l *learner) plausible(n int64) bool {
	if l.whole {
		return n == int64(l.seen)
	}
	return n >= int64(max(l.seen, 1)) || l.f.ProbeType == ""
}

// probeSort asks for both directions.
func (l *learner) probeSort(ctx context.Context) error {
	if l.f.ProbeType == "" {
		return nil
	}
	var first [2]time.Time
	for i, key := range []string{"_lastUpdated", "-_lastUpdated"} {
		g, _, err := l.look(ctx, Search{Type: l.typ}, "_sort="+key, "_count=10")
		if err != nil {
			l.f.Sort, err = l.failed(err)
			return err
		}
		var last time.Time
		for n, h := range g.resources {
			t, err := fhir.ParseInstant(h.LastUpdated)
			if err != nil {
				return nil // without times there is no telling
			}
			if n == 0 {
				first[i] = t
			} else if i == 0 && t.Before(last) || i == 1 && t.After(last) {
				l.f.Sort = Ignored
				return nil
			}
			last = t
		}
	}
	if first[0].After(first[1]) {
		l.f.Sort = Ignored
		return nil
	}
	l.f.Sort = Works
	return nil
}

// probePost asks by POST for the one resource that was found.
func (l *learner) probePost(ctx context.Context) error {
	if l.typ == "" || l.f.ProbeType != "" && !fhir.ValidID(l.found.ID) {
		return nil
	}
	s := Search{Type: l.typ, Post: true}
	if l.f.ProbeType != "" {
		s.Query = "_id=" + l.found.ID
	}
	g, _, err := l.look(ctx, s, "_count=10")
	switch {
	case err != nil:
		l.f.PostSearch, err = l.failed(err)
		return err
	case l.f.ProbeType != "" && (len(g.resources) != 1 || g.resources[0].ID != l.found.ID):
		l.f.PostSearch = Ignored
		l.problem("A search of %s by POST does not read its parameters from the body.", l.typ)
	default:
		l.f.PostSearch = Works
	}
	return nil
}

// directLimit is how many results HAPI gives at most on the direct way, unless
// its operator has chosen otherwise.
const directLimit = 1000

// probeDirect asks for single pages past the upstream's store of searches, as
// HAPI offers: there is then no next link, where a page of one has one
// otherwise. It is a shortcut, so a refusal is no problem.
func (l *learner) probeDirect(ctx context.Context) error {
	if !l.paged || l.f.Sort != Works {
		return nil
	}
	had := len(l.problems)
	defer func() { l.problems = l.problems[:had] }()
	g, err := l.lookDirect(ctx, 1, 0)
	switch {
	case err != nil:
		l.f.Direct, err = l.failed(err)
		return err
	case g.Next != "" || len(g.resources) != 1:
		l.f.Direct = Ignored
		return nil
	}
	first, size := g.resources[0], l.c.pageCount()
	if g, err = l.lookDirect(ctx, size, 0); err != nil && size > directLimit {
		size = directLimit
		g, err = l.lookDirect(ctx, size, 0)
	}
	if err != nil {
		l.f.Direct, err = l.failed(err)
		return err
	}
	l.f.Direct, l.f.DirectSize = Works, size
	if n := len(g.resources); n < size && !l.whole {
		l.f.DirectSize = max(n, 1)
	}
	return l.probeSkip(ctx, first)
}

// probeDirectCounts counts past the upstream's store of searches, once it is
// known that pages can be read so.
func (l *learner) probeDirectCounts(ctx context.Context) (err error) {
	if l.f.Direct != Works || l.f.Counts != Works {
		return nil
	}
	had := len(l.problems)
	defer func() { l.problems = l.problems[:had] }()
	l.f.DirectCounts, _, err = l.tryCounts(ctx, l.f.CountMode, 1)
	return err
}

// probeSkip passes over the first resource, which is known.
func (l *learner) probeSkip(ctx context.Context, first fhir.Header) error {
	g, err := l.lookDirect(ctx, 1, 1)
	switch {
	case err != nil:
		l.f.Skip, err = l.failed(err)
		return err
	case len(g.resources) != 1 || g.resources[0].ID == first.ID:
		l.f.Skip = Ignored
	default:
		l.f.Skip = Works
	}
	return nil
}

// lookDirect reads a page of size resources directly, passing over some.
func (l *learner) lookDirect(ctx context.Context, size, skip int) (glance, error) {
	own := []string{"_count=" + strconv.Itoa(size), "_sort=_lastUpdated"}
	if skip > 0 {
		own = append(own, "_offset="+strconv.Itoa(skip))
	}
	r, err := l.c.searchRequest(Search{Type: l.typ}, "search "+l.typ, kindProbe, own...)
	if err != nil {
		return glance{}, err
	}
	r.direct = size
	return l.follow(ctx, r, l.typ)
}

// probeHistory asks what changed since now, of one type and of all.
func (l *learner) probeHistory(ctx context.Context) error {
	if l.typ == "" {
		return nil
	}
	for _, probe := range []struct {
		typ  string
		fact *Support
	}{{l.typ, &l.f.History}, {"", &l.f.SystemHistory}} {
		had := len(l.problems)
		support, err := l.tryHistory(ctx, probe.typ)
		if err != nil {
			return err
		}
		if *probe.fact = support; probe.typ == "" {
			l.problems = l.problems[:had] // the history of types will do
		}
	}
	return nil
}

func (l *learner) tryHistory(ctx context.Context, typ string) (Support, error) {
	since := l.c.cfg.Now()
	if l.clocked {
		since = since.Add(l.clock.offset())
	}
	r, err := l.c.historyRequest(History{Type: typ, Since: since}, 1)
	if err != nil {
		return Unknown, err
	}
	r.kind = kindProbe
	g, err := l.follow(ctx, r, typ)
	if err != nil {
		return l.failed(err)
	}
	if g.Type != "history" {
		l.problem("The %s does not come as a history.", r.op)
		return Ignored, nil
	}
	for _, h := range g.resources {
		if t, err := fhir.ParseInstant(h.LastUpdated); err == nil && t.Before(since.Add(-2*time.Second)) {
			l.problem("The %s does not keep to _since.", r.op)
			return Ignored, nil
		}
	}
	return Works, nil
}
