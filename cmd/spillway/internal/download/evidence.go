package download

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"spillway/jobs"
)

// prove compares the evidence of the manifest with what is there, and gathers
// what is not proven.
func (v *verifier) prove(m *Manifest) {
	if m.Evidence == nil {
		v.unproven("The manifest has no evidence: nothing says that the export itself is complete.")
		return
	}
	exact := everything(m)
	of := make(map[string]jobs.Evidence)
	var deleted int64
	var uncounted []string
	for _, e := range m.Evidence {
		if _, twice := of[e.Type]; twice {
			v.bad("the evidence names %s twice", safeName([]byte(e.Type)))
		}
		of[e.Type] = e
		deleted += e.Deleted
		if v.weigh(e, exact); e.Counted < 0 && !e.Proven {
			uncounted = append(uncounted, safeName([]byte(e.Type)))
		}
	}
	if len(uncounted) > 0 {
		v.unproven("The server gave no usable count of %s.", strings.Join(uncounted, ", "))
	}
	for _, typ := range slices.Sorted(maps.Keys(v.types)) {
		e, known := of[typ]
		switch n := v.types[typ]; {
		case !known:
			v.bad("the evidence says nothing of %s, of which there are %d lines", safeName([]byte(typ)), n)
		case e.Exported != n:
			v.bad("%s: the evidence says that %d were exported, and %d lines are there", safeName([]byte(typ)), e.Exported, n)
		}
		delete(of, typ)
	}
	for _, typ := range slices.Sorted(maps.Keys(of)) {
		if n := of[typ].Exported; n != 0 {
			v.bad("%s: the evidence says that %d were exported, and none is there", safeName([]byte(typ)), n)
		}
	}
	if deleted != v.deletions {
		v.bad("the evidence says that %d deletions are listed, and %d are there", deleted, v.deletions)
	}
}

// weigh looks at what is said of one type by itself. exact says that what was
// counted is what was asked for.
func (v *verifier) weigh(e jobs.Evidence, exact bool) {
	typ := safeName([]byte(e.Type))
	if e.Counted < -1 || e.Exported < 0 || e.Late < 0 || e.Tail < 0 || e.Newer < 0 || e.Deleted < 0 ||
		e.Late+e.Tail > e.Exported || e.Newer > e.Tail {
		v.bad("%s: the numbers of the evidence contradict each other", typ)
		return
	}
	switch most := e.Counted + e.Late + e.Tail; {
	case e.Counted < 0 && e.Proven:
		v.bad("%s: the evidence says that it is proven, without a count", typ)
	case e.Counted >= 0 && !e.Proven:
		v.unproven("%s: the server counted %d, and %d were exported; the difference could not be explained.", typ, e.Counted, e.Exported)
	case e.Counted >= 0 && e.Exported > most:
		v.bad("%s: %d were exported, but only %d counted, with %d late and %d from the tail", typ, e.Exported, e.Counted, e.Late, e.Tail)
	case exact && e.Exported < e.Counted:
		v.unproven("%s: the server counted %d, of which %d are not here: they changed or went before they could be read, or several filters found them.", typ, e.Counted, e.Counted-e.Exported)
	}
}

// everything reports whether the export is of all resources of its types: then
// nothing that was counted is left out.
func everything(m *Manifest) bool {
	path := strings.TrimSuffix(m.Request.Path, "/")
	rest, ok := strings.CutSuffix(path, "/$export")
	parts := strings.Split(rest, "/")
	n := len(parts)
	ok = ok && parts[n-1] != "Patient" && (n < 2 || parts[n-2] != "Group")
	query := m.Request.Query()
	return ok && !query.Has("_typeFilter") && !query.Has("patient") && !query.Has("includeAssociatedData")
}

func (v *verifier) bad(format string, args ...any) { v.found.add(BadProof, "", 0, format, args...) }

func (v *verifier) unproven(format string, args ...any) {
	v.report.Unproven = append(v.report.Unproven, fmt.Sprintf(format, args...))
}

// look is how often the progress is told.
const look = 100 * time.Millisecond

// watch tells the progress until ctx ends.
func (v *verifier) watch(ctx context.Context, total int64) {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			v.options.Progress(min(v.stored.Load(), total), total)
		}
	}
}
