package export

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"spillway/upstream"
	"spillway/upstream/fhir"
)

// A change is what is known of a resource that changed at or after some instant.
type change struct {
	// after are the ids of its versions from then on, in which it was made,
	// changed or deleted.
	after    []string
	exported bool // a version of it is in the export
	before   bool // all of that was before the transaction time, but after _until
}

// made reports whether the resource was made from then on, so that there is no
// earlier version.
func (c *change) made() bool {
	for _, v := range c.after {
		if v == "1" {
			return true
		}
	}
	return false
}

// includes reports whether a version is one of those, or a later one.
func (c *change) includes(version string) bool {
	n := versionNumber(version)
	for _, v := range c.after {
		if v == version || n >= versionNumber(v) && n < math.MaxInt64 {
			return true
		}
	}
	return false
}

// versionNumber orders versions where they are numbers; others are equal, and
// greater than all numbers.
func versionNumber(version string) int64 {
	if n, err := strconv.ParseInt(version, 10, 64); err == nil {
		return n
	}
	return math.MaxInt64
}

// changes are changes by type and id.
type changes map[string]map[string]*change

func (c changes) add(typ, id, version string) {
	found := c[typ][id]
	if found == nil {
		found = &change{}
		c.put(typ, id, found)
	}
	found.after = append(found.after, version)
}

// put adds a change.
func (c changes) put(typ, id string, found *change) {
	if c[typ] == nil {
		c[typ] = make(map[string]*change)
	}
	c[typ][id] = found
}

// merge adds what a later look found and reports whether it is of a resource
// that had not changed before.
func (c changes) merge(typ, id string, found *change) bool {
	before := c[typ][id]
	if before == nil {
		c.put(typ, id, found)
		return true
	}
	for _, version := range found.after {
		if !slices.Contains(before.after, version) {
			before.after = append(before.after, version)
		}
	}
	return false
}

// An event is one entry of a history.
type event struct {
	typ, id, version string
	at               time.Time // zero where the upstream does not say, as HAPI of deletions
	deleted          bool
	resource         []byte // valid until the visitor returns; nil if deleted
}

// eventOf reads an entry of a history. Entries that name no resource are not ok.
func eventOf(entry *fhir.Entry) (event, bool) {
	e := event{deleted: entry.Resource == nil || entry.Request.Method == "DELETE", resource: entry.Resource}
	when := entry.Response.LastModified
	if entry.Resource != nil {
		e.typ, e.id, e.version = entry.Header.Type, entry.Header.ID, entry.Header.VersionID
		if entry.Header.LastUpdated != "" {
			when = entry.Header.LastUpdated
		}
	} else {
		var ok bool
		if e.typ, e.id, ok = fhir.ParseReference(entry.Request.URL); !ok {
			if e.typ, e.id, ok = fhir.ParseReference(entry.FullURL); !ok {
				return event{}, false
			}
		}
	}
	if e.version == "" {
		e.version = strings.Trim(strings.TrimPrefix(entry.Response.ETag, "W/"), `"`)
	}
	if _, v, found := strings.Cut(entry.Request.URL, "/_history/"); found && e.version == "" {
		e.version = v
	}
	if at, err := fhir.ParseDateTime(when); err == nil {
		e.at = at.Truncate(tick)
	}
	return e, fhir.ValidID(e.id)
}

// errChain says that a chain of pages did not lead to its end.
var errChain = errors.New("its pages lead in a circle, repeat themselves or do not end")

// follow reads a chain of pages to its end. read reads one and reports whether
// it brought anything that earlier ones had not. A chain whose next link has
// expired is begun again.
func follow(read func(next string) (page upstream.PageInfo, fresh bool, err error)) error {
	var (
		next            string
		seen            = newIDSet()
		restarts, stale int
	)
	for range maxPages {
		page, fresh, err := read(next)
		if next != "" && isGone(err) && restarts < maxRestarts {
			restarts++
			next, seen = "", newIDSet()
			continue
		}
		if err != nil {
			return err
		}
		if stale++; fresh || restarts > 0 {
			stale = 0
		}
		if page.Next == "" {
			return nil
		}
		if !seen.add(page.Next) || stale >= maxEmpty {
			return errChain
		}
		next = page.Next
	}
	return errChain
}

// hasHistory reports whether changes can be read from the upstream's history.
func (a *attempt) hasHistory() bool {
	return a.facts.SystemHistory == upstream.Works || a.facts.History == upstream.Works
}

// history calls visit for everything that happened to resources of the types
// at or after since, mostly the newest first, each once. Unread are types whose
// history the upstream refuses, though it gives that of others.
func (a *attempt) history(ctx context.Context, types map[string]bool, since time.Time, visit func(event) error) (unread []string, err error) {
	of := []string{""}
	if a.facts.SystemHistory != upstream.Works {
		of = of[:0]
		for typ := range types {
			of = append(of, typ)
		}
	}
	for _, typ := range of {
		known := newIDSet()
		err := follow(func(next string) (upstream.PageInfo, bool, error) {
			fresh := false
			page, err := a.c.Upstream.HistoryPage(ctx, upstream.History{Type: typ, Since: since}, next, func(entry *fhir.Entry) error {
				e, ok := eventOf(entry)
				if !ok {
					return nil
				}
				if !known.add(e.typ + "/" + e.id + "/" + e.version) {
					return nil
				}
				fresh = true
				if !types[e.typ] || !e.at.IsZero() && e.at.Before(since) {
					return nil
				}
				return visit(e)
			})
			return page, fresh, err
		})
		if err != nil && typ != "" && denied(err) {
			unread = append(unread, typ)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("export: history: %w", err)
		}
	}
	return unread, nil
}

// changesByHistory returns what changed at or after an instant.
func (a *attempt) changesByHistory(ctx context.Context, types map[string]bool, since time.Time) (found changes, unread []string, err error) {
	found = make(changes)
	unread, err = a.history(ctx, types, since, func(e event) error {
		found.add(e.typ, e.id, e.version)
		return nil
	})
	return found, unread, err
}

// changesBySearch returns what changed at or after an instant and still exists,
// of one type and filter.
func (a *attempt) changesBySearch(ctx context.Context, typ, query string, since time.Time, into changes) error {
	return follow(func(next string) (upstream.PageInfo, bool, error) {
		fresh := false
		page, err := a.c.Upstream.Page(ctx, upstream.Search{Type: typ, Query: query, From: since}, next, func(entry *fhir.Entry) error {
			h := entry.Header
			if h.Type != typ || !fhir.ValidID(h.ID) || entry.Mode == "include" || entry.Mode == "outcome" {
				return nil
			}
			if into[typ][h.ID] == nil {
				fresh = true
				into.add(typ, h.ID, h.VersionID)
			}
			return nil
		})
		return page, fresh, err
	})
}

// A state is what a resource was at some instant.
type state struct {
	known   bool
	version string
	deleted bool
	// resource is the version, or if deleted the last one before; nil if there was none.
	resource []byte
}

// stateBefore returns what a resource was before the changes of c, which began
// at the instant. A state that is not known could not be read. One that is known
// and has no version was no resource yet.
func (a *attempt) stateBefore(ctx context.Context, typ, id string, c *change, at time.Time) (state, error) {
	if was, err := a.versionBefore(ctx, typ, id, c, at); err != nil || was.known {
		return was, err
	}
	return a.listedBefore(ctx, typ, id, c, at)
}

// maxVersions is how many versions are looked at, one by one.
const maxVersions = 20

// versionBefore does so by reading the version before those of c, where
// versions are numbers. The history of a resource is no sure way: HAPI lists no
// more versions than it has counted a minute ago, so the oldest may be missing.
func (a *attempt) versionBefore(ctx context.Context, typ, id string, c *change, at time.Time) (state, error) {
	first := int64(math.MaxInt64)
	for _, v := range c.after {
		first = min(first, versionNumber(v))
	}
	if first == math.MaxInt64 {
		return state{}, nil
	}
	var was state
	for n := first - 1; n > 0 && n > first-maxVersions; n-- {
		version := strconv.FormatInt(n, 10)
		resource, err := a.c.Upstream.ReadVersion(ctx, typ, id, version)
		switch {
		case errors.Is(err, upstream.ErrGone):
			if !was.known {
				was = state{known: true, version: version, deleted: true}
			}
			continue
		case err != nil && denied(err):
			return state{}, nil
		case err != nil:
			return state{}, err
		}
		h, err := fhir.ReadHeader(resource)
		if err != nil {
			return state{}, malformed(typ, err)
		}
		changed, err := fhir.ParseDateTime(h.LastUpdated)
		switch {
		case err != nil || h.VersionID != version:
			return state{}, nil // not what was asked for
		case !changed.Truncate(tick).Before(at):
			was = state{}
			continue
		case !was.known:
			was = state{known: true, version: version}
		}
		was.resource = resource
		return was, nil
	}
	// Whatever there was, down to the first version, came later.
	was.known = was.known || first <= maxVersions
	return was, nil
}

// listedBefore does so by the history of the resource.
func (a *attempt) listedBefore(ctx context.Context, typ, id string, c *change, at time.Time) (state, error) {
	oldest := int64(math.MaxInt64)
	var best, last state // last: the last version that was not a deletion
	err := follow(func(next string) (upstream.PageInfo, bool, error) {
		fresh := false
		page, err := a.c.Upstream.HistoryPage(ctx, upstream.History{Type: typ, ID: id, Since: earliest()}, next, func(entry *fhir.Entry) error {
			e, ok := eventOf(entry)
			if !ok || e.typ != typ || e.id != id {
				return nil
			}
			fresh = true
			oldest = min(oldest, versionNumber(e.version))
			if !e.at.IsZero() && !e.at.Before(at) || c.includes(e.version) {
				if versionNumber(e.version) == math.MaxInt64 {
					best, last = state{}, state{} // newest first: what came before it in the list is later still
				}
				return nil
			}
			newer := func(than state) bool {
				return !than.known || versionNumber(e.version) < math.MaxInt64 && versionNumber(e.version) > versionNumber(than.version)
			}
			if newer(best) {
				best = state{known: true, version: e.version, deleted: e.deleted}
			}
			if !e.deleted && newer(last) {
				last = state{known: true, version: e.version, resource: append([]byte(nil), e.resource...)}
			}
			return nil
		})
		return page, fresh, err
	})
	switch {
	case errors.Is(err, errChain) || err != nil && denied(err):
		return state{}, nil
	case err != nil:
		return state{}, err
	}
	if !best.known && oldest > 1 && oldest < math.MaxInt64 {
		return state{}, nil // the list does not go back to the beginning
	}
	best.known, best.resource = true, last.resource
	return best, nil
}

// denied reports whether err says that the upstream will not do what it was
// asked for, so that another way must be found.
func denied(err error) bool {
	var request *upstream.RequestError
	return errors.As(err, &request) && !request.Temporary()
}
