package export

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"spillway/jobs"
	"spillway/upstream"
	"spillway/upstream/fhir"
)

const (
	// batchSize is how many patients one search names where POST works.
	batchSize = 100
	// batchBytes bounds the ids in the address of a GET.
	batchBytes = 1500
)

// cohortType plans a type that is read by batches of patients.
func (p *planner) cohortType(ctx context.Context, read readSpec, plan planSpec) error {
	if read.Type == "Group" {
		return p.onlyGroup(read)
	}
	patients := plan.Patients
	if patients == 0 {
		return nil
	}
	read.Scope = scopeCohort
	parameters := p.compartmentParameters(read.Type)
	if len(parameters) == 0 {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.said.add(jobs.SeverityError, fhir.IssueNotSupported, "%s could not be exported: the upstream offers none of the search parameters that find it by patient.", read.Type)
		return nil
	}
	size := p.batchSize()
	if patients > size {
		// Many batches of a type that has nothing are many needless searches.
		var said notes
		r := p.newReader(read, nil, &said, nil)
		whole := windowSpec{From: read.Since, To: read.Until}
		n, err := r.count(ctx, whole)
		if err != nil {
			return err
		}
		if n == 0 {
			empty, err := p.empty(ctx, r, whole)
			if err != nil {
				return err
			}
			if empty {
				p.addType(plannedType{Type: read.Type, Read: read, Cohort: plan.Cohort, Empty: true})
				return nil
			}
		}
	}
	filters := read.Alternatives
	var units []jobs.Unit
	for from := 0; from < patients; from += size {
		to := min(from+size, patients)
		spec := sliceSpec{
			Read:   read,
			Window: windowSpec{From: read.Since, To: read.Until, Counted: -1},
			Batch:  batchSpec{Cohort: plan.Cohort, From: from, To: to, Parameters: parameters},
		}
		spec.Read.Alternatives = filters
		units = append(units, jobs.Unit{
			ID: fmt.Sprintf("slice-%s-%05d", read.Type, len(units)+1), Kind: jobs.UnitSlice, Type: read.Type, Spec: encode(spec),
		})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.units = append(p.units, units...)
	p.summary.Types = append(p.summary.Types, plannedType{Type: read.Type, Counted: -1, Read: read, Cohort: plan.Cohort})
	return nil
}

// onlyGroup plans the requested group itself; other groups of the same
// patients are nobody's business here.
func (p *planner) onlyGroup(read readSpec) error {
	read.Scope = scopeID
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
		Spec: encode(sliceSpec{Read: read, Window: windowSpec{From: read.Since, To: read.Until, Counted: -1}}),
	})
	p.summary.Types = append(p.summary.Types, plannedType{Type: "Group", Counted: -1, Read: read})
	return nil
}

// compartmentParameters returns the search parameters by which the upstream
// can find a type by patient.
func (p *planner) compartmentParameters(typ string) []string {
	if typ == "Patient" {
		return []string{"_id"}
	}
	var names []string
	for _, parameter := range p.release().PatientCompartment(typ) {
		if p.facts.Capabilities.Has(typ, parameter.Name) {
			names = append(names, parameter.Name)
		}
	}
	return names
}

// batchSize returns how many patients one search may name.
func (p *planner) batchSize() int {
	if p.facts.PostSearch == upstream.Works {
		return batchSize
	}
	return max(batchBytes/(len("Patient%2F%2C")+36), 1)
}

// batchAlternatives returns every filter joined with every way to name the
// patients of the batch.
func batchAlternatives(filters, parameters []string, b *batch) []string {
	var alternatives []string
	for _, name := range parameters {
		ids := make([]string, len(b.ids()))
		for i, id := range b.ids() {
			if name == "_id" {
				ids[i] = id
			} else {
				ids[i] = "Patient/" + id
			}
		}
		patients := url.QueryEscape(name) + "=" + url.QueryEscape(strings.Join(ids, ","))
		for _, filter := range filters {
			alternatives = append(alternatives, joinQuery(filter, patients))
		}
	}
	return alternatives
}

// joinQuery appends ours to a filter. Repeated parameters mean AND.
func joinQuery(filter, ours string) string {
	if filter == "" {
		return ours
	}
	return filter + "&" + ours
}
