package export

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	scopes "spillway/auth/scope"
	"spillway/jobs"
	"spillway/upstream"
	"spillway/upstream/fhir"
)

// tailSummary is what the tail and the deleted unit leave for finish.
type tailSummary struct {
	Types []tailType `json:"types,omitempty"`
	// References and Stray are those of readSummary.
	References string `json:"references,omitempty"`
	Stray      int64  `json:"stray,omitempty"`
}

// tailType is what the tail did for one type.
type tailType struct {
	Type     string `json:"type"`
	Past     int64  `json:"past,omitempty"`    // lines added as of the transaction time
	Newer    int64  `json:"newer,omitempty"`   // lines added in a newer version
	Late     int64  `json:"late,omitempty"`    // lines added that became visible late
	Deleted  int64  `json:"deleted,omitempty"` // deletions listed
	Unproven bool   `json:"unproven,omitempty"`
}

// tailer works off the tail of an export: what changed after the transaction
// time has left its window and may have been missed, and what became visible
// late was not in its window yet.
type tailer struct {
	*attempt
	account *account
	changed changes
	checked map[string]bool // types of which changed holds deletions too
	left    map[string]*departed
	looked  time.Time         // when the first look for changes began
	census  map[int]int64     // counts at the end, by the place in the plan; -1 if none could be had
	added   map[string]*idSet // by type, ids of the lines that the tail wrote

	judging sync.Mutex
	judges  map[string][]scopes.Query // by type, what judge has found

	said   notes
	out    []*segments
	result tailSummary
}

// tail brings in what the slices could not see.
func (a *attempt) tail(ctx context.Context) (jobs.Result, error) {
	account, err := a.account(ctx)
	if err != nil {
		return jobs.Result{}, err
	}
	t := &tailer{attempt: a, account: account}
	defer func() {
		for _, out := range t.out {
			out.abort()
		}
	}()
	if err := t.findChanges(ctx); err != nil {
		return jobs.Result{}, err
	}
	touched, err := t.touched(ctx)
	if err != nil {
		return jobs.Result{}, err
	}
	t.sayUnmatched()
	if err := t.takeCensus(ctx); err != nil {
		return jobs.Result{}, err
	}
	types := account.plan.Types
	order := make([]int, len(types))
	for i := range types {
		order[i] = i
	}
	slices.SortStableFunc(order, func(x, y int) int { return strings.Compare(types[x].Type, types[y].Type) })
	for _, i := range order {
		planned, counted := types[i], int64(-1)
		if n, ok := t.census[i]; ok {
			counted = n
		}
		if a.refs == nil {
			a.refs = a.newReferences(planned.Read.Follow)
		}
		if planned.Empty && touched != nil && !touched[planned.Type] && len(t.changed[planned.Type]) == 0 {
			continue
		}
		if err := t.catchUp(ctx, planned, counted); err != nil {
			return jobs.Result{}, err
		}
	}
	return t.finished(ctx)
}

// finished commits all that was written.
func (t *tailer) finished(ctx context.Context) (jobs.Result, error) {
	var result jobs.Result
	for _, out := range t.out {
		written, err := out.commit(ctx)
		if err != nil {
			return jobs.Result{}, err
		}
		result.Segments = append(result.Segments, written...)
	}
	var err error
	t.result.Stray = t.refs.strays()
	if t.result.References, err = t.refs.store(ctx, t.attempt); err != nil {
		return jobs.Result{}, err
	}
	outcome, err := t.said.write(ctx, t.attempt)
	if err != nil {
		return jobs.Result{}, err
	}
	result.Segments = append(result.Segments, outcome...)
	result.Summary = encode(t.result)
	return result, nil
}

// afterwards is the first instant after the transaction time.
func (a *attempt) afterwards() windowSpec {
	return windowSpec{From: a.job.TransactionTime.Add(tick), Counted: -1}
}

// findChanges finds what changed after the transaction time: in the upstream's
// history, which has deletions too, or else by searching.
func (t *tailer) findChanges(ctx context.Context) error {
	since := t.leaving()
	t.looked = t.c.Now()
	search := t.account.exportTypes() // the types without a history
	t.changed, t.checked = make(changes), make(map[string]bool)
	if t.hasHistory() && len(search) > 0 {
		found, unread, err := t.changesSince(ctx, search, since)
		switch {
		case err == nil:
			t.changed, t.checked = found, search
			search = make(map[string]bool)
			for _, typ := range unread {
				search[typ] = true
				delete(t.checked, typ)
			}
		case !denied(err) && !errors.Is(err, errChain):
			return err
		}
	}
	defer t.sayBlind(search)
	if t.facts.LastUpdated != upstream.Works {
		return nil // the plan has said what that means
	}
	for _, typ := range slices.Sorted(maps.Keys(search)) {
		queries, err := t.searches(typ)
		if err != nil {
			return err
		}
		for _, query := range queries {
			err := t.changesBySearch(ctx, typ, query, t.afterwards().From, t.changed)
			if err == nil {
				continue
			}
			if !denied(err) && !errors.Is(err, errChain) {
				return err
			}
			t.said.add(jobs.SeverityWarning, fhir.IssueIncomplete,
				"%s: the upstream could not tell what changed while this export ran; resources that changed in that time may be missing. An export with _since set to this one's transactionTime has them.", typ)
		}
	}
	return nil
}

// sayBlind says of which types deletions could not be found. Where something was
// changed, something may have been deleted too.
func (t *tailer) sayBlind(types map[string]bool) {
	if len(types) == 0 {
		return
	}
	severity, code := jobs.SeverityInformation, fhir.IssueInformational
	for _, typ := range slices.Sorted(maps.Keys(types)) {
		if len(t.changed[typ]) > 0 {
			severity, code = jobs.SeverityWarning, fhir.IssueIncomplete
		}
		if left := t.account.late(typ); left > 0 && t.facts.LastUpdated != upstream.Works {
			t.said.add(jobs.SeverityError, fhir.IssueIncomplete,
				"%s: %d resources changed after the transactionTime before they could be read, and the history that has their former version could not be read; they are missing.", typ, left)
		}
	}
	t.said.add(severity, code,
		"The upstream offers no history of changes that could be read, at least of some types, so resources that were deleted while this export ran, before they could be read, are not in it.")
}

// leaving is from when on a change makes a resource leave its window: from after
// the transaction time. An earlier _until is such an instant too, though what
// left long before the windows were read does not matter.
func (t *tailer) leaving() time.Time {
	since := t.afterwards().From
	until := t.job.Request.Until
	if until.IsZero() || until.After(t.job.TransactionTime) {
		return since
	}
	if until = until.Truncate(tick).Add(tick); until.After(t.unsettled(t.job.TransactionTime)) {
		return until
	}
	return t.unsettled(t.job.TransactionTime)
}

// unsettled is before everything that was stamped by an instant and may not have
// been visible by then.
func (a *attempt) unsettled(at time.Time) time.Time {
	const slack = 2 * tick
	return at.Add(-a.settling() - slack).Truncate(tick)
}

// changesSince returns what changed at or after an instant. What did so before
// the transaction time only left its window.
func (t *tailer) changesSince(ctx context.Context, types map[string]bool, since time.Time) (found changes, unread []string, err error) {
	found, unread, err = t.changesByHistory(ctx, types, since)
	after := t.afterwards().From
	if err != nil || !since.Before(after) {
		return found, unread, err
	}
	later, unreadLater, err := t.changesByHistory(ctx, types, after)
	if err != nil {
		return nil, nil, err
	}
	for typ, ids := range found {
		for id, c := range ids {
			c.before = true
			if l := later[typ][id]; l != nil {
				ids[id] = l
			}
		}
	}
	return found, append(unread, unreadLater...), nil
}

// lookAgain looks for changes and returns those of resources that had not
// changed at any former look. Of types without a history, whose deletions could
// not be found, it returns none.
func (t *tailer) lookAgain(ctx context.Context, types map[string]bool) (changes, error) {
	types = maps.Clone(types)
	maps.DeleteFunc(types, func(typ string, _ bool) bool { return !t.checked[typ] })
	if len(types) == 0 {
		return nil, nil
	}
	since := t.unsettled(t.looked.Add(t.facts.ClockOffset))
	if from := t.leaving(); since.Before(from) {
		since = from
	}
	found, unread, err := t.changesSince(ctx, types, since)
	switch {
	case err != nil && (denied(err) || errors.Is(err, errChain)):
		unread = slices.Collect(maps.Keys(types))
	case err != nil:
		return nil, err
	}
	for _, typ := range unread {
		delete(t.checked, typ)
	}
	fresh := make(changes)
	for typ, ids := range found {
		for id, c := range ids {
			if t.changed.merge(typ, id, c) {
				fresh.put(typ, id, c)
			}
		}
	}
	return fresh, nil
}

// catchUp does all that is left to do for one type.
func (t *tailer) catchUp(ctx context.Context, planned plannedType, counted int64) error {
	out := t.newSegments(jobs.KindOutput, planned.Type)
	t.out = append(t.out, out)
	result := tailType{Type: planned.Type}
	b, err := t.wholeBatch(ctx, planned.Read)
	if err != nil {
		return err
	}
	gone, err := t.departed(ctx, planned, b)
	if err != nil {
		return err
	}
	added := t.added[planned.Type]
	if added == nil {
		added = newIDSet()
		if t.added == nil {
			t.added = make(map[string]*idSet)
		}
		t.added[planned.Type] = added
	}
	write := t.lineWriter(planned.Type, out)
	r := t.newReader(planned.Read, b, &t.said, func(ctx context.Context, h fhir.Header, resource []byte) error {
		if !added.add(h.ID) { // a type may be read for two reasons
			return nil
		}
		return write(ctx, h, resource)
	})
	if err := t.bringBack(ctx, r, t.changed[planned.Type], gone, &result); err != nil {
		return err
	}
	if err := t.closeType(ctx, r, planned, counted, gone, &result); err != nil {
		return err
	}
	if err := t.missingPatients(ctx, r, planned, added); err != nil {
		return err
	}
	if result != (tailType{Type: planned.Type}) {
		t.result.Types = append(t.result.Types, result)
	}
	return nil
}

// lost counts changed resources that could not be brought back, by why.
type lost struct {
	gone      int64 // neither their version as of the transaction time could be had, nor the newest
	undecided int64 // it cannot be known whether the filter matched
}

// bringBack exports changed resources that no slice has seen, as of the
// transaction time or else in their newest version.
func (t *tailer) bringBack(ctx context.Context, r *reader, changed map[string]*change, gone *departed, result *tailType) error {
	var (
		mu          sync.Mutex // guards the rest
		count       lost
		past, newer int64
	)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(t.c.PlanConcurrency)
	for id, c := range changed {
		if c.exported || c.before || c.made() {
			continue
		}
		group.Go(func() error {
			was, err := t.versionOf(ctx, r, id, c)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			count.gone += was.why.gone
			count.undecided += was.why.undecided
			if was.resource == nil {
				gone.note(r, was, fhir.Header{}, false)
				return nil
			}
			h, err := fhir.ReadHeader(was.resource)
			if err != nil {
				return malformed(r.spec.Type, err)
			}
			wanted, err := r.inScope(h, was.resource)
			if err != nil {
				return err
			}
			wanted = wanted && t.allowed.admits(r.spec.Type, was.resource)
			if gone.note(r, was, h, wanted); !wanted || t.added[r.spec.Type].has(h.ID) {
				return nil
			}
			if was.newest {
				newer++
			} else {
				past++
			}
			return r.sink(ctx, h, was.resource)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	t.sayLost(r.spec.Type, newer, count)
	result.Past += past
	result.Newer += newer
	return nil
}

func (t *tailer) sayLost(typ string, newer int64, l lost) {
	const hint = " An export with _since set to this one's transactionTime has what changed."
	if newer > 0 {
		t.said.add(jobs.SeverityWarning, fhir.IssueProcessing,
			"%s: %d resources changed after the transactionTime before they could be read, and the version of that time could not be had; they are here in a newer version.", typ, newer)
	}
	if l.gone > 0 {
		t.said.add(jobs.SeverityWarning, fhir.IssueIncomplete,
			"%s: %d resources were changed or deleted after the transactionTime before they could be read, and no version of them could be had; they are missing."+hint, typ, l.gone)
	}
	if l.undecided > 0 {
		t.said.add(jobs.SeverityWarning, fhir.IssueIncomplete,
			"%s: %d resources were changed or deleted after the transactionTime before they could be read, and it could not be decided whether they matched _typeFilter before; they are missing."+hint, typ, l.undecided)
	}
}

// A former is what can be had of a resource that has changed.
type former struct {
	resource []byte // nil: it did not belong to the export, or is lost
	newest   bool   // it is not the version of the transaction time but the newest
	doubtful bool   // whether that version matched is not known
	why      lost
}

// versionOf returns what to export of a resource that has changed.
func (t *tailer) versionOf(ctx context.Context, r *reader, id string, c *change) (former, error) {
	at := t.afterwards().From
	was, err := t.stateBefore(ctx, r.spec.Type, id, c, at)
	if err != nil {
		return former{}, err
	}
	if was.known {
		if was.deleted || was.resource == nil {
			return former{}, nil // it did not exist
		}
		h, err := fhir.ReadHeader(was.resource)
		if err != nil {
			return former{}, malformed(r.spec.Type, err)
		}
		if !r.spec.inTime(h) {
			return former{}, nil
		}
		if !t.filtered(r.spec.Type) {
			return former{resource: was.resource}, nil
		}
		switch matched, err := t.matchedThen(ctx, r.spec.Type, was.resource); {
		case err != nil:
			return former{}, err
		case matched == yes:
			return former{resource: was.resource}, nil
		case matched == no:
			return former{}, nil
		}
	}
	found := former{doubtful: true}
	matches := true
	if t.filtered(r.spec.Type) {
		if matches, err = t.matchesNow(ctx, r.spec.Type, id); err != nil {
			return former{}, err
		}
	}
	var resource []byte
	if matches {
		resource, err = t.c.Upstream.Read(ctx, r.spec.Type, id)
	}
	switch {
	case errors.Is(err, upstream.ErrNotFound), errors.Is(err, upstream.ErrGone), err != nil && denied(err):
		matches = false
	case err != nil:
		return former{}, err
	}
	switch {
	case matches:
		found.resource, found.newest = resource, true
	case t.filtered(r.spec.Type):
		found.why.undecided++
	default:
		found.why.gone++
	}
	return found, nil
}

// filtered reports whether the type is restricted by what only the upstream can
// apply, and only to newest versions: by filters of the request, or by scopes
// that cannot be evaluated here.
func (a *attempt) filtered(typ string) bool {
	return len(filtersOf(a.job.Request, typ)) > 0 || !a.allowed.checked(typ)
}

// matchesNow asks whether any search of the type finds the resource.
func (a *attempt) matchesNow(ctx context.Context, typ, id string) (bool, error) {
	queries, err := a.searches(typ)
	if err != nil {
		return false, err
	}
	found := false
	for _, query := range queries {
		_, err := a.c.Upstream.Page(ctx, upstream.Search{Type: typ, Query: joinQuery(query, "_id="+id)}, "", func(entry *fhir.Entry) error {
			found = found || entry.Header.Type == typ && entry.Header.ID == id
			return nil
		})
		if err != nil && !denied(err) {
			return false, fmt.Errorf("export: asking whether a filter matches: %w", err)
		}
	}
	return found, nil
}
