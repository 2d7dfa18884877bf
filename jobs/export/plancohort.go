package export

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"spillway/jobs"
	"spillway/upstream"
	"spillway/upstream/fhir"
	"spillway/upstream/profile"
)

const (
	// batchSize is how many patients one search names where POST works.
	batchSize = 100
	// batchBytes bounds the ids in the address of a GET.
	batchBytes = 1500
	// urlRest is what else there may be in it, where its length is bounded.
	urlRest = 500
	// unitSearches is how many batches one unit reads at most.
	unitSearches = 20
	// samples is how many batches are counted to guess what all of them hold.
	samples = 4
	// requestCost is what a search costs an upstream beside the resources on its
	// page, and nameCost what each name in it does, in resources. HAPI 8 was seen to
	// take 0.4 ms of CPU for a resource on a page of 1000, 7 ms for a search by 10
	// patients that finds nothing, and 77 ms for one by 100; its counts take more.
	requestCost = 20
	nameCost    = 2
)

// Cohorts says how the resources of certain patients are found.
type Cohorts string

// The ways to find them. The zero value is CohortsAuto.
const (
	CohortsAuto    Cohorts = "auto"    // of each type by what is cheaper
	CohortsBatches Cohorts = "batches" // by searches that name patients
	CohortsScan    Cohorts = "scan"    // by reading all of the type and checking each resource
)

// A cohortCost compares two ways to read a type for a cohort, in what the
// upstream has to do, with a resource on a page as the unit.
//
//	scan     all resources of the type, their pages, and two counts for each window
//	batches  the cohort's resources and their pages, and for each search the page
//	         and a count, with the names in it; one search names so many patients
//	         as an address or a form takes, by one parameter of the compartment
//	         and one alternative of the filters
//
// All of it follows from counts but the cohort's share, which is guessed from a
// few batches, and only where the answer depends on it. Both ways are exact,
// so a wrong guess costs time and nothing else.
type cohortCost struct {
	total    int64 // resources of the type
	searches int64 // that batches take
	names    int64 // in all of these
	page     int64 // resources on a page
	window   int64 // resources in a window
}

func (c cohortCost) scan() int64 {
	return c.total + requestCost*(c.pages(c.total)+2*(c.total+c.window-1)/c.window)
}

// batches is the cost if the cohort has so many resources.
func (c cohortCost) batches(held int64) int64 {
	return held + requestCost*c.pages(held) + 2*(requestCost*c.searches+nameCost*c.names)
}

func (c cohortCost) pages(n int64) int64 { return (n + c.page - 1) / c.page }

// cost compares reading a type whole with searches for so many names, each by
// so many ways, with so many in a search.
func (p *planner) cost(total int64, names, ways, size int) cohortCost {
	searches := int64(ways) * int64((names+size-1)/size)
	return cohortCost{total: total, searches: searches, names: int64(ways) * int64(names), page: int64(max(p.facts.PageSize, p.facts.DirectSize, 1)), window: p.c.Window}
}

// cohortType plans a type that is read for certain patients.
func (p *planner) cohortType(ctx context.Context, read readSpec, plan planSpec) error {
	if read.Type == "Group" {
		return p.onlyGroup(read)
	}
	if plan.Patients == 0 {
		return nil
	}
	read.Scope, read.Cohort = scopeMembers, plan.Cohort
	by := batchSpec{Size: p.batchSize()}
	var lacking []string
	by.Parameters, lacking = p.compartmentParameters(read.Type)
	if p.facts.Rule(read.Type).Search == profile.ScopePatient {
		p.onlyByPatient(read, plan, by)
		return nil
	}
	counted, none, err := p.census(ctx, read)
	switch {
	case err != nil && denied(err) && len(by.Parameters) > 0:
		counted = -1 // it is searched by patient only
	case err != nil:
		return err
	case none:
		p.addType(plannedType{Type: read.Type, Read: read, Empty: true})
		return nil
	case len(lacking) > 0 && (p.c.Cohorts != CohortsBatches || len(by.Parameters) == 0):
		return p.cutType(ctx, read, counted) // searches by patient would miss some
	}
	held, batches, err := p.batchesPay(ctx, read, plan, by, counted)
	if err != nil {
		return err
	}
	if !batches {
		return p.cutType(ctx, read, counted)
	}
	if len(lacking) > 0 {
		p.say(jobs.SeverityWarning, fhir.IssueIncomplete,
			"%s: the upstream cannot search it by %s, so what belongs to a patient by that alone is missing.", read.Type, strings.Join(lacking, " and by "))
	}
	read.Scope = scopeCohort
	p.batchUnits(read, plan, by, counted, held)
	return nil
}

// say adds a note while types are planned side by side.
func (p *planner) say(severity jobs.Severity, code fhir.IssueCode, format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said.add(severity, code, format, args...)
}

// onlyByPatient plans a type that the upstream finds by patient only, so that
// there is nothing to count and to compare.
func (p *planner) onlyByPatient(read readSpec, plan planSpec, by batchSpec) {
	if len(by.Parameters) == 0 {
		p.say(jobs.SeverityError, fhir.IssueNotSupported,
			"%s could not be exported: the upstream offers none of the search parameters that find it by patient.", read.Type)
		return
	}
	read.Said = !p.provable() // by the root, as what the searches lack
	read.Scope = scopeCohort
	p.batchUnits(read, plan, by, -1, 0)
}

// batchesPay decides how a type is read. held is how many resources the cohort
// has, as far as that was asked.
func (p *planner) batchesPay(ctx context.Context, read readSpec, plan planSpec, by batchSpec, counted int64) (held int64, pay bool, err error) {
	n := (plan.Patients + by.Size - 1) / by.Size
	cost := p.cost(counted, plan.Patients, len(by.Parameters)*len(read.Alternatives), by.Size)
	switch {
	case p.c.Cohorts == CohortsBatches:
		return 0, true, nil
	case p.c.Cohorts == CohortsScan:
		return 0, false, nil
	case counted < 0: // nor can windows be cut
		return 0, true, nil
	case cost.batches(0) >= cost.scan():
		return 0, false, nil
	case cost.batches(counted) <= cost.scan():
		return 0, true, nil
	}
	cohort, err := p.cohorts.load(ctx, p.attempt, plan.Cohort)
	if err != nil {
		return 0, false, err
	}
	var sampled int
	for i := range min(n, samples) {
		from := i * n / min(n, samples) * by.Size
		to := min(from+by.Size, plan.Patients)
		r := p.newReader(read, nil, &notes{}, nil)
		r.spec.Alternatives = batchAlternatives(read.Alternatives, by.Parameters, cohort, from, to)
		found, err := r.count(ctx, windowSpec{From: read.Since, To: read.Until})
		if err != nil || found < 0 {
			return 0, true, err
		}
		held += found
		sampled += to - from
	}
	held = held * int64(plan.Patients) / int64(sampled)
	return held, cost.batches(held) < cost.scan(), nil
}

// batchUnits plans units of several batches each, of about a window in size.
func (p *planner) batchUnits(read readSpec, plan planSpec, by batchSpec, counted, held int64) {
	size := unitSearches * by.Size
	if each := held / int64(plan.Patients); each > 0 {
		size = min(size, max(int(p.c.Window/each)/by.Size, 1)*by.Size)
	}
	var units []jobs.Unit
	for from := 0; from < plan.Patients; from += size {
		by.From, by.To = from, min(from+size, plan.Patients)
		units = append(units, jobs.Unit{
			ID: fmt.Sprintf("slice-%s%s-%05d", read.Type, read.Part, len(units)+1), Kind: jobs.UnitSlice, Type: read.Type,
			Weight: held * int64(by.To-by.From) / int64(plan.Patients),
			Spec:   encode(sliceSpec{Read: read, Window: windowSpec{From: read.Since, To: read.Until, Counted: -1}, Batch: by}),
		})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.units = append(p.units, units...)
	p.summary.Types = append(p.summary.Types, plannedType{Type: read.Type, Counted: counted, Read: read})
}

// onlyGroup plans the requested group itself; other groups of the same
// patients are nobody's business here.
func (p *planner) onlyGroup(read readSpec) error {
	read.Scope = scopeID
	byID := !p.facts.Capabilities.Can("Group", "search-type")
	id := "_id=" + url.QueryEscape(p.job.Request.GroupID)
	alternatives := make([]string, len(read.Alternatives))
	for i, filter := range read.Alternatives {
		alternatives[i] = joinQuery(filter, id)
	}
	read.Alternatives = alternatives
	p.mu.Lock()
	defer p.mu.Unlock()
	p.units = append(p.units, jobs.Unit{
		ID: "slice-Group-00001", Kind: jobs.UnitSlice, Type: "Group", Weight: 1,
		Spec: encode(sliceSpec{Read: read, Window: windowSpec{From: read.Since, To: read.Until, Counted: -1}, ByID: byID}),
	})
	p.summary.Types = append(p.summary.Types, plannedType{Type: "Group", Counted: -1, Read: read})
	return nil
}

// compartmentParameters returns the search parameters by which the upstream
// finds a type by patient, one for each set of elements, and the names of those
// that it lacks.
func (p *planner) compartmentParameters(typ string) (names, lacking []string) {
	if typ == "Patient" {
		return []string{"_id"}, nil
	}
	if name := p.facts.Profile.Patients.Parameter; name != "" && p.offers(typ, name) {
		names = []string{name}
		by := batch{parameters: names}
		for _, parameter := range p.release().PatientCompartment(typ) {
			if !by.searchedBy(parameter.Name) {
				lacking = append(lacking, parameter.Name)
			}
		}
		return names, lacking
	}
	covered := make(map[string]bool)
	for _, parameter := range p.release().PatientCompartment(typ) {
		paths := strings.Join(parameter.Paths, " ")
		if covered[paths] {
			continue // another name for the same
		}
		covered[paths] = true
		name := parameter.Name
		if paths == "subject" && !p.facts.Capabilities.Has(typ, name) {
			name = map[string]string{"subject": "patient", "patient": "subject"}[name] // of patients they are the same
		}
		if p.facts.Capabilities.Has(typ, name) {
			names = append(names, name)
		} else {
			lacking = append(lacking, parameter.Name)
		}
	}
	return names, lacking
}

// offers reports whether the statement has a search parameter of a type, or says
// nothing of its parameters.
func (p *planner) offers(typ, name string) bool {
	t, listed := p.facts.Capabilities.Type(typ)
	return p.facts.Capabilities.Has(typ, name) || listed && len(t.SearchParams) == 0
}

// batchSize returns how many patients one search may name.
func (p *planner) batchSize() int {
	known := p.facts.Profile
	n := batchSize
	if p.facts.PostSearch != upstream.Works {
		bytes := batchBytes
		if known.URLMax > 0 {
			bytes = min(bytes, known.URLMax-urlRest)
		}
		n = max(bytes/(len("Patient%2F%2C")+36), 1)
	}
	if most := known.Patients.PerSearch; most > 0 {
		n = min(n, most)
	}
	return n
}

// batchAlternatives returns every filter joined with every way to name the
// patients from one index to another.
func batchAlternatives(filters, parameters []string, c *cohort, from, to int) []string {
	var alternatives []string
	for _, name := range parameters {
		ids := make([]string, 0, to-from)
		for i := from; i < to; i++ {
			if name == "_id" {
				ids = append(ids, c.id(i))
			} else {
				ids = append(ids, "Patient/"+c.id(i))
			}
		}
		patients := url.QueryEscape(name) + "=" + url.QueryEscape(strings.Join(ids, ","))
		for _, filter := range filters {
			alternatives = append(alternatives, joinQuery(filter, patients))
		}
	}
	return alternatives
}

// proveBatches reads and proves the batches of a unit one after the other.
func (r *reader) proveBatches(ctx context.Context, w windowSpec, by batchSpec) error {
	filters := r.spec.Alternatives
	defer func() { r.spec.Alternatives = filters }()
	for from := by.From; from < by.To; from += by.Size {
		r.spec.Alternatives = batchAlternatives(filters, by.Parameters, r.batch.cohort, from, min(from+by.Size, by.To))
		var err error
		if w.Counted, err = r.count(ctx, w); err != nil {
			return err
		}
		if err := r.prove(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// countBatches counts what the batches of a unit find, as a sum over searches.
func (r *reader) countBatches(ctx context.Context, w windowSpec, by batchSpec) (sum int64, err error) {
	counter := *r
	for from := by.From; from < by.To; from += by.Size {
		counter.spec.Alternatives = batchAlternatives(r.spec.Alternatives, by.Parameters, r.batch.cohort, from, min(from+by.Size, by.To))
		n, err := counter.count(ctx, w)
		if err != nil || n < 0 {
			return -1, err
		}
		sum += n
	}
	return sum, nil
}

// joinQuery appends ours to a filter. Repeated parameters mean AND.
func joinQuery(filter, ours string) string {
	if filter == "" {
		return ours
	}
	return filter + "&" + ours
}
