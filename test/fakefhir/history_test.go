package fakefhir

import (
	"strings"
	"testing"
	"time"
)

func TestHistory(t *testing.T) {
	c := &clock{noon}
	s := start(t, Options{Now: c.now})
	step := func(f func()) {
		f()
		c.t = c.t.Add(time.Second)
	}
	step(func() { s.numbered(2) })                               // 12:00:00
	step(func() { s.numbered(1) })                               // 12:00:01
	step(func() { s.Delete("Basic", "b02") })                    // 12:00:02
	step(func() { s.put(`{"resourceType":"Group","id":"g1"}`) }) // 12:00:03

	for _, c := range []struct{ target, want string }{
		{"/Basic/_history", "DELETE Basic/b02/_history/2 | b01 | b02 | b01"},
		{"/_history", "g1 | DELETE Basic/b02/_history/2 | b01 | b02 | b01"},
		{"/Basic/b02/_history", "DELETE Basic/b02/_history/2 | b02"},
		{"/Basic/_history?_since=2025-06-01T12:00:01.000Z", "DELETE Basic/b02/_history/2 | b01"},
		{"/Basic/_history?_since=2025-06-01T12:00:01.001Z", "DELETE Basic/b02/_history/2"},
		{"/Basic/_history?_since=2025-06-02T00:00:00Z", ""},
		{"/_history?_since=2025-06-01T12:00:02.000Z", "g1 | DELETE Basic/b02/_history/2"},
	} {
		check(t, c.target, ids(s.follow(c.target)), strings.ReplaceAll(c.want, " | ", " "))
		sep := map[bool]string{true: "&", false: "?"}[strings.Contains(c.target, "?")]
		check(t, c.target+" by one", ids(s.follow(c.target+sep+"_count=1")), c.want)
	}

	b := s.bundle("/Basic/_history")
	check(t, "type", b.Type, "history")
	check(t, "total", *b.Total, 4)
	check(t, "no total with _since", s.bundle("/Basic/_history?_since=2020-01-01T00:00:00Z").Total == nil, true)
	gone := b.Entry[0]
	check(t, "method", gone.Request.Method, "DELETE")
	check(t, "etag", gone.Response.Etag, `W/"2"`)
	check(t, "no resource", gone.Resource == nil, true)
	check(t, "no time", gone.Response.LastModified, "")
	check(t, "a creation", b.Entry[3].Request.Method+" "+b.Entry[3].Response.Status, "POST 201 Created")
	check(t, "an update", b.Entry[1].Request.Method+" "+b.Entry[1].Response.Status, "PUT 200 OK")
	check(t, "a version of its time", strings.Contains(string(b.Entry[3].Resource), `"versionId":"1"`), true)
	for _, bad := range []string{"_since=soon", "_count=x", "_offset=-1"} {
		check(t, bad, s.get("/Basic/_history?"+bad).status, 400)
	}

	o := start(t, Options{HistoryTimes: true, Now: c.now})
	o.numbered(1)
	check(t, "times on demand", o.bundle("/_history").Entry[0].Response.LastModified, "2025-06-01T12:00:04.000+00:00")
	n := start(t, Options{NoHistory: true})
	n.numbered(1)
	check(t, "no type history", n.get("/Basic/_history").status, 400)
	check(t, "but of instances", n.get("/Basic/b01/_history").status, 200)
}
