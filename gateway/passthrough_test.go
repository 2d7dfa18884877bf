package gateway

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// Pass-through carries the credential of the caller and nothing of ours, also
// where exports take one.
func TestPassThroughCarriesTheCallersCredential(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		protected(c)
		c.Auth = byToken{"x": principal(t, "lab", "system/*.rs")}
	})
	for _, headers := range []string{"", "Authorization: Bearer y", "Authorization: Basic bGFiOng=", "Authorization: Bearer y\nConnection: Authorization", "Authorization: Bearer x\nCookie: a=b"} {
		w.upstream.forget()
		r := w.get(t, "GET", w.base+"/Patient/1", headers)
		w.upstream.mu.Lock()
		got := w.upstream.headers
		w.upstream.mu.Unlock()
		want, _, _ := strings.Cut(strings.TrimPrefix(headers, "Authorization: "), "\n")
		if r.StatusCode != 200 || len(got) != 1 || got[0].Get("Authorization") != want {
			t.Errorf("%q: %s, the upstream saw %v", headers, r.Status, got)
		}
	}
	w.upstream.handler = answering(401, `WWW-Authenticate: Basic realm="upstream"`, []byte("no"))
	if r := w.get(t, "GET", w.base+"/Patient/1", ""); r.StatusCode != 401 || r.Header.Get("WWW-Authenticate") != `Basic realm="upstream"` {
		t.Errorf("a challenge: %s %v", r.Status, r.Header)
	}
}

// withGrant is a gateway whose upstream handler adds a credential of ours.
func withGrant(t *testing.T, scopes string) *world {
	return newWorld(t, func(c *Config) {
		protected(c)
		c.Auth = byToken{"x": principal(t, "lab", scopes)}
		c.PassThroughGrant = true
		proxy := c.Upstream
		c.Upstream = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" {
				t.Errorf("the caller's credential came along: %q", r.Header["Authorization"])
			}
			r.Header.Set("Authorization", "Bearer ours")
			proxy.ServeHTTP(w, r)
		})
	})
}

// Where a credential of ours is added, every request is one that the scopes of
// its sender permit, by method and type; what no scope can be told for is refused.
func TestPassThroughWithinScopes(t *testing.T) {
	const form = "\nContent-Type: application/x-www-form-urlencoded\n\n"
	for _, c := range []struct {
		scopes, request string
		status          int
	}{
		{"system/Patient.rs", "GET /fhir/Patient/1", 200},
		{"system/Patient.rs", "HEAD /fhir/Patient/1", 200},
		{"system/Patient.rs", "GET /fhir/Patient?name=x&_count=10", 200},
		{"system/Patient.rs", "GET /fhir/Patient/1/_history/2", 200},
		{"system/Patient.rs", "POST /fhir/Patient/_search" + form + "name=x", 200},
		{"system/*.rs", "GET /fhir/Patient?_include=*", 200},
		{"system/*.rs", "GET /fhir?_type=Patient", 200},
		{"system/Patient.u", "PUT /fhir/Patient/1", 200},
		{"system/Patient.d", "DELETE /fhir/Patient/1", 200},
		{"system/Patient.c", "POST /fhir/Patient", 200},

		{"system/Patient.s", "GET /fhir/Patient/1", 403},
		{"system/Patient.rs", "GET /fhir/Observation/1", 403},
		{"system/Patient.rs", "GET /fhir/Observation?patient=1", 403},
		{"system/Patient.rs", "GET /fhir/Patient/1/Observation", 403},
		{"system/Patient.rs", "GET /fhir/Patient/1/*", 403},
		{"system/Patient.rs", "GET /fhir/Patient?_include=*", 403},
		{"system/Patient.rs", "GET /fhir/Patient?_revinclude=Observation:subject", 403},
		{"system/Patient.rs", "GET /fhir/Patient?_has:Observation:patient:code=x", 403},
		{"system/Patient.rs", "GET /fhir/Patient?general-practitioner.name=x", 403},
		{"system/Patient.rs", "GET /fhir/Patient?%5Finclude=*", 403},
		{"system/Patient.rs", "POST /fhir/Patient/_search" + form + "_include=*", 403},
		{"system/Patient.rs", "POST /fhir/Patient/_search?_include=*" + form + "name=x", 403},
		{"system/Patient.rs", "POST /fhir/Patient/_search" + form + "%5Fgetpages=x", 403},
		{"system/Patient.rs", "GET /fhir?_getpages=00000000-0000-0000-0000-000000000000", 403},
		{"system/Patient.rs", "GET /fhir/Patient/1?_getpages=x", 403},
		{"system/Patient.rs", "GET /fhir/Patient/1/_history?_getpages=x", 403},
		{"system/Patient.rs", "GET /fhir/Patient/_history?_getpages=x", 403},
		{"system/Patient.rs", "GET /fhir/_history", 403},
		{"system/Patient.rs", "PUT /fhir/Patient/1", 403},
		{"system/Patient.rs", "DELETE /fhir/Patient/1", 403},
		{"system/Patient.u", "PUT /fhir/Patient?identifier=x", 403},
		{"system/Patient.c", "POST /fhir/Patient\nIf-None-Exist: identifier=x", 403},
		{"system/Patient.rs?_security=N", "GET /fhir/Patient/1", 403},
		{"system/*.cruds", "GET /fhir/Patient/1/$everything", 403},
		{"system/*.cruds", "POST /fhir/Patient/$match", 403},
		{"system/*.cruds", "POST /fhir/$graphql", 403},
		{"system/*.cruds", "POST /fhir\n\n" + `{"resourceType":"Bundle","type":"batch","entry":[{"request":{"method":"GET","url":"Patient/$export"}}]}`, 403},
		{"system/*.cruds", "POST /fhir/\n\n" + `{"resourceType":"Bundle","type":"transaction"}`, 403},
		{"system/*.cruds", "OPTIONS /fhir/Patient/1", 403},
		{"system/*.cruds", "PURGE /fhir/Patient/1", 403},
		{"system/*.cruds", "GET /fhir/.well-known/openid-configuration", 403},
		{"system/*.cruds", "POST /fhir/metadata", 403},
		{"system/*.cruds", "GET /fhir/Patient?name=a;b", 400},
		{"system/*.cruds", "GET /fhir/Patient?name=%zz", 400},
		{"system/*.cruds", "GET /fhir/Patient%2F1", 400},
		{"system/*.cruds", "GET /fhir/Patient/../Observation/1", 400},
		{"system/*.cruds", "POST /fhir/Patient/_search\nContent-Type: application/json\n\n{}", 415},
		{"system/*.cruds", "POST /fhir/Patient/_search\nContent-Encoding: gzip" + form + "x", 415},
		{"system/*.cruds", "POST /fhir/Patient/_search" + form + strings.Repeat("x", maxFormBytes+1), 413},
	} {
		w := withGrant(t, c.scopes)
		head, body, found := strings.Cut(c.request, "\n\n")
		request := head + "\n" + bearer("x")
		if found {
			request += "\n\n" + body
		}
		r := w.send(t, request)
		if r.StatusCode != c.status {
			t.Errorf("%s: %.100s: %s %s", c.scopes, c.request, r.Status, r.body)
		}
		if seen := w.upstream.seen(); (len(seen) == 1) != (c.status == 200) {
			t.Errorf("%s: %.100s: the upstream saw %q", c.scopes, c.request, seen)
		}
		if c.status == 403 && r.Header.Get("WWW-Authenticate") != "" && !strings.HasPrefix(r.Header.Get("WWW-Authenticate"), `Bearer error="insufficient_scope"`) {
			t.Errorf("%.100s: %v", c.request, r.Header)
		}
	}
}

func TestPassThroughWithoutACredential(t *testing.T) {
	w := withGrant(t, "system/*.cruds")
	for headers, want := range map[string]int{"": 401, "Authorization: Bearer y": 401, "Authorization: Basic bGFiOng=": 401, "Authorization: Bearer x y": 400, "Cookie: session=1": 401} {
		if r := w.get(t, "GET", w.base+"/Patient/1", headers); r.StatusCode != want || r.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%q: %s", headers, r.Status)
		}
	}
	if seen := w.upstream.seen(); len(seen) > 0 {
		t.Errorf("the upstream saw %q", seen)
	}
	disabled := newWorld(t, func(c *Config) {
		c.Auth, c.PassThroughGrant = byToken{"x": principal(t, "lab", "system/*.rs")}, true
		c.Enabled = func(string) bool { return false }
	})
	if r := disabled.get(t, "GET", disabled.base+"/Patient/1", bearer("x")); r.StatusCode != 401 {
		t.Errorf("disabled: %s", r.Status)
	}
}

// Who may write and not read is not shown what it has written to.
func TestWritersAreNotShownWhatTheyMayNotRead(t *testing.T) {
	for scopes, want := range map[string]string{"system/Patient.u": "return=minimal", "system/Patient.ru": "return=representation"} {
		w := withGrant(t, scopes)
		w.send(t, "PATCH /fhir/Patient/1\nPrefer: return=representation\nContent-Type: application/json-patch+json\n"+bearer("x")+"\n\n[]")
		w.upstream.mu.Lock()
		if got := w.upstream.headers; len(got) != 1 || got[0].Get("Prefer") != want {
			t.Errorf("%s: the upstream saw %v", scopes, got)
		}
		w.upstream.mu.Unlock()
	}
}

// The form of a search reaches the upstream as it came.
func TestFormsPassWhole(t *testing.T) {
	w := withGrant(t, "system/Patient.rs")
	got := ""
	w.upstream.handler = func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = r.Header.Get("Authorization") + " " + string(b)
	}
	w.send(t, "POST /fhir/Patient/_search\nContent-Type: application/x-www-form-urlencoded\n"+bearer("x")+"\n\nname=a%20b&name=c+d")
	if got != "Bearer ours name=a%20b&name=c+d" {
		t.Errorf("the upstream saw %q", got)
	}
}

// That the upstream does not accept our credential is no matter of the client,
// and its challenge would send the client to somebody who does not know it.
func TestOurCredentialIsNotChallenged(t *testing.T) {
	for _, status := range []int{401, 403, 407} {
		w := withGrant(t, "system/*.rs")
		w.upstream.handler = answering(status, "WWW-Authenticate: Bearer realm=\"secret\"\nSet-Cookie: a=b\nContent-Type: text/html", []byte("who are you"))
		for _, path := range []string{"/Patient/1", "/metadata"} {
			r := w.get(t, "GET", w.base+path, bearer("x"))
			if r.StatusCode != 502 || r.Header.Get("WWW-Authenticate") != "" || r.Header.Get("Set-Cookie") != "" || strings.Contains(string(r.body), "who are you") || r.Header.Get("Content-Type") != "application/fhir+json" {
				t.Errorf("%d %s: %s %v %s", status, path, r.Status, r.Header, r.body)
			}
		}
	}
}

// The statement is public. Some servers give pages of searches at any path.
func TestMetadataWithOurCredential(t *testing.T) {
	w := withGrant(t, "system/Patient.rs")
	w.upstream.handler = answering(200, "Content-Type: application/fhir+json", []byte(statement))
	for request, want := range map[string]int{
		"GET /fhir/metadata": 200, "GET /fhir/metadata\nAuthorization: Bearer y": 200, "GET /fhir/metadata?_format=xml": 200,
		"GET /fhir/metadata?_getpages=x": 400, "GET /fhir/metadata?_format=json&%5Fgetpages=x": 400, "GET /fhir/metadata?a=%zz": 400,
	} {
		w.upstream.forget()
		if r := w.send(t, request); r.StatusCode != want || (len(w.upstream.seen()) == 1) != (want == 200) {
			t.Errorf("%q: %s, the upstream saw %q", request, r.Status, w.upstream.seen())
		}
	}
}

// noToken is an Authenticator whose clients show no token.
type noToken struct{ byToken }

func (noToken) RequiresToken() bool { return false }

// Who shows a certificate is not told to fetch a token.
func TestNoChallengeWithoutTokens(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Auth = noToken{byToken{"x": principal(t, "lab", "system/Patient.rs")}}
	})
	if r := w.send(t, "GET /fhir/$export\n"+kickOffHeaders); r.StatusCode != 401 || r.Header.Get("WWW-Authenticate") != "" {
		t.Errorf("%s %v", r.Status, r.Header)
	}
	if r, _ := w.kickOffAs(t, "x", "/fhir/$export?_type=Observation", ""); r.StatusCode != 403 || r.Header.Get("WWW-Authenticate") != "" {
		t.Errorf("%s %v", r.Status, r.Header)
	}
	// What a browser shows by itself, it shows for pages of any site.
	ours := newWorld(t, func(c *Config) {
		c.Auth, c.PassThroughGrant = noToken{byToken{"x": principal(t, "lab", "system/*.cruds")}}, true
	})
	for request, want := range map[string]int{"POST /fhir/Patient": 200, "POST /fhir/Patient\nOrigin: https://evil.example": 403, "DELETE /fhir/Patient/1\nSec-Fetch-Site: cross-site": 403, "GET /fhir/Patient/1\nOrigin: https://evil.example": 200} {
		if r := ours.send(t, request+"\n"+bearer("x")); r.StatusCode != want {
			t.Errorf("%q: %s", request, r.Status)
		}
	}
}
