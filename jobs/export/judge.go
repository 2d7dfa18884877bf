package export

import (
	"context"
	"maps"
	"net/url"
	"slices"

	scopes "spillway/auth/scope"
	"spillway/jobs"
	"spillway/upstream/fhir"
)

// verdict says whether a former version was what the filters find.
type verdict int

const (
	unsure verdict = iota
	yes
	no
)

// matchedThen says whether a former version of a resource was what the filters
// of its type find, where that can be told by looking at it. The upstream can be
// asked about newest versions only.
func (t *tailer) matchedThen(ctx context.Context, typ string, resource []byte) (verdict, error) {
	queries, err := t.judge(ctx, typ)
	if err != nil || len(queries) == 0 {
		return unsure, err
	}
	return judged(queries, typ, resource), nil
}

func judged(queries []scopes.Query, typ string, resource []byte) verdict {
	for _, q := range queries {
		switch ok, err := q.Matches(typ, resource); {
		case err != nil:
			return unsure
		case ok:
			return yes
		}
	}
	return no
}

// judge returns the filters of a type if all of them can be evaluated here, and
// if so everything matches that the upstream has found by them: it may see them
// in another way, such as without regard to case.
func (t *tailer) judge(ctx context.Context, typ string) ([]scopes.Query, error) {
	t.judging.Lock()
	defer t.judging.Unlock()
	if queries, done := t.judges[typ]; done {
		return queries, nil
	}
	queries := evaluable(typ, filtersOf(t.job.Request, typ))
	if !t.allowed.checked(typ) || elementsOf(t.job.Request, typ) != nil {
		queries = nil
	}
	if len(queries) > 0 {
		agrees, found := true, false
		if err := t.eachExported(ctx, t.account, typ, func(_ int, _ fhir.Header, line []byte) {
			found = true
			agrees = agrees && judged(queries, typ, line) == yes
		}); err != nil {
			return nil, err
		}
		if !agrees || !found {
			queries = nil
		}
	}
	if t.judges == nil {
		t.judges = make(map[string][]scopes.Query)
	}
	t.judges[typ] = queries
	return queries, nil
}

// sayUnmatched says what the upstream returned though the filters do not find it.
// Nobody but the upstream knows for sure what they mean, so it is not left out.
func (t *tailer) sayUnmatched() {
	unmatched := make(map[string]int64)
	for _, u := range t.account.units {
		if u.summary != nil && u.summary.Unmatched > 0 {
			unmatched[u.Type] += u.summary.Unmatched
		}
	}
	for _, typ := range slices.Sorted(maps.Keys(unmatched)) {
		t.said.add(jobs.SeverityError, fhir.IssueProcessing,
			"%s: %d resources of this export do not match its _typeFilter as it is understood here, though the upstream returned them; it may ignore the filter.", typ, unmatched[typ])
	}
}

// evaluable returns filters as queries, or none if one cannot be evaluated.
func evaluable(typ string, filters []string) []scopes.Query {
	var queries []scopes.Query
	for _, filter := range filters {
		values, err := url.ParseQuery(filter)
		if err != nil || len(values) == 0 {
			return nil
		}
		var q scopes.Query
		for name, all := range values {
			for _, value := range all {
				q = append(q, scopes.Param{Name: name, Value: value})
			}
		}
		if !q.Checkable(typ) || slices.ContainsFunc(q, func(p scopes.Param) bool { return p.Value == "" }) {
			return nil
		}
		queries = append(queries, q)
	}
	return queries
}
