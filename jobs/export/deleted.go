package export

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"spillway/jobs"
	"spillway/upstream/fhir"
)

// deleted lists what was deleted since _since, as of the end of the time asked
// for: one transaction Bundle a line, with one DELETE.
// Source: Bulk Data Access IG, Export, "Response - Output Manifest", deleted.
func (a *attempt) deleted(ctx context.Context) (jobs.Result, error) {
	account, err := a.account(ctx)
	if err != nil {
		return jobs.Result{}, err
	}
	d := &deletions{tailer: tailer{attempt: a, account: account}, types: account.exportTypes()}
	d.until = a.afterwards().From
	if u := a.job.Request.Until; !u.IsZero() && u.Before(a.job.TransactionTime) {
		d.until = u.Truncate(tick).Add(tick)
	}
	err = d.read(ctx)
	switch {
	case err != nil && (denied(err) || errors.Is(err, errChain)), !a.hasHistory():
		d.said.add(jobs.SeverityWarning, fhir.IssueNotSupported,
			"The upstream offers no history of changes that could be read, so this export cannot list what was deleted since _since.")
		d.found = nil
	case err != nil:
		return jobs.Result{}, err
	}
	out := a.newSegments(jobs.KindDeleted, "Bundle")
	d.out = append(d.out, out)
	defer out.abort()
	for _, planned := range account.plan.Types {
		if len(d.found[planned.Type]) == 0 || planned.Read.Part != "" {
			continue
		}
		if err := d.list(ctx, planned, out); err != nil {
			return jobs.Result{}, err
		}
	}
	return d.finished(ctx)
}

// deletions finds what was deleted and did not come back.
type deletions struct {
	tailer
	types map[string]bool
	until time.Time // later events do not count

	found     map[string]map[string]*deletion // by type and id
	unordered bool                            // the history was not newest first
}

// A deletion is a resource whose newest event seems to be that it was deleted.
type deletion struct {
	change            // what happened to it after the end
	versions []string // its deletions since _since
}

// read finds the resources whose last event before the end is a deletion, as
// far as the history tells in one reading.
func (d *deletions) read(ctx context.Context) error {
	d.found = make(map[string]map[string]*deletion)
	if !d.hasHistory() || len(d.types) == 0 {
		return nil
	}
	decided := newIDSet() // whose newest event has been seen
	var last time.Time
	unread, err := d.history(ctx, d.types, d.job.Request.Since.Truncate(tick), func(e event) error {
		if !e.at.IsZero() {
			d.unordered = d.unordered || !last.IsZero() && e.at.After(last) && e.at.Before(d.until)
			if last = e.at; !e.at.Before(d.until) {
				return nil
			}
		}
		newest := decided.add(e.typ + "/" + e.id)
		if !e.deleted {
			return nil
		}
		found := d.found[e.typ][e.id]
		if found == nil {
			if !newest && !d.unordered {
				return nil
			}
			if d.found[e.typ] == nil {
				d.found[e.typ] = make(map[string]*deletion)
			}
			found = &deletion{}
			d.found[e.typ][e.id] = found
		}
		found.versions = append(found.versions, e.version)
		return nil
	})
	if err != nil {
		return err
	}
	// A deletion need not say when it was, so a second reading, made later,
	// tells what came after the end.
	later, unreadLater, err := d.changesByHistory(ctx, d.types, d.until)
	if err != nil {
		return err
	}
	for _, typ := range append(unread, unreadLater...) {
		delete(d.found, typ)
		d.said.add(jobs.SeverityWarning, fhir.IssueNotSupported,
			"%s: the upstream offers no history of it, so this export cannot list what was deleted of it since _since.", typ)
	}
	for typ, ids := range d.found {
		for id := range ids {
			if c := later[typ][id]; c != nil {
				ids[id].change = *c
			}
		}
	}
	return nil
}

// list writes the deletions of one type.
func (d *deletions) list(ctx context.Context, planned plannedType, out *segments) error {
	ids := d.found[planned.Type]
	kept := int64(0)
	if err := d.eachExported(ctx, d.account, planned.Type, func(_ int, h fhir.Header, _ []byte) {
		if c := ids[h.ID]; c != nil {
			if len(c.after) == 0 && !d.unordered {
				kept++
			}
			delete(ids, h.ID)
		}
	}); err != nil {
		return err
	}
	if kept > 0 {
		d.said.add(jobs.SeverityWarning, fhir.IssueProcessing,
			"%s: %d resources were deleted by writes that the upstream made visible only after they had been read; they are in the output and not listed as deleted.", planned.Type, kept)
	}
	b, err := d.wholeBatch(ctx, planned.Read)
	if err != nil {
		return err
	}
	r := d.newReader(planned.Read, b, &d.said, nil)
	result := tailType{Type: planned.Type}
	unknown := 0
	names := make([]string, 0, len(ids))
	for id := range ids {
		names = append(names, id)
	}
	slices.SortFunc(names, strings.Compare)
	for _, id := range names {
		was, err := d.belonged(ctx, r, id, ids[id])
		switch {
		case err != nil:
			return err
		case was == belongsUnknown:
			unknown++
			continue
		case was == belongsNot:
			continue
		}
		result.Deleted++
		line := fmt.Sprintf(`{"resourceType":"Bundle","type":"transaction","entry":[{"request":{"method":"DELETE","url":"%s/%s"}}]}`, planned.Type, id)
		if err := out.writeLine(ctx, []byte(line)); err != nil {
			return err
		}
	}
	if unknown > 0 {
		d.said.add(jobs.SeverityWarning, fhir.IssueIncomplete,
			"%s: of %d deleted resources the upstream keeps no earlier version, so it could not be decided whether they belonged to this export; they are not listed as deleted.", planned.Type, unknown)
	}
	if result.Deleted > 0 {
		d.result.Types = append(d.result.Types, result)
		if len(filtersOf(d.job.Request, planned.Type)) > 0 {
			d.said.add(jobs.SeverityInformation, fhir.IssueInformational,
				"%s: the deletions listed are not restricted by _typeFilter, because the upstream cannot search what is deleted.", planned.Type)
		}
	}
	return nil
}

// belonging says whether a deletion belongs to the export.
type belonging int

const (
	belongs belonging = iota
	belongsNot
	belongsUnknown // the upstream keeps no version that would tell
)

// belonged decides it by the last version before the deletion, where more than
// the type must be known.
func (d *deletions) belonged(ctx context.Context, r *reader, id string, c *deletion) (belonging, error) {
	all := r.spec.Scope == scopeAll || r.spec.Scope == scopeCompartment && r.spec.Type == "Patient"
	free := d.allowed.Access(r.spec.Type).All
	if all && free && len(c.after) == 0 && !d.unordered {
		return belongs, nil
	}
	was, err := d.stateBefore(ctx, r.spec.Type, id, &c.change, d.until)
	switch {
	case err != nil:
		return 0, err
	case !was.known:
		return belongsUnknown, nil
	case !was.deleted || !slices.Contains(c.versions, was.version):
		return belongsNot, nil // it came back, was deleted after the end, or before _since
	case !free:
		if readable := d.readable(r.spec.Type, was.resource); readable != belongs {
			return readable, nil
		}
	}
	switch {
	case all:
		return belongs, nil
	case r.spec.Scope == scopeID:
		return belongsNot, nil // a group that is gone cannot be exported
	case r.spec.Type == "Patient":
		if r.batch.cohort.index(id) >= 0 {
			return belongs, nil
		}
		return belongsNot, nil
	case was.resource == nil:
		return belongsUnknown, nil
	}
	wanted, err := r.inScope(fhir.Header{Type: r.spec.Type, ID: id}, was.resource)
	if err != nil || wanted {
		return belongs, err
	}
	return belongsNot, nil
}

// readable says whether the last version of what was deleted is one that the
// client may read: only then it may learn the id.
func (d *deletions) readable(typ string, resource []byte) belonging {
	switch {
	case resource != nil && d.allowed.Access(typ).Admits(typ, resource, false):
		return belongs
	case resource == nil, !d.allowed.checked(typ):
		return belongsUnknown
	}
	return belongsNot
}
