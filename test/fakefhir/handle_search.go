package fakefhir

import (
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// search answers the first page of a search, or a count.
func (x *exchange) search() error {
	s := x.s
	if x.r.Method == http.MethodPost && s.o.NoPostSearch {
		return notFound("POST search is not supported here")
	}
	fresh, err := readFreshness(x.r.Header)
	if err != nil {
		return err
	}
	if s.o.NoDirect {
		fresh.limit = 0
	}
	params, warned, err := x.screen(withoutParams(x.params, x.do.IgnoreParams))
	if err != nil {
		return err
	}
	q, err := s.parseQuery(x.typ, withoutParams(params, []string{s.d.numbered}))
	if err != nil {
		return err
	}
	if most := s.d.pageMaxOf[x.typ]; most > 0 {
		q.count = min(q.count, most)
	}
	limit, offset := 0, 0
	if fresh.limit > 0 && !q.only {
		limit = fresh.limit
		if q.count > 0 {
			limit = min(limit, q.count)
		}
		q.count = limit
		n, _ := strconv.Atoi(params.Get("_offset"))
		offset = max(0, n)
	}
	if q.count == 0 {
		q.count = s.o.PageDefault
	}
	key := x.typ + "?" + params.Encode()
	if !fresh.fresh {
		if res := s.results.cached(key, s.Now()); res != nil {
			x.w.Header().Set("X-Cache", "HIT from fakefhir")
			return x.answer(res, 0, q.count, q.only)
		}
	}
	res := &result{
		typ: x.typ, query: decoded(x.params), rows: s.search(q, limit+offset), total: q.total,
		final: limit > 0, elements: q.elements, made: s.Now(), warned: warned,
		posted: x.r.Method == http.MethodPost,
	}
	if most := s.d.matchMax[x.typ]; most > 0 && res.rows.len() > most {
		return &problem{status: http.StatusUnprocessableEntity, code: "too-costly", text: "Too many matches"}
	}
	if res.final {
		key = ""
	}
	s.results.keep(res, key)
	if s.d.numbered != "" {
		if offset, err = x.numberedOffset(params, q.count); err != nil {
			return err
		}
	}
	return x.answer(res, offset, q.count, q.only)
}

// nextPage answers a next link.
func (x *exchange) nextPage() error {
	if x.next == nil {
		return gone("HAPI-0417: Search ID %q does not exist and may have expired", x.params.Get("_getpages"))
	}
	if x.s.d.postLinks && x.next.posted && x.r.Method != http.MethodPost {
		return &problem{status: http.StatusMethodNotAllowed, code: "not-supported", text: "This page can be had by POST only"}
	}
	return x.answer(x.next, x.offset(), x.pageSize(), false)
}

// answer sends one page of a result, or only its count.
func (x *exchange) answer(res *result, offset, count int, only bool) error {
	p := &page{result: res, offset: offset, count: count, root: x.root, self: x.self(), link: x.link, dialect: &x.s.d}
	p.query = func(offset int) string { return x.nextQuery(res, offset, count) }
	// An empty first page is followed by one that begins where it did.
	p.blank = x.s.d.emptyFirst && x.kind == KindSearch && res.rows.len() > count && !res.final
	buf := x.s.buffers.Get().(*[]byte)
	defer x.s.buffers.Put(buf)
	now := x.s.Now().UnixMilli()
	if only {
		*buf = p.appendCount((*buf)[:0], now, &x.do)
	} else {
		*buf, x.sent.entries = p.appendPage((*buf)[:0], now, &x.do, x.s.o.LinksLast)
	}
	x.sendJSON(http.StatusOK, *buf)
	return nil
}

// self is the self link.
func (x *exchange) self() string {
	if x.kind == KindNext {
		return x.root + "?" + x.r.URL.RawQuery
	}
	if len(x.params) == 0 {
		return x.root + "/" + x.typ
	}
	if x.r.Method == http.MethodPost {
		return x.root + "/" + x.typ + "?" + x.params.Encode()
	}
	return x.root + "/" + x.typ + "?" + x.r.URL.RawQuery
}

// link makes a next link of a query that begins with "?".
func (x *exchange) link(query string) string {
	switch x.s.o.Links {
	case LinkPath:
		return x.s.o.Path + query
	case LinkRelative:
		return query
	case LinkAlias:
		return x.s.o.Alias + query
	}
	return x.root + query
}

// withoutParams drops parameters by their names without modifiers.
func withoutParams(params url.Values, ignore []string) url.Values {
	if len(ignore) == 0 {
		return params
	}
	params = maps.Clone(params)
	for name := range params {
		bare, _, _ := strings.Cut(name, ":")
		for _, ig := range ignore {
			if ig == name || ig == bare {
				delete(params, name)
			}
		}
	}
	return params
}
