package fakefhir

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"time"
)

var idPattern = regexp.MustCompile(`^[A-Za-z0-9\-.]{1,64}$`)

// read answers read and vread.
func (x *exchange) read() error {
	if x.s.bulk(x.typ) {
		i, ok := x.s.o.Bulk.index(x.id)
		if !ok || x.vid != "" && x.vid != "1" {
			return notFound("Resource %s/%s is not known", x.typ, x.id)
		}
		x.sendResource(http.StatusOK, 1, x.s.o.Bulk.LastUpdated(i), x.s.o.Bulk.AppendResource(nil, i))
		return nil
	}
	v := x.s.store.current(x.typ, x.id)
	if v == nil {
		return notFound("Resource %s/%s is not known", x.typ, x.id)
	}
	if x.vid != "" {
		all := x.s.store.versions(x.typ, x.id)
		n, err := strconv.Atoi(x.vid)
		if err != nil || n < 1 || n > len(all) {
			return notFound("Version %q of %s/%s is not known", x.vid, x.typ, x.id)
		}
		v = all[n-1]
	}
	if v.deleted() {
		return gone("Resource was deleted at %s", formatMilli(v.updated))
	}
	x.sendResource(http.StatusOK, v.num, time.UnixMilli(v.updated), v.raw)
	return nil
}

// write answers create, update and delete.
func (x *exchange) write() error {
	if x.s.bulk(x.typ) {
		return &problem{status: http.StatusMethodNotAllowed, code: "not-supported", text: "Bulk Observations cannot be written"}
	}
	if (x.id == "") != (x.r.Method == http.MethodPost) {
		return invalid("%s is not supported on this URL", x.r.Method)
	}
	t := x.s.Begin()
	status := http.StatusOK
	switch x.r.Method {
	case http.MethodPost:
		if err := t.put("POST", x.typ, newID(), x.body); err != nil {
			return invalid("%v", err)
		}
		status = http.StatusCreated
	case http.MethodPut:
		if !idPattern.MatchString(x.id) {
			return invalid("Invalid id")
		}
		if ms, err := members(x.body); err == nil && text(ms, "id") != x.id {
			return invalid("The id of the resource must be that of the URL")
		}
		if err := t.Put(x.typ, x.id, x.body); err != nil {
			return invalid("%v", err)
		}
		if old := x.s.store.current(x.typ, x.id); old == nil || old.deleted() {
			status = http.StatusCreated
		}
	case http.MethodDelete:
		t.Delete(x.typ, x.id)
		t.commit()
		x.sendJSON(http.StatusOK, outcome("information", "informational", "Successfully deleted"))
		return nil
	}
	v := t.commit()[0]
	at := fmt.Sprintf("%s/%s/%s/_history/%d", x.root, v.typ, v.id, v.num)
	x.w.Header().Set("Content-Location", at)
	if status == http.StatusCreated {
		x.w.Header().Set("Location", at)
	}
	x.sendResource(status, v.num, time.UnixMilli(v.updated), v.raw)
	return nil
}

func (x *exchange) sendResource(status, version int, updated time.Time, raw []byte) {
	x.w.Header().Set("ETag", fmt.Sprintf(`W/"%d"`, version))
	x.w.Header().Set("Last-Modified", updated.UTC().Format(http.TimeFormat))
	x.sendJSON(status, raw)
}

// newID is an id for a created resource.
func newID() string { return rand.Text() }
