package upstream

import (
	"fmt"
	"net/url"
	"path"
	"strings"
)

// maxLink bounds a next link. Real ones carry tokens of a few kilobytes.
const maxLink = 64 << 10

// A place is the upstream's base address and the other names it has.
type place struct {
	base    *url.URL
	aliases []*url.URL
}

// newPlace checks the addresses and takes off their trailing slashes.
func newPlace(base *url.URL, aliases []*url.URL) (place, error) {
	p := place{}
	var err error
	if p.base, err = cleanBase(base); err != nil {
		return place{}, fmt.Errorf("upstream.url: %w", err)
	}
	for _, a := range aliases {
		a, err := cleanBase(a)
		if err != nil {
			return place{}, fmt.Errorf("upstream.url_aliases: %w", err)
		}
		p.aliases = append(p.aliases, a)
	}
	return p, nil
}

func cleanBase(u *url.URL) (*url.URL, error) {
	switch {
	case u == nil:
		return nil, fmt.Errorf("no address is given")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("the address must begin with http:// or https://")
	case u.Host == "" || u.Opaque != "":
		return nil, fmt.Errorf("the address has no host")
	case u.User != nil:
		return nil, fmt.Errorf("the address must not hold a user or password; put credentials into upstream.headers")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, fmt.Errorf("the address must have no query and no fragment")
	}
	c := &url.URL{Scheme: u.Scheme, Host: u.Host}
	c.Path = strings.TrimRight(u.Path, "/")
	c.RawPath = strings.TrimRight(u.RawPath, "/")
	if !plainPath(c) {
		return nil, fmt.Errorf("the path of the address must be plain, without dot segments or doubled slashes")
	}
	return c, nil
}

// resolve returns where a next link leads: always below our base address, on
// its scheme and host, with the link's own path and query. request is the
// address whose answer had the link. Every other link is a *ForeignLinkError.
func (p place) resolve(request *url.URL, link string) (*url.URL, error) {
	if link == "" || len(link) > maxLink {
		return nil, &ForeignLinkError{}
	}
	ref, err := url.Parse(link)
	if err != nil {
		return nil, &ForeignLinkError{}
	}
	u := request.ResolveReference(ref)
	if u.Opaque != "" || u.User != nil || !plainPath(u) {
		return nil, &ForeignLinkError{Origin: origin(u)}
	}
	rest, ok := below(p.base, u)
	for i := 0; !ok && i < len(p.aliases); i++ {
		rest, ok = below(p.aliases[i], u)
	}
	if !ok {
		return nil, &ForeignLinkError{Origin: origin(u)}
	}
	out, err := url.Parse(p.base.EscapedPath() + rest)
	if err != nil || out.Host != "" || out.Scheme != "" {
		return nil, &ForeignLinkError{Origin: origin(u)}
	}
	out.Scheme, out.Host = p.base.Scheme, p.base.Host
	out.RawQuery = sendable(u.RawQuery)
	if !plainPath(out) {
		return nil, &ForeignLinkError{Origin: origin(u)}
	}
	return out, nil
}

// Relative returns what follows the upstream's base, or one of its aliases, in an
// absolute http or https address, without a slash before it. ok is false if it leads
// elsewhere.
func (c *Client) Relative(address string) (rest string, ok bool) {
	if rest, ok = strings.CutPrefix(address, c.place.base.String()+"/"); ok {
		return rest, true
	}
	u, err := url.Parse(address)
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", false
	}
	for _, base := range append([]*url.URL{c.place.base}, c.place.aliases...) {
		if rest, ok = below(base, u); ok && rest != "" {
			return rest[1:], true
		}
	}
	return "", false
}

// below returns what of u's escaped path follows that of base, if u has the
// same origin and lies at or under base.
func below(base, u *url.URL) (rest string, ok bool) {
	if origin(base) != origin(u) {
		return "", false
	}
	return cutPath(base, u)
}

// cutPath returns what of u's escaped path follows that of base, if u lies at
// or under base, whatever its origin.
func cutPath(base, u *url.URL) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(u.EscapedPath(), base.EscapedPath())
	if !ok || rest != "" && rest[0] != '/' {
		return "", false
	}
	return rest, true
}

// plainPath reports whether a path means the same to everyone who reads it: it
// is absolute or empty, and neither as written nor decoded has it dot segments,
// doubled slashes, or encoded slashes, backslashes or percent signs.
func plainPath(u *url.URL) bool {
	if u.Path == "" {
		return true
	}
	escaped := strings.ToLower(u.EscapedPath())
	for _, s := range []string{"%2f", "%5c", "%25", "%00", "\\"} {
		if strings.Contains(escaped, s) {
			return false
		}
	}
	if strings.ContainsFunc(u.Path, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return false
	}
	return u.Path[0] == '/' && (path.Clean(u.Path) == u.Path || path.Clean(u.Path)+"/" == u.Path)
}

// origin is scheme, host and port in one comparable spelling.
func origin(u *url.URL) string {
	if u.Host == "" {
		return ""
	}
	scheme, host, port := strings.ToLower(u.Scheme), strings.ToLower(u.Hostname()), u.Port()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port == "" || scheme == "http" && port == "80" || scheme == "https" && port == "443" {
		return scheme + "://" + host
	}
	return scheme + "://" + host + ":" + port
}

// sendable percent-encodes the bytes of a query that no request line may hold,
// and leaves all others alone.
func sendable(query string) string {
	bad := func(c byte) bool { return c <= ' ' || c >= 0x7f || c == '#' }
	n := 0
	for i := range len(query) {
		if bad(query[i]) {
			n++
		}
	}
	if n == 0 {
		return query
	}
	const hex = "0123456789ABCDEF"
	out := make([]byte, 0, len(query)+2*n)
	for i := range len(query) {
		if c := query[i]; bad(c) {
			out = append(out, '%', hex[c>>4], hex[c&15])
		} else {
			out = append(out, c)
		}
	}
	return string(out)
}
