package upstream

import (
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway/upstream/fhir"
)

// sentRequest is what the recording upstream saw.
type sentRequest struct {
	line   string // method and target as on the request line
	body   string
	header http.Header
	host   string
}

// record answers every request by reply and keeps what was sent.
func record(reply func(w http.ResponseWriter, r *http.Request, n int)) (http.Handler, func() []sentRequest) {
	var mu sync.Mutex
	var sent []sentRequest
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		mu.Lock()
		sent = append(sent, sentRequest{r.Method + " " + r.RequestURI, string(b), r.Header.Clone(), r.Host})
		n := len(sent)
		mu.Unlock()
		reply(w, r, n)
	})
	return h, func() []sentRequest {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(sent)
	}
}

func TestSearchRequests(t *testing.T) {
	from := time.Date(2024, 1, 2, 4, 4, 5, 678_999_000, time.FixedZone("", 3600))
	window := Search{Type: "Observation", From: from, To: from.Add(time.Hour)}
	const w = "_lastUpdated=ge2024-01-02T03:04:05.678Z&_lastUpdated=lt2024-01-02T04:04:05.678Z"
	long := "code=" + strings.Repeat("a,", 1100)
	for _, tt := range []struct {
		name  string
		s     Search
		posts bool // Learn has found that POST works
		page  string
		body  string
		count string
	}{
		{name: "Bare", s: observations,
			page: "GET /fhir/Observation?_count=1000", count: "GET /fhir/Observation?_summary=count"},
		{name: "Window", s: window,
			page: "GET /fhir/Observation?" + w + "&_count=1000", count: "GET /fhir/Observation?" + w + "&_summary=count"},
		{name: "OpenEnd", s: Search{Type: "Observation", From: from},
			page:  "GET /fhir/Observation?_lastUpdated=ge2024-01-02T03:04:05.678Z&_count=1000",
			count: "GET /fhir/Observation?_lastUpdated=ge2024-01-02T03:04:05.678Z&_summary=count"},
		{name: "QueryAsIsAndFirst", s: Search{Type: "Observation", Query: "a=b;c&d=%20+%2B&a=x|y", To: from},
			page:  "GET /fhir/Observation?a=b;c&d=%20+%2B&a=x|y&_lastUpdated=lt2024-01-02T03:04:05.678Z&_count=1000",
			count: "GET /fhir/Observation?a=b;c&d=%20+%2B&a=x|y&_lastUpdated=lt2024-01-02T03:04:05.678Z&_summary=count"},
		{name: "Post", s: Search{Type: "Observation", Query: "status=final", Post: true},
			page: "POST /fhir/Observation/_search", body: "status=final&_count=1000", count: "POST /fhir/Observation/_search"},
		{name: "LongWithoutPost", s: Search{Type: "Observation", Query: long},
			page: "GET /fhir/Observation?" + long + "&_count=1000", count: "GET /fhir/Observation?" + long + "&_summary=count"},
		{name: "LongWithPost", s: Search{Type: "Observation", Query: long}, posts: true,
			page: "POST /fhir/Observation/_search", body: long + "&_count=1000", count: "POST /fhir/Observation/_search"},
		{name: "ShortWithPost", s: observations, posts: true,
			page: "GET /fhir/Observation?_count=1000", count: "GET /fhir/Observation?_summary=count"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, sent := record(func(w http.ResponseWriter, _ *http.Request, _ int) { answer(w, total(7)) })
			c, _ := serve(t, h, func(c *Config) { c.Header = http.Header{"Authorization": {"Bearer x"}} })
			if tt.posts {
				c.facts.put(&Facts{PostSearch: Works, Counts: Works, CountMode: CountSummary}, time.Hour)
			}
			if _, err := c.Page(t.Context(), tt.s, "", idsInto(new([]string))); err != nil {
				t.Fatal(err)
			}
			if n, err := c.Count(t.Context(), tt.s); n != 7 || err != nil {
				t.Fatalf("Count = %d, %v", n, err)
			}
			got := sent()
			if got[0].line != tt.page || got[0].body != tt.body || got[1].line != tt.count {
				t.Errorf("sent %q %q\n and %q", got[0].line, got[0].body, got[1].line)
			}
			for _, r := range got {
				want := map[string]string{
					"Accept": "application/fhir+json", "Accept-Encoding": "gzip", "Cache-Control": "no-cache",
					"Prefer": "handling=strict", "User-Agent": "spillway/devel", "Authorization": "Bearer x",
				}
				if strings.HasPrefix(r.line, "POST") {
					want["Content-Type"] = "application/x-www-form-urlencoded"
				}
				for name, v := range want {
					if r.header.Get(name) != v {
						t.Errorf("%s: %q, want %q", name, r.header.Get(name), v)
					}
				}
			}
		})
	}
}

func TestSearchRefusesWhatCannotBeSent(t *testing.T) {
	h, sent := record(func(w http.ResponseWriter, _ *http.Request, _ int) { answer(w, total(7)) })
	c, _ := serve(t, h)
	for _, s := range []Search{
		{Type: ""}, {Type: "../admin"}, {Type: "Observation/_search"}, {Type: "Observation?x"},
		{Type: "Observation", Query: "a=b c"}, {Type: "Observation", Query: "a=b\r\nX: y"}, {Type: "Observation", Query: "a=b#c"},
	} {
		if _, err := c.Page(t.Context(), s, "", idsInto(new([]string))); err == nil {
			t.Errorf("Page(%+v) = nil error", s)
		}
		if _, err := c.Count(t.Context(), s); err == nil {
			t.Errorf("Count(%+v) = nil error", s)
		}
	}
	for _, id := range []string{"", ".", "..", "a/b", "a%2fb", strings.Repeat("a", 65)} {
		if _, err := c.Read(t.Context(), "Group", id); err == nil {
			t.Errorf("Read(Group, %q) = nil error", id)
		}
	}
	if got := sent(); len(got) > 0 {
		t.Errorf("sent %q", got[0].line)
	}
}

func TestPages(t *testing.T) {
	var base string
	h, sent := record(func(w http.ResponseWriter, r *http.Request, _ int) {
		switch {
		case strings.Contains(r.RequestURI, "_getpages"):
			answer(w, bundle("", "c"))
		default:
			answer(w, bundle(base+"/fhir?_getpages=s&_getpagesoffset=2", "a", "b"))
		}
	})
	c, s := serve(t, h)
	base = s.URL
	for _, post := range []bool{false, true} {
		var ids []string
		search := Search{Type: "Observation", Post: post}
		info, err := c.Page(t.Context(), search, "", idsInto(&ids))
		if err != nil || info.Entries != 2 || info.Next == "" || info.Bytes == 0 {
			t.Fatalf("Page = %+v, %v", info, err)
		}
		info, err = c.Page(t.Context(), search, info.Next, idsInto(&ids))
		if err != nil || info.Next != "" || !slices.Equal(ids, []string{"a", "b", "c"}) {
			t.Fatalf("Page = %+v, %v; ids %v", info, err, ids)
		}
	}
	if got := sent()[3].line; got != "GET /fhir?_getpages=s&_getpagesoffset=2" {
		t.Errorf("the next link after a POST was asked for by %q", got)
	}
}

func TestVisitorStopsThePage(t *testing.T) {
	h, sent := record(func(w http.ResponseWriter, _ *http.Request, _ int) { answer(w, bundle("", "a", "b")) })
	c, _ := serve(t, h)
	// Even an error that looks like one of ours is the visitor's.
	mine := &RequestError{Op: "mine", Kind: KindTimeout}
	calls := 0
	_, err := c.Page(t.Context(), observations, "", func(*fhir.Entry) error { calls++; return mine })
	if err != error(mine) || calls != 1 || len(sent()) != 1 {
		t.Errorf("Page = %v after %d calls and %d requests", err, calls, len(sent()))
	}
}

func TestCountMode(t *testing.T) {
	h, sent := record(func(w http.ResponseWriter, r *http.Request, _ int) {
		if strings.Contains(r.URL.RawQuery, "_total") {
			answer(w, total(3))
			return
		}
		answer(w, bundle("", "a"))
	})
	c, _ := serve(t, h)
	if _, err := c.Count(t.Context(), observations); !errors.Is(err, ErrNoCount) {
		t.Errorf("Count without a total = %v", err)
	}
	c.facts.put(&Facts{Counts: Works, CountMode: CountTotal}, time.Hour)
	if n, err := c.Count(t.Context(), observations); n != 3 || err != nil {
		t.Errorf("Count = %d, %v", n, err)
	}
	if got := sent()[1].line; got != "GET /fhir/Observation?_total=accurate&_count=0" {
		t.Errorf("sent %q", got)
	}
	c.facts.put(&Facts{Counts: Ignored}, time.Hour)
	if _, err := c.Count(t.Context(), observations); !errors.Is(err, ErrNoCount) || len(sent()) != 2 {
		t.Errorf("Count = %v after %d requests", err, len(sent()))
	}
}

func TestNextLinkGone(t *testing.T) {
	for _, status := range []int{http.StatusNotFound, http.StatusGone} {
		h, sent := record(func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(status) })
		c, s := serve(t, h)
		_, err := c.Page(t.Context(), observations, s.URL+"/fhir?_getpages=secret", idsInto(new([]string)))
		wantError(t, err, KindGone, 1, "search Observation failed", "begin again")
		if len(sent()) != 1 {
			t.Errorf("sent %d requests", len(sent()))
		}
		// The same status for a first page is no expiry.
		_, err = c.Page(t.Context(), observations, "", idsInto(new([]string)))
		wantError(t, err, KindStatus, 1)
	}
}

func TestForeignNextLinkIsNotFollowed(t *testing.T) {
	target, seen := record(func(w http.ResponseWriter, _ *http.Request, _ int) { answer(w, bundle("", "x")) })
	evil := httptest.NewServer(target)
	defer evil.Close()
	h, sent := record(func(w http.ResponseWriter, _ *http.Request, _ int) {
		answer(w, bundle(evil.URL+"/fhir/Observation?secret=1", "a"))
	})
	c, s := serve(t, h, func(c *Config) { c.Header = http.Header{"Authorization": {"Bearer x"}} })
	_, err := c.Page(t.Context(), observations, "", idsInto(new([]string)))
	wantError(t, err, KindForeignLink, 0, "upstream.url_aliases")
	var foreign *ForeignLinkError
	if !errors.As(err, &foreign) || foreign.Origin != evil.URL {
		t.Errorf("origin %+v, want %s", foreign, evil.URL)
	}
	if strings.Contains(err.Error(), evil.URL) {
		t.Errorf("the error echoes the link: %v", err)
	}
	_, err = c.Page(t.Context(), observations, evil.URL+"/fhir/x", idsInto(new([]string)))
	wantError(t, err, KindForeignLink, 0)
	if len(seen()) != 0 || len(sent()) != 1 {
		t.Errorf("the other server saw %d requests, the upstream %d", len(seen()), len(sent()))
	}

	// As an alias it is the same server: asked at the configured address only.
	h, _ = record(func(w http.ResponseWriter, _ *http.Request, n int) {
		if n == 1 {
			answer(w, bundle(evil.URL+"/fhir/Observation?secret=1", "a"))
			return
		}
		answer(w, bundle("", "b"))
	})
	s.Config.Handler = h
	c = client(t, s.URL+"/fhir", func(c *Config) { c.Aliases = append(c.Aliases, parse(t, evil.URL+"/fhir/")) })
	info, err := c.Page(t.Context(), observations, "", idsInto(new([]string)))
	if err != nil || info.Next != s.URL+"/fhir/Observation?secret=1" {
		t.Fatalf("Page = %+v, %v", info, err)
	}
	if _, err = c.Page(t.Context(), observations, info.Next, idsInto(new([]string))); err != nil {
		t.Fatal(err)
	}
	if len(seen()) != 0 {
		t.Errorf("the alias was asked")
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	target, seen := record(func(w http.ResponseWriter, _ *http.Request, _ int) { answer(w, bundle("", "x")) })
	evil := httptest.NewServer(target)
	defer evil.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		h, sent := record(func(w http.ResponseWriter, r *http.Request, _ int) {
			w.Header().Set("Location", evil.URL+"/fhir/login?patient=secret")
			w.WriteHeader(status)
		})
		c, _ := serve(t, h, func(c *Config) { c.Header = http.Header{"Authorization": {"Bearer x"}} })
		_, err := c.Page(t.Context(), observations, "", idsInto(new([]string)))
		wantError(t, err, KindStatus, 1, "a redirect to "+evil.URL+".", "Redirects are not followed")
		if len(seen()) != 0 || len(sent()) != 1 {
			t.Errorf("%d: the target saw %d requests, the upstream %d", status, len(seen()), len(sent()))
		}
	}
}

func TestRead(t *testing.T) {
	const group = `{"resourceType":"Group","id":"g1","quantity":1.10}`
	h, sent := record(func(w http.ResponseWriter, r *http.Request, _ int) {
		switch r.URL.Path {
		case "/fhir/Group/g1":
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Set("Content-Type", fhirJSON)
			gz := gzip.NewWriter(w)
			_, _ = io.WriteString(gz, group)
			_ = gz.Close()
		case "/fhir/Group/p1":
			answer(w, `{"resourceType":"Patient","id":"p1"}`)
		case "/fhir/Group/other":
			answer(w, group)
		case "/fhir/Group/huge":
			answer(w, `{"resourceType":"Group","id":"huge","x":"`+strings.Repeat("x", 2000)+`"}`)
		case "/fhir/Group/deleted":
			w.WriteHeader(http.StatusGone)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	c, _ := serve(t, h, func(c *Config) { c.ResourceBytes = 1000 })
	b, err := c.Read(t.Context(), "Group", "g1")
	if err != nil || string(b) != group || sent()[0].line != "GET /fhir/Group/g1" {
		t.Errorf("Read = %q, %v", b, err)
	}
	_, err = c.Read(t.Context(), "Group", "none")
	if wantError(t, err, KindStatus, 1, "read Group failed"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Read = %v, want ErrNotFound", err)
	}
	_, err = c.Read(t.Context(), "Group", "deleted")
	if wantError(t, err, KindStatus, 1, "read Group failed"); !errors.Is(err, ErrGone) {
		t.Errorf("Read = %v, want ErrGone", err)
	}
	for _, id := range []string{"other", "p1"} {
		_, err = c.Read(t.Context(), "Group", id)
		wantError(t, err, KindMalformed, 2, "another resource")
	}
	_, err = c.Read(t.Context(), "Group", "huge")
	wantError(t, err, KindTooLarge, 1, "1000 bytes")
}

func TestHostHeaderOfTheConfiguration(t *testing.T) {
	h, sent := record(func(w http.ResponseWriter, _ *http.Request, _ int) { answer(w, total(1)) })
	c, _ := serve(t, h, func(c *Config) {
		c.Header = http.Header{"Host": {"fhir.internal"}, "accept": {"application/json"}}
	})
	if _, err := c.Count(t.Context(), observations); err != nil {
		t.Fatal(err)
	}
	if got := sent()[0]; got.host != "fhir.internal" || got.header.Get("Accept") != "application/json" {
		t.Errorf("host %q, accept %q", got.host, got.header.Get("Accept"))
	}
}

// wantError checks kind, tries (0: any) and words of a RequestError, and that
// nothing of a query stands in it.
func wantError(t *testing.T, err error, kind ErrorKind, tries int, words ...string) {
	t.Helper()
	var f *RequestError
	if !errors.As(err, &f) {
		t.Fatalf("error = %v, want a RequestError of kind %q", err, kind)
	}
	if f.Kind != kind || tries != 0 && f.Tries != tries {
		t.Errorf("kind %q after %d tries, want %q after %d: %v", f.Kind, f.Tries, kind, tries, err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
	for _, w := range []string{"secret", "_count", "_getpages", "Bearer", "?"} {
		if strings.Contains(strings.ReplaceAll(err.Error(), "Is it running, and is upstream.url right?", ""), w) {
			t.Errorf("error %q gives away %q", err, w)
		}
	}
}
