package fakefhir

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

// noon is when the clock of the tests stands still.
var noon = time.Date(2025, 6, 1, 12, 0, 0, 0, time.UTC)

// clock is a clock that only moves when it is told to.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

// site is a Server that listens, and a client of it.
type site struct {
	*Server
	t    *testing.T
	http *httptest.Server
	root string
}

func start(t *testing.T, o Options) *site {
	t.Helper()
	s := New(o)
	srv := httptest.NewServer(s)
	t.Cleanup(func() {
		s.Reset() // frees what a fault holds up
		srv.Close()
	})
	return &site{s, t, srv, srv.URL + "/fhir"}
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
	err    error // of reading the body
}

func (s *site) do(method, target, body string, header ...string) answer {
	s.t.Helper()
	if !strings.Contains(target, "://") {
		target = s.root + target
	}
	r, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := s.http.Client().Do(r)
	if err != nil {
		return answer{err: err}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, b, err}
}

func (s *site) get(target string, header ...string) answer {
	s.t.Helper()
	return s.do("GET", target, "", header...)
}

// searchset is a Bundle as far as the tests look at it.
type searchset struct {
	Type  string
	Total *int
	Link  []struct{ Relation, URL string }
	Entry []struct {
		FullURL  string
		Resource json.RawMessage
		Search   struct{ Mode string }
		Request  struct{ Method, URL string }
		Response struct{ Status, Etag, LastModified, Location string }
	}
}

func (b *searchset) link(relation string) string {
	for _, l := range b.Link {
		if l.Relation == relation {
			return l.URL
		}
	}
	return ""
}

// ids are the ids of the entries' resources; those without one by their
// request.
func (b *searchset) ids() string {
	var ids []string
	for _, e := range b.Entry {
		if e.Resource == nil {
			ids = append(ids, e.Request.Method+" "+e.Request.URL)
			continue
		}
		ms, _ := members(e.Resource)
		ids = append(ids, text(ms, "id"))
	}
	return strings.Join(ids, " ")
}

// bundle fetches a Bundle; anything else ends the test.
func (s *site) bundle(target string, header ...string) *searchset {
	s.t.Helper()
	return s.parse(s.get(target, header...))
}

func (s *site) parse(a answer) *searchset {
	s.t.Helper()
	if a.err != nil || a.status != 200 {
		s.t.Fatalf("status %d, error %v: %s", a.status, a.err, a.body)
	}
	var b searchset
	if err := json.Unmarshal(a.body, &b); err != nil {
		s.t.Fatalf("%v in %s", err, a.body)
	}
	return &b
}

// follow walks the next links of a search and is what they gave.
func (s *site) follow(target string) []*searchset {
	s.t.Helper()
	var pages []*searchset
	at, err := url.Parse(s.root + target)
	if err != nil {
		s.t.Fatal(err)
	}
	for {
		p := s.bundle(at.String())
		pages = append(pages, p)
		next := p.link("next")
		if next == "" || len(pages) > 100 {
			return pages
		}
		if at, err = at.Parse(next); err != nil {
			s.t.Fatal(err)
		}
	}
}

// put writes resources, given as JSON with resourceType and id.
func (s *site) put(resources ...string) {
	s.t.Helper()
	for _, r := range resources {
		ms, err := members([]byte(r))
		if err != nil {
			s.t.Fatal(err)
		}
		if _, err := s.Put(text(ms, "resourceType"), text(ms, "id"), []byte(r)); err != nil {
			s.t.Fatal(err)
		}
	}
}

func check[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// cut says whether a body ended before its time.
func (a answer) cut() bool { return errors.Is(a.err, io.ErrUnexpectedEOF) }

// recorder is a ResponseWriter for requests without a network.
type recorder struct {
	header http.Header
	status int
	body   []byte
}

func (r *recorder) Header() http.Header {
	if r.header == nil {
		r.header = http.Header{}
	}
	return r.header
}

func (r *recorder) Write(p []byte) (int, error) {
	r.body = append(r.body, p...)
	return len(p), nil
}

func (r *recorder) WriteHeader(status int) { r.status = status }

func request(method, path, body string) *http.Request {
	return httptest.NewRequest(method, path, strings.NewReader(body))
}

func itoa(i int) string { return strconv.Itoa(i) }
