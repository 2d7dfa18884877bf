package export

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"spillway/jobs"
	"spillway/upstream"
	"spillway/upstream/fhir"
	"spillway/upstream/profile"
)

// pageTime is how long a page is taken to need, where a window must be read
// before its next links expire.
const pageTime = 3 * time.Second

// searchable are the types of an export by the searches that find them.
type searchable struct {
	whole     []string // by searches of the whole type
	byPatient []string // by searches that name patients
}

// sort puts types where the upstream's rules want them, and notes those of
// which no search finds all.
func (p *planner) sort(types []string, listed bool) searchable {
	var s searchable
	never := make(map[string][]string) // by why
	for _, typ := range types {
		rule := p.facts.Rule(typ)
		ownGroup := typ == "Group" && p.job.Request.Level == jobs.LevelGroup
		switch {
		case rule.Search == profile.ScopeNone, rule.Search == profile.ScopeID && !ownGroup:
			never[rule.Why] = append(never[rule.Why], typ)
			continue
		case listed || rule.Search == profile.ScopePatient:
			s.byPatient = append(s.byPatient, typ)
		default:
			s.whole = append(s.whole, typ)
		}
		p.partly(typ, rule)
	}
	for _, why := range slices.Sorted(maps.Keys(never)) {
		p.said.add(jobs.SeverityError, fhir.IssueNotSupported, "%s could not be exported: %s.", strings.Join(never[why], ", "), strings.TrimSuffix(why, "."))
	}
	return s
}

// partly notes that the searches of a type may not find all of it.
func (p *planner) partly(typ string, rule profile.Type) {
	if len(rule.With) == 0 || rule.Exhaustive {
		return
	}
	queries, err := p.permitted(typ)
	if err != nil {
		return // who plans the type says so
	}
	for _, filter := range queries {
		if len(withRequired(filter, rule.With)) > 1 || filter == "" {
			p.said.add(jobs.SeverityError, fhir.IssueIncomplete,
				"%s: the upstream wants one of certain parameters in each search, so it was searched for %s. Resources that have none of these are not in this export.",
				typ, strings.Join(rule.With, ", "))
			return
		}
	}
}

// withRequired returns the searches that a filter becomes where each must hold
// one of some queries. A filter that has their parameters is left as it is.
func withRequired(filter string, with []string) []string {
	if len(with) == 0 {
		return []string{filter}
	}
	had := parameterNames(filter)
	all := make([]string, 0, len(with))
	for _, query := range with {
		if names := parameterNames(query); !slices.ContainsFunc(names, func(n string) bool { return !slices.Contains(had, n) }) {
			return []string{filter}
		}
		all = append(all, joinQuery(filter, query))
	}
	return all
}

// parameterNames are the search parameters of a query, without modifiers.
func parameterNames(query string) []string {
	var names []string
	for part := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(part, "=")
		if name, err := url.QueryUnescape(name); err == nil && name != "" {
			name, _, _ = strings.Cut(name, ":")
			names = append(names, name)
		}
	}
	return names
}

// paging is how pages of a type can be read.
func (p *planner) paging(typ string) paging {
	pages := pagingOf(p.facts)
	if most := p.facts.Rule(typ).PageMax; most > 0 {
		pages.Fits = min(pages.Fits, most)
	}
	return pages
}

// windowLimit is how many resources a window should hold at most, where limit
// are wanted: no more than next links lead to, and no more than can be read
// before they expire.
func (p *planner) windowLimit(limit int64) int64 {
	if most := p.facts.Profile.ChainMax; most > 0 {
		limit = min(limit, int64(most))
	}
	if life := p.facts.Profile.LinkLife; life > 0 {
		pages := max(int64(life/pageTime), 1)
		limit = min(limit, pages*int64(max(p.facts.PageSize, 1)))
	}
	return max(limit, 1)
}

// provable reports whether counts can prove what is read.
func (p *planner) provable() bool {
	return p.facts.LastPageTotal || p.facts.Counts == upstream.Works || p.facts.Counts == upstream.Unknown
}

// sayDoubts says once of the types that are found by patient only what each of
// their plans and slices would say.
func (p *planner) sayDoubts(types []string) {
	var names, lack []string
	for _, typ := range types {
		if p.facts.Rule(typ).Search != profile.ScopePatient {
			continue
		}
		names = append(names, typ)
		if by, lacking := p.compartmentParameters(typ); len(by) > 0 && len(lacking) > 0 {
			lack = append(lack, fmt.Sprintf("%s by %s", typ, strings.Join(lacking, " and ")))
		}
	}
	if len(names) > 0 && !p.provable() {
		p.said.add(jobs.SeverityError, fhir.IssueIncomplete, unprovenText, strings.Join(names, ", "), "")
	}
	if len(lack) > 0 {
		p.said.add(jobs.SeverityError, fhir.IssueIncomplete,
			"The upstream cannot search some types by all that makes a resource belong to a patient, so what belongs to one by that alone is missing: %s.", strings.Join(lack, ", "))
	}
}

// sayStrays says which resources of types that are found by patient only an
// export of everything does not have.
func (p *planner) sayStrays(types []string, patients int) {
	if p.job.Request.Level == jobs.LevelSystem {
		p.said.add(jobs.SeverityError, fhir.IssueIncomplete,
			"%s: the upstream finds them by patient only, so they were searched for each of %d patients. Those that belong to none of these are not in this export.",
			strings.Join(types, ", "), patients)
	}
}

// population returns the ids of all patients, sorted, for an export that names
// none of an upstream that finds resources by patient only.
func (p *planner) population(ctx context.Context, at time.Time) ([]string, error) {
	const todo = "Export a Group (Group/[id]/$export) or name patients (patient=…), or name a Group of all patients in a profile (upstream.profile, patients: {group: ID})."
	known := p.facts.Profile.Patients
	if known.Group != "" {
		members, err := p.members(ctx, known.Group, at, &p.said)
		if failed, ok := errors.AsType[*jobs.UnitError](err); ok {
			return nil, &jobs.UnitError{Permanent: failed.Permanent, Err: err, Reason: "The Group of all patients that the profile names (patients: {group: ID}) does not exist on the upstream, or may not be read with the scopes of this export."}
		}
		if err != nil {
			return nil, err
		}
		return sortedIDs(members), nil
	}
	if known.Listing == upstream.Refused {
		return nil, &jobs.UnitError{Permanent: true, Reason: "This upstream finds resources by patient only, and its patients cannot be listed, so an export that names none cannot work. " + todo}
	}
	found := make(map[string]bool)
	for _, query := range withRequired("", p.facts.Rule("Patient").With) {
		if err := p.listPatients(ctx, query, found); err != nil {
			if !denied(err) && !errors.Is(err, errChain) {
				return nil, err
			}
			return nil, &jobs.UnitError{Permanent: true, Reason: fmt.Sprintf(
				"This upstream finds resources by patient only, and its patients could not be listed: %v %s", err, todo)}
		}
	}
	if len(found) == 0 {
		p.said.add(jobs.SeverityWarning, fhir.IssueNotFound, "No patient was found, so nothing that belongs to patients was exported.")
	}
	return sortedIDs(found), nil
}

// listPatients adds the patients that one query finds, and proves them by a
// count if there is one.
func (p *planner) listPatients(ctx context.Context, query string, found map[string]bool) error {
	s := upstream.Search{Type: "Patient", Query: query}
	own := newIDSet()
	if err := follow(func(next string) (upstream.PageInfo, bool, error) {
		fresh := false
		page, err := p.c.Upstream.Page(ctx, s, next, func(entry *fhir.Entry) error {
			h := entry.Header
			if h.Type == "Patient" && fhir.ValidID(h.ID) && entry.Mode != "include" && own.add(h.ID) {
				fresh, found[h.ID] = true, true
			}
			return nil
		})
		return page, fresh, err
	}); err != nil {
		return err
	}
	counted, err := p.c.Upstream.Count(ctx, s)
	switch {
	case errors.Is(err, upstream.ErrNoCount):
		p.said.add(jobs.SeverityError, fhir.IssueIncomplete,
			"The upstream gives no usable counts, so it could not be proven that all patients were found whose resources this export holds.")
		return nil
	case err != nil:
		return err
	case counted > own.len():
		p.said.add(jobs.SeverityError, fhir.IssueIncomplete,
			"Patient: the upstream counts %d but gives only %d; the others and what belongs to them may be missing from this export.", counted, own.len())
	}
	return nil
}

func sortedIDs(set map[string]bool) []string {
	ids := make([]string, 0, len(set))
	for id := range set {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}
