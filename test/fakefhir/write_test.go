package fakefhir

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestCreateReadUpdateDelete(t *testing.T) {
	c := &clock{noon}
	s := start(t, Options{Now: c.now, Offset: 5 * time.Minute})

	a := s.do("POST", "/Patient", `{"resourceType":"Patient","id":"ignored","active":true}`)
	check(t, "create", a.status, 201)
	check(t, "ETag", a.header.Get("ETag"), `W/"1"`)
	check(t, "Date", a.header.Get("Date"), "Sun, 01 Jun 2025 12:05:00 GMT")
	at := strings.TrimSuffix(a.header.Get("Location"), "/_history/1")
	if !strings.HasPrefix(at, s.root+"/Patient/") || strings.HasSuffix(at, "ignored") {
		t.Errorf("Location %s", at)
	}
	check(t, "Content-Location", a.header.Get("Content-Location"), a.header.Get("Location"))
	check(t, "read", string(s.get(at).body), string(a.body))

	put := func(target, body string) answer { return s.do("PUT", target, body) }
	check(t, "update as create", put("/Patient/p1", `{"resourceType":"Patient","id":"p1"}`).status, 201)
	c.t = noon.Add(1500 * time.Millisecond)
	a = put("/Patient/p1", "{ \"id\" : \"p1\", \"meta\":{\"source\":\"x\",\"versionId\":\"9\"},\n\"resourceType\":\"Patient\", \"multipleBirthInteger\": 1.10, \"language\":\"\\u0064e<\" }")
	check(t, "update", a.status, 200)
	check(t, "no Location", a.header.Get("Location"), "")
	check(t, "Content-Location", a.header.Get("Content-Location"), s.root+"/Patient/p1/_history/2")
	check(t, "kept byte for byte", string(a.body), `{"resourceType":"Patient","id":"p1","meta":{"versionId":"2","lastUpdated":"2025-06-01T12:05:01.500+00:00","source":"x"},"multipleBirthInteger":1.10,"language":"\u0064e<"}`)
	check(t, "Last-Modified", a.header.Get("Last-Modified"), "Sun, 01 Jun 2025 12:05:01 GMT")

	check(t, "delete", s.do("DELETE", "/Patient/p1", "").status, 200)
	check(t, "delete again", s.do("DELETE", "/Patient/p1", "").status, 200)
	check(t, "read of a deleted one", s.get("/Patient/p1").status, 410)
	check(t, "vread of the deletion", s.get("/Patient/p1/_history/3").status, 410)
	check(t, "vread", string(s.get("/Patient/p1/_history/2").body), string(a.body))
	check(t, "search", strings.Contains(s.bundle("/Patient").ids(), "p1"), false)
	check(t, "back again", put("/Patient/p1", `{"resourceType":"Patient","id":"p1"}`).header.Get("ETag"), `W/"4"`)

	for _, bad := range []struct {
		method, target, body string
		status               int
	}{
		{"GET", "/Patient/none", "", 404},
		{"GET", "/Patient/p1/_history/9", "", 404},
		{"GET", "/Patient/none/_history", "", 404},
		{"PUT", "/Patient/p1", `{"resourceType":"Patient","id":"p2"}`, 400},
		{"PUT", "/Patient/p1", `{"resourceType":"Group","id":"p1"}`, 400},
		{"PUT", "/Patient/p_1", `{"resourceType":"Patient","id":"p_1"}`, 400},
		{"POST", "/Patient", `{"resourceType":"Patient"} x`, 400},
		{"POST", "/Patient", `{"resourceType":"Patient","meta":7}`, 400},
		{"POST", "/Patient", `[]`, 400},
		{"POST", "/Nonsense", `{}`, 404},
		{"PATCH", "/Patient/p1", "", 400},
	} {
		check(t, bad.method+" "+bad.target+" "+bad.body, s.do(bad.method, bad.target, bad.body).status, bad.status)
	}
}

func TestAnswersAreCompressedIfAccepted(t *testing.T) {
	s := start(t, Options{})
	s.numbered(20)
	a := s.get("/Basic", "Accept-Encoding", "gzip")
	check(t, "encoding", a.header.Get("Content-Encoding"), "gzip")
	check(t, "magic", string(a.body[:2]), "\x1f\x8b")
	check(t, "identity", s.get("/Basic", "Accept-Encoding", "identity").header.Get("Content-Encoding"), "")
	check(t, "small", s.get("/Basic/b01", "Accept-Encoding", "gzip").header.Get("Content-Encoding"), "")
	check(t, "inflated by the client", len(s.bundle("/Basic").Entry), 20)
	a = s.do("HEAD", "/Basic/b01", "")
	check(t, "HEAD", a.status, 200)
	check(t, "HEAD body", len(a.body), 0)
}

func TestFormats(t *testing.T) {
	s := start(t, Options{})
	s.numbered(1)
	for _, c := range []struct {
		target, accept string
		status         int
	}{
		{"/Basic", "application/fhir+json", 200},
		{"/Basic", "text/html,application/xml;q=0.9,*/*;q=0.8", 200},
		{"/Basic", "application/fhir+xml", 406},
		{"/Basic?_format=xml", "*/*", 406},
		{"/Basic?_format=json", "application/fhir+xml", 200},
		{"/metadata", "application/fhir+xml", 200},
	} {
		check(t, c.target+" "+c.accept, s.get(c.target, "Accept", c.accept).status, c.status)
	}
	check(t, "indented", strings.Contains(string(s.get("/Basic?_pretty=true").body), "\n  "), true)
	check(t, "compact", strings.Contains(string(s.get("/Basic").body), "\n"), false)
}

const synthea = `{"resourceType":"Bundle","type":"transaction","entry":[
 {"fullUrl":"urn:uuid:1","resource":{"resourceType":"Patient","id":"x"},"request":{"method":"POST","url":"Patient"}},
 {"fullUrl":"urn:uuid:2","resource":{"resourceType":"Observation","status":"final","subject":{"reference":"urn:uuid:1"},
   "performer":[{"reference":"Practitioner?identifier=urn:npi|7"}]},"request":{"method":"POST","url":"Observation"}},
 {"fullUrl":"urn:uuid:3","resource":{"resourceType":"Practitioner"},"request":{"method":"POST","url":"Practitioner","ifNoneExist":"identifier=urn:npi|7"}},
 {"resource":{"resourceType":"Group","id":"g","member":[{"entity":{"reference":"urn:uuid:1"}}]},"request":{"method":"PUT","url":"Group/g"}},
 {"request":{"method":"DELETE","url":"Basic/b01"}}]}`

func TestTransaction(t *testing.T) {
	c := &clock{noon}
	s := start(t, Options{Now: c.now})
	s.numbered(1)
	s.put(`{"resourceType":"Practitioner","id":"seven","identifier":[{"system":"urn:npi","value":"7"}]}`)
	c.t = noon.Add(time.Second)

	b := s.parse(s.do("POST", "", synthea))
	check(t, "type", b.Type, "transaction-response")
	var got []string
	for _, e := range b.Entry {
		got = append(got, e.Response.Status)
	}
	check(t, "statuses", strings.Join(got, ", "), "201 Created, 201 Created, 200 OK, 201 Created, 204 No Content")
	check(t, "existing one found", b.Entry[2].Response.Location, "Practitioner/seven")

	patient := strings.TrimSuffix(b.Entry[0].Response.Location, "/_history/1")
	check(t, "reference resolved", len(s.bundle("/Observation?subject="+patient).Entry), 1)
	check(t, "conditional reference resolved", len(s.bundle("/Observation?performer=Practitioner/seven").Entry), 1)
	check(t, "member resolved", s.bundle("/Group?member="+patient).ids(), "g")
	check(t, "deleted", s.get("/Basic/b01").status, 410)
	for _, typ := range []string{"Patient", "Observation", "Group"} {
		check(t, typ+" stamp", len(s.bundle("/"+typ+"?_lastUpdated=2025-06-01T12:00:01.000Z").Entry), 1)
	}
	check(t, "posted to the root with a slash", s.do("POST", "/", synthea).status, 200)
}

func TestTransactionRefused(t *testing.T) {
	s := start(t, Options{})
	entry := func(request, resource string) string {
		return `{"resourceType":"Bundle","type":"transaction","entry":[{"resource":{"resourceType":"Patient","id":"ok"},"request":{"method":"PUT","url":"Patient/ok"}},` +
			`{"request":{` + request + `},"resource":` + resource + `}]}`
	}
	for _, body := range []string{
		`nonsense`, `{"resourceType":"Patient"}`, `{"resourceType":"Bundle","type":"collection"}`,
		entry(`"method":"PUT","url":"Patient"`, `{"resourceType":"Patient"}`),
		entry(`"method":"GET","url":"Patient"`, `{}`),
		entry(`"method":"POST","url":"Nonsense"`, `{}`),
		entry(`"method":"POST","url":"Patient"`, `{"resourceType":"Group"}`),
		entry(`"method":"POST","url":"Group"`, `{"resourceType":"Group","managingEntity":{"reference":"Organization?identifier=none"}}`),
	} {
		check(t, body, s.do("POST", "", body).status, 400)
	}
	check(t, "nothing was written", len(s.All("Patient")), 0)

	b := s.parse(s.do("POST", "", strings.Replace(entry(`"method":"POST","url":"Nonsense"`, `{}`), "transaction", "batch", 1)))
	check(t, "batch: good entry", b.Entry[0].Response.Status, "201 Created")
	check(t, "batch: bad entry", b.Entry[1].Response.Status, "400 Bad Request")
}

// A transaction is stamped when it begins and seen when it commits.
func TestCommitDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{CommitDelay: 3 * time.Second})
		began := s.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.ServeHTTP(&recorder{}, request("POST", "/fhir", `{"resourceType":"Bundle","type":"transaction","entry":[{"resource":{"resourceType":"Basic"},"request":{"method":"POST","url":"Basic"}}]}`))
		}()
		time.Sleep(2999 * time.Millisecond)
		synctest.Wait()
		check(t, "seen before the commit", len(s.All("Basic")), 0)
		<-done
		for _, r := range s.All("Basic") {
			check(t, "stamp", r.LastUpdated, began.UTC())
		}
		check(t, "seen after the commit", len(s.All("Basic")), 1)
		check(t, "waited", time.Since(began), 3*time.Second)
	})
}

func TestTx(t *testing.T) {
	c := &clock{noon}
	s := start(t, Options{Now: c.now})
	s.numbered(1)
	tx := s.Begin()
	c.t = noon.Add(time.Hour)
	if err := tx.Put("Basic", "b01", []byte(`{"resourceType":"Basic"}`)); err != nil {
		t.Fatal(err)
	}
	if err := tx.Put("Basic", "b02", []byte(`{"resourceType":"Patient"}`)); err == nil {
		t.Error("wrong type accepted")
	}
	tx.Delete("Basic", "none")
	check(t, "before", s.All("Basic")["b01"].VersionID, "1")
	out := tx.Commit()
	check(t, "after", s.All("Basic")["b01"].VersionID, "2")
	check(t, "stamp", out[0].LastUpdated, noon)
	check(t, "deletion of nothing", out[1].VersionID, "")
	check(t, "versions", len(s.History("Basic", "b01")), 2)
	s.Delete("Basic", "b01")
	check(t, "deleted", len(s.All("Basic")), 0)
	check(t, "in history", s.History("Basic", "b01")[2].Deleted, true)
	check(t, "types", len(s.Types()), 0)
	if !json.Valid(s.History("Basic", "b01")[0].JSON) {
		t.Error("history without JSON")
	}
}

func TestCompartmentTruth(t *testing.T) {
	s := start(t, Options{})
	s.put(few...)
	s.put(`{"resourceType":"Patient","id":"dee","link":[{"other":{"reference":"Patient/ann"},"type":"seealso"}]}`)
	for patients, want := range map[string]string{
		"ann":     "Group/g1 Observation/o1 Observation/o3 Patient/ann Patient/dee",
		"bob":     "Observation/o2 Patient/bob Provenance/pr",
		"cy":      "Group/g1 Patient/cy",
		"bob cy":  "Group/g1 Observation/o2 Patient/bob Patient/cy Provenance/pr",
		"unknown": "",
	} {
		var got []string
		for _, typ := range knownTypes() {
			for _, id := range []string{"ann", "bob", "cy", "dee", "g1", "o1", "o2", "o3", "o4", "pr"} {
				if _, ok := s.CompartmentTruth(strings.Fields(patients)...)[typ][id]; ok {
					got = append(got, typ+"/"+id)
				}
			}
		}
		check(t, patients, strings.Join(got, " "), want)
	}
}
