package fakefhir

import (
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// script is the list of faults, with how often each has matched.
type script struct {
	mu       sync.Mutex
	rules    []*rule
	released chan struct{} // closed by reset, to free what waits
}

type rule struct {
	Fault
	seen int
}

func newScript() *script { return &script{released: make(chan struct{})} }

// Script adds faults. Earlier ones stay.
func (s *Server) Script(faults ...Fault) {
	s.script.mu.Lock()
	defer s.script.mu.Unlock()
	for _, f := range faults {
		s.script.rules = append(s.script.rules, &rule{Fault: f})
	}
}

// Reset removes all faults, frees requests that a fault holds up, and forgets
// the log and MaxInFlight. Resources and next links stay.
func (s *Server) Reset() {
	s.script.reset()
	s.journal.reset()
}

func (sc *script) reset() {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.rules = nil
	close(sc.released)
	sc.released = make(chan struct{})
}

// act counts a request and says what is to happen to it.
func (sc *script) act(x *exchange) (do Do, faulty bool, released chan struct{}) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	for _, r := range sc.rules {
		if !r.Match.matches(x) {
			continue
		}
		r.seen++
		if r.seen <= r.After || r.Times > 0 && r.seen > r.After+r.Times {
			continue
		}
		faulty = true
		do.fill(r.Do)
	}
	return do, faulty, sc.released
}

func (m *Match) matches(x *exchange) bool {
	return (m.Method == "" || m.Method == x.r.Method) &&
		(m.Type == "" || m.Type == x.typ) &&
		(m.Kind == KindAny || m.Kind == x.kind) &&
		(m.Page == 0 || m.Page == x.page) &&
		strings.Contains(x.r.URL.Path, m.PathContains) &&
		!slices.ContainsFunc(m.Without, x.params.Has) &&
		(m.QueryContains == "" || strings.Contains(decoded(x.params), m.QueryContains) ||
			x.next != nil && strings.Contains(x.next.query, m.QueryContains))
}

// decoded writes parameters as "a=b&c=d" without any escapes, for matching.
func decoded(params url.Values) string {
	q, err := url.QueryUnescape(params.Encode())
	if err != nil {
		return ""
	}
	return q
}

// fill takes over what d does not set itself.
func (d *Do) fill(from Do) {
	dst, src := reflect.ValueOf(d).Elem(), reflect.ValueOf(from)
	for i := range dst.NumField() {
		if dst.Field(i).IsZero() {
			dst.Field(i).Set(src.Field(i))
		}
	}
}
