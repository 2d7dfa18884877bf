package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"spillway/upstream/fhir"
)

// maxGet is how long an address may be before a search is sent by POST, if the
// upstream takes that. HAPI and many proxies refuse 8 kB.
const maxGet = 2 << 10

// A Search names a set of resources of one type.
type Search struct {
	// Type is the resource type, such as "Observation".
	Type string
	// Query holds further parameters, already encoded
	// ("status=final&category=x"). It is sent exactly as it is, before our own.
	Query string
	// From and To are the half-open window [From, To) on _lastUpdated. Both are
	// cut to milliseconds. The zero time leaves that side open.
	From, To time.Time
	// Post sends the parameters as a form to [type]/_search. Otherwise they are
	// sent by GET, or by POST when the address would be longer than 2 kB and
	// Learn has found that POST works.
	Post bool
	// Sorted asks for the resources in the order of _lastUpdated, oldest first.
	Sorted bool
	// Newest asks for the reverse order.
	Newest bool
	// Direct asks for one page past the upstream's store of searches, with at
	// most so many resources and no next link. A page that is not Full is then
	// the last. Zero means as usual. It is for upstreams of which Learn has
	// found that it works, up to Facts.DirectSize.
	Direct int
	// Begun says that the caller holds a part of what it reads already, which it
	// would have to read again: so the request waits longer where all must wait.
	Begun bool
	// Limit is how many resources the page may hold. Zero means as many as the
	// upstream gives.
	Limit int
	// Skip is how many resources a page passes over before its first, in the
	// order of a Sorted and Direct search. It is for upstreams of which
	// Facts.Skip says that it works, and no way of paging: where something leaves
	// the search between two pages, the second has lost one. It tells when the
	// n-th resource was last updated.
	Skip int
	// Fits is how many resources the upstream puts on a page, as Facts.PageSize
	// says. Zero means as many as are asked for.
	Fits int
}

// PageInfo is what a page says besides its entries.
type PageInfo struct {
	Next    string // token for the following page; "" at the end
	Entries int    // of all modes
	Total   *int64 // as the upstream states it; nil if it does not
	Self    string // the self link as sent; it holds the query
	Bytes   int64  // size of the page, inflated
	Full    bool   // it has as many entries as the upstream puts on a page, so there may be more
}

// Count returns how many resources match s now, past any cache. The error is
// ErrNoCount if the upstream gives no usable count, be it this time or by what
// Learn found.
func (c *Client) Count(ctx context.Context, s Search) (int64, error) {
	mode := CountSummary
	s.Direct = 0
	if f := c.facts.peek(); f != nil && f.Counts != Unknown {
		if mode = f.CountMode; f.Counts != Works {
			return 0, ErrNoCount
		}
		if f.DirectCounts == Works {
			s.Direct = 1
		}
	}
	n, _, err := c.count(ctx, s, mode, kindCount, maxStrikes)
	return n, err
}

// Estimate returns about how many resources match s, where Count gives nothing
// that can be trusted. The error is ErrNoCount if there is no number at all.
func (c *Client) Estimate(ctx context.Context, s Search) (int64, error) {
	n, _, err := c.count(ctx, s, CountSummary, kindCount, maxStrikes)
	return n, err
}

// count asks for a count in one way, past the upstream's store of searches if s
// is Direct: HAPI then keeps no record of the search, which costs it less than
// half. last is the reply, its body spent.
func (c *Client) count(ctx context.Context, s Search, mode CountMode, kind string, strikes int) (n int64, last *reply, err error) {
	own := []string{"_summary=count"}
	if mode == CountTotal {
		own = []string{"_total=accurate", "_count=0"}
	}
	r, err := c.searchRequest(s, "count "+s.Type, kind, own...)
	if err != nil {
		return 0, nil, err
	}
	r.strikes, r.direct = strikes, s.Direct
	page, last, err := c.scan(ctx, r, func(*fhir.Entry) error { return nil })
	if err != nil {
		return 0, nil, err
	}
	if page.Total == nil || *page.Total < 0 {
		return 0, last, ErrNoCount
	}
	return *page.Total, last, nil
}

// Page reads one page of s: the first if next is "", or else the one that next,
// a token from the page before, names. visit is called for every entry as it
// arrives; an error of it ends the page and is returned as it is. When a page
// is read again after its transfer broke off, entries come again, so what visit
// was given counts only once Page has returned nil, and only once per id.
//
// A *RequestError of KindGone says that the token has expired. The caller must
// see to it that a chain of pages ends: tokens may repeat.
func (c *Client) Page(ctx context.Context, s Search, next string, visit func(*fhir.Entry) error) (PageInfo, error) {
	var r *request
	var err error
	asked := new(c.pageBase(s.Type))
	if next == "" {
		r, asked, err = c.firstRequest(s)
	} else {
		r, err = c.nextRequest(s, next)
	}
	if err != nil {
		return PageInfo{}, err
	}
	began := time.Now()
	page, last, err := c.scan(ctx, r, visit)
	if err != nil {
		return PageInfo{}, c.pageFailed(s, next, began, err)
	}
	c.pageWent(s.Type)
	info := PageInfo{
		Entries: page.Entries, Total: page.Total, Self: page.Self, Bytes: last.body.bytes, Full: page.Entries >= s.given(*asked),
	}
	if page.Next == "" {
		return info, nil
	}
	u, err := c.place.resolve(r.url, page.Next)
	if err != nil {
		return PageInfo{}, &RequestError{Op: r.op, Status: http.StatusOK, Kind: KindForeignLink, Err: err}
	}
	info.Next = u.String()
	return info, nil
}

// given is how many entries of s the upstream is known to put on a page when it
// is asked for so many.
func (s Search) given(asked int) int {
	if s.Direct == 0 && s.Fits > 0 {
		return min(asked, s.Fits)
	}
	return asked
}

// scan performs r and reads the Bundle that comes. last is the reply, its body
// spent.
func (c *Client) scan(ctx context.Context, r *request, visit func(*fhir.Entry) error) (page fhir.Page, last *reply, err error) {
	lim := c.limits()
	var ok bool
	if lim.Scratch, ok = c.scratch.Get().(*fhir.Scratch); !ok {
		lim.Scratch = new(fhir.Scratch)
	}
	defer c.scratch.Put(lim.Scratch)
	err = c.do(ctx, r, func(re *reply) error {
		var own error // of the visitor
		var err error
		page, err = fhir.ScanBundle(re.body, lim, func(e *fhir.Entry) error {
			own = visit(e)
			return own
		})
		if own != nil {
			return stopped{own}
		}
		last = re
		return err
	})
	if err != nil {
		return fhir.Page{}, nil, err
	}
	return page, last, nil
}

// pageCount is the _count that searches send.
func (c *Client) pageCount() int {
	if n := c.pageSize.Load(); n > 0 {
		return int(n)
	}
	return c.cfg.PageSize
}

// searchRequest makes the request for s with our own parameters, encoded, last.
func (c *Client) searchRequest(s Search, op, kind string, own ...string) (*request, error) {
	if !typeName(s.Type) {
		return nil, errors.New("upstream: search: no valid resource type")
	}
	if s.Query != sendable(s.Query) {
		return nil, fmt.Errorf("upstream: %s: the query is not encoded", op)
	}
	params := make([]string, 0, 3+len(own))
	if s.Query != "" {
		params = append(params, s.Query)
	}
	if !s.From.IsZero() {
		params = append(params, "_lastUpdated=ge"+fhir.FormatInstant(s.From))
	}
	if !s.To.IsZero() {
		params = append(params, "_lastUpdated=lt"+fhir.FormatInstant(s.To))
	}
	query := strings.Join(append(params, own...), "&")
	r := &request{kind: kind, op: op, method: http.MethodGet, url: c.place.base.JoinPath(s.Type), begun: s.Begun, strikes: maxStrikes}
	r.url.RawQuery = query
	if s.Post || len(r.url.String()) > maxGet && c.canPost() {
		r.method, r.form = http.MethodPost, query
		r.url = c.place.base.JoinPath(s.Type, "_search")
	}
	return r, nil
}

// nextRequest makes the request for the page that a token names.
func (c *Client) nextRequest(s Search, next string) (*request, error) {
	if !typeName(s.Type) {
		return nil, errors.New("upstream: search: no valid resource type")
	}
	op := "search " + s.Type
	u, err := c.place.resolve(c.place.base, next)
	if err != nil {
		return nil, &RequestError{Op: op, Kind: KindForeignLink, Err: err}
	}
	return &request{kind: kindNext, op: op, method: http.MethodGet, url: u, next: true, begun: true, strikes: maxStrikes}, nil
}

func (c *Client) canPost() bool {
	f := c.facts.peek()
	return f != nil && f.PostSearch == Works
}
