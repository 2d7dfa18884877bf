package fakefhir

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
)

// history answers _history of an instance, a type or the system: newest
// first, paged by _offset, as HAPI does.
func (x *exchange) history() error {
	s := x.s
	if x.id == "" && (s.o.NoHistory || s.bulk(x.typ)) || x.typ == "" && s.o.NoSystemHistory {
		return invalid("History is not supported here")
	}
	if x.id != "" && len(s.store.versions(x.typ, x.id)) == 0 {
		return notFound("Resource %s/%s is not known", x.typ, x.id)
	}
	params := withoutParams(x.params, x.do.IgnoreParams)
	since := always
	if v := params.Get("_since"); v != "" {
		p, err := parseSpan(v)
		if err != nil {
			return invalid("Invalid _since: it must be an instant")
		}
		since.lo = p.lo
	}
	count, offset := s.o.PageDefault, 0
	for name, dst := range map[string]*int{"_count": &count, "_offset": &offset} {
		if v := params.Get(name); v != "" {
			n, err := strconv.Atoi(v)
			if err != nil || n < 0 {
				return invalid("Invalid %s: it must be a number that is not negative", name)
			}
			*dst = n
		}
	}
	count = min(count, s.o.PageMax)

	all := s.store.history(x.typ, x.id, since)
	body := appendBundleStart(nil, "history", fmt.Sprintf("history-%d", offset), s.Now().UnixMilli())
	if since == always {
		body = x.do.appendTotal(body, len(all))
	}
	from := min(offset, len(all))
	to := min(from+count, len(all))
	next := ""
	if to < len(all) && count > 0 {
		next = x.historyURL(params, count, to)
	}
	body = appendLinks(body, x.historyURL(params, count, offset), next)
	shown := all[from:to]
	for i, v := range shown {
		body = append(body, []string{`,"entry":[`, `,`}[min(i, 1)]...)
		body = x.appendHistoryEntry(body, v)
	}
	if len(shown) > 0 {
		body = append(body, ']')
	}
	x.sent.entries = len(shown)
	x.sendJSON(http.StatusOK, append(body, '}'))
	return nil
}

func (x *exchange) historyURL(params url.Values, count, offset int) string {
	q := url.Values{"_count": {strconv.Itoa(count)}}
	for k, v := range params {
		q[k] = v
	}
	if offset > 0 {
		q.Set("_offset", strconv.Itoa(offset))
	}
	at := "/_history?"
	if x.id != "" {
		at = "/" + x.id + at
	}
	if x.typ != "" {
		at = "/" + x.typ + at
	}
	return x.root + at + q.Encode()
}

func (x *exchange) appendHistoryEntry(dst []byte, v *version) []byte {
	at := v.typ + "/" + v.id
	dst = fmt.Appendf(dst, `{"fullUrl":%q,`, x.root+"/"+at)
	method, status := v.method, "200 OK"
	if !v.deleted() {
		dst = append(dst, `"resource":`...)
		dst = append(dst, v.raw...)
		dst = append(dst, ',')
		if v.num == 1 {
			method, status = "POST", "201 Created" // even if it was a PUT
		}
	}
	dst = fmt.Appendf(dst, `"request":{"method":%q,"url":"%s/_history/%d"},"response":{"status":%q,"etag":"W/\"%d\""`,
		method, at, v.num, status, v.num)
	if x.s.o.HistoryTimes {
		dst = fmt.Appendf(dst, `,"lastModified":%q`, formatMilli(v.updated))
	}
	return append(dst, "}}"...)
}

// history finds the versions of an instance, a type ("" id) or the system (""
// typ), newest first.
func (s *store) history(typ, id string, within span) []*version {
	s.mu.RLock()
	defer s.mu.RUnlock()
	from := s.log
	if id != "" {
		from = s.find(typ, id).versions
	}
	var found []*version
	for _, v := range slices.Backward(from) {
		if (typ == "" || v.typ == typ) && v.updated >= within.lo {
			found = append(found, v)
		}
	}
	slices.SortStableFunc(found, func(a, b *version) int { return cmp.Compare(b.updated, a.updated) })
	return found
}
