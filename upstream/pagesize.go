package upstream

import (
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	minPage      = 10   // no type is asked for less
	growAfter    = 8    // pages that went well, before a type is asked for twice as much
	growAfterTop = 1024 // this grows to, as a size is found too large again and again
)

// pageSizes remembers for which types the upstream's usual page is too much: it
// was larger than Config.PageBytes, or took longer than Config.Timeout. Each
// time such a type is asked for half, and after a run of good pages for twice
// as much again. Only how searches begin depends on it: next links carry their
// own size. The zero pageSizes is ready for use.
type pageSizes struct {
	mu    sync.Mutex
	types map[string]*typePage
}

type typePage struct {
	size  int
	run   int  // good pages in a row
	need  int  // how many it takes to grow
	grown bool // since the last page that was too large
}

// of returns how many resources of a type to ask for, where base is what others
// are asked for.
func (p *pageSizes) of(typ string, base int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.types[typ]; t != nil {
		return min(t.size, base)
	}
	return base
}

// tooLarge notes that asked was too many, and returns what to ask for instead;
// ok says that this is less.
func (p *pageSizes) tooLarge(typ string, asked, base int) (size int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.types[typ]
	if t == nil {
		if asked <= minPage {
			return asked, false
		}
		t = &typePage{size: base, need: growAfter}
		if p.types == nil {
			p.types = make(map[string]*typePage)
		}
		p.types[typ] = t
	}
	t.run = 0
	if size = min(t.size, base); size < asked {
		return size, true // somebody else was faster
	}
	if size <= minPage {
		return size, false
	}
	if t.grown {
		t.need = min(2*t.need, growAfterTop)
	}
	t.size, t.grown = max(size/2, minPage), false
	return t.size, true
}

// good notes a page that went well, and reports whether that changed a size.
func (p *pageSizes) good(typ string, base int) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.types[typ]
	if t == nil || t.size >= base {
		return false
	}
	if t.run++; t.run < t.need {
		return false
	}
	t.run, t.grown, t.size = 0, true, min(2*t.size, base)
	return true
}

// least returns the smallest size in use.
func (p *pageSizes) least(base int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.types {
		base = min(base, t.size)
	}
	return base
}

// pageOf is the _count for a search of a type.
func (c *Client) pageOf(typ string) int { return c.pages.of(typ, c.pageBase(typ)) }

// pageTooLarge is to be called when a page of asked resources was too much.
func (c *Client) pageTooLarge(typ string, asked int) (size int, ok bool) {
	size, ok = c.pages.tooLarge(typ, asked, c.pageBase(typ))
	c.metrics.governor.pages(c.pages.least(c.pageCount()))
	return size, ok
}

// pageWent is to be called for every page that went well.
func (c *Client) pageWent(typ string) {
	if c.pages.good(typ, c.pageBase(typ)) {
		c.metrics.governor.pages(c.pages.least(c.pageCount()))
	}
}

// tooMuch reports whether err says that a smaller page may do better.
func tooMuch(err error) bool {
	var f *RequestError
	if !errors.As(err, &f) {
		return false
	}
	return f.oversize || f.Kind == KindTimeout ||
		f.Status == http.StatusRequestEntityTooLarge || f.Status == http.StatusGatewayTimeout
}

// firstRequest makes the request for the first page of s. Where that page is
// too much the request comes to ask for less; asked is how many resources it
// asks for at last.
func (c *Client) firstRequest(s Search) (r *request, asked *int, err error) {
	asked = new(c.pageOf(s.Type))
	for _, limit := range []int{s.Direct, s.Limit} {
		if limit > 0 {
			*asked = min(*asked, limit)
		}
	}
	build := func() (*request, error) {
		own := []string{"_count=" + strconv.Itoa(*asked)}
		switch {
		case s.Newest:
			own = append(own, "_sort=-_lastUpdated")
		case s.Sorted:
			own = append(own, "_sort=_lastUpdated")
		}
		if s.Skip > 0 {
			own = append(own, "_offset="+strconv.Itoa(s.Skip))
		}
		again, err := c.searchRequest(s, "search "+s.Type, kindSearch, own...)
		if err == nil && s.Direct > 0 {
			again.direct = *asked
		}
		return again, err
	}
	if r, err = build(); err != nil {
		return nil, nil, err
	}
	r.shrink = func() bool {
		smaller, ok := c.pageTooLarge(s.Type, *asked)
		if smaller = min(smaller, max(*asked/2, minPage)); !ok || smaller >= *asked {
			return false
		}
		*asked = smaller
		again, err := build()
		if err != nil {
			return false
		}
		r.method, r.url, r.form, r.direct = again.method, again.url, again.form, again.direct
		return true
	}
	return r, asked, nil
}

// pageFailed returns the error of a page. Where the page of a next link is too
// much, and the upstream has been well meanwhile, the search may begin again
// with smaller pages.
func (c *Client) pageFailed(s Search, next string, began time.Time, err error) error {
	var f *RequestError
	if next == "" || !tooMuch(err) || !errors.As(err, &f) || c.vital.at().Before(began) {
		return err
	}
	if _, ok := c.pageTooLarge(s.Type, c.pageOf(s.Type)); !ok {
		return err
	}
	gone := *f
	gone.Kind = KindGone
	return &gone
}
