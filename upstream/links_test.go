package upstream

import (
	"errors"
	"net/url"
	"path"
	"strings"
	"testing"
)

func testPlace(t testing.TB, base string, aliases ...string) place {
	t.Helper()
	var as []*url.URL
	for _, a := range aliases {
		u, err := url.Parse(a)
		if err != nil {
			t.Fatal(err)
		}
		as = append(as, u)
	}
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPlace(u, as)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestResolve(t *testing.T) {
	const base = "https://up.example/base/fhir"
	p := testPlace(t, base, "http://hapi:8080/fhir", "https://up.example:8443")
	from, _ := url.Parse(base + "/Observation?_count=2")
	for _, tt := range []struct{ name, link, want string }{
		{"OKAbsolute", base + "/Observation?page=2", base + "/Observation?page=2"},
		{"OKRoot", base + "?_getpages=a-b&_getpagesoffset=2", base + "?_getpages=a-b&_getpagesoffset=2"},
		{"OKRootSlash", base + "/?_getpages=a", base + "/?_getpages=a"},
		{"OKQueryOnly", "?page=2", base + "/Observation?page=2"},
		{"OKPathAbsolute", "/base/fhir/Observation?p=2", base + "/Observation?p=2"},
		{"OKRelative", "Observation?p=2", base + "/Observation?p=2"},
		{"OKSchemeRelative", "//up.example/base/fhir/x?p=2", base + "/x?p=2"},
		{"OKUpperCaseHost", "HTTPS://UP.Example:443/base/fhir/x?p=2", base + "/x?p=2"},
		{"OKAlias", "http://hapi:8080/fhir/Observation?p=2", base + "/Observation?p=2"},
		{"OKAliasRoot", "http://hapi:8080/fhir?_getpages=a", base + "?_getpages=a"},
		{"OKAliasWithoutPath", "https://up.example:8443/Observation?p=2", base + "/Observation?p=2"},
		{"OKQueryAsIs", base + "/x?a=b;c&d=%20+%2B&e=a|b&f=%zz", base + "/x?a=b;c&d=%20+%2B&e=a|b&f=%zz"},
		{"OKSpaceInQuery", base + "/x?a=b c", base + "/x?a=b%20c"},
		{"OKFragmentDropped", base + "/x?a=b#c", base + "/x?a=b"},
		{"OKEscapedPath", base + "/__page/a%20b", base + "/__page/a%20b"},
		{"OKDotsThatStayInside", base + "/a/../b?p=2", base + "/b?p=2"},

		{"ErrEmpty", "", ""},
		{"ErrMetadataService", "http://169.254.169.254/latest/meta-data/", ""},
		{"ErrMappedAddress", "http://[::ffff:a9fe:a9fe]/", ""},
		{"ErrDecimalAddress", "http://2852039166/", ""},
		{"ErrRedis", "http://localhost:6379/", ""},
		{"ErrFile", "file:///etc/passwd", ""},
		{"ErrFileBelowBase", "file:///base/fhir/x", ""},
		{"ErrGopher", "gopher://up.example/base/fhir/x", ""},
		{"ErrOpaque", "mailto:base/fhir", ""},
		{"ErrSchemeRelativeHost", "//evil/base/fhir/x", ""},
		{"ErrUserInfo", "https://up.example@evil/base/fhir/x", ""},
		{"ErrUserInfoRightHost", "https://a:b@up.example/base/fhir/x", ""},
		{"ErrHostSuffix", "https://up.example.evil/base/fhir/x", ""},
		{"ErrPort", "https://up.example:444/base/fhir/x", ""},
		{"ErrDowngrade", "http://up.example/base/fhir/x", ""},
		{"ErrPathSuffix", base + "X/Observation", ""},
		{"ErrDotSegments", base + "/../admin", ""},
		{"ErrDotSegmentsRelative", "../../admin", ""},
		{"ErrEncodedDots", base + "/%2e%2e/admin", ""},
		{"ErrEncodedSlash", base + "/..%2fadmin", ""},
		{"ErrEncodedSlashInside", base + "%2fx", ""},
		{"ErrBackslash", base + `/..\admin`, ""},
		{"ErrEncodedBackslash", base + "/..%5cadmin", ""},
		{"ErrDoubleEncoded", base + "/%252e%252e/admin", ""},
		{"ErrDoubleSlash", base + "//x", ""},
		{"ErrControl", base + "/x\r\nHost: evil", ""},
		{"ErrEncodedControl", base + "/x%0d%0a", ""},
		{"ErrTooLong", base + "/x?p=" + strings.Repeat("a", maxLink), ""},
		{"ErrAliasPathSuffix", "http://hapi:8080/fhirX/y", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u, err := p.resolve(from, tt.link)
			if tt.want == "" {
				var foreign *ForeignLinkError
				if !errors.As(err, &foreign) {
					t.Fatalf("resolve = %v, %v; want a ForeignLinkError", u, err)
				}
				if tt.link != "" && strings.Contains(err.Error(), tt.link) {
					t.Errorf("the error echoes the link: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if u.String() != tt.want {
				t.Errorf("resolve = %s\nwant      %s", u, tt.want)
			}
		})
	}
}

func TestNewPlaceRefuses(t *testing.T) {
	for _, bad := range []string{
		"", "fhir", "ftp://h/fhir", "http:///fhir", "http://u:p@h/fhir", "http://h/fhir?x=1", "http://h/fhir#x",
		"http://h/a/../b", "http://h//fhir", "http://h/a%2fb", "http:opaque",
	} {
		u, err := url.Parse(bad)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newPlace(u, nil); err == nil {
			t.Errorf("newPlace(%q) = nil error", bad)
		}
	}
	if _, err := newPlace(nil, nil); err == nil {
		t.Error("newPlace(nil) = nil error")
	}
}

func FuzzNextLink(f *testing.F) {
	for _, s := range []string{
		"?p=2", "/base/fhir/x", "https://up.example/base/fhir?_getpages=1", "//evil/x", "https://up.example@evil/",
		"https://up.example/base/fhir/%2e%2e/%2e%2e/admin", "http://hapi:8080/fhir/x?y=z w", "http://[::ffff:a9fe:a9fe]/",
		"file:///etc/passwd", "..\\..\\x", "https://up.example/base/fhir/..%2f", "/base/fhir/;/../x", "https:/base/fhir", "https:base/fhir", "%",
	} {
		f.Add(s)
	}
	p := testPlace(f, "https://up.example/base/fhir", "http://hapi:8080/fhir", "http://bare")
	from, _ := url.Parse("https://up.example/base/fhir/Observation?_count=2")
	f.Fuzz(func(t *testing.T, link string) {
		u, err := p.resolve(from, link)
		if err != nil {
			return
		}
		if u.Scheme != "https" || u.Host != "up.example" || u.User != nil || u.Opaque != "" || u.Fragment != "" {
			t.Fatalf("resolve(%q) leaves the upstream: %s", link, u)
		}
		// What is sent is the escaped path; read it as a server would.
		target := u.RequestURI()
		if strings.ContainsFunc(target, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			t.Fatalf("resolve(%q) does not fit on a request line: %q", link, target)
		}
		sent, _, _ := strings.Cut(target, "?")
		for range 3 { // decoding again must not change where it leads
			clean := path.Clean(sent)
			if clean != "/base/fhir" && !strings.HasPrefix(clean, "/base/fhir/") {
				t.Fatalf("resolve(%q) leaves the base path: %q", link, sent)
			}
			if strings.Contains(sent, "..") && strings.ContainsAny(sent, `\`) || strings.ContainsRune(sent, 0) {
				t.Fatalf("resolve(%q) is ambiguous: %q", link, sent)
			}
			next, err := url.PathUnescape(sent)
			if err != nil {
				break
			}
			sent = next
		}
		again, err := p.resolve(p.base, u.String())
		if err != nil || again.String() != u.String() {
			t.Fatalf("the token %q does not resolve to itself: %v, %v", u, again, err)
		}
	})
}

func TestRelative(t *testing.T) {
	c, err := New(Config{URL: parse(t, "https://fhir.example.org/base"), Aliases: []*url.URL{parse(t, "http://inner:8080/fhir")}})
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"https://fhir.example.org/base/Patient/1":     "Patient/1",
		"https://FHIR.example.org:443/base/Patient/1": "Patient/1",
		"http://inner:8080/fhir/Patient/1":            "Patient/1",
		"http://fhir.example.org/base/Patient/1":      "",
		"https://fhir.example.org/basement/Patient/1": "",
		"https://fhir.example.org/base":               "",
		"https://fhir.example.org/base/Patient?a=b":   "Patient?a=b",
		"https://other.example.org/base/Patient/1":    "",
		"http://x@inner:8080/fhir/Patient/1":          "",
		"urn:uuid:1":                                  "",
		"%":                                           "",
	} {
		if got, ok := c.Relative(address); got != want || ok != (want != "") {
			t.Errorf("%s: got %q, %t, want %q", address, got, ok, want)
		}
	}
}
