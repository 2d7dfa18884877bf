package fakefhir

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// version is one version of a resource, or its deletion. It is immutable, but
// for the index of its search values, which is made when first needed.
type version struct {
	typ, id string
	num     int    // versionId, from 1
	updated int64  // Unix milliseconds
	method  string // POST, PUT or DELETE
	raw     []byte // compact JSON; nil if deleted
	index   atomic.Pointer[index]
}

func (v *version) deleted() bool { return v.raw == nil }

// resource is v as callers of the package see it.
func (v *version) resource() Resource {
	return Resource{
		VersionID:   fmt.Sprint(v.num),
		LastUpdated: time.UnixMilli(v.updated).UTC(),
		Deleted:     v.deleted(),
		JSON:        v.raw,
	}
}

// record is a resource through time. Its current version may be read without
// a lock, so that pages show what is current when they are written.
type record struct {
	n        int // place in the table
	current  atomic.Pointer[version]
	versions []*version // oldest first; under store.mu
}

// table holds the resources of one type in the order of their creation.
type table struct {
	byID  map[string]*record
	order []*record
	refs  references // made when first needed
}

// store holds all resources in memory.
type store struct {
	mu     sync.RWMutex
	tables map[string]*table
	log    []*version // every version in the order of commits
}

func newStore(d *Dataset) *store {
	s := &store{tables: map[string]*table{}}
	if d != nil {
		for _, v := range d.log {
			s.add(v)
		}
	}
	return s
}

// add appends a version. The caller holds the lock.
func (s *store) add(v *version) {
	t := s.tables[v.typ]
	if t == nil {
		t = &table{byID: map[string]*record{}}
		s.tables[v.typ] = t
	}
	r := t.byID[v.id]
	if r == nil {
		r = &record{n: len(t.order)}
		t.byID[v.id] = r
		t.order = append(t.order, r)
	}
	r.versions = append(r.versions, v)
	r.current.Store(v)
	t.refs.add(r, v)
	s.log = append(s.log, v)
}

// find is the record of a resource, nil if it never existed. The caller holds
// the lock, at least for reading.
func (s *store) find(typ, id string) *record {
	if t := s.tables[typ]; t != nil {
		return t.byID[id]
	}
	return nil
}

// records are all records of a type. The caller holds the lock, at least for
// reading.
func (s *store) records(typ string) []*record {
	if t := s.tables[typ]; t != nil {
		return t.order
	}
	return nil
}

// current is the newest version of a resource, nil if it never existed.
func (s *store) current(typ, id string) *version {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if r := s.find(typ, id); r != nil {
		return r.current.Load()
	}
	return nil
}

// versions are all versions of a resource, oldest first.
func (s *store) versions(typ, id string) []*version {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if r := s.find(typ, id); r != nil {
		return slices.Clone(r.versions)
	}
	return nil
}

// Tx is a set of writes with one timestamp. It is not safe for concurrent use.
type Tx struct {
	store *store
	stamp int64
	ops   []op
}

type op struct {
	method, typ, id string
	resource        []member
}

// Put adds a create or update. The JSON must be an object of that type.
func (t *Tx) Put(typ, id string, json []byte) error { return t.put("PUT", typ, id, json) }

func (t *Tx) put(method, typ, id string, json []byte) error {
	if typeParams[typ] == nil {
		return fmt.Errorf("put: unknown type %q", typ)
	}
	json, err := compact(json)
	if err != nil {
		return fmt.Errorf("put %s: %w", typ, err)
	}
	ms, err := members(json)
	if err != nil {
		return fmt.Errorf("put %s: %w", typ, err)
	}
	if got := text(ms, "resourceType"); got != typ {
		return fmt.Errorf("put %s: resourceType is %q", typ, got)
	}
	if meta := lookup(ms, "meta"); meta != nil {
		if _, err := members(meta); err != nil {
			return fmt.Errorf("put %s: meta: %w", typ, err)
		}
	}
	t.ops = append(t.ops, op{method, typ, id, ms})
	return nil
}

// Delete adds a deletion. It does nothing if there is no such resource.
func (t *Tx) Delete(typ, id string) { t.ops = append(t.ops, op{method: "DELETE", typ: typ, id: id}) }

// Commit makes all of it visible at once. Its result has one resource for
// each write, in their order; a deletion of nothing is the zero Resource.
func (t *Tx) Commit() []Resource {
	var out []Resource
	for _, v := range t.commit() {
		if v == nil {
			out = append(out, Resource{})
			continue
		}
		out = append(out, v.resource())
	}
	return out
}

func (t *Tx) commit() []*version {
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	out := make([]*version, len(t.ops))
	for i, o := range t.ops {
		v := &version{typ: o.typ, id: o.id, num: 1, updated: t.stamp, method: o.method}
		r := t.store.find(o.typ, o.id)
		if r != nil {
			v.num = len(r.versions) + 1
		}
		if o.method == "DELETE" {
			if r == nil || r.current.Load().deleted() {
				continue
			}
		} else {
			v.raw, _ = stamp(o.resource, o.typ, o.id, v.num, t.stamp) // put has checked meta
		}
		t.store.add(v)
		out[i] = v
	}
	t.ops = nil
	return out
}
