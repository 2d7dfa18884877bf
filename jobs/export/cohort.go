package export

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"spillway/jobs"
	"spillway/upstream"
	"spillway/upstream/fhir"
)

// maxNesting is how deep groups may hold groups.
const maxNesting = 10

// A cohort is the patients of an export, sorted by id. It lies in storage as
// one id a line, so that units name patients by index.
type cohort struct{ ids []string }

// index returns the place of a patient, or -1.
func (c *cohort) index(id string) int {
	if i, found := slices.BinarySearch(c.ids, id); found {
		return i
	}
	return -1
}

// A batch is the part of a cohort that one unit reads, or the one resource
// that scopeID names.
type batch struct {
	cohort   *cohort
	from, to int
	only     string // at scopeID
	release  fhir.Release
	// lenient says that resources of none of the patients are to be expected.
	lenient bool
}

func (b *batch) ids() []string { return b.cohort.ids[b.from:b.to] }

// owns reports whether the resource is this batch's to export. A resource of
// several patients of the cohort belongs to the first of them, so that exactly
// one batch exports it. A resource of none of them means that the upstream
// ignores the patient parameter.
func (b *batch) owns(h fhir.Header, resource []byte) (bool, error) {
	first := -1
	err := b.release.PatientRefs(h.Type, resource, func(param, id string) bool {
		if h.Type == "Patient" && id != h.ID {
			return true // a link to another patient does not make this one a member
		}
		if i := b.cohort.index(id); i >= 0 && (first < 0 || i < first) {
			first = i
		}
		return true
	})
	if err != nil {
		return false, err
	}
	if first < 0 && b.lenient {
		return false, nil
	}
	if first < 0 {
		return false, &jobs.UnitError{Permanent: true, Reason: fmt.Sprintf(
			"search %s: the upstream returned a resource that belongs to none of the patients asked for, so it ignores the patient filter; nothing was handed out.", h.Type)}
	}
	return b.from <= first && first < b.to, nil
}

// openBatch returns the batch that a slice reads; nil where it reads no cohort.
func (a *attempt) openBatch(ctx context.Context, spec sliceSpec) (*batch, error) {
	switch spec.Read.Scope {
	case scopeID:
		return &batch{only: a.job.Request.GroupID}, nil
	case scopeCohort:
		c, err := a.cohorts.load(ctx, a, spec.Batch.Cohort)
		if err != nil {
			return nil, err
		}
		if spec.Batch.From < 0 || spec.Batch.To > len(c.ids) || spec.Batch.From >= spec.Batch.To {
			return nil, fmt.Errorf("export: batch %d to %d of a cohort of %d", spec.Batch.From, spec.Batch.To, len(c.ids))
		}
		return &batch{cohort: c, from: spec.Batch.From, to: spec.Batch.To, release: spec.Read.Release}, nil
	}
	return nil, nil
}

// cohortCache keeps the cohorts of the jobs at work. The zero value is ready.
type cohortCache struct {
	mu   sync.Mutex
	held map[string]*cohort // by storage key
}

// maxCohorts is how many cohorts are held; a few exports run at once.
const maxCohorts = 8

func (c *cohortCache) load(ctx context.Context, a *attempt, key string) (*cohort, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if found, ok := c.held[key]; ok {
		return found, nil
	}
	r, err := a.c.Storage.Open(ctx, key, 0, -1)
	if err != nil {
		return nil, fmt.Errorf("export: the list of patients: %w", err)
	}
	defer r.Close()
	loaded := &cohort{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		loaded.ids = append(loaded.ids, lines.Text())
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("export: the list of patients: %w", err)
	}
	if len(c.held) >= maxCohorts || c.held == nil {
		c.held = make(map[string]*cohort)
	}
	c.held[key] = loaded
	return loaded, nil
}

// forget drops the cohorts of a removed job.
func (c *cohortCache) forget(id jobs.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.held {
		if strings.HasPrefix(key, id.KeyPrefix()) {
			delete(c.held, key)
		}
	}
}

// storeCohort writes the cohort's list and returns its key.
func (a *attempt) storeCohort(ctx context.Context, ids []string) (string, error) {
	a.objects++
	key := a.prefix + "cohort"
	w, err := a.c.Storage.Create(ctx, key)
	if err != nil {
		return "", err
	}
	defer func() { _ = w.Abort() }() // nothing after Commit
	buffered := bufio.NewWriter(w)
	for _, id := range ids {
		_, _ = buffered.WriteString(id + "\n") // Flush returns the error
	}
	if err := buffered.Flush(); err != nil {
		return "", err
	}
	return key, w.Commit(ctx)
}

// patients returns the sorted ids of the patients of the request, nil where
// its level has no list, and whether it has one.
func (a *attempt) patients(ctx context.Context, at time.Time, said *notes) ([]string, bool, error) {
	request := a.job.Request
	asked := slices.Compact(slices.Sorted(slices.Values(request.Patients)))
	if request.Level != jobs.LevelGroup {
		return asked, len(asked) > 0, nil
	}
	members := make(map[string]bool)
	if err := a.members(ctx, request.GroupID, at, 0, make(map[string]bool), members, said); err != nil {
		return nil, false, err
	}
	var ids, strangers []string
	if len(asked) == 0 {
		for id := range members {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		return ids, true, nil
	}
	for _, id := range asked {
		if members[id] {
			ids = append(ids, id)
		} else {
			strangers = append(strangers, id)
		}
	}
	if len(strangers) > 0 {
		said.add(jobs.SeverityWarning, fhir.IssueNotFound,
			"patient: %d of the patients asked for are not current members of the group and were left out: %s.", len(strangers), strings.Join(strangers, ", "))
	}
	return ids, true, nil
}

// noGroup is said of a group that does not exist, and of one that may not be read.
const noGroup = "The group does not exist on the upstream; check the id in the kick-off address."

// members adds the current members of a group, and of the groups it holds, to found.
func (a *attempt) members(ctx context.Context, group string, at time.Time, depth int, visited, found map[string]bool, said *notes) error {
	if visited[group] {
		return nil
	}
	visited[group] = true
	resource, err := a.c.Upstream.Read(ctx, "Group", group)
	if err != nil {
		if depth > 0 && errors.Is(err, upstream.ErrNotFound) {
			said.add(jobs.SeverityError, fhir.IssueNotFound, "Group: a group that is a member of the requested group does not exist on the upstream; its patients are missing.")
			return nil
		}
		if errors.Is(err, upstream.ErrNotFound) {
			return &jobs.UnitError{Permanent: true, Reason: noGroup}
		}
		return err
	}
	if !a.allowed.Group().Admits("Group", resource, a.allowed.Unchecked) {
		if depth > 0 {
			said.add(jobs.SeverityError, fhir.IssueForbidden, "Group: a group that is a member of the requested group may not be read with the scopes of this export; its patients are missing.")
			return nil
		}
		return &jobs.UnitError{Permanent: true, Reason: noGroup}
	}
	list, _, err := fhir.ReadGroup(resource)
	if err != nil {
		return &jobs.UnitError{Permanent: true, Err: err, Reason: "read Group: the upstream's answer is not a readable Group resource."}
	}
	others := 0
	for _, m := range list {
		if m.Inactive || !m.Start.IsZero() && m.Start.After(at) || !m.End.IsZero() && m.End.Before(at) {
			continue
		}
		switch m.Type {
		case "Patient":
			if fhir.ValidID(m.ID) {
				found[m.ID] = true
			}
		case "Group":
			if depth == maxNesting {
				said.add(jobs.SeverityError, fhir.IssueTooCostly, "Group: groups are nested more than %d deep; what lies deeper is missing.", maxNesting)
				continue
			}
			if err := a.members(ctx, m.ID, at, depth+1, visited, found, said); err != nil {
				return err
			}
		default:
			others++
		}
	}
	if others > 0 {
		said.add(jobs.SeverityInformation, fhir.IssueInformational, "Group: %d members are not patients or groups of this server and were passed over.", others)
	}
	return nil
}
