package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sync/errgroup"

	"spillway/jobs"
	"spillway/upstream/fhir"
	"spillway/upstream/profile"
)

// ReferencedTypes are the types outside of the Patient compartment that an
// export of a Group holds where what it exports refers to them, and Provenance,
// which is there where it is about what it exports. They are what the
// certification rules of US health IT (45 CFR 170.315(g)(10)) expect beside the
// compartment.
func ReferencedTypes() []string {
	return []string{"Location", "Medication", "Organization", "Practitioner", "PractitionerRole", provenance}
}

const provenance = "Provenance"

// associatedSummary is what the associated unit leaves for finish.
type associatedSummary struct {
	Reads []readSummary `json:"reads,omitempty"`
	Tail  []tailType    `json:"tail,omitempty"`
}

// associatedSpec returns what to read beside what was asked for: Provenance by
// includeAssociatedData, and by configuration what a Group's data refers to, with
// its Provenance. The rules ask for that of Groups; at the level of patients a
// client gets those types that it names in _type.
func (p *planner) associatedSpec() associatedSpec {
	request := p.job.Request
	asked := func(typ string) bool { return slices.Contains(request.Types, typ) }
	var spec associatedSpec
	if len(request.IncludeAssociatedData) > 0 && !asked(provenance) && p.searchable(provenance, "includeAssociatedData: ", true) {
		spec.Provenance = true
		spec.Latest = !slices.Contains(request.IncludeAssociatedData, jobs.RelevantProvenance)
	}
	if request.Level == jobs.LevelSystem {
		return spec
	}
	for _, typ := range p.c.Referenced {
		switch {
		case !asked(typ) && (len(request.Types) > 0 || request.Level == jobs.LevelPatient),
			typ == provenance && request.Level == jobs.LevelPatient, // the compartment's own
			!p.searchable(typ, "", asked(typ)):
		case typ == provenance:
			spec.Provenance = true
		case p.onlyRead(typ) && len(filtersOf(request, typ)) > 0:
			p.said.add(jobs.SeverityError, fhir.IssueNotSupported, "%s could not be exported: the upstream answers no search of it that _typeFilter could restrict.", typ)
		case !p.release().InPatientCompartment(typ):
			spec.Follow = append(spec.Follow, typ)
		}
	}
	return spec
}

// searchable reports whether a type may be searched and can be. Why not is said
// if it was asked for.
func (p *planner) searchable(typ, why string, asked bool) bool {
	code, problem := fhir.IssueNotSupported, ""
	switch {
	case !p.facts.Capabilities.Can(typ, "search-type") && (typ == provenance || !p.facts.Capabilities.Can(typ, "read")):
		problem = "%s%s could not be exported: the upstream's statement does not offer to search it."
	case typ == provenance && p.facts.Rule(typ).Search != profile.ScopeWhole:
		problem = "%s%s could not be exported for what it is about: the upstream answers no search of every one."
	case p.allowed.Access(typ).None():
		code, problem = fhir.IssueForbidden, "%s%s was not exported: the scopes of this export do not allow it."
	default:
		return true
	}
	if asked {
		p.said.add(jobs.SeverityError, code, problem, why, typ)
	}
	return false
}

// onlyRead reports whether resources of a type are read one by one, because no
// search finds them.
func (p *planner) onlyRead(typ string) bool {
	return !p.facts.Capabilities.Can(typ, "search-type") || p.facts.Rule(typ).Search == profile.ScopeNone
}

// associated reads what belongs to exported resources: their Provenance, and
// what they refer to. It runs when all else is there, so what the tail has added
// counts as well.
func (a *attempt) associated(ctx context.Context) (jobs.Result, error) {
	spec, err := decodeSpec[associatedSpec](a.lease.Unit)
	if err != nil {
		return jobs.Result{}, err
	}
	account, err := a.account(ctx)
	if err != nil {
		return jobs.Result{}, err
	}
	x := &associator{
		planner: &planner{attempt: a}, spec: spec, account: account,
		wanted: make(map[string]*idSet), outputs: make(map[string]*output),
	}
	defer func() {
		for _, o := range x.outputs {
			o.segments.abort()
		}
	}()
	a.refs = a.newReferences(spec.Follow)
	if err := x.run(ctx); err != nil {
		return jobs.Result{}, err
	}
	return x.finished(ctx)
}

// An associator reads what belongs to exported resources.
type associator struct {
	*planner
	spec    associatedSpec
	account *account
	wanted  map[string]*idSet // ids by type that are or were to be read

	write   sync.Mutex // guards the rest, and a.refs
	outputs map[string]*output
	absent  map[string][]string // by type, ids that were not found
	result  associatedSummary
}

// An output is the lines of one type.
type output struct {
	segments *segments
	line     sink
	tail     tailType
	found    *idSet // ids that are on a line, or need none
}

func (x *associator) output(typ string) *output {
	if x.outputs[typ] == nil {
		s := x.newSegments(jobs.KindOutput, typ)
		x.outputs[typ] = &output{segments: s, line: x.lineWriter(typ, s), tail: tailType{Type: typ}, found: newIDSet()}
	}
	return x.outputs[typ]
}

func (x *associator) run(ctx context.Context) error {
	// Provenance refers to those who made and changed what it is about.
	if x.spec.Provenance {
		if err := x.provenance(ctx); err != nil {
			return err
		}
	}
	if len(x.spec.Follow) == 0 {
		return nil
	}
	next, err := x.collected(ctx)
	if err != nil {
		return err
	}
	// What is referred to refers to more, such as a PractitionerRole to its
	// Organization and that to the one that it is part of.
	for len(next) > 0 {
		for _, typ := range slices.Sorted(maps.Keys(next)) {
			if err := x.fetch(ctx, typ, next[typ]); err != nil {
				return err
			}
		}
		next = make(map[string][]string)
		if err := x.more(bytes.NewReader(x.refs.text), next); err != nil {
			return err
		}
		x.refs.text = x.refs.text[:0]
	}
	x.sayAbsent()
	return nil
}

// collected reads what the units so far, and this one, have found references to.
func (x *associator) collected(ctx context.Context) (map[string][]string, error) {
	found := make(map[string][]string)
	for _, key := range x.account.references {
		r, err := x.c.Storage.Open(ctx, key, 0, -1)
		if err != nil {
			return nil, fmt.Errorf("export: a list of references: %w", err)
		}
		err = x.more(r, found)
		_ = r.Close()
		if err != nil {
			return nil, fmt.Errorf("export: a list of references: %w", err)
		}
	}
	err := x.more(bytes.NewReader(x.refs.text), found)
	x.refs.text = x.refs.text[:0]
	return found, err
}

// more adds those references of a list that have not come before.
func (x *associator) more(list io.Reader, found map[string][]string) error {
	return eachLine(list, func(line []byte) error {
		typ, id, _ := strings.Cut(string(line), "/")
		if x.wanted[typ] == nil {
			x.wanted[typ] = newIDSet()
		}
		if x.wanted[typ].add(id) {
			found[typ] = append(found[typ], id)
		}
		return nil
	})
}

// readers reads n parts of a type side by side, each by a reader of its own. s
// is called by one at a time.
func (x *associator) readers(ctx context.Context, read readSpec, n int, s sink, do func(ctx context.Context, r *reader, i int) error) (readSummary, error) {
	total := readSummary{Type: read.Type, Proven: true}
	one := func(ctx context.Context, h fhir.Header, resource []byte) error {
		x.write.Lock()
		defer x.write.Unlock()
		return s(ctx, h, resource)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(x.c.PlanConcurrency)
	for i := range n {
		group.Go(func() error {
			var said notes
			r := x.newReader(read, nil, &said, one)
			if err := do(ctx, r, i); err != nil {
				return err
			}
			x.write.Lock()
			defer x.write.Unlock()
			total.add(r.summary.Counted, r.summary.Read)
			total.Proven = total.Proven && r.summary.Proven
			for _, note := range said.list {
				x.said.append(note)
			}
			return nil
		})
	}
	return total, group.Wait()
}

// windowed reads all of a type in the time of read.
func (x *associator) windowed(ctx context.Context, read readSpec, counted int64, s sink) (readSummary, error) {
	windows := []windowSpec{{From: read.Since, To: read.Until, Counted: counted}}
	if counted > 0 && !read.Whole {
		var err error
		how := cutting{limit: x.most(), parallel: x.c.PlanConcurrency}
		if windows, err = cutWindows(ctx, x.newReader(read, nil, &notes{}, nil).countFunc(), windows[0], how); err != nil {
			return readSummary{}, err
		}
	}
	return x.readers(ctx, read, len(windows), s, func(ctx context.Context, r *reader, i int) error {
		return r.prove(ctx, windows[i])
	})
}

// changes returns what changed of some types after the transaction time, as far
// as the upstream tells.
func (x *associator) changes(ctx context.Context, types ...string) (changes, error) {
	of := make(map[string]bool)
	for _, typ := range types {
		of[typ] = true
	}
	found, since := make(changes), x.afterwards().From
	if x.hasHistory() {
		changed, unread, err := x.changesByHistory(ctx, of, since)
		switch {
		case err == nil:
			found = changed
			clear(of)
			for _, typ := range unread {
				of[typ] = true
			}
		case !denied(err) && !errors.Is(err, errChain):
			return nil, err
		}
	}
	for typ := range of {
		if x.blind() {
			break
		}
		queries, err := x.searches(typ)
		if err != nil {
			return nil, err
		}
		for _, query := range queries {
			if err := x.changesBySearch(ctx, typ, query, since, found); err != nil && !denied(err) && !errors.Is(err, errChain) {
				return nil, err
			}
		}
	}
	return found, nil
}

// finished commits all that was written.
func (x *associator) finished(ctx context.Context) (jobs.Result, error) {
	var result jobs.Result
	for _, typ := range slices.Sorted(maps.Keys(x.outputs)) {
		o := x.outputs[typ]
		written, err := o.segments.commit(ctx)
		if err != nil {
			return jobs.Result{}, err
		}
		result.Segments = append(result.Segments, written...)
		if o.tail.Newer > 0 {
			x.said.add(jobs.SeverityWarning, fhir.IssueProcessing,
				"%s: %d resources changed after the transactionTime before they could be read, and the version of that time could not be had; they are here in a newer version.", typ, o.tail.Newer)
		}
		i := slices.IndexFunc(x.result.Reads, func(s readSummary) bool { return s.Type == typ })
		if i < 0 {
			continue
		}
		x.result.Reads[i].Exported = o.segments.lines() - o.tail.Past - o.tail.Newer
		if o.tail != (tailType{Type: typ}) {
			x.result.Tail = append(x.result.Tail, o.tail)
		}
	}
	outcome, err := x.said.write(ctx, x.attempt)
	if err != nil {
		return jobs.Result{}, err
	}
	result.Segments = append(result.Segments, outcome...)
	result.Summary = encode(x.result)
	return result, nil
}

// addRead gathers what was proven of a type over all rounds.
func (x *associator) addRead(s readSummary) {
	i := slices.IndexFunc(x.result.Reads, func(have readSummary) bool { return have.Type == s.Type })
	if i < 0 {
		x.result.Reads = append(x.result.Reads, s)
		return
	}
	have := &x.result.Reads[i]
	have.add(s.Counted, s.Read)
	have.Proven = have.Proven && s.Proven
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
