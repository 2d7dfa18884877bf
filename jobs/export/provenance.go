package export

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"

	"spillway/jobs"
	"spillway/upstream/fhir"
)

// provenance exports the Provenance of what is exported, whenever it was
// recorded, and that which the Patient compartment itself holds, in the time
// asked for. With Latest it is, of each exported resource, only the newest. It
// is found by what it is about, or by reading all of it, whichever is cheaper.
// Source: Bulk Data Access IG, Export, "includeAssociatedData".
func (x *associator) provenance(ctx context.Context) error {
	read, err := x.readSpec(provenance)
	if err != nil {
		return err
	}
	since := read
	read.Scope, read.Since, read.Until = scopeAll, time.Time{}, x.afterwards().From // what it is about decides
	counted, none, err := x.census(ctx, read)
	if err != nil || none {
		return err
	}
	exported, err := x.exportedIDs(ctx)
	if err != nil {
		return err
	}
	b, err := x.compartment(ctx, since)
	if err != nil {
		return err
	}
	s := &provenances{associator: x, read: read, counted: counted, exported: exported, own: b, since: since}
	s.choose()
	keep := s.belongs
	if x.spec.Latest {
		newest, err := s.newest(ctx)
		if err != nil {
			return err
		}
		keep = newest
	}
	out := x.output(provenance)
	summary, err := s.each(ctx, func(ctx context.Context, h fhir.Header, resource []byte) error {
		wanted, err := keep(h, resource)
		if err != nil || !wanted || !out.found.add(h.ID) {
			return err
		}
		return out.line(ctx, h, resource)
	})
	if err != nil {
		return err
	}
	x.addRead(summary)
	if read.Whole {
		return nil
	}
	if err := s.alone(ctx, out); err != nil {
		return err
	}
	// What changed before it could be read has left the time that was searched.
	changed, err := x.changes(ctx, provenance)
	if err != nil {
		return err
	}
	for id, c := range changed[provenance] {
		if c.made() || out.found.has(id) {
			delete(changed[provenance], id)
		}
	}
	return x.bring(ctx, provenance, changed[provenance], out, keep)
}

// alone exports the Provenance that was recorded in the time asked for about
// what the cohort has from before, so that none is in the gap between two exports.
func (s *provenances) alone(ctx context.Context, out *output) error {
	if s.own == nil || s.job.Request.Since.IsZero() || s.spec.Latest {
		return nil
	}
	read := s.since
	read.Scope = scopeAll
	counted, none, err := s.census(ctx, read)
	if err != nil || none {
		return err
	}
	about := make(map[string][]string) // ids by type
	known := newIDSet()
	_, err = s.windowed(ctx, read, counted, func(_ context.Context, h fhir.Header, resource []byte) error {
		if out.found.has(h.ID) {
			return nil
		}
		_, err := anyTarget(resource, func(target string) bool {
			typ, id, _ := strings.Cut(target, "/")
			if s.release().InPatientCompartment(typ) && typ != "Patient" && !s.onlyRead(typ) && known.add(target) {
				about[typ] = append(about[typ], id)
			}
			return false // look at every target
		})
		return err
	})
	if err != nil {
		return err
	}
	members := newIDSet()
	for typ, ids := range about {
		if err := s.ownedBy(ctx, typ, ids, members); err != nil {
			return err
		}
	}
	if members.len() == 0 {
		return nil
	}
	_, err = s.windowed(ctx, read, counted, func(ctx context.Context, h fhir.Header, resource []byte) error {
		wanted, err := anyTarget(resource, members.has)
		if err != nil || !wanted || !out.found.add(h.ID) {
			return err
		}
		return out.line(ctx, h, resource)
	})
	return err
}

// ownedBy adds those resources of a type that belong to the cohort, as "Type/id".
func (s *provenances) ownedBy(ctx context.Context, typ string, ids []string, into *idSet) error {
	read, err := s.readSpec(typ)
	if err != nil || s.allowed.Access(typ).None() {
		return err
	}
	read.Scope, read.Whole = scopeAll, true
	batches := slices.Collect(slices.Chunk(ids, s.idsPerSearch(typ)))
	_, err = s.readers(ctx, read, len(batches), func(_ context.Context, h fhir.Header, resource []byte) error {
		first, _, err := s.own.owner(h, resource)
		if first >= 0 {
			into.add(typ + "/" + h.ID)
		}
		return err
	}, func(ctx context.Context, r *reader, i int) error {
		r.spec.Since, r.spec.Alternatives = time.Time{}, nil
		for _, query := range read.Alternatives {
			r.spec.Alternatives = append(r.spec.Alternatives, joinQuery(query, idQuery(batches[i])))
		}
		n, err := r.count(ctx, windowSpec{})
		if err != nil {
			return err
		}
		return r.prove(ctx, windowSpec{Counted: n})
	})
	return err
}

// compartment is the patients whose own Provenance belongs to the export; nil
// if that is nobody's.
func (x *associator) compartment(ctx context.Context, read readSpec) (*batch, error) {
	if x.spec.Cohort == "" {
		return nil, nil
	}
	read.Scope, read.Cohort = scopeMembers, x.spec.Cohort
	return x.wholeBatch(ctx, read)
}

// provenances reads Provenance resources.
type provenances struct {
	*associator
	read     readSpec
	counted  int64
	exported *idSet   // "Type/id"
	own      *batch   // patients whose Provenance belongs to the export; nil: those of the level
	since    readSpec // bounds for what only the compartment holds
	targets  bool     // found by what it is about
}

// choose decides how to find them.
func (s *provenances) choose() {
	// Those that are about no exported resource can be named only if they are
	// about patients that can be.
	alone := s.job.Request.Level != jobs.LevelSystem && !s.spec.Listed && !s.spec.Latest
	if s.counted < 0 || s.read.Whole || alone || s.release() != fhir.R4 || !s.facts.Capabilities.Has(provenance, "target") {
		return
	}
	n := s.exported.len()
	if s.own != nil {
		n += int64(s.own.cohort.len())
	}
	cost := s.cost(s.counted, int(n), len(s.read.Alternatives), s.idsPerSearch("MedicationRequest"))
	s.targets = cost.batches(min(n, s.counted)) < cost.scan()
}

// belongs reports whether a Provenance belongs to the export.
func (s *provenances) belongs(h fhir.Header, resource []byte) (bool, error) {
	found, err := anyTarget(resource, s.exported.has)
	if found || err != nil || s.job.Request.Level == jobs.LevelSystem || !s.since.inTime(h) {
		return found, err
	}
	if s.own != nil {
		first, _, err := s.own.owner(h, resource)
		return first >= 0, err
	}
	if s.spec.Listed {
		return false, nil
	}
	err = s.release().PatientRefs(provenance, resource, func(string, string) bool { found = true; return false })
	return found, err
}

// newest reads all of them and returns what is true of those that are the
// newest of an exported resource.
func (s *provenances) newest(ctx context.Context) (func(fhir.Header, []byte) (bool, error), error) {
	type candidate struct {
		id string
		at time.Time
	}
	best := make(map[[2]uint64]candidate)
	said := len(s.said.list) // the second reading says the same
	_, err := s.each(ctx, func(_ context.Context, h fhir.Header, resource []byte) error {
		at := recordedAt(h, resource)
		_, err := anyTarget(resource, func(target string) bool {
			if s.exported.has(target) {
				key := s.exported.key(target)
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
	s.said.list = s.said.list[:said]
	return func(h fhir.Header, resource []byte) (bool, error) {
		at := recordedAt(h, resource)
		return anyTarget(resource, func(target string) bool {
			if !s.exported.has(target) {
				return false
			}
			held, ok := best[s.exported.key(target)]
			return !ok || held.id == h.ID || at.After(held.at) // the latter changed while they were read
		})
	}, nil
}

// each calls visit with every Provenance that may belong to the export, with
// some more than once.
func (s *provenances) each(ctx context.Context, visit sink) (readSummary, error) {
	if !s.targets {
		return s.windowed(ctx, s.read, s.counted, visit)
	}
	total := readSummary{Type: provenance, Proven: true}
	size := s.idsPerSearch("MedicationRequest")
	var batches []string
	flush := func() error {
		part := batches
		batches = nil
		summary, err := s.readers(ctx, s.read, len(part), visit, func(ctx context.Context, r *reader, i int) error {
			r.spec.Alternatives = make([]string, len(s.read.Alternatives))
			for j, query := range s.read.Alternatives {
				r.spec.Alternatives[j] = joinQuery(query, "target="+part[i])
			}
			wanted := newIDSet()
			for name := range strings.SplitSeq(part[i], "%2C") {
				wanted.add(strings.ReplaceAll(name, "%2F", "/"))
			}
			sent := r.sink
			r.sink = func(ctx context.Context, h fhir.Header, resource []byte) error {
				if about, err := anyTarget(resource, wanted.has); err != nil || !about {
					return ignored(provenance, "target")
				}
				return sent(ctx, h, resource)
			}
			w := windowSpec{To: s.read.Until}
			var err error
			if w.Counted, err = r.count(ctx, w); err != nil {
				return err
			}
			return r.prove(ctx, w)
		})
		total.add(summary.Counted, summary.Read)
		total.Proven = total.Proven && summary.Proven
		return err
	}
	var names []string
	add := func(name string) error {
		if names = append(names, url.QueryEscape(name)); len(names) < size {
			return nil
		}
		batches = append(batches, strings.Join(names, "%2C"))
		names = names[:0]
		if len(batches) < 4*s.c.PlanConcurrency {
			return nil
		}
		return flush()
	}
	if err := s.eachTarget(ctx, add); err != nil {
		return total, err
	}
	if len(names) > 0 {
		batches = append(batches, strings.Join(names, "%2C"))
	}
	return total, flush()
}

// eachTarget calls f with everything that a Provenance may be about to belong to
// the export, as "Type/id", each once.
func (s *provenances) eachTarget(ctx context.Context, f func(name string) error) error {
	var failed error
	err := s.eachExported(ctx, s.account, "", func(_ int, h fhir.Header, _ []byte) {
		if failed == nil {
			failed = f(h.Type + "/" + h.ID)
		}
	})
	if err != nil || failed != nil || s.own == nil {
		return firstOf(failed, err)
	}
	for i := range s.own.cohort.len() {
		name := "Patient/" + s.own.cohort.id(i)
		if s.exported.has(name) {
			continue
		}
		if err := f(name); err != nil {
			return err
		}
	}
	return nil
}

func firstOf(errs ...error) error {
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		return errs[i]
	}
	return nil
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
		return false, malformed(provenance, err)
	}
	return found, nil
}

// exportedIDs reads back which resources the job has written, as "Type/id".
func (x *associator) exportedIDs(ctx context.Context) (*idSet, error) {
	ids := newIDSet()
	err := x.eachExported(ctx, x.account, "", func(_ int, h fhir.Header, _ []byte) { ids.add(h.Type + "/" + h.ID) })
	return ids, err
}
