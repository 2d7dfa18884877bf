package export

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"spillway/jobs"
)

// finish gathers the evidence and groups all segments into files.
func (a *attempt) finish(ctx context.Context) (jobs.Result, error) {
	account, err := a.account(ctx)
	if err != nil {
		return jobs.Result{}, err
	}
	if account.plan.Refused > 0 && account.plan.Searched == 0 {
		return jobs.Result{}, &jobs.UnitError{Permanent: true, Reason: "Nothing could be exported. " + account.plan.Refusal}
	}
	var found []jobs.Segment
	evidence := make(map[string]*jobs.Evidence)
	of := func(typ string) *jobs.Evidence {
		if evidence[typ] == nil {
			evidence[typ] = &jobs.Evidence{Type: typ, Proven: true}
		}
		return evidence[typ]
	}
	for _, u := range account.units {
		found = append(found, u.segments...)
		if s := u.summary; s != nil {
			e := of(s.Type)
			if e.Counted >= 0 {
				e.Counted += s.Counted
			}
			if s.Counted < 0 {
				e.Counted = -1
			}
			e.Exported += s.Exported
			e.Proven = e.Proven && s.Proven
		}
	}
	for _, t := range account.tail.Types {
		e := of(t.Type)
		e.Exported += t.Past + t.Newer + t.Late
		e.Late += t.Late
		e.Tail += t.Past + t.Newer
		e.Newer += t.Newer
		e.Deleted += t.Deleted
		e.Proven = e.Proven && !t.Unproven
	}
	result := jobs.Result{Files: groupFiles(found, a.c.FileSize)}
	if err := a.compose(ctx, result.Files); err != nil {
		return jobs.Result{}, err
	}
	for _, typ := range slices.Sorted(maps.Keys(evidence)) {
		result.Evidence = append(result.Evidence, *evidence[typ])
	}
	return result, nil
}

// groupFiles puts segments of one kind and type together, in order, until a
// file reaches size bytes. Output comes first, outcome last.
func groupFiles(found []jobs.Segment, size int64) []jobs.File {
	rank := map[jobs.FileKind]int{jobs.KindOutput: 0, jobs.KindDeleted: 1, jobs.KindOutcome: 2}
	slices.SortStableFunc(found, func(x, y jobs.Segment) int {
		if x.Kind != y.Kind {
			return rank[x.Kind] - rank[y.Kind]
		}
		return strings.Compare(x.Type, y.Type)
	})
	var files []jobs.File
	for _, s := range found {
		if n := len(files); n == 0 || files[n-1].Kind != s.Kind || files[n-1].Type != s.Type || files[n-1].Size >= size {
			files = append(files, jobs.File{Name: fmt.Sprintf("%d.%s.ndjson", n+1, s.Type), Kind: s.Kind, Type: s.Type})
		}
		f := &files[len(files)-1]
		f.Count += s.Count
		f.Size += s.Size
		f.Segments = append(f.Segments, s)
	}
	return files
}
