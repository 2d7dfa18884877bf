package upstream

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// An engine is a small FHIR server whose faults are switches.
type engine struct {
	version string
	data    map[string][]string // type to instants; ids are "1", "2", ...
	maxPage int                 // 0: no limit

	ignoreLastUpdated, ignoreOneBound, blindLastUpdated, refuseLastUpdated bool
	refuseSummary, silentSummary, lyingSummary, lyingTotal, silentTotal    bool
	countsIgnoreWindow                                                     bool
	ignoreSort, refuseSort, swapSort                                       bool
	postIs404, postIgnoresBody                                             bool
	noHistory, historyIgnoresSince                                         bool
	noNext, noNextAboveOne, sameNext                                       bool
	nextBase                                                               string // "": relative links
	refuseCountAbove                                                       int
	direct                                                                 int // the greatest max-results; 0: Cache-Control is ignored
	ignoreOffset, lyingDirect                                              bool
	noSystemHistory                                                        bool
	deny                                                                   func(r *http.Request) int // a status, 0: none
	clock                                                                  func() time.Time
	noDate                                                                 bool
	requests                                                               []string
}

// noting guards the requests of every engine, and is held while deny is called.
var noting sync.Mutex

// note keeps a request, and returns the status with which it is denied.
func (e *engine) note(r *http.Request) (status int) {
	noting.Lock()
	defer noting.Unlock()
	e.requests = append(e.requests, r.Method+" "+r.URL.Path+"?"+r.Form.Encode())
	if e.deny != nil {
		status = e.deny(r)
	}
	return status
}

func (e *engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	denied := e.note(r)
	if e.noDate {
		w.Header()["Date"] = nil
	} else if e.clock != nil {
		w.Header().Set("Date", e.clock().UTC().Format(http.TimeFormat))
	}
	if denied != 0 {
		w.WriteHeader(denied)
		return
	}
	path := strings.Split(strings.TrimPrefix(r.URL.Path, "/fhir/"), "/")
	q := r.URL.Query()
	switch {
	case path[0] == "metadata":
		e.statement(w)
	case path[0] == "_history":
		if e.noSystemHistory {
			w.WriteHeader(400)
			return
		}
		e.history(w, "Patient", q)
	case len(path) == 2 && path[1] == "_history":
		e.history(w, path[0], q)
	case len(path) == 2 && path[1] == "_search":
		if e.postIs404 {
			w.WriteHeader(404)
			return
		}
		if !e.postIgnoresBody {
			q = r.PostForm
		}
		e.search(w, path[0], q)
	case e.direct > 0 && strings.HasPrefix(r.Header.Get("Cache-Control"), "no-store, max-results="):
		n, _ := strconv.Atoi(strings.TrimPrefix(r.Header.Get("Cache-Control"), "no-store, max-results="))
		if n > e.direct {
			w.WriteHeader(400)
			return
		}
		noting.Lock()
		with := *e
		noting.Unlock()
		with.noNext = true
		if q.Get("_summary") != "" && e.lyingDirect {
			with.lyingSummary = true
		}
		if !e.ignoreOffset {
			q.Set("page", q.Get("_offset"))
		}
		with.search(w, path[0], q)
	default:
		e.search(w, path[0], q)
	}
}

func (e *engine) statement(w http.ResponseWriter) {
	types := []map[string]any{}
	for t := range e.data {
		types = append(types, map[string]any{"type": t, "interaction": []map[string]string{{"code": "search-type"}}})
	}
	slices.SortFunc(types, func(a, b map[string]any) int { return cmp.Compare(a["type"].(string), b["type"].(string)) })
	_ = json.NewEncoder(w).Encode(map[string]any{
		"resourceType": "CapabilityStatement", "fhirVersion": cmp.Or(e.version, "4.0.1"),
		"rest": []any{map[string]any{"mode": "server", "resource": types}},
	})
}

type found struct{ id, at string }

func (e *engine) search(w http.ResponseWriter, typ string, q url.Values) {
	all := []found{}
	for i, at := range e.data[typ] {
		f := found{strconv.Itoa(i + 1), at}
		if e.matches(f, q) {
			all = append(all, f)
		}
	}
	if key := q.Get("_sort"); key != "" {
		if e.refuseSort {
			w.WriteHeader(400)
			return
		}
		if !e.ignoreSort {
			slices.SortStableFunc(all, func(a, b found) int { return strings.Compare(a.at, b.at) })
			if (key[0] == '-') != e.swapSort {
				slices.Reverse(all)
			}
		}
	}
	total := len(all)
	if e.countsIgnoreWindow {
		total = len(e.data[typ])
	}
	b := map[string]any{"resourceType": "Bundle", "type": "searchset"}
	if q.Get("_summary") == "count" {
		switch {
		case e.refuseSummary:
			w.WriteHeader(400)
			return
		case e.lyingSummary:
			b["total"] = total + 3
		case !e.silentSummary:
			b["total"] = total
		}
		_ = json.NewEncoder(w).Encode(b)
		return
	}
	if q.Get("_lastUpdated") != "" && e.refuseLastUpdated {
		w.WriteHeader(400)
		return
	}
	if q.Get("_total") == "accurate" && !e.silentTotal {
		b["total"] = total
		if e.lyingTotal {
			b["total"] = total - 1
		}
	}
	size, err := strconv.Atoi(q.Get("_count"))
	if err != nil {
		size = 20
	}
	if e.refuseCountAbove > 0 && size > e.refuseCountAbove {
		w.WriteHeader(400)
		return
	}
	if e.maxPage > 0 {
		size = min(size, e.maxPage)
	}
	offset, _ := strconv.Atoi(q.Get("page"))
	rest := all[min(offset, len(all)):]
	if len(rest) > size && size > 0 && !e.noNext && (size == 1 || !e.noNextAboveOne) {
		next := copied(q)
		next.Set("page", strconv.Itoa(offset+size))
		if e.sameNext {
			next.Set("page", "0")
		}
		b["link"] = []any{map[string]string{"relation": "next", "url": e.nextBase + typ + "?" + next.Encode()}}
	}
	entries := []any{map[string]any{"search": map[string]string{"mode": "outcome"}, "resource": map[string]any{"resourceType": "OperationOutcome"}}}
	entry := func(mode, id, at string) {
		entries = append(entries, map[string]any{"search": map[string]string{"mode": mode}, "resource": map[string]any{
			"resourceType": typ, "id": id, "meta": map[string]string{"lastUpdated": at}}})
	}
	for i, f := range rest[:min(size, len(rest))] {
		entry("match", f.id, f.at)
		if i == 0 { // what real servers add now and then
			entry("match", f.id, f.at)
			entry("include", "included", f.at)
		}
	}
	b["entry"] = entries
	_ = json.NewEncoder(w).Encode(b)
}

func copied(q url.Values) url.Values {
	c := url.Values{}
	for k, v := range q {
		c[k] = v
	}
	return c
}

func (e *engine) matches(f found, q url.Values) bool {
	if id := q.Get("_id"); id != "" && id != f.id {
		return false
	}
	if e.ignoreLastUpdated {
		return true
	}
	bounds := q["_lastUpdated"]
	if e.blindLastUpdated && len(bounds) > 0 {
		return false
	}
	if e.ignoreOneBound && len(bounds) > 1 {
		bounds = bounds[:1]
	}
	for _, b := range bounds {
		if strings.HasPrefix(b, "ge") && f.at < b[2:] || strings.HasPrefix(b, "lt") && f.at >= b[2:] {
			return false
		}
	}
	return true
}

func (e *engine) history(w http.ResponseWriter, typ string, q url.Values) {
	if e.noHistory {
		w.WriteHeader(404)
		return
	}
	entries := []any{}
	for i, at := range e.data[typ] {
		if at >= q.Get("_since") || e.historyIgnoresSince {
			entries = append(entries, map[string]any{"resource": map[string]any{
				"resourceType": typ, "id": fmt.Sprint(i + 1), "meta": map[string]string{"lastUpdated": at}}})
		}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"resourceType": "Bundle", "type": "history", "entry": entries})
}
