package export

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"spillway/jobs"
	"spillway/upstream"
	"spillway/upstream/fhir"
)

// finish compares what the windows proved with the counts of whole types,
// writes the last notes and groups all segments into files.
func (a *attempt) finish(ctx context.Context) (jobs.Result, error) {
	done, err := a.c.Jobs.Done(ctx, a.job.ID)
	if err != nil {
		return jobs.Result{}, err
	}
	var (
		said     notes
		planned  planSummary
		found    []jobs.Segment
		evidence = make(map[string]*jobs.Evidence)
		read     = make(map[string]int64)
	)
	// The order of units, not of their completion, decides the order of lines.
	slices.SortFunc(done, func(x, y jobs.Done) int { return strings.Compare(x.Unit.ID, y.Unit.ID) })
	for _, d := range done {
		found = append(found, d.Result.Segments...)
		switch d.Unit.Kind {
		case jobs.UnitPlan:
			if d.Result.Summary == nil {
				continue // the root
			}
			var s planSummary
			if err := json.Unmarshal(d.Result.Summary, &s); err != nil {
				return jobs.Result{}, fmt.Errorf("export: summary of %s: %w", d.Unit.ID, err)
			}
			planned.Types = append(planned.Types, s.Types...)
			planned.Searched += s.Searched
			planned.Refused += s.Refused
			if s.Refusal != "" {
				planned.Refusal = s.Refusal
			}
		case jobs.UnitSlice, jobs.UnitAssociated:
			if d.Result.Summary == nil {
				continue // it was cut into others
			}
			var s readSummary
			if err := json.Unmarshal(d.Result.Summary, &s); err != nil {
				return jobs.Result{}, fmt.Errorf("export: summary of %s: %w", d.Unit.ID, err)
			}
			read[s.Type] += s.Read
			addEvidence(evidence, s)
		}
	}
	if planned.Refused > 0 && planned.Searched == 0 {
		return jobs.Result{}, &jobs.UnitError{Permanent: true, Reason: "Nothing could be exported. " + planned.Refusal}
	}
	for _, t := range planned.Types {
		if err := a.reconcile(ctx, t, read[t.Type], evidence, &said); err != nil {
			return jobs.Result{}, err
		}
	}
	outcome, err := said.write(ctx, a)
	if err != nil {
		return jobs.Result{}, err
	}
	result := jobs.Result{Segments: outcome, Files: groupFiles(append(found, outcome...), a.c.FileSize)}
	if err := a.compose(ctx, result.Files); err != nil {
		return jobs.Result{}, err
	}
	for _, typ := range slices.Sorted(maps.Keys(evidence)) {
		result.Evidence = append(result.Evidence, *evidence[typ])
	}
	return result, nil
}

func addEvidence(all map[string]*jobs.Evidence, s readSummary) {
	e := all[s.Type]
	if e == nil {
		e = &jobs.Evidence{Type: s.Type, Proven: true}
		all[s.Type] = e
	}
	if e.Counted >= 0 {
		e.Counted += s.Counted
	}
	if s.Counted < 0 {
		e.Counted = -1
	}
	e.Exported += s.Exported
	e.Proven = e.Proven && s.Proven
}

// reconcile counts a type once more where its windows, each proven, hold less
// than the plan had counted. What changed or went meanwhile lowers the count as
// well; what remains is missing.
func (a *attempt) reconcile(ctx context.Context, t plannedType, read int64, evidence map[string]*jobs.Evidence, said *notes) error {
	e := evidence[t.Type]
	if !t.Recount || e == nil || !e.Proven || read >= t.Counted {
		return nil
	}
	r := a.newReader(t.Read, nil, said, nil)
	now, err := r.count(ctx, windowSpec{From: t.Read.Since, To: t.Read.Until})
	var request *upstream.RequestError
	if errors.As(err, &request) && !request.Temporary() {
		now, err = -1, nil
	}
	if err != nil {
		return err
	}
	if now >= 0 && now <= read {
		said.add(jobs.SeverityInformation, fhir.IssueInformational,
			"%s: %d resources changed or were deleted while this export ran and are not in it; an export with _since set to this one's transactionTime has those that changed.",
			t.Type, t.Counted-read)
		return nil
	}
	e.Proven = false
	said.add(jobs.SeverityError, fhir.IssueIncomplete,
		"%s: the upstream counted %d when the export was planned and %d at its end, but its windows held only %d; %d may be missing from this export.",
		t.Type, t.Counted, now, read, max(now, t.Counted)-read)
	return nil
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
