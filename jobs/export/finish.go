package export

import (
	"cmp"
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
	where, err := a.locate(ctx, found)
	if err != nil {
		return jobs.Result{}, err
	}
	result := jobs.Result{Files: groupFiles(found, a.c.FileSize, where)}
	if err := a.compose(ctx, result.Files); err != nil {
		return jobs.Result{}, err
	}
	for _, typ := range slices.Sorted(maps.Keys(evidence)) {
		result.Evidence = append(result.Evidence, *evidence[typ])
	}
	return result, nil
}

// joinBelow is up to which size the segments of a type become one file wherever
// they lie: to copy so little costs less than it is worth.
const joinBelow = 128 << 20

// A location is where a segment lies in the storage.
type location struct {
	file   string
	offset int64
}

// locate says where segments lie; nil if each is a file of its own.
func (a *attempt) locate(ctx context.Context, found []jobs.Segment) (map[string]location, error) {
	if a.c.Locate == nil {
		return nil, nil
	}
	where := make(map[string]location, len(found))
	for _, s := range found {
		file, offset, err := a.c.Locate(ctx, s.Key)
		if err != nil {
			return nil, unwritten("looking for a segment", err)
		}
		where[s.Key] = location{file, offset}
	}
	return where, nil
}

// groupFiles puts segments of one kind and type together, in order, until a
// file reaches size bytes; or those that lie together already. Output comes
// first, outcome last.
func groupFiles(found []jobs.Segment, size int64, where map[string]location) []jobs.File {
	rank := map[jobs.FileKind]int{jobs.KindOutput: 0, jobs.KindDeleted: 1, jobs.KindOutcome: 2}
	order := func(x, y jobs.Segment) int {
		return cmp.Or(rank[x.Kind]-rank[y.Kind], strings.Compare(x.Type, y.Type))
	}
	slices.SortStableFunc(found, order)
	var files []jobs.File
	for len(found) > 0 {
		n := slices.IndexFunc(found, func(s jobs.Segment) bool { return order(s, found[0]) != 0 })
		if n < 0 {
			n = len(found)
		}
		same := found[:n]
		found = found[n:]
		together := arrange(same, where)
		for i, s := range same {
			full := i > 0 && files[len(files)-1].Size >= size
			if together {
				full = i > 0 && where[s.Key].file != where[same[i-1].Key].file
			}
			if i == 0 || full {
				files = append(files, jobs.File{Name: fmt.Sprintf("%d.%s.ndjson", len(files)+1, s.Type), Kind: s.Kind, Type: s.Type})
			}
			f := &files[len(files)-1]
			f.Count += s.Count
			f.Size += s.Size
			f.Segments = append(f.Segments, s)
		}
	}
	return files
}

// arrange puts segments in the order in which they lie in the storage, if it is
// worth while to leave them there, and reports whether it is.
func arrange(same []jobs.Segment, where map[string]location) bool {
	var size int64
	in := make(map[string]bool)
	for _, s := range same {
		size += s.StoredSize
		in[where[s.Key].file] = true
	}
	if where == nil || size < joinBelow || 2*len(in) > len(same) {
		return false
	}
	slices.SortFunc(same, func(x, y jobs.Segment) int {
		a, b := where[x.Key], where[y.Key]
		return cmp.Or(strings.Compare(a.file, b.file), cmp.Compare(a.offset, b.offset))
	})
	return true
}
