package fakefhir

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
)

// Server is a fake FHIR R4 server. All methods may be called at any time.
type Server struct {
	o       Options
	d       dialect
	store   *store
	results *results
	script  *script
	journal *journal
	buffers sync.Pool // *[]byte, for pages
	zippers sync.Pool // *gzip.Writer
}

// New builds a server. It starts nothing.
func New(o Options) *Server {
	o.Path = "/" + strings.Trim(o.Path, "/")
	if o.Path == "/" && !o.AtRoot {
		o.Path = "/fhir"
	}
	if o.AtRoot {
		o.Path = ""
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	d := o.speak()
	if o.PageMax <= 0 {
		o.PageMax = 1000
	}
	if o.PageDefault <= 0 {
		o.PageDefault = min(20, o.PageMax)
	}
	o.URL = strings.TrimSuffix(o.URL, "/")
	o.Alias = strings.TrimSuffix(o.Alias, "/")
	return &Server{
		o:       o,
		d:       d,
		store:   newStore(o.Dataset),
		results: newResults(o.ResultTTL, o.ResultCache),
		script:  newScript(),
		journal: &journal{},
		buffers: sync.Pool{New: func() any { return new([]byte) }},
		zippers: sync.Pool{New: func() any {
			z, _ := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed) // a known level
			return z
		}},
	}
}

// bulk says whether a type is served from Options.Bulk.
func (s *Server) bulk(typ string) bool { return s.o.Bulk != nil && typ == bulkType }

// Now is the server's clock: Options.Now plus Options.Offset.
func (s *Server) Now() time.Time { return s.o.Now().Add(s.o.Offset) }

// Put creates or updates a resource, stamped now.
func (s *Server) Put(typ, id string, json []byte) (Resource, error) {
	t := s.Begin()
	if err := t.Put(typ, id, json); err != nil {
		return Resource{}, err
	}
	return t.Commit()[0], nil
}

// Delete deletes a resource, if it exists.
func (s *Server) Delete(typ, id string) {
	t := s.Begin()
	t.Delete(typ, id)
	t.Commit()
}

// Begin starts a write that is stamped now and seen by nobody before Commit,
// as a HAPI transaction.
func (s *Server) Begin() *Tx { return &Tx{store: s.store, stamp: s.Now().UnixMilli()} }

// ServeHTTP answers FHIR requests below Options.Path and control requests
// below /_control/.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, controlPath) {
		s.serveControl(w, r)
		return
	}
	done := s.journal.enter()
	defer done()

	x, err := s.receive(w, r)
	var faulty bool
	x.do, faulty, x.released = s.script.act(x)
	x.line = s.journal.begin(Request{
		Time: s.Now(), Method: r.Method, Path: r.URL.Path, Kind: x.kind, Type: x.typ, Page: x.page,
		Query: r.URL.RawQuery, Params: x.params, Header: r.Header.Clone(), Faulty: faulty,
	})
	defer s.journal.end(x.line, &x.sent)

	if !x.wait(s.o.Latency + x.do.Delay) {
		return
	}
	if x.replaced() {
		return
	}
	if err == nil {
		err = x.dispatch()
	}
	if err != nil {
		x.fail(err)
	}
}

// Resource is one version of a resource.
type Resource struct {
	VersionID   string
	LastUpdated time.Time // UTC, to the millisecond
	Deleted     bool
	JSON        []byte // compact, as it is served; nil if Deleted. Do not modify.
}

// Types are the types of which at least one resource exists now, sorted.
func (s *Server) Types() []string {
	s.store.mu.RLock()
	defer s.store.mu.RUnlock()
	var types []string
	for _, typ := range knownTypes() {
		if slices.ContainsFunc(s.store.records(typ), func(r *record) bool { return !r.current.Load().deleted() }) {
			types = append(types, typ)
		}
	}
	return types
}

// All is the truth about one type: its current resources by id. Bulk
// Observations are not included.
func (s *Server) All(typ string) map[string]Resource {
	s.store.mu.RLock()
	defer s.store.mu.RUnlock()
	out := map[string]Resource{}
	for _, r := range s.store.records(typ) {
		if v := r.current.Load(); !v.deleted() {
			out[v.id] = v.resource()
		}
	}
	return out
}

// Find is the truth about a search, such as "status=final&_lastUpdated=ge2020":
// all that matches now, by id, whatever faults are scripted. Bulk Observations
// are not included.
func (s *Server) Find(typ, query string) (map[string]Resource, error) {
	params, err := url.ParseQuery(query)
	if err != nil {
		return nil, err
	}
	q, err := s.parseQuery(typ, params)
	if err != nil {
		return nil, err
	}
	s.store.mu.RLock()
	defer s.store.mu.RUnlock()
	out := map[string]Resource{}
	for _, r := range s.store.scan(q) {
		v := r.current.Load()
		out[v.id] = v.resource()
	}
	return out, nil
}

// History is every version of a resource, oldest first.
func (s *Server) History(typ, id string) []Resource {
	var out []Resource
	for _, v := range s.store.versions(typ, id) {
		out = append(out, v.resource())
	}
	return out
}

// CompartmentTruth is what the R4 Patient compartments of these patients hold
// now, by type and id, the Patients themselves included. A Group that names
// one of them as a member belongs to it by the standard's definition.
func (s *Server) CompartmentTruth(patientIDs ...string) map[string]map[string]Resource {
	s.store.mu.RLock()
	defer s.store.mu.RUnlock()
	out := map[string]map[string]Resource{}
	for typ := range s.store.tables {
		for _, r := range s.store.records(typ) {
			v := r.current.Load()
			if v.deleted() || !slices.ContainsFunc(patientIDs, v.inCompartment) {
				continue
			}
			if out[typ] == nil {
				out[typ] = map[string]Resource{}
			}
			out[typ][v.id] = v.resource()
		}
	}
	return out
}

// root is how the server names itself towards the sender of r.
func (s *Server) root(r *http.Request) string {
	if s.o.URL != "" {
		return s.o.URL
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return fmt.Sprintf("%s://%s%s", scheme, r.Host, s.o.Path)
}
