package fakefhir

import (
	"fmt"
	"slices"
	"strconv"
)

// page is one Bundle of a search, about to be written.
type page struct {
	result *result
	offset int // of the page that was asked for
	count  int // page size
	root   string
	self   string
	link   func(query string) string // makes a next link of a query
	query  func(offset int) string   // makes the query of a next link

	dialect *dialect
	blank   bool // shows nothing; the next page begins where it does
}

// number is the page's number, from 1.
func (p *page) number() int { return p.offset/p.count + 1 }

// appendCount writes the Bundle of a request that wanted only a number.
func (p *page) appendCount(dst []byte, now int64, do *Do) []byte {
	dst = appendBundleStart(dst, "searchset", p.result.id, now)
	n := p.result.rows.len()
	if p.dialect.estimates {
		n = estimate(n)
	}
	dst = do.appendTotal(dst, n)
	return append(appendLinks(dst, p.self, ""), '}')
}

// appendPage writes the Bundle, with whatever the faults do to it. entries is
// the number of entries in it.
func (p *page) appendPage(dst []byte, now int64, do *Do, linksLast bool) (_ []byte, entries int) {
	n := p.result.rows.len()
	offset := p.offset
	if do.DropPage {
		offset += p.count
	}
	more := offset+p.count < n && !p.result.final
	first := offset
	if do.RepeatPage {
		first = max(0, offset-p.count)
	}

	dst = appendBundleStart(dst, "searchset", p.result.id, now)
	if total, told := p.total(n, more); told {
		dst = do.appendTotal(dst, total)
	}
	next := ""
	switch {
	case p.blank:
		next = p.next(offset, do)
	case (more || do.Endless) && (do.EndChainEarly <= 0 || p.number() < do.EndChainEarly):
		next = p.next(offset+p.count, do)
	}
	if !linksLast {
		dst = appendLinks(dst, p.self, next)
	}
	var shown []int
	if !p.blank {
		for i := max(first-p.dialect.overlap, 0); i < min(first, n); i++ {
			shown = append(shown, i) // once more
		}
		shown = append(shown, p.indexes(first, n, do)...)
	}
	dst, entries = p.appendEntries(dst, shown, do)
	if linksLast {
		dst = appendLinks(dst, p.self, next)
	}
	return append(dst, '}'), entries
}

// total is what the page states, if it does.
func (p *page) total(n int, more bool) (total int, told bool) {
	switch p.dialect.total {
	case totalNever:
		return 0, false
	case totalIfAsked:
		return n, p.result.total || p.result.final
	case totalEstimate:
		if more {
			n = estimate(n)
		}
		return n, true
	}
	return n, p.result.total || p.result.final || p.offset == 0 && n <= p.count
}

// estimate is about n.
func estimate(n int) int { return n - n/7 - min(n/2, 1) }

// next is the next link for an offset.
func (p *page) next(offset int, do *Do) string {
	if do.LoopNext {
		offset = p.offset
	}
	query := p.query(offset)
	if do.ForeignNext != "" {
		return do.ForeignNext + query
	}
	return p.link(query)
}

// indexes are the rows that the page shows, in their order.
func (p *page) indexes(first, n int, do *Do) []int {
	count := p.count
	if !do.Endless {
		count = max(0, min(count, n-first))
	}
	if n == 0 {
		count = 0
	}
	rows := make([]int, count)
	for i := range rows {
		rows[i] = (first + i) % n
	}
	rows = rows[min(do.DropEntries, len(rows)):]
	return slices.Concat(rows[:min(do.DuplicateEntries, len(rows))], rows)
}

func (p *page) appendEntries(dst []byte, indexes []int, do *Do) (_ []byte, entries int) {
	extra := do.extraEntries(p.result.typ)
	if p.result.warned {
		extra = append(extra, AddEntry{Mode: "outcome", Resource: outcome("warning", "not-supported", "A parameter was ignored")})
	}
	if len(indexes)+len(extra) == 0 {
		return dst, 0 // an empty array is not valid FHIR
	}
	mark := len(dst)
	dst = append(dst, `,"entry":[`...)
	begin := func() {
		if entries > 0 {
			dst = append(dst, ',')
		}
		entries++
	}
	for _, e := range extra {
		begin()
		dst = fmt.Appendf(dst, `{"resource":%s,"search":{"mode":%q}}`, e.Resource, e.Mode)
	}
	for _, i := range indexes {
		undo := len(dst)
		begin()
		dst = append(dst, `{"fullUrl":"`...)
		dst = append(dst, p.root...)
		dst = append(dst, '/')
		dst = append(dst, p.result.typ...)
		dst = append(dst, '/')
		dst = p.result.rows.appendID(dst, i)
		dst = append(dst, `","resource":`...)
		at := len(dst)
		var ok bool
		if dst, ok = p.result.rows.appendResource(dst, i); !ok {
			dst = dst[:undo]
			entries--
			continue
		}
		if p.result.elements != nil {
			dst = append(dst[:at], subset(dst[at:], p.result.typ, p.result.elements)...)
		}
		if do.HugeEntry > 0 && entries == len(extra)+1 {
			dst = append(dst[:at], inflate(dst[at:], do.HugeEntry)...)
		}
		dst = append(dst, `,"search":{"mode":"match"}}`...)
	}
	if entries == 0 {
		return dst[:mark], 0
	}
	return append(dst, ']'), entries
}

func appendBundleStart(dst []byte, typ, id string, now int64) []byte {
	return fmt.Appendf(dst, `{"resourceType":"Bundle","id":%q,"meta":{"lastUpdated":%q},"type":%q`, id, formatMilli(now), typ)
}

func appendLinks(dst []byte, self, next string) []byte {
	dst = append(dst, `,"link":[{"relation":"self","url":`...)
	dst = append(appendString(dst, self), '}')
	if next != "" {
		dst = append(dst, `,{"relation":"next","url":`...)
		dst = append(appendString(dst, next), '}')
	}
	return append(dst, ']')
}

// appendTotal writes Bundle.total, or the lie that is told instead.
func (d *Do) appendTotal(dst []byte, n int) []byte {
	total := int64(n)
	if lie := d.LieTotal; lie != nil {
		if lie.Absent {
			return dst
		}
		if lie.Factor != nil {
			total = int64(float64(total) * *lie.Factor)
		}
		total = max(0, total+lie.Delta)
	}
	dst = append(dst, `,"total":`...)
	return strconv.AppendInt(dst, total, 10)
}
