package export

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"

	scopes "spillway/auth/scope"
	"spillway/jobs"
	"spillway/upstream"
	"spillway/upstream/fhir"
)

// allowance is what a job may read, as it was fixed at kick-off. Searches are
// restricted to it, and what they find is looked at again: an upstream may
// ignore a parameter. What must not be read is counted and never written.
type allowance struct {
	scopes.Snapshot

	mu     sync.Mutex
	denied map[string]int64 // by type, resources that searches found against what was asked
}

// allowanceOf reads it from the job. A job without one may read nothing.
func allowanceOf(j *jobs.Job) (*allowance, error) {
	snapshot, err := scopes.ReadSnapshot(j.Authorization)
	if err != nil {
		return nil, &jobs.UnitError{Permanent: true, Err: err, Reason: "This export has no readable record of what its client may read, so nothing is read; start it again."}
	}
	return &allowance{Snapshot: snapshot}, nil
}

// admits reports whether a resource may be read.
func (a *allowance) admits(typ string, resource []byte) bool {
	return a.Access(typ).Admits(typ, resource, a.Unchecked)
}

// checked reports whether all that may be read of a type can be told by
// looking at a resource.
func (a *allowance) checked(typ string) bool {
	access := a.Access(typ)
	return access.All || !slices.ContainsFunc(access.Any, func(q scopes.Query) bool { return !q.Checkable(typ) })
}

// deny counts a resource that was found and may not be read.
func (a *attempt) deny(typ string) {
	a.metrics.denied.WithLabelValues(typeLabel(typ)).Inc()
	a.allowed.mu.Lock()
	defer a.allowed.mu.Unlock()
	if a.allowed.denied == nil {
		a.allowed.denied = make(map[string]int64)
	}
	a.allowed.denied[typ]++
}

// tell says what was counted.
func (a *allowance) tell(n *notes) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, typ := range slices.Sorted(maps.Keys(a.denied)) {
		n.add(jobs.SeverityError, fhir.IssueForbidden,
			"%s: the upstream returned %d resources that the scopes of this export do not allow, though the searches were restricted to them; they were left out.", typ, a.denied[typ])
	}
	a.denied = nil
}

// searches returns the queries that together find what is asked for of a type
// and may be read, each with what the upstream wants in it; there is at least one.
func (a *attempt) searches(typ string) ([]string, error) {
	queries, err := a.permitted(typ)
	var all []string
	for _, query := range queries {
		all = append(all, withRequired(query, a.facts.Rule(typ).With)...)
	}
	return all, err
}

// permitted returns them without what the upstream wants.
func (a *attempt) permitted(typ string) ([]string, error) {
	queries, err := a.allowed.Access(typ).Searches(filtersOf(a.job.Request, typ))
	if err == nil && len(queries) == 0 {
		err = scopes.ErrNoSnapshot
	}
	if err != nil {
		return nil, &jobs.UnitError{Permanent: true, Err: err, Reason: fmt.Sprintf(
			"%s: the scopes of this export and its _typeFilter make no search that could be made: %v.", typ, err)}
	}
	return queries, nil
}

// enforced asks whether the upstream applies the parameters of scopes that
// nobody looks at here: no resource has a value that was made up just now. What
// is ignored would let everything through.
func (a *attempt) enforced(ctx context.Context) error {
	types, _ := a.allowed.Names()
	for _, typ := range types {
		asked := make(map[string]bool)
		for _, query := range a.allowed.Access(typ).Any {
			for _, parameter := range query {
				if query.Checkable(typ) || asked[parameter.Name] {
					continue
				}
				asked[parameter.Name] = true
				if err := a.applies(ctx, typ, parameter.Name); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// applies asks whether the upstream applies one parameter. That it refuses the
// value shows that it does.
func (a *attempt) applies(ctx context.Context, typ, parameter string) error {
	s := upstream.Search{Type: typ, Query: url.QueryEscape(parameter) + "=none-" + strings.ToLower(rand.Text()), Limit: 1}
	_, err := a.c.Upstream.Page(ctx, s, "", func(entry *fhir.Entry) error {
		if entry.Mode != "include" && entry.Mode != "outcome" && entry.Header.Type != "OperationOutcome" {
			return errSeen
		}
		return nil
	})
	switch {
	case errors.Is(err, errSeen):
		return &jobs.UnitError{Permanent: true, Reason: fmt.Sprintf(
			"search %s: the upstream ignores the parameter %s, on which the scopes of this export rely; nothing was handed out.", typ, parameter)}
	case err != nil && refused(err):
		return nil
	}
	return err
}
