package export

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"spillway/jobs"
	"spillway/upstream"
	"spillway/upstream/fhir"
)

// planCheckpoint is what a plan keeps over its attempts.
type planCheckpoint struct {
	TransactionTime time.Time `json:"transactionTime"`
}

// planChunks is into how many units the planning of types is divided at most,
// so that each is short and they run side by side.
const planChunks = 16

// plan is two steps. The root fixes the transaction time and the patients, and
// divides the types over further plan units, which count and cut them. Nothing
// is read before the upstream has settled: a resource that is changed by a
// write stamped before the transaction time, but visible only after it, would
// be read in two versions.
func (a *attempt) plan(ctx context.Context) (jobs.Result, error) {
	if a.lease.Unit.Spec != nil {
		return a.planTypes(ctx)
	}
	if settled := a.settled(); a.job.Request.GroupID != "" && a.c.Now().Before(settled) {
		return jobs.Result{}, &jobs.WaitError{Until: settled} // the group may still change
	}
	at, err := a.transactionTime(ctx)
	if err != nil {
		return jobs.Result{}, err
	}
	return a.planRoot(ctx, at)
}

func (a *attempt) planRoot(ctx context.Context, at time.Time) (jobs.Result, error) {
	if err := a.enforced(ctx); err != nil {
		return jobs.Result{}, err
	}
	p := &planner{attempt: a}
	for _, note := range a.job.Request.Notes {
		p.said.append(note)
	}
	if p.blind() {
		p.said.add(jobs.SeverityWarning, fhir.IssueIncomplete,
			"The upstream cannot search by _lastUpdated, so each type was read as one window by next links. That it is complete could be proven only as far as the upstream's counts of whole types go, and resources made or changed while the export ran may be included.")
	}
	patients, listed, err := p.patients(ctx, at, &p.said)
	if err != nil {
		return jobs.Result{}, err
	}
	spec := planSpec{Listed: true, Patients: len(patients)}
	if len(patients) > 0 {
		if spec.Cohort, err = p.storeCohort(ctx, patients); err != nil {
			return jobs.Result{}, err
		}
	} else if listed {
		p.said.add(jobs.SeverityWarning, fhir.IssueNotFound, "No patient remains to be exported: the group has no current members, or none of the patients asked for belong to it.")
	}
	associated := p.associatedSpec()
	all := p.typesOf(listed, associated.Provenance)
	// The type that is known to have data first: it takes longest.
	if i := slices.Index(all, p.facts.ProbeType); i > 0 {
		all = slices.Insert(slices.Delete(all, i, i+1), 0, p.facts.ProbeType)
	}
	types := p.sort(all, listed)
	p.sayDoubts(types.byPatient)
	if len(types.byPatient) > 0 && !listed {
		if settled := a.settled(); a.c.Now().Before(settled) {
			return jobs.Result{}, &jobs.WaitError{Until: settled} // patients may still become visible
		}
		if patients, err = p.population(ctx, at); err != nil {
			return jobs.Result{}, err
		}
		p.sayStrays(types.byPatient, len(patients))
		if spec.Patients = len(patients); len(patients) > 0 {
			if spec.Cohort, err = p.storeCohort(ctx, patients); err != nil {
				return jobs.Result{}, err
			}
		}
	}
	associated.Listed, associated.Cohort, spec.Follow = listed, spec.Cohort, associated.Follow
	units := append(p.planUnits(types.whole, planSpec{Follow: spec.Follow}, "plan"), p.planUnits(types.byPatient, spec, "plan-patients")...)
	joined, err := p.joined(ctx, patients, at)
	if err != nil {
		return jobs.Result{}, err
	}
	if len(joined) > 0 {
		spec.Joined, spec.Patients = true, len(joined)
		if spec.Cohort, err = p.storeCohort(ctx, joined); err != nil {
			return jobs.Result{}, err
		}
		older := slices.DeleteFunc(slices.Clone(types.byPatient), func(typ string) bool { return typ == "Group" })
		units = append(units, p.planUnits(older, spec, "plan-joined")...)
	}
	units = append(units, jobs.Unit{ID: "tail", Kind: jobs.UnitTail, NotBefore: a.settled()})
	if associated.Provenance || len(associated.Follow) > 0 {
		units = append(units, jobs.Unit{ID: "associated", Kind: jobs.UnitAssociated, Spec: encode(associated)})
	}
	if !a.job.Request.Since.IsZero() {
		units = append(units, jobs.Unit{ID: "deleted", Kind: jobs.UnitDeleted})
	}
	outcome, err := p.said.write(ctx, a)
	if err != nil {
		return jobs.Result{}, err
	}
	return jobs.Result{
		Segments: outcome, TransactionTime: at,
		Next: append(units, jobs.Unit{ID: "finish", Kind: jobs.UnitFinish}),
	}, nil
}

// planUnits are units that plan some types, as spec says.
func (p *planner) planUnits(types []string, spec planSpec, name string) []jobs.Unit {
	var units []jobs.Unit
	for chunk := range slices.Chunk(types, max((len(types)+planChunks-1)/planChunks, 1)) {
		spec.Types = chunk
		unit := jobs.Unit{ID: fmt.Sprintf("%s-%02d", name, len(units)+1), Kind: jobs.UnitPlan, Spec: encode(spec)}
		if spec.Listed || p.blind() { // no closing count would find what becomes visible after the plan
			unit.NotBefore = p.settled()
		}
		units = append(units, unit)
	}
	return units
}

// planTypes counts and cuts some types.
func (a *attempt) planTypes(ctx context.Context) (jobs.Result, error) {
	spec, err := decodeSpec[planSpec](a.lease.Unit)
	if err != nil {
		return jobs.Result{}, err
	}
	p := &planner{attempt: a}
	if spec.Cut != nil {
		err = p.cutOn(ctx, *spec.Cut)
	} else {
		err = p.all(ctx, spec)
	}
	if err != nil {
		return jobs.Result{}, err
	}
	outcome, err := p.said.write(ctx, a)
	if err != nil {
		return jobs.Result{}, err
	}
	return jobs.Result{Segments: outcome, Next: p.units, Summary: encode(p.summary)}, nil
}

// transactionTime is the kick-off's instant on the upstream's clock, to the
// millisecond. The first attempt fixes it; later ones find it in the checkpoint.
func (a *attempt) transactionTime(ctx context.Context) (time.Time, error) {
	var kept planCheckpoint
	if a.lease.Checkpoint != nil {
		if err := json.Unmarshal(a.lease.Checkpoint, &kept); err != nil {
			return time.Time{}, fmt.Errorf("export: checkpoint of the plan: %w", err)
		}
		return kept.TransactionTime, nil
	}
	kept.TransactionTime = a.job.CreatedAt.Add(a.facts.ClockOffset).UTC().Truncate(tick)
	return kept.TransactionTime, a.save(ctx, encode(kept))
}

// A planner gathers units. Types are planned side by side.
type planner struct {
	*attempt

	mu      sync.Mutex // guards what follows
	said    notes
	units   []jobs.Unit
	summary planSummary
}

// release is the upstream's release of FHIR.
func (p *planner) release() fhir.Release {
	return fhir.ReleaseOf(p.facts.Capabilities.FHIRVersion)
}

// blind reports whether the upstream cannot search by _lastUpdated.
func (p *planner) blind() bool {
	return p.facts.LastUpdated == upstream.Ignored || p.facts.LastUpdated == upstream.Refused
}

// until is the exclusive upper bound of meta.lastUpdated.
func (p *planner) until() time.Time {
	until := p.job.TransactionTime
	if u := p.job.Request.Until; !u.IsZero() && u.Before(until) {
		until = u.Truncate(tick)
	}
	return until.Add(tick)
}

// all plans every type of the spec. A type that the upstream refuses to search
// is noted; the others go on.
func (p *planner) all(ctx context.Context, spec planSpec) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.c.PlanConcurrency)
	for _, typ := range spec.Types {
		group.Go(func() error {
			read, err := p.readSpec(typ)
			read.Follow = spec.Follow
			if spec.Joined {
				read.Part, read.Since, read.Until = "-joined", time.Time{}, earlier(read.Until, read.Since)
			}
			switch {
			case err != nil:
			case spec.Listed:
				err = p.cohortType(ctx, read, spec)
			default:
				err = p.windowedType(ctx, read)
			}
			if err != nil && !refused(err) {
				return err
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			if err == nil {
				p.summary.Searched++
				return nil
			}
			p.summary.Refused++
			p.summary.Refusal = err.Error()
			p.said.add(jobs.SeverityError, fhir.IssueNotSupported, "%s could not be exported: %v", typ, err)
			return nil
		})
	}
	return group.Wait()
}

// refused reports whether err says that the upstream will not search a type at
// all. That is no reason to give up the others.
func refused(err error) bool {
	var request *upstream.RequestError
	return errors.As(err, &request) && !request.Temporary() && request.Kind == upstream.KindStatus
}

// typesOf returns the types to export, in the order of the upstream's
// statement, and notes those asked for that are not.
func (p *planner) typesOf(listed, associated bool) []string {
	request := p.job.Request
	var types, unoffered []string
	for _, t := range p.facts.Capabilities.Types {
		asked := slices.Contains(request.Types, t.Type)
		switch {
		case len(request.Types) > 0 && !asked:
		case t.Type == provenance && associated: // another unit reads it
		case request.Level != jobs.LevelSystem && !p.release().InPatientCompartment(t.Type):
		case p.allowed.Access(t.Type).None():
			if asked {
				p.said.add(jobs.SeverityError, fhir.IssueForbidden, "%s was not exported: the scopes of this export do not allow it.", t.Type)
			}
		case request.Level == jobs.LevelPatient && listed && t.Type == "Group":
			// groups of the same patients name other patients
			if asked {
				p.said.add(jobs.SeverityWarning, fhir.IssueNotSupported, "Group: groups of the patients asked for were left out, because they name other patients too.")
			}
		case t.Type == "Group" && request.Level == jobs.LevelGroup && !p.filtered(t.Type):
			types = append(types, t.Type) // can be read
		case !p.facts.Capabilities.Can(t.Type, "search-type"):
			if asked {
				p.said.add(jobs.SeverityError, fhir.IssueNotSupported, "%s could not be exported: the upstream's statement does not offer to search it.", t.Type)
			} else if !describesServer(t.Type) {
				unoffered = append(unoffered, t.Type)
			}
		default:
			types = append(types, t.Type)
		}
	}
	if len(unoffered) > 0 {
		p.said.add(jobs.SeverityWarning, fhir.IssueNotSupported,
			"The upstream's statement does not offer to search %s; what there may be of them is not in this export.", strings.Join(unoffered, ", "))
	}
	return types
}

// describesServer reports whether resources of a type say what servers do and are
// no data. HAPI lists OperationDefinition, made up from its code, as readable only.
func describesServer(typ string) bool {
	return slices.Contains([]string{
		"CapabilityStatement", "CompartmentDefinition", "OperationDefinition", "SearchParameter", "StructureDefinition", "TerminologyCapabilities",
	}, typ)
}

// filtersOf returns the queries of the type filters of a type.
func filtersOf(r jobs.Request, typ string) []string {
	var queries []string
	for _, f := range r.TypeFilters {
		if f.Type == typ {
			queries = append(queries, f.Query)
		}
	}
	return queries
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// readSpec returns what to read of a type, before any cohort restricts it.
func (p *planner) readSpec(typ string) (readSpec, error) {
	alternatives, err := p.searches(typ)
	if err != nil {
		return readSpec{}, err
	}
	read := readSpec{
		Type: typ, Alternatives: alternatives, Since: p.job.Request.Since.Truncate(tick), Until: p.until(),
		Whole: p.blind(), Former: p.hasHistory(), Paging: p.paging(typ), Release: p.release(),
	}
	if p.job.Request.Level != jobs.LevelSystem {
		read.Scope = scopeCompartment
	}
	return read, nil
}

// windowedType plans a type that is read by time windows.
func (p *planner) windowedType(ctx context.Context, read readSpec) error {
	counted, none, err := p.census(ctx, read)
	if err != nil {
		return err
	}
	if none {
		p.addType(plannedType{Type: read.Type, Read: read, Empty: true})
		return nil
	}
	return p.cutType(ctx, read, counted)
}

// cutType plans the windows of a type that was counted.
func (p *planner) cutType(ctx context.Context, read readSpec, counted int64) error {
	windows, err := p.windows(ctx, read, counted)
	if err != nil {
		return err
	}
	read.Fine = p.fine(read, counted)
	units := p.unitsOf(cutSpec{Name: read.Type + read.Part, Read: read}, windows)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.units = append(p.units, units...)
	p.summary.Types = append(p.summary.Types, plannedType{Type: read.Type, Counted: counted, Read: read, Recount: counted >= 0})
	return nil
}

func (p *planner) addType(t plannedType) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.summary.Types = append(p.summary.Types, t)
}

// cutOn goes on where another plan unit ran out of time.
func (p *planner) cutOn(ctx context.Context, c cutSpec) error {
	count := p.newReader(c.Read, nil, &notes{}, nil).countFunc()
	windows, err := cutWindows(ctx, count, c.Window, p.cutting(p.most()))
	if err != nil {
		return err
	}
	p.units = p.unitsOf(c, windows)
	return nil
}

// planTime is after how long a plan unit hands on what is left to cut, so that
// planning a billion resources is many short units.
const planTime = 2 * time.Second

func (p *planner) cutting(limit int64) cutting {
	return cutting{limit: limit, parallel: p.c.PlanConcurrency, until: time.Now().Add(planTime)}
}

// most is up to how many resources a window is left as it is. Most are smaller by
// a quarter: each costs a count.
func (p *planner) most() int64 { return p.windowLimit(2 * p.c.Window) }

// unitsOf returns a slice for each window, and a plan unit for each that is
// still too large.
func (p *planner) unitsOf(c cutSpec, windows []windowSpec) []jobs.Unit {
	units := make([]jobs.Unit, len(windows))
	for i, w := range windows {
		name := fmt.Sprintf("%s-%05d", c.Name, i+1)
		if w.Counted > p.most() && w.divisible() && !c.Read.Whole {
			units[i] = jobs.Unit{ID: "plan-" + name, Kind: jobs.UnitPlan, Spec: encode(planSpec{Cut: &cutSpec{Name: name, Read: c.Read, Window: w}})}
			continue
		}
		units[i] = jobs.Unit{
			ID: "slice-" + name, Kind: jobs.UnitSlice, Type: c.Read.Type, Weight: max(w.Counted, 0),
			Spec: encode(sliceSpec{Read: c.Read, Window: w}), NotBefore: p.settled(),
		}
	}
	return units
}
