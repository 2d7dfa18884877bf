package fakefhir

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Seven Basics on pages of two, with one fault.
func TestPageFaults(t *testing.T) {
	zero, half := 0.0, 0.5
	search, next, any := Match{Kind: KindSearch}, Match{Kind: KindNext}, Match{}
	for _, c := range []struct {
		name  string
		fault Fault
		want  string
	}{
		{"none", Fault{Match: Match{Type: "Patient"}, Do: Do{DropPage: true}}, "b01 b02 | b03 b04 | b05 b06 | b07"},
		{"repeat", Fault{Match: Match{Page: 3}, Do: Do{RepeatPage: true}}, "b01 b02 | b03 b04 | b03 b04 | b07"},
		{"repeat the first", Fault{Match: search, Do: Do{RepeatPage: true}}, "b01 b02 | b03 b04 | b05 b06 | b07"},
		{"drop a page", Fault{Match: Match{Page: 2}, Do: Do{DropPage: true}}, "b01 b02 | b05 b06 | b07"},
		{"drop the first", Fault{Match: search, Do: Do{DropPage: true}}, "b03 b04 | b05 b06 | b07"},
		{"drop the last", Fault{Match: Match{Page: 4}, Do: Do{DropPage: true}}, "b01 b02 | b03 b04 | b05 b06 | "},
		{"drop an entry", Fault{Match: Match{Page: 2}, Do: Do{DropEntries: 1}}, "b01 b02 | b04 | b05 b06 | b07"},
		{"drop too many", Fault{Match: Match{Page: 4}, Do: Do{DropEntries: 9}}, "b01 b02 | b03 b04 | b05 b06 | "},
		{"duplicate", Fault{Match: Match{Page: 2}, Do: Do{DuplicateEntries: 1}}, "b01 b02 | b03 b03 b04 | b05 b06 | b07"},
		{"end early", Fault{Match: any, Do: Do{EndChainEarly: 2}}, "b01 b02 | b03 b04"},
		{"end at once", Fault{Match: any, Do: Do{EndChainEarly: 1}}, "b01 b02"},
		{"wrong type", Fault{Match: Match{Page: 2}, Do: Do{WrongType: true}}, "b01 b02 | wrong-type b03 b04 | b05 b06 | b07"},
		{"outcome", Fault{Match: Match{Page: 4}, Do: Do{OutcomeEntry: true}}, "b01 b02 | b03 b04 | b05 b06 |  b07"},
		{"any entry", Fault{Match: Match{Page: 4}, Do: Do{AddEntry: &AddEntry{Mode: "include", Resource: []byte(`{"id":"extra"}`)}}},
			"b01 b02 | b03 b04 | b05 b06 | extra b07"},
		{"twice only", Fault{Match: next, Times: 2, Do: Do{DropEntries: 2}}, "b01 b02 |  |  | b07"},
		{"after one", Fault{Match: next, After: 1, Times: 1, Do: Do{DropEntries: 2}}, "b01 b02 | b03 b04 |  | b07"},
		{"the query of the search", Fault{Match: Match{Kind: KindNext, QueryContains: "_sort=_id"}, Do: Do{DropEntries: 2}}, "b01 b02 |  |  | "},
		{"an endless chain", Fault{Match: next, Times: 5, Do: Do{Endless: true}}, "b01 b02 | b03 b04 | b05 b06 | b07 b01 | b02 b03 | b04 b05 | "},
		{"a loop", Fault{Match: Match{Page: 2}, Times: 3, Do: Do{LoopNext: true}}, "b01 b02 | b03 b04 | b03 b04 | b03 b04 | b03 b04 | b05 b06 | b07"},
		{"a lie about totals is no lie about pages", Fault{Match: any, Do: Do{LieTotal: &LieTotal{Factor: &zero}}}, "b01 b02 | b03 b04 | b05 b06 | b07"},
		{"an ignored parameter", Fault{Match: any, Do: Do{IgnoreParams: []string{"_sort", "_id"}}}, "b03 b07 | b01 b02 | b05 b04 | b06"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, Options{})
			for _, id := range []string{"b03", "b07", "b01", "b02", "b05", "b04", "b06"} {
				s.put(`{"resourceType":"Basic","id":"` + id + `"}`)
			}
			s.Script(c.fault)
			check(t, "pages", ids(s.follow("/Basic?_count=2&_sort=_id")), c.want)
		})
	}
	for _, c := range []struct {
		lie  LieTotal
		want int
	}{
		{LieTotal{Delta: -2}, 5}, {LieTotal{Delta: -9}, 0}, {LieTotal{Factor: &zero}, 0}, {LieTotal{Factor: &half, Delta: 1}, 4},
	} {
		s := start(t, Options{})
		s.numbered(7)
		s.Script(Fault{Match: Match{Kind: KindCount}, Do: Do{LieTotal: &c.lie}})
		check(t, "total", *s.bundle("/Basic?_summary=count").Total, c.want)
		check(t, "total of a page", *s.bundle("/Basic").Total, 7)
	}
	s := start(t, Options{})
	s.Script(Fault{Do: Do{LieTotal: &LieTotal{Absent: true}}})
	check(t, "no total", s.bundle("/Basic?_summary=count").Total == nil, true)
}

func TestForeignNext(t *testing.T) {
	s := start(t, Options{})
	s.numbered(3)
	s.Script(Fault{Do: Do{ForeignNext: "http://evil.example/fhir"}})
	if next := s.bundle("/Basic?_count=1").link("next"); !strings.HasPrefix(next, "http://evil.example/fhir?_getpages=") {
		t.Error(next)
	}
}

// Answers that replace the real one.
func TestReplacedAnswers(t *testing.T) {
	for _, c := range []struct {
		name     string
		do       Do
		status   int
		contains string
		header   string // "Name: value"
	}{
		{"status", Do{Status: &Status{Code: 429, Header: http.Header{"retry-after": {"2"}}}}, 429, "OperationOutcome", "Retry-After: 2"},
		{"body", Do{Status: &Status{Code: 503, Header: http.Header{"Content-Type": {"text/plain"}}, Body: "later"}}, 503, "later", "Content-Type: text/plain"},
		{"a header only", Do{Status: &Status{Code: 304, Header: http.Header{"Location": {"/x"}}}}, 304, "", "Location: /x"},
		{"html", Do{HTML: true}, 200, "<form", "Content-Type: text/html; charset=utf-8"},
		{"outcome", Do{OutcomeWith200: true}, 200, "OperationOutcome", "Content-Type: " + jsonType},
		{"garbage", Do{Garbage: true}, 200, "", "Content-Type: " + jsonType},
		{"truncated", Do{TruncatedJSON: true}, 200, `{"resourceType":"Bundle"`, "Content-Type: " + jsonType},
	} {
		s := start(t, Options{})
		s.numbered(3)
		s.Script(Fault{Times: 1, Do: c.do})
		a := s.get("/Basic")
		check(t, c.name, a.status, c.status)
		check(t, c.name, bytes.Contains(a.body, []byte(c.contains)), true)
		name, val, _ := strings.Cut(c.header, ": ")
		check(t, c.name, a.header.Get(name), val)
		if c.name == "garbage" || c.name == "truncated" {
			check(t, c.name, json.Valid(a.body), false)
		}
		check(t, c.name+", the second time", len(s.bundle("/Basic").Entry), 3)
		check(t, c.name+" is logged", s.Log()[0].Faulty, true)
		check(t, "the second is not", s.Log()[1].Faulty, false)
	}
	s := start(t, Options{})
	s.numbered(3)
	s.Script(Fault{Times: 2, Do: Do{GoneNext: true}})
	p := s.bundle("/Basic?_count=1")
	check(t, "gone", s.get(p.link("next")).status, 410)
	check(t, "back", s.get(p.link("next")).status, 200)
}

func TestConnectionFaults(t *testing.T) {
	for _, encoding := range []string{"identity", "gzip"} {
		s := start(t, Options{})
		s.numbered(50)
		s.Script(Fault{Times: 1, Do: Do{Cut: &Cut{After: 100}}})
		a := s.get("/Basic", "Accept-Encoding", encoding)
		check(t, "cut", a.cut(), true)
		check(t, "bytes before the cut", len(a.body), 100)
		s.Script(Fault{Times: 1, Do: Do{Hangup: true}})
		// POST, because a client repeats a GET by itself after a hangup.
		a = s.do("POST", "/Basic/_search", "", "Accept-Encoding", encoding)
		check(t, "hangup", a.err != nil && a.status == 0, true)
		check(t, "then all is well", len(s.bundle("/Basic").Entry), 20)
	}
}

func TestStall(t *testing.T) {
	s := start(t, Options{NoGzip: true})
	s.numbered(50)
	s.Script(Fault{Do: Do{Stall: &Cut{After: 10}}})
	ctx, cancel := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, "GET", s.root+"/Basic", nil)
	res, err := s.http.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	ten := make([]byte, 10)
	if _, err := io.ReadFull(res.Body, ten); err != nil {
		t.Fatal(err)
	}
	check(t, "still being answered", s.Log()[0].Done, false)
	cancel()
	if _, err := res.Body.Read(ten); err == nil {
		t.Error("something came after the stall")
	}

	res, err = s.http.Client().Get(s.root + "/Basic")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.ReadFull(res.Body, ten); err != nil {
		t.Fatal(err)
	}
	s.Reset() // frees it
	if b, err := io.ReadAll(res.Body); err == nil || len(b) > 0 {
		t.Errorf("got %d bytes and %v after Reset", len(b), err)
	}
}

func TestDelayAndLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Latency: time.Second})
		s.Script(Fault{Match: Match{Kind: KindMetadata}, Do: Do{Delay: 2 * time.Second}})
		for path, want := range map[string]time.Duration{"/fhir/Basic": time.Second, "/fhir/metadata": 3 * time.Second} {
			began := time.Now()
			s.ServeHTTP(&recorder{}, request("GET", path, ""))
			check(t, path, time.Since(began), want)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		w := &recorder{}
		s.ServeHTTP(w, request("GET", "/fhir/Basic", "").WithContext(ctx))
		check(t, "a client that has gone gets nothing", w.status, 0)
		check(t, "logged", s.Log()[2].Status, 0)
	})
}

func TestHuge(t *testing.T) {
	s := start(t, Options{})
	s.put(`{"resourceType":"Basic","id":"a","text":{"status":"empty"}}`, `{"resourceType":"Basic","id":"b"}`)
	s.Script(Fault{Times: 1, Do: Do{HugeEntry: 100_000, OutcomeEntry: true}}, Fault{After: 1, Do: Do{HugePage: 300_000}})
	b := s.bundle("/Basic")
	check(t, "entry", len(b.Entry[1].Resource) >= 100_000, true)
	check(t, "the other", len(b.Entry[2].Resource) < 200, true)
	check(t, "one text", bytes.Count(b.Entry[1].Resource, []byte(`"text":`)), 1)
	for _, encoding := range []string{"identity", "gzip"} {
		a := s.get("/Basic", "Accept-Encoding", encoding)
		check(t, "page", len(a.body) >= 300_000 || encoding == "gzip" && len(a.body) < 10_000, true)
	}
	check(t, "still a Bundle", s.bundle("/Basic").ids(), "a b")
}

func TestMatch(t *testing.T) {
	s := start(t, Options{})
	s.numbered(1)
	s.put(few[0])
	type request struct{ method, target, body string }
	requests := []request{
		{"GET", "/metadata", ""}, {"GET", "/Basic", ""}, {"GET", "/Basic?_summary=count", ""}, {"GET", "/Basic?_count=0", ""},
		{"POST", "/Patient/_search?name=a", "_sort=_id"}, {"GET", "/Basic/b01", ""}, {"GET", "/Basic/b01/_history/1", ""},
		{"GET", "/Basic/_history", ""}, {"GET", "/_history", ""}, {"PUT", "/Patient/ann", few[0]}, {"DELETE", "/Basic/b09", ""},
		{"POST", "", `{"resourceType":"Bundle","type":"batch"}`}, {"GET", "/Patient/$export", ""}, {"GET", "?_getpages=1", ""},
	}
	for _, c := range []struct {
		match Match
		want  string // which of the requests, by number
	}{
		{Match{}, "0 1 2 3 4 5 6 7 8 9 10 11 12 13"},
		{Match{Method: "POST"}, "4 11"},
		{Match{Type: "Basic"}, "1 2 3 5 6 7 10"},
		{Match{Kind: KindMetadata}, "0"},
		{Match{Kind: KindSearch}, "1 4"},
		{Match{Kind: KindCount}, "2 3"},
		{Match{Kind: KindRead}, "5 6"},
		{Match{Kind: KindHistory}, "7 8"},
		{Match{Kind: KindWrite}, "9 10"},
		{Match{Kind: KindTransaction}, "11"},
		{Match{Kind: KindOther}, "12"},
		{Match{Kind: KindNext}, "13"},
		{Match{Page: 1}, "1 4"},
		{Match{QueryContains: "_sort=_id"}, "4"},
		{Match{QueryContains: "name=a", Method: "GET"}, ""},
	} {
		s.Reset()
		s.Script(Fault{Match: c.match, Do: Do{Status: &Status{Code: 418}}})
		var got []string
		for i, r := range requests {
			if s.do(r.method, r.target, r.body).status == 418 {
				got = append(got, itoa(i))
			}
		}
		check(t, "matched", strings.Join(got, " "), c.want)
	}
}

func TestFaultsAddUp(t *testing.T) {
	s := start(t, Options{})
	s.numbered(3)
	s.Script(
		Fault{Times: 1, Do: Do{DropEntries: 1}},
		Fault{Do: Do{DropEntries: 2, LieTotal: &LieTotal{Delta: 5}}},
	)
	for _, want := range []string{"b02 b03", "b03"} {
		b := s.bundle("/Basic")
		check(t, "entries", b.ids(), want)
		check(t, "total", *b.Total, 8)
	}
}

func TestControl(t *testing.T) {
	s := start(t, Options{})
	s.numbered(2)
	control := s.http.URL + "/_control/"
	check(t, "script", s.do("POST", control+"faults", `[{"match":{"kind":"search","type":"Basic"},"times":1,"do":{"status":{"code":503,"header":{"Retry-After":["1"]}},"delay":"1ms"}},
		{"do":{"dropEntries":1}}]`).status, 204)
	check(t, "spoilt", s.get("/Basic").status, 503)
	check(t, "then", s.bundle("/Basic").ids(), "b02")
	var log struct {
		MaxInFlight int
		Requests    []Request
	}
	if err := json.Unmarshal(s.get(control+"log").body, &log); err != nil {
		t.Fatal(err)
	}
	check(t, "requests", len(log.Requests), 2)
	check(t, "status", log.Requests[0].Status, 503)
	check(t, "entries", log.Requests[1].Entries, 1)
	check(t, "in flight", log.MaxInFlight, 1)
	check(t, "clear", s.do("DELETE", control+"faults", "").status, 204)
	check(t, "well again", s.bundle("/Basic").ids(), "b01 b02")
	check(t, "log begins again", len(s.Log()), 1)
	for _, bad := range []string{`{"do":{"drop":1}}`, `{"dos":{}}`, `{"do":{"delay":"soon"}}`, `nonsense`, `[{"do":{}}`} {
		check(t, bad, s.do("POST", control+"faults", bad).status, 400)
	}
	check(t, "elsewhere", s.get(control+"x").status, 404)
}

func TestDoSurvivesJSON(t *testing.T) {
	f := 0.0
	in := Fault{Match: Match{Kind: KindNext, Page: 2}, Times: 3, Do: Do{Delay: 1500 * time.Millisecond, LieTotal: &LieTotal{Factor: &f}, Stall: &Cut{After: 7}, IgnoreParams: []string{"_id"}}}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	out, err := ReadFaults(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	again, _ := json.Marshal(out[0])
	check(t, "JSON", string(again), string(b))
	check(t, "delay", out[0].Do.Delay, in.Do.Delay)
	check(t, "JSON is readable", string(b), `{"match":{"kind":"next","page":2},"times":3,"do":{"delay":"1.5s","ignoreParams":["_id"],"lieTotal":{"factor":0},"stall":{"after":7}}}`)
}
