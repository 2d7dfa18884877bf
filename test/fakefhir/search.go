package fakefhir

import (
	"cmp"
	"slices"
)

// rows is the outcome of a search: a list of ids, of which pages show what is
// current when they are asked for.
type rows interface {
	len() int
	appendID(dst []byte, i int) []byte
	// appendResource appends the JSON of row i. ok is false if the resource
	// has gone since the search.
	appendResource(dst []byte, i int) (_ []byte, ok bool)
}

// storeRows are rows of the store.
type storeRows []*record

func (r storeRows) len() int { return len(r) }

func (r storeRows) appendID(dst []byte, i int) []byte {
	return append(dst, r[i].current.Load().id...)
}

func (r storeRows) appendResource(dst []byte, i int) ([]byte, bool) {
	v := r[i].current.Load()
	return append(dst, v.raw...), !v.deleted()
}

// search runs a query, at most limit rows; 0 is no limit.
func (s *Server) search(q *query, limit int) rows {
	if s.bulk(q.typ) {
		return s.o.Bulk.search(q, limit)
	}
	s.store.mu.RLock()
	defer s.store.mu.RUnlock()
	found := s.store.scan(q)
	if limit > 0 && len(found) > limit {
		found = found[:limit]
	}
	return storeRows(found)
}

// scan finds the records that match now, sorted. The caller holds the lock.
func (s *store) scan(q *query) []*record {
	candidates := s.records(q.typ)
	if q.ids != nil {
		candidates = nil
		for _, id := range q.ids {
			if r := s.find(q.typ, id); r != nil && !slices.Contains(candidates, r) {
				candidates = append(candidates, r)
			}
		}
	}
	if q.ids == nil && len(q.refs) > 0 && len(candidates) > 0 {
		candidates = s.tables[q.typ].refs.find(candidates, q.refs[0])
	}
	pointed := make([]map[string]bool, len(q.has))
	for i, h := range q.has {
		pointed[i] = s.references(h)
	}
	var found []*record
	for _, r := range candidates {
		if v := r.current.Load(); !v.deleted() && q.matches(v, pointed) {
			found = append(found, r)
		}
	}
	q.order(found)
	return found
}

func (q *query) matches(v *version, pointed []map[string]bool) bool {
	if v.updated < q.window.lo || v.updated >= q.window.hi {
		return false
	}
	for _, p := range pointed {
		if !p[v.typ+"/"+v.id] {
			return false
		}
	}
	for _, c := range q.match {
		if !c(v) {
			return false
		}
	}
	return true
}

// references are the targets that the inner query's resources point to.
func (s *store) references(h hasClause) map[string]bool {
	targets := map[string]bool{}
	for _, r := range s.scan(h.inner) {
		for _, v := range r.current.Load().values(h.reference) {
			targets[v.text] = true
		}
	}
	return targets
}

// order sorts by _sort; ties, and everything without _sort, stay in the order
// of creation. Resources without the value come last.
func (q *query) order(found []*record) {
	if len(q.sort) == 0 {
		return
	}
	slices.SortStableFunc(found, func(a, b *record) int {
		va, vb := a.current.Load(), b.current.Load()
		for _, k := range q.sort {
			if c := k.compare(va, vb); c != 0 {
				return c
			}
		}
		return 0
	})
}

func (k sortKey) compare(a, b *version) int {
	var c int
	switch {
	case k.p == nil:
		c = cmp.Compare(a.updated, b.updated)
	case k.p.name == "_id":
		c = cmp.Compare(a.id, b.id)
	default:
		da, db := a.values(k.p), b.values(k.p)
		if len(da) == 0 || len(db) == 0 {
			return cmp.Compare(len(db), len(da))
		}
		c = cmp.Compare(da[0].when.lo, db[0].when.lo)
	}
	if k.desc {
		return -c
	}
	return c
}
