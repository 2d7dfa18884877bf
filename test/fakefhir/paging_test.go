package fakefhir

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// numbered puts n Basics, b01 and so on.
func (s *site) numbered(n int) {
	for i := 1; i <= n; i++ {
		s.put(fmt.Sprintf(`{"resourceType":"Basic","id":"b%02d"}`, i))
	}
}

// ids are the ids of all pages, page by page.
func ids(pages []*searchset) string {
	var out []string
	for _, p := range pages {
		out = append(out, p.ids())
	}
	return strings.Join(out, " | ")
}

func TestPaging(t *testing.T) {
	for _, c := range []struct {
		name, query string
		o           Options
		want        string
	}{
		{"as asked", "_count=2", Options{}, "b01 b02 | b03 b04 | b05"},
		{"exactly full", "_count=5", Options{}, "b01 b02 b03 b04 b05"},
		{"clamped", "_count=100", Options{PageMax: 3}, "b01 b02 b03 | b04 b05"},
		{"by default", "", Options{PageDefault: 4}, "b01 b02 b03 b04 | b05"},
		{"nothing", "_id=no", Options{}, ""},
		{"path links", "_count=3", Options{Links: LinkPath}, "b01 b02 b03 | b04 b05"},
		{"relative links", "_count=3", Options{Links: LinkRelative}, "b01 b02 b03 | b04 b05"},
		{"links last, indented", "_count=3", Options{LinksLast: true, Pretty: true}, "b01 b02 b03 | b04 b05"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, c.o)
			s.numbered(5)
			check(t, "pages", ids(s.follow("/Basic?"+c.query)), c.want)
		})
	}
}

func TestNextLinkForms(t *testing.T) {
	for _, c := range []struct {
		o    Options
		want string // prefix; ROOT is how the client calls the server
	}{
		{Options{}, "ROOT?_getpages="},
		{Options{URL: "http://10.1.2.3/r4/"}, "http://10.1.2.3/r4?_getpages="},
		{Options{Links: LinkPath}, "/fhir?_getpages="},
		{Options{Links: LinkRelative}, "?_getpages="},
		{Options{Links: LinkAlias, Alias: "https://alias.example/fhir"}, "https://alias.example/fhir?_getpages="},
	} {
		s := start(t, c.o)
		s.numbered(3)
		next := s.bundle("/Basic?_count=1").link("next")
		if want := strings.ReplaceAll(c.want, "ROOT", s.root); !strings.HasPrefix(next, want) {
			t.Errorf("got %s, want %s...", next, want)
		}
	}
	s := start(t, Options{})
	s.numbered(3)
	a := s.do("POST", "/Basic/_search", "_count=2", "Content-Type", "application/x-www-form-urlencoded")
	check(t, "GET of the next link of a POST", s.bundle(s.parse(a).link("next")).ids(), "b03")
	check(t, "self link", s.bundle("/Basic?_count=2&_sort=-_id").link("self"), s.root+"/Basic?_count=2&_sort=-_id")
	check(t, "fullUrl", s.bundle("/Basic").Entry[0].FullURL, s.root+"/Basic/b01")
	check(t, "mode", s.bundle("/Basic").Entry[0].Search.Mode, "match")
}

func TestTotalIsOnlySaidWhenKnown(t *testing.T) {
	s := start(t, Options{})
	s.numbered(5)
	for query, want := range map[string]string{
		"_count=2":                 "none none none",
		"_count=2&_total=none":     "none none none",
		"_count=2&_total=accurate": "5 5 5",
		"_count=5":                 "5",
		"_count=9":                 "5",
	} {
		var got []string
		for _, p := range s.follow("/Basic?" + query) {
			if p.Total == nil {
				got = append(got, "none")
			} else {
				got = append(got, fmt.Sprint(*p.Total))
			}
		}
		check(t, query, strings.Join(got, " "), want)
	}
}

func TestPagesAreASnapshotOfIdsWithCurrentVersions(t *testing.T) {
	s := start(t, Options{})
	s.numbered(4)
	next := s.bundle("/Basic?_count=2").link("next")
	s.numbered(5) // b05 is new, the others have a second version
	s.Delete("Basic", "b03")
	p := s.bundle(next)
	check(t, "ids", p.ids(), "b04")
	check(t, "next", p.link("next"), "")
	if !strings.Contains(string(p.Entry[0].Resource), `"versionId":"2"`) {
		t.Errorf("not the current version: %s", p.Entry[0].Resource)
	}
	if got := string(s.get(next).body); strings.Contains(got, `"entry":[]`) {
		t.Error("an empty array is not FHIR")
	}
}

func TestNextLinksEnd(t *testing.T) {
	c := &clock{noon}
	s := start(t, Options{Now: c.now, ResultTTL: time.Minute})
	s.numbered(3)
	next := s.bundle("/Basic?_count=1").link("next")
	c.t = noon.Add(time.Minute)
	check(t, "in time", s.get(next).status, 200)
	c.t = noon.Add(time.Minute + time.Millisecond)
	check(t, "too late", s.get(next).status, 410)
	check(t, "unknown", s.get("?_getpages=nonsense&_getpagesoffset=1").status, 410)

	s = start(t, Options{})
	s.numbered(3)
	next = s.bundle("/Basic?_count=1").link("next")
	for range keptResults - 1 {
		s.results.keep(&result{}, "")
	}
	check(t, "among the last", s.get(next).status, 200)
	s.results.keep(&result{}, "")
	check(t, "forgotten", s.get(next).status, 410)
}

func TestResultCache(t *testing.T) {
	c := &clock{noon}
	s := start(t, Options{Now: c.now, ResultCache: time.Minute})
	count := func(header ...string) int { return *s.bundle("/Basic?_summary=count", header...).Total }
	s.numbered(1)
	check(t, "first", count(), 1)
	s.numbered(2)
	check(t, "cached", count(), 1)
	check(t, "no-cache", count("Cache-Control", "no-cache"), 2)
	s.numbered(3)
	check(t, "cached again", count(), 2)
	check(t, "no-store", count("Cache-Control", "no-store"), 3)
	c.t = noon.Add(time.Minute)
	check(t, "aged", count(), 3)

	check(t, "limited", s.bundle("/Basic", "Cache-Control", "no-store, max-results=1").ids(), "b01")
	check(t, "not served from the limited one", s.bundle("/Basic").ids(), "b01 b02 b03")
}

func TestNoStore(t *testing.T) {
	s := start(t, Options{})
	for i := range 130 {
		s.put(fmt.Sprintf(`{"resourceType":"Basic","id":"b%d"}`, i))
	}
	for _, c := range []struct {
		query, control string
		entries, total int
	}{
		{"", "no-store", 100, 100},
		{"", "no-store, max-results=1000", 130, 130},
		{"", "max-results=120,no-store", 120, 120},
		{"_count=50", "no-store, max-results=1000", 50, 50}, // a wrong total, as HAPI's
		{"_count=50&_offset=100", "no-store, max-results=1000", 30, 130},
		{"_count=1&_offset=130", "no-store, max-results=1", 0, 130},
		{"_summary=count", "no-store", 0, 130},
	} {
		p := s.bundle("/Basic?"+c.query, "Cache-Control", c.control)
		check(t, c.query+c.control, len(p.Entry), c.entries)
		check(t, c.query+c.control, *p.Total, c.total)
		check(t, c.query+c.control, p.link("next"), "")
	}
	check(t, "too many", s.get("/Basic", "Cache-Control", "no-store, max-results=1001").status, 400)
}
