package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway/auth"
	"spillway/auth/scope"
	"spillway/jobs"
	"spillway/upstream/fhir"
)

// byToken authenticates by access tokens that stand for principals.
type byToken map[string]auth.Principal

func (byToken) RequiresToken() bool { return true }

func (b byToken) Authenticate(r *http.Request) (auth.Principal, error) {
	token, err := auth.BearerToken(r.Header)
	if err != nil {
		return auth.Principal{}, err
	}
	p, ok := b[token]
	if !ok {
		return auth.Principal{}, fmt.Errorf("%w: unknown", auth.ErrBadCredential)
	}
	return p, nil
}

// principal is a client with scopes and groups; "*" is every group.
func principal(t testing.TB, id, scopes string, groups ...string) auth.Principal {
	t.Helper()
	list, others, err := scope.ParseList(scopes)
	if err != nil || len(others) > 0 {
		t.Fatalf("scopes %q: %v %v", scopes, err, others)
	}
	grant, err := scope.NewGrant(list)
	if err != nil {
		t.Fatal(err)
	}
	g := auth.Groups{IDs: groups}
	if slices.Contains(groups, "*") {
		g = auth.Groups{All: true}
	}
	return auth.Principal{ClientID: id, Issuer: "https://as.example.org", Grant: grant, Groups: g, TokenID: "jti-" + id}
}

func bearer(token string) string { return "Authorization: Bearer " + token }

// kickOffAs kicks off and returns the answer, and the job if there is one.
func (w *world) kickOffAs(t testing.TB, token, target, headers string) (*reply, *jobs.Job) {
	t.Helper()
	r := w.send(t, "GET "+target+"\n"+kickOffHeaders+headers+"\n"+bearer(token))
	if r.StatusCode != http.StatusAccepted {
		return r, nil
	}
	location := r.Header.Get("Content-Location")
	job, err := w.store.Get(t.Context(), jobs.ID(location[strings.LastIndexByte(location, '/')+1:]))
	if err != nil {
		t.Fatal(err)
	}
	return r, job
}

// TestScopesDecideKickOffs is section 3.2 of the reference, and the bugs of other
// servers in 3.7: a type that may not be read is refused, never left out in
// silence, and what is left is never "no filter".
func TestScopesDecideKickOffs(t *testing.T) {
	for _, c := range []struct {
		name, scopes, target string
		lenient              bool
		status               int
		challenge            string   // at 403
		types                []string // of the snapshot; nil with All
		all                  bool
		request              []string // types of the request that is stored
		notes                []string // each contained in one
	}{
		{name: "Everything", scopes: "system/*.rs", target: "/fhir/$export", status: 202, all: true},
		{name: "EverythingInTheFirstVersion", scopes: "system/*.read", target: "/fhir/$export", status: 202, all: true},
		{name: "AllowedTypes", scopes: "system/Patient.rs system/Observation.rs", target: "/fhir/$export?_type=Patient,Observation", status: 202,
			types: []string{"Observation", "Patient"}, request: []string{"Patient", "Observation"}},
		{name: "NoMoreThanAskedFor", scopes: "system/*.rs", target: "/fhir/$export?_type=Patient", status: 202, types: []string{"Patient"}, request: []string{"Patient"}},
		{name: "NoTypeAskedFor", scopes: "system/Patient.rs system/Observation.rs", target: "/fhir/$export", status: 202,
			types: []string{"Observation", "Patient"}, notes: []string{"4 types were not exported"}},
		{name: "NoTypeAskedForAtPatient", scopes: "system/Patient.rs", target: "/fhir/Patient/$export", status: 202,
			types: []string{"Patient"}, notes: []string{"3 types were not exported, since the scopes of the access token do not allow them: Condition, Encounter, Observation."}},
		{name: "OneTypeTooMany", scopes: "system/Patient.rs", target: "/fhir/$export?_type=Patient,Observation", status: 403, challenge: `scope="system/Observation.rs"`},
		{name: "OneTypeTooManyLenient", scopes: "system/Patient.rs", target: "/fhir/$export?_type=Patient,Observation", lenient: true, status: 202,
			types: []string{"Patient"}, request: []string{"Patient"}, notes: []string{"Observation was not exported: the scopes of the access token do not allow it."}},
		{name: "NothingLeftLenient", scopes: "system/Patient.rs", target: "/fhir/$export?_type=Observation", lenient: true, status: 403, challenge: `scope="system/Observation.rs"`},
		{name: "ReadWithoutSearch", scopes: "system/Patient.r", target: "/fhir/$export?_type=Patient", status: 403, challenge: `scope="system/Patient.rs"`},
		{name: "SearchWithoutRead", scopes: "system/Patient.s", target: "/fhir/$export", status: 403, challenge: `scope="system/*.rs"`},
		{name: "WriteAlone", scopes: "system/*.write", target: "/fhir/$export", status: 403, challenge: `scope="system/*.rs"`},
		{name: "NoScope", scopes: "", target: "/fhir/$export", status: 403, challenge: `scope="system/*.rs"`},
		{name: "NoScopeOfATypeUpstream", scopes: "system/Basic.rs", target: "/fhir/$export", status: 403, challenge: `scope="system/*.rs"`},

		{name: "Filter", scopes: "system/Patient.rs", target: "/fhir/$export?_typeFilter=Patient%3Fgender%3Dfemale", status: 202, types: []string{"Patient"}, notes: []string{"5 types were not exported"}},
		{name: "FilterOfATypeThatIsNotAllowed", scopes: "system/Patient.rs", target: "/fhir/$export?_typeFilter=Observation%3Fstatus%3Dfinal", status: 403, challenge: `scope="system/Observation.rs"`},
		{name: "FilterOfATypeThatIsNotAllowedLenient", scopes: "system/Patient.rs", target: "/fhir/$export?_typeFilter=Observation%3Fstatus%3Dfinal", lenient: true, status: 202,
			types: []string{"Patient"}, notes: []string{"Observation was not exported", "4 types were not exported"}},

		{name: "Provenance", scopes: "system/Patient.rs system/Provenance.rs", target: "/fhir/$export?_type=Patient&includeAssociatedData=LatestProvenanceResources", status: 202,
			types: []string{"Patient", "Provenance"}, request: []string{"Patient"}},
		{name: "ProvenanceNotAllowed", scopes: "system/Patient.rs", target: "/fhir/$export?_type=Patient&includeAssociatedData=LatestProvenanceResources", status: 403, challenge: `scope="system/Provenance.rs"`},
		{name: "ProvenanceNotAllowedLenient", scopes: "system/Patient.rs", target: "/fhir/$export?_type=Patient&includeAssociatedData=LatestProvenanceResources", lenient: true, status: 202,
			types: []string{"Patient"}, request: []string{"Patient"}, notes: []string{"Provenance was not exported"}},

		{name: "Group", scopes: "system/Patient.rs system/Group.rs", target: "/fhir/Group/mine/$export?_type=Patient", status: 202, types: []string{"Patient"}, request: []string{"Patient"}},
		{name: "GroupWithoutTheRightToReadGroups", scopes: "system/Patient.rs", target: "/fhir/Group/mine/$export?_type=Patient", status: 403, challenge: `scope="system/Group.rs"`},
		{name: "GroupWithoutTheRightToReadGroupsLenient", scopes: "system/Patient.rs", target: "/fhir/Group/mine/$export?_type=Patient", lenient: true, status: 403, challenge: `scope="system/Group.rs"`},

		{name: "Query", scopes: "system/Observation.rs?category=laboratory", target: "/fhir/$export?_type=Observation", status: 202, types: []string{"Observation"}, request: []string{"Observation"}},
		{name: "QueryThatCannotBeEvaluated", scopes: "system/Patient.rs?gender=female", target: "/fhir/$export?_type=Patient", status: 403, challenge: `scope="system/Patient.rs"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, func(config *Config) { config.Auth = byToken{"x": principal(t, "lab", c.scopes, "mine")} })
			headers := ""
			if c.lenient {
				headers = "\nPrefer: handling=lenient"
			}
			r, job := w.kickOffAs(t, "x", c.target, headers)
			if r.StatusCode != c.status {
				t.Fatalf("%s: %s", r.Status, r.body)
			}
			if job == nil {
				challenge := r.Header.Get("WWW-Authenticate")
				if issue := r.issue(t); issue.Code != fhir.IssueForbidden || !strings.HasPrefix(challenge, `Bearer error="insufficient_scope", `) || !strings.HasSuffix(challenge, c.challenge) {
					t.Errorf("%q, %+v", challenge, issue)
				}
				if all, err := w.store.List(t.Context()); err != nil || len(all) > 0 {
					t.Errorf("%d jobs, %v", len(all), err)
				}
				return
			}
			allowed, err := scope.ReadSnapshot(job.Authorization)
			if err != nil {
				t.Fatal(err)
			}
			if types, all := allowed.Names(); all != c.all || !slices.Equal(types, c.types) {
				t.Errorf("may read %v, all %v", types, all)
			}
			if !slices.Equal(job.Request.Types, c.request) {
				t.Errorf("exports %v, want %v", job.Request.Types, c.request)
			}
			if len(job.Request.Notes) != len(c.notes) {
				t.Errorf("notes: %+v", job.Request.Notes)
			}
			for i, want := range c.notes {
				if i < len(job.Request.Notes) && !strings.Contains(job.Request.Notes[i].Text, want) {
					t.Errorf("note %q, want %q", job.Request.Notes[i].Text, want)
				}
			}
			if job.Owner != "lab@https%3A%2F%2Fas.example.org" || auth.ClientOf(job.Owner) != "lab" {
				t.Errorf("owner %q", job.Owner)
			}
		})
	}
}

// Queries that nobody can evaluate here count only where the operator says so,
// and the upstream says that it has the parameter.
func TestUncheckedScopes(t *testing.T) {
	for scopes, want := range map[string]int{
		"system/Patient.rs?gender=female":       202,
		"system/Patient.rs?deceased=false":      403, // which the statement does not list
		"system/Observation.rs?category=survey": 403, // another type
	} {
		w := newWorld(t, func(c *Config) { c.Auth, c.Unchecked = byToken{"x": principal(t, "lab", scopes)}, true })
		r, job := w.kickOffAs(t, "x", "/fhir/$export?_type=Patient", "")
		if r.StatusCode != want || job != nil && !strings.Contains(string(job.Authorization), `"unchecked":true`) {
			t.Errorf("%s: %s", scopes, r.Status)
		}
	}
}

// The product of filters and scopes is bounded.
func TestTooManySearches(t *testing.T) {
	var scopes []string
	for i := range 20 {
		scopes = append(scopes, fmt.Sprintf("system/Observation.rs?code=c%d", i))
	}
	w := newWorld(t, func(c *Config) { c.Auth = byToken{"x": principal(t, "lab", strings.Join(scopes, " "))} })
	filters := ""
	for i := range 6 {
		filters += fmt.Sprintf("&_typeFilter=Observation%%3Fcode%%3Df%d", i)
	}
	r, _ := w.kickOffAs(t, "x", "/fhir/$export?_type=Observation"+filters, "")
	if r.StatusCode != 400 || !strings.Contains(r.issue(t).Diagnostics, "too many searches") {
		t.Errorf("%s %s", r.Status, r.body)
	}
}

// Without a credential that is good nothing is read, not even the request.
func TestCredentialsOfKickOffs(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Auth = byToken{"x": principal(t, "lab", "system/*.rs")} })
	for _, c := range []struct {
		name, headers string
		status        int
		challenge     string
		issue         fhir.IssueCode
	}{
		{"None", "", 401, `Bearer realm="fhir"`, fhir.IssueLogin},
		{"Empty", "\nAuthorization:", 401, `Bearer realm="fhir"`, fhir.IssueLogin},
		{"AnotherScheme", "\nAuthorization: Basic bGFiOng=", 401, `Bearer realm="fhir"`, fhir.IssueLogin},
		{"InTheQuery", "", 401, `Bearer realm="fhir"`, fhir.IssueLogin},
		{"Two", "\nAuthorization: Bearer x\nAuthorization: Bearer x", 400, `Bearer error="invalid_request"`, fhir.IssueLogin},
		{"NoToken", "\nAuthorization: Bearer", 400, `Bearer error="invalid_request"`, fhir.IssueLogin},
		{"TwoTokens", "\nAuthorization: Bearer x y", 400, `Bearer error="invalid_request"`, fhir.IssueLogin},
		{"Unknown", "\nAuthorization: Bearer y", 401, `Bearer error="invalid_token"`, fhir.IssueLogin},
		{"ThreeSpaces", "\nAuthorization: bearer   x", 202, "", fhir.IssueInformational},
	} {
		target := "/fhir/$export"
		if c.name == "InTheQuery" {
			target += "?access_token=x"
		}
		r := w.send(t, "GET "+target+"\n"+kickOffHeaders+c.headers)
		if r.StatusCode != c.status || r.Header.Get("WWW-Authenticate") != c.challenge || r.issue(t).Code != c.issue {
			t.Errorf("%s: %s %v %s", c.name, r.Status, r.Header, r.body)
		}
	}
}

// A Group outside of the client's list is one that does not exist, and the
// upstream is not asked whether it does.
func TestGroupsOutsideTheListDoNotExist(t *testing.T) {
	var asked []string
	groups := map[string]string{
		"mine":   `{"resourceType":"Group","id":"mine","meta":{"security":[{"code":"N"}]}}`,
		"secret": `{"resourceType":"Group","id":"secret","meta":{"security":[{"code":"R"}]}}`,
		"theirs": `{"resourceType":"Group","id":"theirs"}`,
	}
	w := newWorld(t, func(c *Config) {
		c.Auth = byToken{
			"some": principal(t, "some", "system/*.rs", "mine", "missing", "broken"),
			"none": principal(t, "none", "system/*.rs"),
			"all":  principal(t, "all", "system/*.rs", "*"),
			"open": principal(t, "open", "system/Patient.rs system/Group.rs?_security=N", "*"),
		}
		c.Group = func(_ context.Context, id string) ([]byte, bool, error) {
			asked = append(asked, id)
			if id == "broken" {
				return nil, false, errors.New("connection refused")
			}
			resource, found := groups[id]
			return []byte(resource), found, nil
		}
	})
	missing, _ := w.kickOffAs(t, "some", "/fhir/Group/missing/$export?_type=Patient", "")
	if missing.StatusCode != 404 || missing.issue(t).Diagnostics != "There is no such Group." {
		t.Fatalf("missing: %s %s", missing.Status, missing.body)
	}
	for _, c := range []struct {
		token, group string
		status       int
		asked        bool
	}{
		{"some", "mine", 202, true}, {"some", "theirs", 404, false}, {"some", "MINE", 404, false}, {"none", "mine", 404, false}, {"none", "missing", 404, false},
		{"all", "theirs", 202, true}, {"all", "missing", 404, true}, {"open", "mine", 202, true}, {"open", "secret", 404, true}, {"open", "theirs", 404, true},
	} {
		asked = nil
		r, _ := w.kickOffAs(t, c.token, "/fhir/Group/"+c.group+"/$export?_type=Patient", "")
		if r.StatusCode != c.status || (len(asked) > 0) != c.asked {
			t.Errorf("%s %s: %s, asked %q", c.token, c.group, r.Status, asked)
		}
		if c.status == 404 {
			sameReply(t, r, missing)
		}
	}
	// If the upstream does not answer now, the export asks it, and fails.
	if r, _ := w.kickOffAs(t, "some", "/fhir/Group/broken/$export?_type=Patient", ""); r.StatusCode != 202 {
		t.Errorf("broken: %s %s", r.Status, r.body)
	}
}

// world with the export of one client, and other clients that want it.
func otherClients(t *testing.T, change func(*Config)) (w *world, id jobs.ID, status, file string) {
	w = newWorld(t, func(c *Config) {
		stranger := principal(t, "alice", "system/*.rs")
		stranger.Issuer = "https://other.example.org"
		nameless := principal(t, "", "system/*.rs")
		c.Auth = byToken{
			"alice": principal(t, "alice", "system/Patient.rs system/Observation.rs"), "again": principal(t, "alice", "system/*.rs"),
			"less": principal(t, "alice", "system/Patient.rs"), "narrow": principal(t, "alice", "system/Patient.rs system/Observation.rs?status=final"),
			"mallory": principal(t, "mallory", "system/*.rs"), "stranger": stranger, "nameless": nameless,
		}
		if change != nil {
			change(c)
		}
	})
	r, job := w.kickOffAs(t, "alice", "/fhir/$export?_type=Patient,Observation", "")
	if job == nil {
		t.Fatalf("%s %s", r.Status, r.body)
	}
	w.plan(t)
	w.complete(t, jobs.Result{Files: []jobs.File{fileOf("1.Patient.ndjson", w.segment(t, "a", jobs.EncodingGzip, `{"resourceType":"Patient","id":"canary"}`))}})
	w.clock.advance(time.Second)
	return w, job.ID, r.Header.Get("Content-Location"), w.base + "/$bulk-files/" + string(job.ID) + "/1.Patient.ndjson"
}

// Another client's export is a missing one at every step, whatever else is asked.
func TestTwoClientsAtEveryStep(t *testing.T) {
	w, id, status, file := otherClients(t, nil)
	unknown := string(jobs.NewID())
	elsewhere := func(address string) string { return strings.ReplaceAll(address, string(id), unknown) }
	for _, who := range []string{"mallory", "stranger", "nameless"} {
		for _, c := range []struct{ method, address, headers string }{
			{"GET", status, ""}, {"HEAD", status, ""}, {"DELETE", status, ""}, {"GET", status + "/", ""},
			{"GET", file, ""}, {"HEAD", file, ""}, {"GET", file, "\nRange: bytes=0-1"}, {"GET", file, "\nIf-None-Match: *"}, {"GET", file, "\nAccept-Encoding: gzip"},
			{"GET", strings.Replace(file, "1.Patient", "2.Patient", 1), ""}, {"GET", status + "?_format=json", ""},
			{"GET", status, "\nX-Client: alice\nX-Forwarded-User: alice\nX-HTTP-Method-Override: DELETE"},
			{"GET", strings.ToUpper(status), ""}, {"GET", status[:len(status)-1], ""},
		} {
			got := w.get(t, c.method, c.address, bearer(who)+c.headers)
			missing := w.get(t, c.method, elsewhere(c.address), bearer(who)+c.headers)
			if got.StatusCode != 404 {
				t.Errorf("%s: %s %s: %s", who, c.method, c.address, got.Status)
			}
			sameReply(t, got, missing)
		}
	}
	for _, address := range []string{status, file} {
		if r := w.get(t, "GET", address, bearer("alice")); r.StatusCode != 200 {
			t.Errorf("the owner: %s", r.Status)
		}
		if r := w.get(t, "GET", address, bearer("again")); r.StatusCode != 200 {
			t.Errorf("the owner with another token: %s", r.Status)
		}
		for _, header := range []string{"", bearer("expired")} {
			if r := w.get(t, "GET", address, header); r.StatusCode != 401 || strings.Contains(string(r.body), "canary") {
				t.Errorf("%q: %s", header, r.Status)
			}
		}
	}
}

// A token must cover all that the export was allowed to read, at each step.
func TestTokensMustCoverTheExport(t *testing.T) {
	w, _, status, file := otherClients(t, nil)
	for _, token := range []string{"less", "narrow"} {
		for _, c := range []struct{ method, address string }{{"GET", status}, {"GET", file}, {"DELETE", status}} {
			r := w.get(t, c.method, c.address, bearer(token))
			if r.StatusCode != 403 || r.Header.Get("WWW-Authenticate") != `Bearer error="insufficient_scope", scope="system/Observation.rs system/Patient.rs"` {
				t.Errorf("%s: %s: %s %v", token, c.method, r.Status, r.Header)
			}
		}
	}
}

// A Group that the client may not export any more is one that it never could.
func TestGroupTakenFromAClient(t *testing.T) {
	who := byToken{"x": principal(t, "lab", "system/*.rs", "g1", "g2")}
	w := newWorld(t, func(c *Config) { c.Auth = who })
	r, job := w.kickOffAs(t, "x", "/fhir/Group/g1/$export?_type=Patient", "")
	if job == nil {
		t.Fatal(r.Status)
	}
	status := r.Header.Get("Content-Location")
	w.status2(t, status, "x", 202)
	who["x"] = principal(t, "lab", "system/*.rs", "g2")
	sameReply(t, w.get(t, "GET", status, bearer("x")), w.get(t, "GET", w.base+"/$bulk-status/"+string(jobs.NewID()), bearer("x")))
	if r := w.get(t, "DELETE", status, bearer("x")); r.StatusCode != 404 {
		t.Errorf("DELETE: %s", r.Status)
	}
}

// Two clients that export the same Group at the same time have exports of their
// own, with what each may read.
func TestSameGroupOfTwoClients(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Auth = byToken{"a": principal(t, "a", "system/Patient.rs system/Group.rs", "g1"), "b": principal(t, "b", "system/Observation.rs system/Group.rs", "g1")}
	})
	var statuses []string
	for token, want := range map[string][]string{"a": {"Patient"}, "b": {"Observation"}} {
		r, job := w.kickOffAs(t, token, "/fhir/Group/g1/$export", "")
		if job == nil {
			t.Fatalf("%s: %s", token, r.Status)
		}
		allowed, err := scope.ReadSnapshot(job.Authorization)
		if err != nil {
			t.Fatal(err)
		}
		if types, all := allowed.Names(); all || !slices.Equal(types, want) {
			t.Errorf("%s may read %q, all %v", token, types, all)
		}
		statuses = append(statuses, token, r.Header.Get("Content-Location"))
	}
	for i := 0; i < len(statuses); i += 2 {
		w.status2(t, statuses[i+1], statuses[i], 202)
		w.status2(t, statuses[i+1], statuses[(i+2)%4], 404)
	}
}

// An export without a record of what it may read has read nothing; nobody gets
// at it, not even where nobody is authenticated.
func TestNoRecordNoExport(t *testing.T) {
	w := newWorld(t, nil)
	job, first := jobs.New(jobs.Request{Level: jobs.LevelSystem}, "", w.clock.Now())
	if err := w.store.Create(t.Context(), job, first); err != nil {
		t.Fatal(err)
	}
	if r := w.get(t, "GET", w.base+"/$bulk-status/"+string(job.ID), ""); r.StatusCode != 404 {
		t.Errorf("%s", r.Status)
	}
}

// The exports of a client that was disabled end when it asks for one of them,
// and it starts no more.
func TestDisabledClients(t *testing.T) {
	disabled := ""
	w, id, status, file := otherClients(t, func(c *Config) { c.Enabled = func(client string) bool { return client != disabled } })
	if r := w.get(t, "GET", file, bearer("alice")); r.StatusCode != 200 {
		t.Fatal(r.Status)
	}
	disabled = "mallory"
	if r := w.get(t, "GET", status, bearer("mallory")); r.StatusCode != 401 {
		t.Errorf("another disabled client: %s", r.Status)
	}
	if r := w.get(t, "GET", status, bearer("alice")); r.StatusCode != 200 {
		t.Errorf("the owner, after another client was disabled: %s", r.Status)
	}
	disabled = "alice"
	if r, _ := w.kickOffAs(t, "alice", "/fhir/$export?_type=Patient", ""); r.StatusCode != 401 {
		t.Errorf("kick-off: %s", r.Status)
	}
	if r := w.get(t, "GET", file, bearer("alice")); r.StatusCode != 401 || strings.Contains(string(r.body), "canary") {
		t.Errorf("file: %s", r.Status)
	}
	if job, err := w.store.Get(t.Context(), id); err != nil || job.State != jobs.Canceled {
		t.Errorf("the export is %v, %v", job.State, err)
	}
	disabled = ""
	if r := w.get(t, "GET", file, bearer("alice")); r.StatusCode != 404 {
		t.Errorf("enabled again: %s", r.Status)
	}
}

// Where no token is needed, pages of other sites must not start or delete
// exports in the name of who looks at them.
func TestPagesOfOtherSites(t *testing.T) {
	w := newWorld(t, nil)
	_, status := w.kickOff(t, "/fhir/$export")
	origin := strings.TrimSuffix(w.base, "/fhir")
	for _, c := range []struct {
		headers string
		status  int
	}{
		{"", 202}, {"\nSec-Fetch-Site: none", 202}, {"\nSec-Fetch-Site: same-origin\nOrigin: " + origin, 202},
		{"\nSec-Fetch-Site: cross-site", 403}, {"\nSec-Fetch-Site: same-site", 403}, {"\nOrigin: https://evil.example", 403}, {"\nOrigin: null", 403}, {"\nOrigin: " + origin + ".evil.example", 403},
	} {
		if r := w.send(t, "GET /fhir/$export\n"+kickOffHeaders+c.headers); r.StatusCode != c.status {
			t.Errorf("kick-off%q: %s", c.headers, r.Status)
		}
		if c.status == 403 {
			if r := w.get(t, "DELETE", status, "Accept: */*"+c.headers); r.StatusCode != 403 {
				t.Errorf("DELETE%q: %s", c.headers, r.Status)
			}
		}
	}
	tokens := newWorld(t, func(c *Config) { c.Auth = byToken{"x": principal(t, "lab", "system/*.rs")} })
	if r, _ := tokens.kickOffAs(t, "x", "/fhir/$export", "\nOrigin: https://app.example"); r.StatusCode != 202 {
		t.Errorf("with a token, which no other page has: %s", r.Status)
	}
}

// FuzzSearchesWithinScopes checks that whatever a client asks for, each search
// has all parameters of some scope, as an upstream reads it.
func FuzzSearchesWithinScopes(f *testing.F) {
	f.Add("Observation?status=final", "category=laboratory", "code=a|b")
	f.Add("Observation?category=x%26category%3Dy", "category=laboratory", "_security=http://x|R")
	f.Add("Observation?category:not=laboratory,Observation?code=a%2526b", "category=a%26b", "status=final&code=%2B")
	f.Add(`Observation?code=a\,Observation?status=x`, "code=a%5C,b", "status=%23")
	f.Fuzz(func(t *testing.T, filter, first, second string) {
		list, _, err := scope.ParseList("system/Observation.rs?" + first + " system/Observation.rs?" + second)
		if err != nil {
			return
		}
		grant, err := scope.NewGrant(list)
		if err != nil {
			return
		}
		allowed, _, err := grant.Decide(scope.Request{Types: []string{"Observation"}, Unchecked: true})
		if err != nil {
			return
		}
		access := allowed.Access("Observation")
		if access.All { // no scope here is without a query
			t.Fatalf("%q %q permit everything", first, second)
		}
		var filters []string
		if request, err := parseFilters(jobs.LevelSystem, false, filter); err == nil {
			filters = filtersOf(&request, "Observation")
		}
		searches, err := access.Searches(filters)
		if err != nil {
			return
		}
		if len(searches) == 0 {
			t.Fatal("no search")
		}
		for _, search := range searches {
			sent := readLoosely(search)
			if !slices.ContainsFunc(access.Any, func(q scope.Query) bool {
				return !slices.ContainsFunc(q, func(p scope.Param) bool { return !slices.Contains(sent[p.Name], p.Value) })
			}) {
				t.Errorf("%q is outside of %v", search, access.Any)
			}
		}
	})
}

// readLoosely reads a query as many servers do, without an error.
func readLoosely(query string) map[string][]string {
	found := make(map[string][]string)
	for _, pair := range strings.FieldsFunc(query, func(r rune) bool { return r == '&' || r == ';' }) {
		name, value, _ := strings.Cut(pair, "=")
		name, value = unescapeLoosely(strings.ReplaceAll(name, "+", " ")), unescapeLoosely(strings.ReplaceAll(value, "+", " "))
		found[name] = append(found[name], value)
	}
	return found
}
