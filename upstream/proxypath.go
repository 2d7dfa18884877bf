package upstream

import (
	"net/http"
	"net/url"
	"strings"
)

// rawPath is the path of r as it was written. net/url keeps most spellings,
// but not all; the request line has them.
func rawPath(r *http.Request) string {
	raw := r.RequestURI
	if _, after, ok := strings.Cut(raw, "://"); ok && !strings.HasPrefix(raw, "/") {
		raw = ""
		if i := strings.IndexByte(after, '/'); i >= 0 {
			raw = after[i:] // absolute form
		}
	}
	raw, _, _ = strings.Cut(raw, "?")
	if decoded, err := url.PathUnescape(raw); err == nil && strings.HasPrefix(raw, "/") && decoded == r.URL.Path {
		return raw
	}
	return r.URL.EscapedPath()
}

// cutBase takes a decoded base path off a path as it was written.
func cutBase(raw, base string) (rest string, ok bool) {
	end := 0
	for range strings.Count(base, "/") { // as many segments as base has
		if end >= len(raw) || raw[end] != '/' {
			return "", false
		}
		if n := strings.IndexByte(raw[end+1:], '/'); n >= 0 {
			end += 1 + n
		} else {
			end = len(raw)
		}
	}
	decoded, err := url.PathUnescape(raw[:end])
	rest = raw[end:]
	return rest, err == nil && decoded == base && (rest == "" || rest[0] == '/')
}

// hasDotSegments reports whether anyone could read the decoded path as leading
// elsewhere.
func hasDotSegments(decoded string) bool {
	slash := func(r rune) bool { return r == '/' || r == '\\' }
	for segment := range strings.FieldsFuncSeq(decoded, slash) {
		// A path parameter after the dots is cut off by some servers.
		segment, _, _ = strings.Cut(segment, ";")
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}

// outgoingURL is the address of path, as it is written, and the query of in at
// the origin of base.
func outgoingURL(base *url.URL, path string, in *url.URL) *url.URL {
	u := &url.URL{Scheme: base.Scheme, Host: base.Host, RawQuery: in.RawQuery, ForceQuery: in.ForceQuery}
	if path == "" {
		path = "/"
	}
	if strings.HasPrefix(path, "//") {
		// Opaque would be read as a host here.
		if decoded, err := url.PathUnescape(path); err == nil {
			u.Path, u.RawPath = decoded, path
			return u
		}
	}
	u.Opaque = path // sent as it is, where Path might be written anew
	return u
}

// publicLocation returns where a client finds what v, a Location header of the
// upstream, leads to. What does not lead to the upstream's base stays.
func (p *proxy) publicLocation(v string) string {
	u, err := url.Parse(v)
	if err != nil || u.Opaque != "" || u.User != nil {
		return v
	}
	prefix := p.public.EscapedPath()
	var rest string
	var ok bool
	switch {
	case u.Host == "" && strings.HasPrefix(v, "/"): // only a path: it stays one
		rest, ok = cutPath(p.to.base, u)
	case u.Host != "":
		if u.Scheme == "" {
			u.Scheme = p.to.base.Scheme
		}
		rest, ok = below(p.to.base, u)
		for i := 0; !ok && i < len(p.to.aliases); i++ {
			rest, ok = below(p.to.aliases[i], u)
		}
		if p.public.Host != "" {
			prefix = p.public.Scheme + "://" + p.public.Host + prefix
		}
	}
	if !ok {
		return v
	}
	out := prefix + rest
	if out == "" {
		out = "/"
	}
	if u.RawQuery != "" || u.ForceQuery {
		out += "?" + u.RawQuery
	}
	if u.Fragment != "" {
		out += "#" + u.EscapedFragment()
	}
	return out
}
