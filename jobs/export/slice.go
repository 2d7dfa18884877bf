package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"spillway/jobs"
	"spillway/upstream"
	"spillway/upstream/fhir"
)

// slice reads one window of one type into segments.
func (a *attempt) slice(ctx context.Context) (jobs.Result, error) {
	spec, err := decodeSpec[sliceSpec](a.lease.Unit)
	if err != nil {
		return jobs.Result{}, err
	}
	b, err := a.openBatch(ctx, spec)
	if err != nil {
		return jobs.Result{}, err
	}
	var (
		said  notes
		out   = a.newSegments(jobs.KindOutput, spec.Read.Type)
		write = a.lineWriter(spec.Read.Type, out)
		r     = a.newReader(spec.Read, b, &said, write)
	)
	defer out.abort()
	r.filters = evaluable(spec.Read.Type, filtersOf(a.job.Request, spec.Read.Type))
	a.refs = a.newReferences(spec.Read.Follow)
	if ids, ok := a.sets.Get().(*passSet); ok {
		r.ids = ids
	}
	defer func() {
		r.ids.reset()
		a.sets.Put(r.ids)
	}()
	if err := r.proveSlice(ctx, spec); err != nil {
		return jobs.Result{}, err
	}
	found, err := out.commit(ctx)
	if err != nil {
		return jobs.Result{}, err
	}
	r.summary.Exported, r.summary.Seen, r.summary.Stray = out.lines(), r.ids.seen, a.refs.strays()
	if r.summary.References, err = a.refs.store(ctx, a); err != nil {
		return jobs.Result{}, err
	}
	outcome, err := said.write(ctx, a)
	if err != nil {
		return jobs.Result{}, err
	}
	return jobs.Result{Segments: append(found, outcome...), Summary: encode(r.summary)}, nil
}

// proveSlice reads and proves what a slice is about.
func (r *reader) proveSlice(ctx context.Context, spec sliceSpec) error {
	window := spec.Window
	switch spec.Read.Scope {
	case scopeCohort:
		return r.proveBatches(ctx, window, spec.Batch)
	case scopeID: // not counted when it was planned
		if spec.ByID {
			return r.readOne(ctx)
		}
		var err error
		if window.Counted, err = r.count(ctx, window); err != nil {
			return err
		}
	}
	return r.prove(ctx, window)
}

// readOne reads the one resource of scopeID.
func (r *reader) readOne(ctx context.Context) error {
	resource, err := r.c.Upstream.Read(ctx, r.spec.Type, r.batch.only)
	if errors.Is(err, upstream.ErrNotFound) || errors.Is(err, upstream.ErrGone) {
		return nil // it was deleted since the plan, which read it
	}
	if err != nil {
		return err
	}
	h, err := fhir.ReadHeader(resource)
	if err != nil {
		return malformed(r.spec.Type, err)
	}
	r.summary.Counted, r.summary.Read = 1, 1
	r.ids.pass(h.ID)
	if !r.spec.inTime(h) || !r.ids.see() {
		return nil
	}
	return r.sink(ctx, h, resource)
}

// lineWriter returns a sink that writes resources as lines, cut down to the
// requested elements where there are any.
func (a *attempt) lineWriter(typ string, out *segments) sink {
	var line, subset []byte
	elements := elementsOf(a.job.Request, typ)
	return func(ctx context.Context, _ fhir.Header, resource []byte) error {
		if !a.allowed.admits(typ, resource) { // whoever found it should have asked
			a.deny(typ)
			return nil
		}
		var err error
		if elements != nil {
			if subset, err = fhir.Subset(subset[:0], resource, typ, elements); err != nil {
				return malformed(typ, err)
			}
			resource = subset
		}
		// The upstream's client has taken the white space out already.
		if bytes.IndexByte(resource, '\n') >= 0 {
			if line, err = fhir.AppendLine(line[:0], resource); err != nil {
				return malformed(typ, err)
			}
			resource = line[:len(line)-1]
		}
		a.refs.collect(resource)
		return out.writeLine(ctx, resource)
	}
}

func malformed(typ string, err error) error {
	return &jobs.UnitError{Permanent: true, Err: err, Reason: fmt.Sprintf(
		"search %s: the upstream sent a resource that is not well-formed JSON; it must be mended there before it can be exported.", typ)}
}

// elementsOf returns the elements asked for of a type; nil means all.
func elementsOf(r jobs.Request, typ string) []string {
	var names []string
	for _, e := range r.Elements {
		if e.Type == "" || e.Type == typ {
			names = append(names, e.Name)
		}
	}
	return names
}
