package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"spillway/upstream/fhir"
	"spillway/upstream/profile"
)

const (
	maxDataTries = 8           // types that are asked whether they have data
	unsureAge    = time.Minute // how long facts are believed when a probe failed in passing
	smallPage    = 100         // tried when the configured page size is refused
)

// likelyTypes are asked for data first.
var likelyTypes = [...]string{"Patient", "Observation", "Encounter", "Condition", "Organization"}

// Learn finds out by asking what the upstream can do, and takes from its profile
// what cannot be asked. What it found is kept for
// 10 minutes, or until Forget; concurrent callers share one run. A probe that
// fails leaves its fact Unknown or Refused and a sentence in Facts.Problems.
// Learn itself fails when /metadata does, when the upstream lets us search
// nothing (KindAuth), when it goes away in the middle, or when ctx ends.
func (c *Client) Learn(ctx context.Context) (*Facts, error) {
	return c.facts.load(ctx, func(ctx context.Context) (*Facts, time.Duration, error) {
		l := learner{c: c, f: &Facts{PageSize: c.cfg.PageSize}}
		if err := l.learn(ctx); err != nil {
			return nil, 0, err
		}
		if l.unsure {
			return l.f, unsureAge, nil
		}
		return l.f, factsAge, nil
	})
}

// Forget makes the next Learn and the next Capabilities ask again.
func (c *Client) Forget() {
	c.facts.forget()
	c.capabilities.forget()
}

// A learner is one run of Learn, or a part of it that runs beside others.
type learner struct {
	c *Client
	f *Facts // shared by all parts, which set different fields of it

	problems []string
	unsure   bool        // a probe failed in a way that may pass
	heard    bool        // a probe had an answer
	clock    clockSample // the tightest so far
	clocked  bool        // there was one

	typ   string      // the type that is probed; it may have no data
	found fhir.Header // a resource of it, if there is data
	seen  int         // resources of it on one page
	whole bool        // that page was all of them

	single bool // a page of one had one, and no next link
	paged  bool // a page of one had a next link
}

func (l *learner) learn(ctx context.Context) error {
	caps, err := l.c.Capabilities(ctx)
	if err != nil {
		return err
	}
	l.f.Capabilities = caps
	if p := versionProblem(caps.FHIRVersion); p != "" {
		l.problem("%s", p)
	}
	l.chooseProfile()
	var first glance
	var asked *request
	if l.may(profile.ProbeData) {
		if first, asked, err = l.findData(ctx); err != nil {
			return err
		}
	}
	if err := l.probe(ctx, asked, first); err != nil {
		return err
	}
	l.limitPage()
	l.supply()
	if err := l.readClock(ctx); err != nil {
		return err
	}
	l.f.Problems = l.problems
	if l.clocked {
		l.f.ClockSkewKnown, l.f.ClockOffset = true, l.clock.offset()
	}
	return nil
}

// A part is a probe, and the learner that it gets.
type part struct {
	of    *learner
	name  profile.Probe
	probe func(*learner, context.Context) error
}

// probe finds out the rest, side by side where one probe needs nothing of another. asked
// and first are what findData returned. What is said of the upstream is in an
// order that does not depend on which probe was faster.
func (l *learner) probe(ctx context.Context, asked *request, first glance) error {
	var next, size, updated, counts, sorted, direct, directCounts, posted, history learner
	for _, round := range [][]part{
		{
			{&next, profile.ProbeData, func(l *learner, ctx context.Context) error { return l.probeNext(ctx, asked, first) }},
			{&size, profile.ProbePage, (*learner).probePageSize},
			{&updated, profile.ProbeLastUpdated, (*learner).probeLastUpdated},
			{&sorted, profile.ProbeSort, (*learner).probeSort},
			{&posted, profile.ProbePost, (*learner).probePost},
			{&history, profile.ProbeHistory, (*learner).probeHistory},
		},
		{
			{&counts, profile.ProbeCounts, (*learner).probeCounts},
			{&direct, profile.ProbeDirect, (*learner).probeDirect},
		},
		{
			{&directCounts, profile.ProbeDirect, (*learner).probeDirectCounts},
		},
	} {
		if err := l.together(ctx, round); err != nil {
			return err
		}
		l.seen, l.whole = size.seen, size.whole
	}
	for _, p := range []*learner{&next, &size, &updated, &counts, &sorted, &direct, &directCounts, &posted, &history} {
		l.join(p)
	}
	return nil
}

// together runs probes side by side. Each begins with what l knows.
func (l *learner) together(ctx context.Context, parts []part) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range parts {
		*p.of = *l
		p.of.problems = nil
		if l.may(p.name) {
			g.Go(func() error { return p.probe(p.of, ctx) })
		}
	}
	return g.Wait()
}

// join takes over what a part has to say.
func (l *learner) join(p *learner) {
	l.problems = append(l.problems, p.problems...)
	l.unsure, l.heard = l.unsure || p.unsure, l.heard || p.heard
	if p.clocked && (!l.clocked || p.clock.tighter(l.clock)) {
		l.clock, l.clocked = p.clock, true
	}
}

// limitPage keeps to the profile's page size where none was found by asking.
func (l *learner) limitPage() {
	most := l.f.Profile.PageMax
	if most == 0 || l.f.ProbeType != "" && l.may(profile.ProbePage) {
		return
	}
	l.f.PageSize = min(l.f.PageSize, most)
	l.c.pageSize.Store(int64(l.f.PageSize))
}

// readClock takes the clock from the statement if no probe had an answer.
func (l *learner) readClock(ctx context.Context) error {
	if l.heard {
		return nil
	}
	_, last, err := l.c.fetchCapabilities(ctx)
	l.note(last)
	return err
}

// problem adds a sentence.
func (l *learner) problem(format string, args ...any) {
	l.problems = append(l.problems, fmt.Sprintf(format, args...))
}

// note takes the clock from a reply.
func (l *learner) note(re *reply) {
	if re == nil {
		return
	}
	l.heard = true
	date, err := http.ParseTime(re.header.Get("Date"))
	if err != nil {
		return
	}
	s := clockSample{date: date, sent: re.sent.Round(0), received: re.received.Round(0)}
	if !l.clocked || s.tighter(l.clock) {
		l.clock, l.clocked = s, true
	}
}

// failed judges the failure of a probe: what it means for the fact, or that
// Learn cannot go on.
func (l *learner) failed(err error) (Support, error) {
	var f *RequestError
	if !errors.As(err, &f) || f.Kind == KindUnreachable || f.Kind == KindThrottled {
		return Unknown, err
	}
	l.problem("%s", f.Error())
	if f.Temporary() {
		l.unsure = true
		return Unknown, nil
	}
	return Refused, nil
}

// A glance is what a probe saw on one page.
type glance struct {
	fhir.Page
	resources []fhir.Header // the distinct ones of the type that was asked for
}

// look reads the page that s and our own parameters name.
func (l *learner) look(ctx context.Context, s Search, own ...string) (glance, *request, error) {
	op := "search " + s.Type
	if s.Post {
		op += " by POST"
	}
	r, err := l.c.searchRequest(s, op, kindProbe, own...)
	if err != nil {
		return glance{}, nil, err
	}
	g, err := l.follow(ctx, r, s.Type)
	if err != nil || g.Next == "" || len(g.resources) > 0 {
		return g, r, err
	}
	// Some servers begin with an empty page, from which a link leads on.
	u, err := l.c.place.resolve(r.url, g.Next)
	if err != nil {
		return g, r, nil // probeNext looks into this
	}
	r = &request{kind: kindProbe, op: r.op, method: http.MethodGet, url: u, next: true}
	g, err = l.follow(ctx, r, s.Type)
	return g, r, err
}

// follow performs a probe.
func (l *learner) follow(ctx context.Context, r *request, typ string) (glance, error) {
	r.strikes = probeStrikes
	var g glance
	ids := make(map[string]bool)
	page, last, err := l.c.scan(ctx, r, func(e *fhir.Entry) error {
		if (e.Header.Type == typ || typ == "" && e.Resource != nil) && (e.Mode == "" || e.Mode == "match") && !ids[e.Header.ID] {
			ids[e.Header.ID] = true
			g.resources = append(g.resources, e.Header)
		}
		return nil
	})
	g.Page = page
	l.note(last)
	return g, err
}

// candidates are the types to look for data in, the likely ones first. Those
// that cannot be searched as a whole, without more, are none.
func (l *learner) candidates() []string {
	caps := l.f.Capabilities
	var types []string
	for _, t := range likelyTypes {
		if _, listed := caps.Type(t); listed || len(caps.Types) == 0 {
			types = append(types, t)
		}
	}
	for _, t := range caps.Types {
		if typeName(t.Type) && !slices.Contains(types, t.Type) {
			types = append(types, t.Type)
		}
	}
	return slices.DeleteFunc(types, func(name string) bool {
		t, listed := caps.Type(name)
		r := l.f.Rule(name)
		return listed && len(t.Interactions) > 0 && !caps.Can(name, "search-type") ||
			r.Search != profile.ScopeWhole || len(r.With) > 0
	})
}

// findData looks for a type with data, and returns the page of one that showed
// it, and what asked for it; nil if there is none.
func (l *learner) findData(ctx context.Context) (glance, *request, error) {
	types := l.candidates()
	if len(types) == 0 {
		if !l.f.Profile.Patients.Required {
			l.problem("The capability statement lists no type that can be searched.")
		}
		return glance{}, nil, nil
	}
	var denied *RequestError
	var problems []string
	refusals, refused := 0, 0 // for want of a right, and for the search as it is
	types = types[:min(len(types), maxDataTries)]
	for _, t := range types {
		g, r, err := l.look(ctx, Search{Type: t}, "_count=1")
		if err != nil {
			var f *RequestError
			if errors.As(err, &f) && f.Kind == KindAuth {
				denied, refusals = f, refusals+1
			} else if f != nil && f.Kind == KindStatus && !f.Temporary() {
				refused++
			}
			had := len(l.problems)
			if _, err := l.failed(err); err != nil {
				return glance{}, nil, err
			}
			problems = append(problems, l.problems[had:]...)
			l.problems = l.problems[:had]
			continue
		}
		if l.typ == "" {
			l.typ = t // for the probes that need no data, if there is none
		}
		if len(g.resources) > 0 {
			l.typ, l.found, l.f.ProbeType = t, g.resources[0], t
			l.paged, l.single = g.Next != "", g.Next == "" && len(g.resources) == 1
			return g, r, nil
		}
	}
	if denied != nil && refusals == len(types) {
		return glance{}, nil, denied
	}
	l.problems = append(l.problems, problems...)
	if refused == len(types) {
		l.problem("Searches of whole types are refused. If this server finds resources by patient only, say so in a profile (patients: {required: true}).")
		return glance{}, nil, nil
	}
	l.problem("No data was found in the %d types that were tried, so not all could be probed.", len(types))
	return glance{}, nil, nil
}

// probeNext follows the next link of a page of one resource.
func (l *learner) probeNext(ctx context.Context, r *request, g glance) error {
	if g.Next == "" {
		return nil // there may be no second one
	}
	u, err := l.c.place.resolve(r.url, g.Next)
	if err != nil {
		l.f.NextLinks = Refused
		var foreign *ForeignLinkError
		if errors.As(err, &foreign) && foreign.Origin != "" {
			l.problem("Next links lead to %s, which is not the configured upstream; if it is the same server, list that base address in upstream.url_aliases.", printable(foreign.Origin))
			return nil
		}
		l.problem("Next links lead to an address that cannot be followed.")
		return nil
	}
	second, err := l.follow(ctx, &request{
		kind: kindProbe, op: "follow the next link of " + l.typ, method: http.MethodGet, url: u, next: true,
	}, l.typ)
	switch {
	case err != nil:
		l.f.NextLinks, err = l.failed(err)
		return err
	case len(second.resources) > 0 && second.resources[0].ID == g.resources[0].ID:
		l.f.NextLinks = Ignored
		l.problem("The next link of a page of %s brings the same page again.", l.typ)
	default:
		l.f.NextLinks = Works
	}
	return nil
}

// probePageSize asks for a full page.
func (l *learner) probePageSize(ctx context.Context) error {
	if l.f.ProbeType == "" {
		return nil
	}
	asked := l.c.cfg.PageSize
	g, err := l.fullPage(ctx, asked)
	var f *RequestError
	if errors.As(err, &f) && !f.Temporary() && f.Kind == KindStatus && asked > smallPage {
		refused := asked
		asked = smallPage
		if g, err = l.fullPage(ctx, asked); err == nil {
			l.problem("Pages of %d are refused; %d is asked for instead.", refused, asked)
		}
	}
	if err != nil {
		_, err = l.failed(err)
		return err
	}
	l.c.pageSize.Store(int64(asked))
	l.f.PageSize = asked
	l.take(g)
	if g.Next != "" && l.seen > 0 {
		l.f.PageSize = l.seen
	}
	if l.single && l.seen > 1 {
		l.f.NextLinks = Refused
		l.whole = false
		l.problem("A page of one %s has no next link, though there are more.", l.typ)
	}
	return nil
}

// take keeps what a full page says about the number of resources.
func (l *learner) take(g glance) {
	l.seen = len(g.resources)
	l.whole = g.Next == "" && l.seen < l.c.pageCount()
}

func (l *learner) fullPage(ctx context.Context, size int) (glance, error) {
	g, _, err := l.look(ctx, Search{Type: l.typ}, fmt.Sprintf("_count=%d", size))
	return g, err
}
