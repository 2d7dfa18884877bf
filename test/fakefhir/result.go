package fakefhir

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// keptResults is how many searches are remembered for their next links.
const keptResults = 4096

// result is a search that has been run: the snapshot that its pages show.
type result struct {
	id       string
	typ      string
	query    string // decoded, for fault matching
	rows     rows
	total    bool // shown on every page
	final    bool // has no next links
	warned   bool // a parameter was ignored
	posted   bool // the search came by POST
	elements []string
	made     time.Time
}

// results remembers searches, and answers repeated ones from the cache.
type results struct {
	ttl, cache time.Duration

	mu     sync.Mutex
	serial uint64
	byID   map[string]*result
	recent map[string]*result // by search, if there is a cache
	order  []*result
}

func newResults(ttl, cache time.Duration) *results {
	return &results{ttl: ttl, cache: cache, byID: map[string]*result{}, recent: map[string]*result{}}
}

// keep stores a result and names it. With a key, it may answer the same search
// again.
func (rs *results) keep(r *result, key string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.serial++
	r.id = fmt.Sprintf("%08x-5afe-4000-8000-%012x", uint32(rs.serial*2654435761), rs.serial)
	rs.byID[r.id] = r
	rs.order = append(rs.order, r)
	if rs.cache > 0 && key != "" {
		rs.recent[key] = r
	}
	if len(rs.order) > keptResults {
		old := rs.order[0]
		rs.order = rs.order[1:]
		delete(rs.byID, old.id)
		for k, r := range rs.recent {
			if r == old {
				delete(rs.recent, k)
			}
		}
	}
}

// find is the result behind a next link, nil if it is unknown or too old.
func (rs *results) find(id string, now time.Time) *result {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.byID[id]
	if r == nil || rs.ttl > 0 && now.Sub(r.made) > rs.ttl {
		return nil
	}
	return r
}

// cached is a former result of the same search, nil if there is none that is
// young enough.
func (rs *results) cached(key string, now time.Time) *result {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.recent[key]
	if rs.cache <= 0 || r == nil || now.Sub(r.made) >= rs.cache {
		return nil
	}
	return r
}

// freshness is what a request's Cache-Control asks of a search.
type freshness struct {
	fresh bool // no answer from the cache
	limit int  // no-store: so many rows without paging; 0: normal paging
}

// readFreshness reads Cache-Control as HAPI does: no-store reads at most
// max-results rows (100 if not said, at most 1000) and gives no next link.
func readFreshness(h http.Header) (freshness, error) {
	var f freshness
	limit := 100
	for part := range strings.SplitSeq(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, val, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch name {
		case "no-cache":
			f.fresh = true
		case "no-store":
			f.fresh, f.limit = true, limit
		case "max-results":
			n, err := strconv.Atoi(val)
			if err != nil || n < 1 || n > 1000 {
				return f, invalid("HAPI-1165: Cache-Control header max-results value must not exceed 1000")
			}
			limit = n
		}
	}
	if f.limit > 0 {
		f.limit = limit
	}
	return f, nil
}
