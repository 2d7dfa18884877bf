package upstream

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"spillway/upstream/fhir"
)

// TestHistoryPage reads two pages of a history, with a deletion that has no time.
func TestHistoryPage(t *testing.T) {
	var asked []string
	c, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.RequestURI())
		if strings.Contains(r.URL.RawQuery, "_offset") {
			answer(w, `{"resourceType":"Bundle","type":"history","entry":[{"resource":{"resourceType":"Patient","id":"2"},"request":{"method":"POST","url":"Patient/2/_history/1"}}]}`)
			return
		}
		answer(w, `{"resourceType":"Bundle","type":"history","link":[{"relation":"next","url":"http://`+r.Host+`/fhir/_history?_offset=1"}],`+
			`"entry":[{"request":{"method":"DELETE","url":"Patient/1/_history/3"},"response":{"status":"204","etag":"W/\"3\""}}]}`)
	}))
	var got []string
	visit := func(e *fhir.Entry) error {
		got = append(got, e.Request.Method+" "+e.Request.URL)
		return nil
	}
	page, err := c.HistoryPage(t.Context(), History{Since: never()}, "", visit)
	if err != nil || page.Next == "" || page.Entries != 1 {
		t.Fatalf("%+v, %v", page, err)
	}
	if page, err = c.HistoryPage(t.Context(), History{}, page.Next, visit); err != nil || page.Next != "" {
		t.Fatalf("%+v, %v", page, err)
	}
	if _, err = c.HistoryPage(t.Context(), History{Type: "Patient", ID: "7"}, "", visit); err != nil {
		t.Fatal(err)
	}
	if want := "DELETE Patient/1/_history/3 POST Patient/2/_history/1 DELETE Patient/1/_history/3"; strings.Join(got, " ") != want {
		t.Errorf("got %q", got)
	}
	want := []string{"/fhir/_history?_since=9999-01-01T00:00:00.000Z&_count=1000", "/fhir/_history?_offset=1", "/fhir/Patient/7/_history?_count=1000"}
	if strings.Join(asked, " ") != strings.Join(want, " ") {
		t.Errorf("asked %q", asked)
	}
	for _, h := range []History{{Type: "a/b"}, {ID: "1"}, {Type: "Patient", ID: "a/b"}} {
		if _, err := c.HistoryPage(t.Context(), h, "", visit); err == nil {
			t.Errorf("%+v was asked for", h)
		}
	}
	var failed *RequestError
	if _, err := c.HistoryPage(t.Context(), History{}, "http://elsewhere/fhir/_history", visit); !errors.As(err, &failed) || failed.Kind != KindForeignLink {
		t.Errorf("a foreign link: %v", err)
	}
}
