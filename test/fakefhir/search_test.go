package fakefhir

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"
)

// few are resources whose search values are easy to see.
var few = []string{
	`{"resourceType":"Patient","id":"ann","active":true,"gender":"female","birthDate":"1980-05-01","name":[{"family":"Müller","given":["Ann"]}],"identifier":[{"system":"urn:mrn","value":"1"}]}`,
	`{"resourceType":"Patient","id":"bob","active":false,"gender":"male","birthDate":"1980","name":[{"family":"O'Brien","given":["Bob"]}],"identifier":[{"system":"urn:other","value":"1"}]}`,
	`{"resourceType":"Patient","id":"cy","gender":"male","meta":{"tag":[{"system":"urn:tags","code":"vip"}],"profile":["http://p/1"]}}`,
	`{"resourceType":"Observation","id":"o1","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"},{"system":"urn:local","code":"HR"}]},"subject":{"reference":"Patient/ann"},"effectiveDateTime":"2024-03-01T10:00:00Z"}`,
	`{"resourceType":"Observation","id":"o2","status":"preliminary","code":{"coding":[{"system":"http://loinc.org","code":"2339-0"}]},"subject":{"reference":"http://other/fhir/Patient/bob/_history/3"},"effectivePeriod":{"start":"2024-03-10","end":"2024-03-12"}}`,
	`{"resourceType":"Observation","id":"o3","status":"final","code":{"text":"none"},"subject":{"reference":"Group/g1"},"performer":[{"reference":"Patient/ann"}]}`,
	`{"resourceType":"Observation","id":"o4","status":"final","code":{"coding":[{"code":"a,b|c"}]},"subject":{"reference":"Device/ann"}}`,
	`{"resourceType":"Group","id":"g1","type":"person","actual":true,"member":[{"entity":{"reference":"Patient/ann"}},{"entity":{"reference":"Patient/cy"},"inactive":true}]}`,
	`{"resourceType":"Provenance","id":"pr","target":[{"reference":"Observation/o1"},{"reference":"Patient/bob"}],"recorded":"2024-01-01T00:00:00Z"}`,
}

func TestSearch(t *testing.T) {
	s := start(t, Options{Now: (&clock{noon}).now})
	s.put(few...)
	for _, c := range []struct{ query, want string }{
		{"Patient", "ann bob cy"},
		{"Patient?_id=cy,ann,nobody", "cy ann"},
		{"Patient?_id=cy,ann&_id=ann", "ann"},
		{"Patient?gender=male", "bob cy"},
		{"Patient?gender=male,female", "ann bob cy"},
		{"Patient?gender:not=male", "ann"},
		{"Patient?gender=male&active=false", "bob"},
		{"Patient?active:missing=true", "cy"},
		{"Patient?identifier=1", "ann bob"},
		{"Patient?identifier=urn:mrn|1", "ann"},
		{"Patient?identifier=urn:mrn|", "ann"},
		{"Patient?identifier=|1", ""},
		{"Patient?name=mül", "ann"},
		{"Patient?family=o'b", "bob"},
		{"Patient?family=brien", ""},
		{"Patient?family:contains=brien", "bob"},
		{"Patient?family:exact=Müller", "ann"},
		{"Patient?birthdate=1980", "ann bob"},
		{"Patient?birthdate=1980-05", "ann"},
		{"Patient?birthdate=gt1980-05-01", "bob"},
		{"Patient?birthdate=lt1980-05-01", "bob"},
		{"Patient?birthdate=ne1980-05-01", "bob"},
		{"Patient?birthdate=le1980-05-01", "ann bob"},
		{"Patient?birthdate=le1979", ""},
		{"Patient?_tag=vip", "cy"},
		{"Patient?_tag=urn:tags|vip", "cy"},
		{"Patient?_profile=http://p/1", "cy"},
		{"Patient?_has:Group:member:_id=g1", "ann cy"},
		{"Patient?_has:Group:member:_id=g2", ""},
		{"Patient?_has:Group:member:_id=g1&gender=female", "ann"},
		{"Patient?_has:Observation:patient:code=8867-4", "ann"},
		{"Patient?_unknown=1", "ann bob cy"},
		{"Patient?gender=", "ann bob cy"},
		{"Observation?code=8867-4", "o1"},
		{"Observation?code=urn:local|HR,2339-0", "o1 o2"},
		{"Observation?code=http://loinc.org|HR", ""},
		{`Observation?code=a\,b\|c`, "o4"},
		{"Observation?status=final&status=preliminary", ""},
		{"Observation?subject=Patient/ann", "o1"},
		{"Observation?subject=ann", "o1 o4"},
		{"Observation?subject:Patient=ann", "o1"},
		{"Observation?subject=Patient/ann,Group/g1", "o1 o3"},
		{"Observation?patient=ann", "o1"},
		{"Observation?patient=Patient/bob", "o2"},
		{"Observation?patient=ann,bob", "o1 o2"},
		{"Observation?patient=Group/g1", ""},
		{"Observation?performer=Patient/ann", "o3"},
		{"Observation?date=2024-03", "o1 o2"},
		{"Observation?date=2024-03-01", "o1"},
		{"Observation?date=ge2024-03-11", "o2"},
		{"Observation?date=sa2024-03-11", ""},
		{"Observation?date=lt2024-03-11,gt2025", "o1 o2"},
		{"Observation?date=eb2024-03-10", "o1"},
		{"Group?member=Patient/cy", "g1"},
		{"Provenance?target=Observation/o1", "pr"},
		{"Provenance?patient=bob", "pr"},
		{"Provenance?patient=o1", ""},
		{"Patient?_sort=-_id", "cy bob ann"},
		{"Patient?_sort=birthdate,_id", "bob ann cy"},
		{"Observation?_sort=-date,_id", "o2 o1 o3 o4"},
	} {
		t.Run(c.query, func(t *testing.T) {
			s.t = t
			typ, query, _ := strings.Cut(c.query, "?")
			target := "/" + typ + "?" + encode(query)
			check(t, "GET", s.bundle(target).ids(), c.want)
			a := s.do("POST", "/"+typ+"/_search", encode(query), "Content-Type", "application/x-www-form-urlencoded")
			check(t, "POST", s.parse(a).ids(), c.want)
			truth, err := s.Find(typ, encode(query))
			if err != nil {
				t.Fatal(err)
			}
			check(t, "Find", len(truth), len(strings.Fields(c.want)))
			n := 0
			if c.want != "" {
				n = len(strings.Fields(c.want))
			}
			for _, how := range []string{"&_summary=count", "&_count=0", "&_total=accurate&_count=0"} {
				b := s.bundle(target + how)
				check(t, "entries with "+how, len(b.Entry), 0)
				check(t, "total with "+how, *b.Total, n)
			}
		})
	}
}

// encode escapes the values of a readable query.
func encode(query string) string {
	var out []string
	for _, p := range strings.Split(query, "&") {
		k, v, _ := strings.Cut(p, "=")
		out = append(out, k+"="+url.QueryEscape(v))
	}
	return strings.Join(out, "&")
}

func TestSearchRefused(t *testing.T) {
	s := start(t, Options{})
	for _, c := range []struct {
		query  string
		status int
	}{
		{"Patient?nonsense=1", 400},
		{"Patient?code=1", 400}, // not a parameter of Patient
		{"Patient?name:below=1", 400},
		{"Patient?_count=many", 400},
		{"Patient?_count=-1", 400},
		{"Patient?_sort=gender", 400},
		{"Patient?_summary=text", 400},
		{"Patient?_total=yes", 400},
		{"Patient?birthdate=may", 400},
		{"Patient?_lastUpdated=yesterday", 400},
		{"Patient?_lastUpdated=ne2020", 400},
		{"Patient?_lastUpdated=2020-01-01T00:00:00.0000000000Z", 400},
		{"Patient?_has:Group:name:_id=1", 400},
		{"Patient?_has:Group=1", 400},
		{"Patient?a=1;b=2", 400},
		{"Nonsense", 404},
		{"$export", 400},
		{"Patient/$export", 400},
		{"Patient/1/$everything", 400},
		{"?_type=Patient", 400},
		{"", 400},
	} {
		a := s.get("/" + c.query)
		check(t, c.query, a.status, c.status)
		if !strings.Contains(string(a.body), `"OperationOutcome"`) {
			t.Errorf("%s: no OperationOutcome: %s", c.query, a.body)
		}
	}
	lenient := start(t, Options{Lenient: true})
	check(t, "lenient", lenient.get("/Patient?nonsense=1").status, 200)
	none := start(t, Options{NoPostSearch: true})
	check(t, "no POST search", none.do("POST", "/Patient/_search", "").status, 404)
}

func TestLastUpdated(t *testing.T) {
	c := &clock{}
	s := start(t, Options{Now: c.now})
	for id, at := range map[string]string{
		"a": "2024-12-31T23:59:59.999Z",
		"b": "2025-01-01T00:00:00.000Z",
		"c": "2025-01-01T00:00:00.001Z",
		"d": "2025-01-01T00:00:01.000Z",
		"e": "2025-01-02T10:30:00.000Z",
	} {
		c.t, _ = time.Parse(time.RFC3339Nano, at)
		s.put(fmt.Sprintf(`{"resourceType":"Basic","id":%q}`, id))
	}
	for _, c := range []struct{ params, want string }{
		{"ge2025-01-01T00:00:00.000Z", "b c d e"},
		{"gt2025-01-01T00:00:00.000Z", "c d e"},
		{"lt2025-01-01T00:00:00.001Z", "a b"},
		{"le2025-01-01T00:00:00.001Z", "a b c"},
		{"2025-01-01T00:00:00.001Z", "c"},
		{"eq2025-01-01T00:00:00Z", "b c"},
		{"2025-01-01T00:00:00.00Z", "b c"},
		{"2025-01-01T00:00:00.0010000Z", "c"},
		{"2025-01-01T00:00:00.0010001Z", ""},
		{"ge2025-01-01T00:00:00.0000001Z", "c d e"},
		{"lt2025-01-01T00:00:00.0000001Z", "a b"},
		{"2025-01-01T00:00", "b c d"},
		{"2025-01-01T00:00Z", "b c d"},
		{"2025-01-01", "b c d"},
		{"2025-01", "b c d e"},
		{"2024", "a"},
		{"gt2025-01-01T00:00:00Z", "d e"},
		{"sa2025-01-01", "e"},
		{"eb2025-01-01", "a"},
		{"le2025-01-01", "a b c d"},
		{"ge2025-01-01T01:00:00+01:00", "b c d e"},
		{"2024-12-31T19:00:00-05:00", "b c"},
		{"ge9999-01-01T00:00:00.000Z", ""},
		{"lt1900-01-01", ""},
		{"ge2025-01-01T00:00:00.001Z&lt2025-01-01T00:00:01.000Z", "c"},
		{"ge2025-01-02&lt2025-01-01", ""},
	} {
		q := url.Values{"_sort": {"_lastUpdated"}}
		q["_lastUpdated"] = strings.Split(c.params, "&")
		check(t, c.params, s.bundle("/Basic?"+q.Encode()).ids(), c.want)
	}
	check(t, "newest first", s.bundle("/Basic?_sort=-_lastUpdated").ids(), "e d c b a")
}

func TestElements(t *testing.T) {
	s := start(t, Options{Now: (&clock{noon}).now})
	s.put(`{"resourceType":"Observation","id":"o","meta":{"tag":[{"code":"x"}]},"status":"final","_status":{"id":"s"},"code":{"text":"t"},"valueDecimal":1.10,"note":[]}`,
		few[0])
	for _, c := range []struct{ query, want string }{
		{"Observation?_elements=valueDecimal", `{"resourceType":"Observation","id":"o","meta":{"versionId":"1","lastUpdated":"2025-06-01T12:00:00.000+00:00","tag":[{"code":"x"},` +
			subsetted + `]},"status":"final","_status":{"id":"s"},"code":{"text":"t"},"valueDecimal":1.10}`},
		{"Patient?_elements=gender,Patient.active", `{"resourceType":"Patient","id":"ann","meta":{"versionId":"1","lastUpdated":"2025-06-01T12:00:00.000+00:00","tag":[` +
			subsetted + `]},"active":true,"gender":"female"}`},
	} {
		check(t, c.query, string(s.bundle("/" + c.query).Entry[0].Resource), c.want)
	}
}
