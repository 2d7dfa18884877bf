package gateway

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"
)

var allMethods = []string{"GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"}

// spellings are paths that some server would take for an export, a status or a
// file, and what we answer to GET. 202 stands for a kick-off.
var spellings = []struct {
	path   string
	status int
}{
	{"/fhir/$export", 202},
	{"/fhir/%24export", 202},
	{"/fhir/$e%78port", 202},
	{"/fhir/$export/", 202},
	{"/fhir/Patient/$export", 202},
	{"/fhir/Patient/%24export", 202},
	{"/fhir/%50atient/$export/", 202},
	{"/fhir/Group/7/$export", 202},
	{"/fhir/Group/a.b-C/%24%65xport", 202},

	{"/fhir/$EXPORT", 404},
	{"/fhir/patient/$export", 404},
	{"/fhir/Patient/$Export", 404},
	{"/fhir/Patient/1/$export", 404},
	{"/fhir/Observation/$export", 404},
	{"/fhir/Group/$export", 404},
	{"/fhir/Group/7/x/$export", 404},
	{"/fhir/Group/7/$export/x", 404},
	{"/fhir/Group/$export/$export", 400},
	{"/fhir/Patient/$export.", 404},
	{"/fhir/Patient/$export%20", 404},
	{"/fhir/Patient/$export/.", 400},
	{"/fhir/Patient/%EF%BC%84export", 404}, // full-width dollar
	{"/fhir/Patient/$ex%E2%80%8Bport", 404},
	{"/fhir/Patient/%EF%B9%A9export", 404},
	{"/fhir/Patient/%C0%A4export", 400}, // overlong dollar

	{"/fhir/Patient/$export//", 400},
	{"/fhir/Patient/$export;a=b", 400},
	{"/fhir/Patient;a=b/$export", 400},
	{"/fhir/Patient/$export%3Ba=b", 400},
	{"/fhir//Patient/$export", 400},
	{"/fhir/./Patient/$export", 400},
	{"/fhir/x/../Patient/$export", 400},
	{"/fhir/x/%2e%2e/Patient/$export", 400},
	{"/fhir/Patient/$export/x/..", 400},
	{"/fhir/Patient/%2524export", 400},
	{"/fhir/Patient/%252524export", 400},
	{"/fhir/Patient%2F$export", 400},
	{"/fhir/Patient%2f%24export", 400},
	{"/fhir/Patient%5C$export", 400},
	{`/fhir/Patient\$export`, 400},
	{"/fhir/Patient/$export%00", 400},
	{"/fhir/Patient/$export%09", 400},
	{"/fhir/Patient/$export%0d%0aX:y", 400},
	{"/fhir/Patient/$export%3Fx", 400},
	{"/fhir/Patient/$export%23x", 400},

	{"/fhir/Group/../$export", 400},
	{"/fhir/Group/./$export", 400},
	{"/fhir/Group/%2e%2e/$export", 400},
	{"/fhir/Group/..%2f/$export", 400},
	{"/fhir/Group/a%2Fb/$export", 400},
	{"/fhir/Group/a%00b/$export", 400},
	{"/fhir/Group/a%0d%0aX:y/$export", 400},
	{"/fhir/Group/a_b/$export", 400},
	{"/fhir/Group/%D0%B0/$export", 400}, // a Cyrillic a
	{"/fhir/Group/" + strings.Repeat("x", 65) + "/$export", 400},

	{"/$export", 404},
	{"//fhir/$export", 404},
	{"/x/../fhir/$export", 404},
	{"/fhirx/$export", 404},
	{"/%66hir/$export", 404},
	{"/FHIR/$export", 404},

	{"/fhir/$bulk-status", 404},
	{"/fhir/$bulk-status/x", 404},
	{"/fhir/$BULK-STATUS/x", 404},
	{"/fhir/$bulk-status/aaaaaaaaaaaaaaaaaaaaaaaaaa/x", 404},
	{"/fhir/$bulk-files/x", 404},
	{"/fhir/$bulk-files/x/y/z", 404},
	{"/fhir/$bulk-files/aaaaaaaaaaaaaaaaaaaaaaaaaa/1.Patient.ndjson", 404},
	{"/fhir/$bulk-files/aaaaaaaaaaaaaaaaaaaaaaaaaa/..", 400},
	{"/fhir/$bulk-files/aaaaaaaaaaaaaaaaaaaaaaaaaa/..%5C..%5Cx", 400},
	{"/fhir/$bulk-files/aaaaaaaaaaaaaaaaaaaaaaaaaa/%2Fetc%2Fpasswd", 400},
	{"/fhir/$bulk-files/aaaaaaaaaaaaaaaaaaaaaaaaaa/a%00b", 400},
}

func TestSpellingsNeverReachTheUpstream(t *testing.T) {
	w := newWorld(t, nil)
	for _, s := range spellings {
		for _, method := range allMethods {
			t.Run(method+" "+s.path, func(t *testing.T) {
				r := w.send(t, method+" "+s.path+"\n"+kickOffHeaders+"\nX-HTTP-Method-Override: GET\nX-Original-URL: /fhir/$export\nX-Rewrite-URL: /fhir/$export")
				want := s.status
				switch {
				case method == "GET":
				case s.status == 202 && method == "POST":
					want = 415 // no body
				case s.status == 202:
					want = 405
				case strings.Count(s.path, "/") == 3 && strings.HasPrefix(s.path, "/fhir/$bulk-status/") && method != "HEAD" && method != "DELETE",
					strings.Count(s.path, "/") == 4 && strings.HasPrefix(s.path, "/fhir/$bulk-files/") && s.status == 404 && method != "HEAD":
					want = 405
				}
				if r.StatusCode != want {
					t.Errorf("status %d, want %d: %s", r.StatusCode, want, r.body)
				}
				if want == 405 && (r.Header.Get("Allow") == "" || strings.Contains(r.Header.Get("Allow"), method)) {
					t.Errorf("Allow: %q", r.Header.Get("Allow"))
				}
				if len(r.Header["X"]) > 0 {
					t.Error("a header was injected")
				}
				if method != "HEAD" {
					r.issue(t)
				}
			})
		}
	}
	if seen := w.upstream.seen(); len(seen) > 0 {
		t.Errorf("the upstream was asked: %q", seen)
	}
	if log := w.logged(); strings.Contains(log, "X:y") {
		t.Errorf("a path stands in the log:\n%s", log)
	}
}

func TestForeignTargetsAreRefused(t *testing.T) {
	w := newWorld(t, nil)
	for _, target := range []string{
		"http://evil.example/fhir/Patient/$export", "http://evil.example/fhir/Patient/1", "https://evil.example/",
		"http://user@evil.example/fhir/Patient", "http:fhir/Patient", "mailto:x",
	} {
		for _, method := range []string{"GET", "POST", "PUT"} {
			if r := w.send(t, method+" "+target+"\n"+kickOffHeaders); r.StatusCode < 400 || r.StatusCode > 499 {
				t.Errorf("%s %s: %s", method, target, r.Status)
			}
		}
	}
	if seen := w.upstream.seen(); len(seen) > 0 {
		t.Errorf("the upstream was asked: %q", seen)
	}
	if r := w.send(t, "GET "+w.base+"/$export\n"+kickOffHeaders); r.StatusCode != 202 {
		t.Errorf("our own authority: %s", r.Status)
	}
}

func TestHarmlessTargetsPassAsTheyAre(t *testing.T) {
	w := newWorld(t, nil)
	for _, rest := range []string{
		"", "/", "?_format=json", "/?", "/Patient?name=a;b", "/Patient?name=a%3Bb&name=a+b&name=a%20b", "/Patient?_filter=a%2Fb%25&x=%zz",
		"/Patient/", "/Patient/1/_history/2", "/Patient/a%20b", "/Patient/%41", "/Patient/caf%C3%A9", "/Patient/1/$everything",
		"/$export-poll-status?_jobId=1", "/$exports", "/Patient/export", "/Patient/x$export", "/Patient/$bulk-status/1", "/Binary/$bulk-files",
		"/Patient?x=/$export", "/Patient?q=" + strings.Repeat("x", 32<<10), "/Observation/_search", "/~x!'()*,:@&=+", "/metadata/", "/Metadata", "/a|b",
	} {
		w.upstream.forget()
		r := w.send(t, "GET /fhir"+rest)
		if r.StatusCode != 200 {
			t.Errorf("%.60s: %s %s", rest, r.Status, r.body)
			continue
		}
		if want, got := "GET /up"+rest, w.upstream.seen(); len(got) != 1 || got[0] != want {
			t.Errorf("%.60s: the upstream saw %.80q", rest, got)
		}
	}
	for _, method := range append(allMethods, "PURGE") {
		w.upstream.forget()
		w.send(t, method+" /fhir/Patient/1?a=b;c")
		if got := w.upstream.seen(); len(got) != 1 || got[0] != method+" /up/Patient/1?a=b;c" {
			t.Errorf("%s: the upstream saw %q", method, got)
		}
	}
	w.upstream.forget()
	w.send(t, "POST /fhir/metadata")
	if got := w.upstream.seen(); len(got) != 1 {
		t.Errorf("POST /metadata: the upstream saw %q", got)
	}
}

func TestRootBase(t *testing.T) {
	s := site{host: "fhir.example.org"}
	for target, want := range map[string]kind{
		"/$export": ours, "/Group/1/$export": ours, "/metadata": ours, "/": passThrough, "/Patient": passThrough, "//Patient/$export": refused, "/a/$export": refused,
	} {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			t.Fatal(err)
		}
		v := s.classify(http.MethodGet, u)
		if v.kind != want || want == ours && v.path != target {
			t.Errorf("%s: %+v", target, v)
		}
	}
}

func TestSameHost(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"a.example", "A.example", true},
		{"a.example:443", "a.example", true},
		{"a.example:8443", "a.example", false},
		{"a.example.evil", "a.example", false},
		{"a.example:80", "a.example:8080", false},
	} {
		if got := sameHost(c.a, c.b); got != c.want {
			t.Errorf("%s, %s: %v", c.a, c.b, got)
		}
	}
}

// readsAsExport reports whether a careless server could read the path as an
// export: it decodes as long as there is something to decode, takes back
// slashes for slashes, cuts path parameters, cleans, and ignores case.
func readsAsExport(escaped string) bool {
	p := escaped
	for range 8 {
		p = unescapeLoosely(p)
	}
	p = strings.ReplaceAll(p, `\`, "/")
	if i := strings.IndexAny(p, "?#\x00"); i >= 0 {
		p = p[:i]
	}
	segments := strings.Split(p, "/")
	for i := range segments {
		segments[i], _, _ = strings.Cut(segments[i], ";")
		segments[i] = strings.Trim(segments[i], " \t\r\n")
	}
	last := path.Base(path.Clean("/" + strings.Join(segments, "/")))
	last = strings.Trim(last, ". ")
	return strings.EqualFold(last, "$export")
}

func unescapeLoosely(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		var c int
		if s[i] == '%' && i+2 < len(s) {
			if _, err := fmt.Sscanf(s[i+1:i+3], "%02x", &c); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func FuzzClassify(f *testing.F) {
	for _, s := range spellings {
		f.Add("GET", s.path)
	}
	for _, p := range []string{"/fhir", "/fhir/Patient?x=y", "/fhir/metadata", "/fhir/Patient/1", "http://fhir.example.org/fhir/$export", "*"} {
		f.Add("POST", p)
	}
	for _, p := range []string{"/fhir/auth/token", "/fhir/AUTH/jwks", "/.well-known/smart-configuration", "/fhir/.well-known/smart%2Dconfiguration", "/fhir/.well-known/smart-configuration%20"} {
		f.Add("GET", p)
	}
	s := site{host: "fhir.example.org", base: "/fhir"}
	guarded := site{host: s.host, base: s.base, discovery: true, token: true, keySet: true}
	f.Fuzz(func(t *testing.T, method, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return // net/http answers 400
		}
		// What belongs to authorization never passes, and is decided by its path alone.
		switch v := guarded.classify(method, u); {
		case v.kind == passThrough:
			if p := strings.ToLower(strings.Trim(path.Clean(unescapeLoosely(u.EscapedPath())), "/ .")); strings.HasPrefix(p, "fhir/") &&
				slices.Contains([]string{"fhir/auth/token", "fhir/auth/jwks", "fhir/.well-known/smart-configuration"}, p) {
				t.Errorf("%q passes", target)
			}
		case v.kind == ours && v.route == routeDiscovery && v.path != routeDiscovery && v.path != "/fhir"+routeDiscovery:
			t.Errorf("%q: %+v", target, v)
		}
		v := s.classify(method, u)
		switch v.kind {
		case passThrough:
			for _, p := range []string{u.EscapedPath(), u.Path} {
				if readsAsExport(p) {
					t.Errorf("%q passes", p)
				}
			}
		case ours:
			if v.route == "" || v.problem != nil || !strings.HasPrefix(v.path, "/fhir/") || path.Clean(v.path) != v.path || strings.ContainsAny(v.path, "%;\\?#") {
				t.Errorf("%q: %+v", target, v)
			}
			if strings.HasSuffix(v.path, export) && method != http.MethodGet && method != http.MethodPost {
				t.Errorf("%s %q is a kick-off", method, target)
			}
		case refused:
			if v.problem == nil || v.problem.Status < 400 || v.problem.Status > 499 {
				t.Errorf("%q: %+v", target, v)
			}
		}
	})
}
