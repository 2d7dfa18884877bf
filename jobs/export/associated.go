package export

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/klauspost/compress/gzip"

	"spillway/jobs"
	"spillway/upstream/fhir"
	"spillway/upstream/profile"
)

// wantsAssociated reports whether Provenance was asked for beside what is
// exported, and is not exported as a type of its own.
func (p *planner) wantsAssociated() bool {
	request := p.job.Request
	return len(request.IncludeAssociatedData) > 0 && !slices.Contains(request.Types, "Provenance")
}

// planAssociated adds the unit that reads the Provenance of what is exported.
// Source: Bulk Data Access IG, Export, "includeAssociatedData".
func (p *planner) planAssociated(ctx context.Context) error {
	if !p.facts.Capabilities.Can("Provenance", "search-type") {
		p.said.add(jobs.SeverityError, fhir.IssueNotSupported, "includeAssociatedData: the upstream has no Provenance to search.")
		return nil
	}
	if p.allowed.Access("Provenance").None() {
		p.said.add(jobs.SeverityError, fhir.IssueForbidden, "includeAssociatedData: Provenance was not exported: the scopes of this export do not allow it.")
		return nil
	}
	if rule := p.facts.Rule("Provenance"); rule.Search != profile.ScopeWhole {
		p.said.add(jobs.SeverityError, fhir.IssueNotSupported, "includeAssociatedData: the upstream answers no search of every Provenance, so none is in this export.")
		return nil
	}
	read, err := p.readSpec("Provenance")
	if err != nil {
		return err
	}
	read.Scope = scopeAll // what it targets decides, not its own patient
	read.Since = time.Time{}
	counted, none, err := p.census(ctx, read)
	if err != nil || none {
		return err
	}
	windows, err := p.windows(ctx, read, counted)
	if err != nil {
		return err
	}
	spec := associatedSpec{
		Read: read, Windows: windows,
		Latest: !slices.Contains(p.job.Request.IncludeAssociatedData, jobs.RelevantProvenance),
	}
	p.units = append(p.units, jobs.Unit{ID: "associated-Provenance", Kind: jobs.UnitAssociated, Type: "Provenance", Spec: encode(spec)})
	p.summary.Types = append(p.summary.Types, plannedType{Type: "Provenance", Counted: -1, Read: read, Associated: true})
	return nil
}

// associated reads every Provenance and keeps those that target an exported
// resource; with Latest, of each target only the newest.
func (a *attempt) associated(ctx context.Context) (jobs.Result, error) {
	spec, err := decodeSpec[associatedSpec](a.lease.Unit)
	if err != nil {
		return jobs.Result{}, err
	}
	exported, err := a.exportedIDs(ctx)
	if err != nil {
		return jobs.Result{}, err
	}
	keep := func(resource []byte) (bool, error) {
		return anyTarget(resource, exported.has)
	}
	if spec.Latest {
		newest, err := a.newestProvenance(ctx, spec, exported)
		if err != nil {
			return jobs.Result{}, err
		}
		keep = func(resource []byte) (bool, error) {
			h, err := fhir.ReadHeader(resource)
			return newest.has(h.ID), err
		}
	}
	var (
		said  notes
		out   = a.newSegments(jobs.KindOutput, "Provenance")
		write = a.lineWriter("Provenance", out)
	)
	defer out.abort()
	summary, err := a.readProvenance(ctx, spec, &said, func(ctx context.Context, h fhir.Header, resource []byte) error {
		wanted, err := keep(resource)
		if err != nil || !wanted {
			return err
		}
		return write(ctx, h, resource)
	})
	if err != nil {
		return jobs.Result{}, err
	}
	segments, err := out.commit(ctx)
	if err != nil {
		return jobs.Result{}, err
	}
	summary.Exported = out.lines()
	outcome, err := said.write(ctx, a)
	if err != nil {
		return jobs.Result{}, err
	}
	return jobs.Result{Segments: append(segments, outcome...), Summary: encode(summary)}, nil
}

// readProvenance reads and proves all windows of the type.
func (a *attempt) readProvenance(ctx context.Context, spec associatedSpec, said *notes, s sink) (readSummary, error) {
	r := a.newReader(spec.Read, nil, said, s)
	r.keepLate = true
	for _, w := range spec.Windows {
		if err := r.prove(ctx, w); err != nil {
			return readSummary{}, err
		}
	}
	return r.summary, nil
}

// newestProvenance returns the ids of the Provenance resources that are the
// newest of at least one exported target.
func (a *attempt) newestProvenance(ctx context.Context, spec associatedSpec, exported *idSet) (*idSet, error) {
	type candidate struct {
		id string
		at time.Time
	}
	var said notes // the second reading says the same
	best := make(map[[2]uint64]candidate)
	_, err := a.readProvenance(ctx, spec, &said, func(_ context.Context, h fhir.Header, resource []byte) error {
		at := recordedAt(h, resource)
		_, err := anyTarget(resource, func(target string) bool {
			if exported.has(target) {
				key := exported.key(target)
				if held, ok := best[key]; !ok || at.After(held.at) || at.Equal(held.at) && h.ID > held.id {
					best[key] = candidate{id: h.ID, at: at}
				}
			}
			return false // look at every target
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	newest := newIDSet()
	for _, c := range best {
		newest.add(c.id)
	}
	return newest, nil
}

// recordedAt is when a Provenance was recorded, or else last changed.
func recordedAt(h fhir.Header, resource []byte) time.Time {
	for _, s := range []string{recorded(resource), h.LastUpdated} {
		if at, err := fhir.ParseDateTime(s); err == nil {
			return at
		}
	}
	return time.Time{}
}

// recorded returns the member of that name, "" if there is none.
func recorded(resource []byte) string {
	var p struct {
		Recorded string `json:"recorded"`
	}
	if json.Unmarshal(resource, &p) != nil {
		return ""
	}
	return p.Recorded
}

// anyTarget reports whether f is true of any target of a Provenance, as "Type/id".
func anyTarget(resource []byte, f func(string) bool) (bool, error) {
	found := false
	err := fhir.References(resource, "target", func(reference string) bool {
		if typ, id, ok := fhir.ParseReference(reference); ok && f(typ+"/"+id) {
			found = true
		}
		return !found
	})
	if err != nil {
		return false, malformed("Provenance", err)
	}
	return found, nil
}

// exportedIDs reads back which resources the job's slices wrote, as "Type/id".
func (a *attempt) exportedIDs(ctx context.Context) (*idSet, error) {
	done, err := a.c.Jobs.Done(ctx, a.job.ID)
	if err != nil {
		return nil, err
	}
	ids := newIDSet()
	for _, d := range done {
		for _, s := range d.Result.Segments {
			if s.Kind != jobs.KindOutput {
				continue
			}
			if err := a.readLines(ctx, s, func(line []byte) error {
				h, err := fhir.ReadHeader(line)
				if err == nil {
					ids.add(h.Type + "/" + h.ID)
				}
				return err
			}); err != nil {
				return nil, fmt.Errorf("export: reading a segment back: %w", err)
			}
		}
	}
	return ids, nil
}

// readLines calls f with every line of a segment. The bytes are valid until f returns.
func (a *attempt) readLines(ctx context.Context, s jobs.Segment, f func([]byte) error) error {
	r, err := a.c.Storage.Open(ctx, s.Key, 0, -1)
	if err != nil {
		return err
	}
	defer r.Close()
	var text io.Reader = r
	if s.Encoding == jobs.EncodingGzip {
		unpacked, err := gzip.NewReader(r)
		if err != nil {
			return err
		}
		defer unpacked.Close()
		text = unpacked
	}
	return eachLine(text, f)
}
