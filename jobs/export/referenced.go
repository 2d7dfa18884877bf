package export

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"spillway/jobs"
	"spillway/upstream"
	"spillway/upstream/fhir"
	"spillway/upstream/profile"
)

// fetch exports resources that others refer to, whatever their age: by naming
// them, or by reading all of the type, by the costs of which cohorts are read.
// What was changed after the transaction time is fetched as of that time.
// Source: Bulk Data Access IG, Export, "_since": what is referred to may be
// returned regardless of when it was last updated.
func (x *associator) fetch(ctx context.Context, typ string, ids []string) error {
	slices.Sort(ids)
	out := x.output(typ)
	if x.onlyRead(typ) {
		return x.fetchEach(ctx, typ, ids, out)
	}
	read, err := x.readSpec(typ)
	if err != nil {
		return err
	}
	read.Scope, read.Since, read.Until = scopeAll, time.Time{}, x.afterwards().From
	took := func(ctx context.Context, h fhir.Header, resource []byte) error {
		if !x.wanted[typ].has(h.ID) || !out.found.add(h.ID) {
			return nil
		}
		return out.line(ctx, h, resource)
	}
	size := x.idsPerSearch(typ)
	counted := int64(-1)
	if x.facts.Rule(typ).Search == profile.ScopeWhole && !read.Whole {
		if counted, err = x.newReader(read, nil, &notes{}, nil).count(ctx, windowSpec{To: read.Until}); err != nil {
			return err
		}
	}
	cost := x.cost(counted, len(ids), len(read.Alternatives), size)
	if counted >= 0 && cost.scan() < cost.batches(int64(len(ids))) {
		summary, err := x.windowed(ctx, read, counted, took)
		if err != nil {
			return err
		}
		x.addRead(summary)
		ids = slices.DeleteFunc(ids, out.found.has)
	}
	return x.fetchNamed(ctx, read, ids, size, out)
}

// idsPerSearch is how many resources of a type one search names.
func (p *planner) idsPerSearch(typ string) int {
	if p.facts.PostSearch == upstream.Works {
		return batchSize
	}
	return max(batchBytes/(len(typ)+len("%2F%2C")+36), 1)
}

// changedSince is a resource that was found in a version after the transaction time.
type changedSince struct{ id, version string }

// fetchNamed fetches resources by naming them.
func (x *associator) fetchNamed(ctx context.Context, read readSpec, ids []string, size int, out *output) error {
	if len(ids) == 0 {
		return nil
	}
	var late []changedSince
	whole := read
	whole.Whole = true // the newest version, whenever that was made
	batches := slices.Collect(slices.Chunk(ids, size))
	summary, err := x.readers(ctx, whole, len(batches), func(ctx context.Context, h fhir.Header, resource []byte) error {
		at, err := fhir.ParseDateTime(h.LastUpdated)
		switch {
		case !x.wanted[read.Type].has(h.ID):
			return ignored(read.Type, "_id")
		case !out.found.add(h.ID):
			return nil
		case err == nil && at.Truncate(tick).After(x.job.TransactionTime):
			late = append(late, changedSince{h.ID, h.VersionID})
			return nil
		}
		return out.line(ctx, h, resource)
	}, func(ctx context.Context, r *reader, i int) error {
		r.spec.Alternatives = make([]string, len(read.Alternatives))
		for j, query := range read.Alternatives {
			r.spec.Alternatives[j] = joinQuery(query, idQuery(batches[i]))
		}
		var err error
		w := windowSpec{Counted: -1}
		if w.Counted, err = r.count(ctx, w); err != nil {
			return err
		}
		return r.prove(ctx, w)
	})
	if err != nil {
		return err
	}
	x.addRead(summary)
	rest := slices.DeleteFunc(ids, out.found.has)
	return x.former(ctx, read.Type, late, rest, out)
}

// fetchEach fetches resources one by one.
func (x *associator) fetchEach(ctx context.Context, typ string, ids []string, out *output) error {
	var late []changedSince
	summary := readSummary{Type: typ, Proven: true}
	group, parallel := errgroup.WithContext(ctx)
	group.SetLimit(x.c.PlanConcurrency)
	for _, id := range ids {
		group.Go(func() error {
			resource, err := x.c.Upstream.Read(parallel, typ, id)
			if errors.Is(err, upstream.ErrNotFound) || errors.Is(err, upstream.ErrGone) || err != nil && denied(err) {
				x.lacks(typ, id)
				return nil
			}
			if err != nil {
				return err
			}
			h, err := fhir.ReadHeader(resource)
			if err != nil || h.ID != id || h.Type != typ {
				return malformed(typ, err)
			}
			x.write.Lock()
			defer x.write.Unlock()
			summary.add(1, 1)
			if at, err := fhir.ParseDateTime(h.LastUpdated); err == nil && at.Truncate(tick).After(x.job.TransactionTime) {
				late = append(late, changedSince{h.ID, h.VersionID})
				return nil
			}
			if !x.allowed.admits(typ, resource) { // no search was asked for what may be read
				return nil
			}
			return out.line(parallel, h, resource)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	x.addRead(summary)
	return x.former(ctx, typ, late, nil, out)
}

// ignored is the error of an upstream that does not do what it was asked for.
func ignored(typ, parameter string) error {
	return &jobs.UnitError{Permanent: true, Reason: fmt.Sprintf(
		"search %s: the upstream returned a resource that was not asked for, so it ignores the parameter %s; nothing was handed out.", typ, parameter)}
}

// former exports, as of the transaction time, what has changed since, and what
// was not found because it may have been deleted since.
func (x *associator) former(ctx context.Context, typ string, late []changedSince, rest []string, out *output) error {
	if x.filtered(typ) {
		rest = nil // they may be there and not match
	}
	if len(late)+len(rest) == 0 {
		return nil
	}
	since, err := x.changes(ctx, typ)
	if err != nil {
		return err
	}
	changed := make(map[string]*change)
	for _, l := range late {
		changed[l.id] = &change{after: []string{l.version}}
		if c := since[typ][l.id]; c != nil { // the history has deletions too
			c.after = append(c.after, l.version)
			changed[l.id] = c
		}
	}
	for _, id := range rest {
		if c := since[typ][id]; c != nil {
			changed[id] = c
		} else {
			x.lacks(typ, id)
		}
	}
	return x.bring(ctx, typ, changed, out, func(fhir.Header, []byte) (bool, error) { return true, nil })
}

// bring exports changed resources as of the transaction time, or else in their
// newest version, if keep says so.
func (x *associator) bring(ctx context.Context, typ string, changed map[string]*change, out *output, keep func(fhir.Header, []byte) (bool, error)) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(x.c.PlanConcurrency)
	var mu sync.Mutex // guards the lines
	for _, id := range slices.Sorted(maps.Keys(changed)) {
		c := changed[id]
		group.Go(func() error {
			if c.made() {
				x.lacks(typ, id) // it is younger than what refers to it
				return nil
			}
			was, err := x.stateBefore(ctx, typ, id, c, x.afterwards().From)
			if err != nil {
				return err
			}
			resource, newest := was.resource, false
			switch {
			case was.known && (was.deleted || was.resource == nil):
				x.lacks(typ, id)
				return nil
			case !was.known, x.filtered(typ):
				resource, err = x.c.Upstream.Read(ctx, typ, id)
				newest = true
				if errors.Is(err, upstream.ErrNotFound) || errors.Is(err, upstream.ErrGone) || err != nil && denied(err) {
					x.lacks(typ, id)
					return nil
				}
				if err != nil {
					return err
				}
			}
			h, err := fhir.ReadHeader(resource)
			if err != nil {
				return malformed(typ, err)
			}
			mu.Lock()
			defer mu.Unlock()
			if wanted, err := keep(h, resource); err != nil || !wanted || !x.allowed.admits(typ, resource) {
				return err
			}
			if newest {
				out.tail.Newer++
			} else {
				out.tail.Past++
			}
			return out.line(ctx, h, resource)
		})
	}
	return group.Wait()
}

// lacks notes that a resource that others refer to was not found.
func (x *associator) lacks(typ, id string) {
	x.write.Lock()
	defer x.write.Unlock()
	if x.absent == nil {
		x.absent = make(map[string][]string)
	}
	x.absent[typ] = append(x.absent[typ], id)
}

// sayAbsent tells which references lead nowhere. Of types of which the client
// may not read everything nothing is told.
func (x *associator) sayAbsent() {
	for _, typ := range slices.Sorted(maps.Keys(x.absent)) {
		if typ == provenance || !x.allowed.Access(typ).All {
			continue
		}
		ids := x.absent[typ]
		slices.Sort(ids)
		x.said.add(jobs.SeverityWarning, fhir.IssueNotFound,
			"%s: %d resources that exported ones refer to were not found on the upstream: %s.", typ, len(ids), someOf(ids))
	}
	if stray := x.account.stray + x.refs.strays(); stray > 0 {
		x.said.add(jobs.SeverityWarning, fhir.IssueNotFound,
			"%d references of exported resources could not be followed: they lead to other servers, or name no resource by its type and id.", stray)
	}
}
