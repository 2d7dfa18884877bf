package upstream

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"spillway/upstream/fhir"
)

// A History names versions of resources.
type History struct {
	// Type is the resource type. Empty means the whole server.
	Type string
	// ID is the resource. Empty means all of the type.
	ID string
	// Since is the earliest change wanted, cut to milliseconds. Zero means all.
	Since time.Time
}

// HistoryPage reads one page of a history, as Page does of a search: the first
// if next is "". The upstream decides on the order, which is mostly the newest
// first. While it is written to, pages may repeat what earlier ones held.
func (c *Client) HistoryPage(ctx context.Context, h History, next string, visit func(*fhir.Entry) error) (PageInfo, error) {
	r, err := c.historyRequest(h, c.pageCount())
	if err != nil {
		return PageInfo{}, err
	}
	if next != "" {
		u, err := c.place.resolve(c.place.base, next)
		if err != nil {
			return PageInfo{}, &RequestError{Op: r.op, Kind: KindForeignLink, Err: err}
		}
		r.kind, r.url, r.next, r.begun = kindNext, u, true, true
	}
	page, last, err := c.scan(ctx, r, visit)
	if err != nil {
		return PageInfo{}, err
	}
	info := PageInfo{Entries: page.Entries, Total: page.Total, Self: page.Self, Bytes: last.body.bytes}
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

// historyRequest makes the request for the first page of a history.
func (c *Client) historyRequest(h History, count int) (*request, error) {
	op, path := "history of the server", []string{"_history"}
	if h.Type != "" {
		if !typeName(h.Type) {
			return nil, errors.New("upstream: history: no valid resource type")
		}
		op, path = "history of "+h.Type, []string{h.Type, "_history"}
	}
	if h.ID != "" {
		if h.Type == "" || !fhir.ValidID(h.ID) {
			return nil, errors.New("upstream: history: no valid resource type and id")
		}
		op, path = "history of one "+h.Type, []string{h.Type, h.ID, "_history"}
	}
	var params []string
	if !h.Since.IsZero() {
		params = append(params, "_since="+fhir.FormatInstant(h.Since))
	}
	r := &request{kind: kindHistory, op: op, method: http.MethodGet, url: c.place.base.JoinPath(path...), strikes: maxStrikes}
	r.url.RawQuery = strings.Join(append(params, "_count="+strconv.Itoa(count)), "&")
	return r, nil
}
