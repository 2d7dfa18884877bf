package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"spillway/upstream/fhir"
)

// A kind says who answers a request.
type kind int

const (
	refused     kind = iota // we do, with a problem
	ours                    // we do, at a route
	passThrough             // the upstream does
)

// A verdict is what classify says of a request. The zero value has no problem
// and must not be used.
type verdict struct {
	kind    kind
	route   string   // of ours
	path    string   // of ours: decoded and canonical, with the public path
	problem *Problem // of refused
}

func (v verdict) label() string {
	switch v.kind {
	case ours:
		return v.route
	case passThrough:
		return "pass-through"
	}
	return "refused"
}

// A site is what of the public URL takes part in classifying.
type site struct {
	host string // with port, as in the URL
	base string // escaped path without trailing slash; "" for the root
	// Whether discovery document, token endpoint and key set are ours.
	discovery, token, keySet bool
}

const export = "$export"

// classify decides who answers, from method and target alone. Its property:
// a path whose last segment an upstream could take for $export, in any
// spelling, is ours or refused. It is strict where a path could mean two
// things to two readers, so that this reader and the upstream never differ;
// all that is harmless passes unchanged.
func (s site) classify(method string, u *url.URL) verdict {
	if u.Host != "" && !sameHost(u.Host, s.host) {
		return deny(refuse(http.StatusBadRequest, fhir.IssueInvalid, "The request target names another host; this server is no forward proxy."))
	}
	path := u.EscapedPath()
	if v, ok := s.atHost(path); ok {
		return v
	}
	rest, below := strings.CutPrefix(path, s.base)
	if !below || rest != "" && rest[0] != '/' || path == "" {
		return deny(refuse(http.StatusNotFound, fhir.IssueNotFound, "Nothing is served here; the FHIR base is %s/.", s.base))
	}
	if rest == "" || rest == "/" {
		return verdict{kind: passThrough}
	}
	segments, problem := segmentsOf(rest)
	if problem != nil {
		return deny(problem)
	}
	if v, ok := s.classifyAuth(segments); ok {
		return v
	}
	switch {
	case slices.ContainsFunc(segments, func(segment string) bool { return folded(segment) == export }):
		return s.classifyExport(method, segments)
	case folded(segments[0]) == "$bulk-status":
		if segments[0] != "$bulk-status" || len(segments) != 2 {
			return deny(noSuchExport())
		}
		return s.own(method, routeStatus, segments, http.MethodGet, http.MethodHead, http.MethodDelete)
	case folded(segments[0]) == "$bulk-files":
		if segments[0] != "$bulk-files" || len(segments) != 3 {
			return deny(noSuchExport())
		}
		return s.own(method, routeFile, segments, http.MethodGet, http.MethodHead)
	case rest == routeMetadata && (method == http.MethodGet || method == http.MethodHead || s.discovery && method == http.MethodOptions):
		return s.own(method, routeMetadata, segments, http.MethodGet, http.MethodHead, http.MethodOptions)
	}
	return verdict{kind: passThrough}
}

// classifyExport is classify for paths with $export, in some spelling, somewhere.
func (s site) classifyExport(method string, segments []string) verdict {
	var route string
	switch {
	case len(segments) == 1 && segments[0] == export:
		route = routeSystemExport
	case len(segments) == 2 && segments[0] == "Patient" && segments[1] == export:
		route = routePatientExport
	case len(segments) == 3 && segments[0] == "Group" && segments[2] == export:
		if !fhir.ValidID(segments[1]) {
			return deny(refuse(http.StatusBadRequest, fhir.IssueValue, "The id of the Group is not a FHIR id."))
		}
		route = routeGroupExport
	default:
		return deny(refuse(http.StatusNotFound, fhir.IssueNotSupported,
			"There is no $export here; it is offered at %[1]s/$export, %[1]s/Patient/$export and %[1]s/Group/[id]/$export.", s.base))
	}
	return s.own(method, route, segments, http.MethodGet, http.MethodPost)
}

// own returns the verdict for a route of ours, which has the given methods.
func (s site) own(method, route string, segments []string, methods ...string) verdict {
	if !slices.Contains(methods, method) {
		allow := strings.Join(methods, ", ")
		return deny(refuse(http.StatusMethodNotAllowed, fhir.IssueNotSupported, "The method is not supported here; allowed are %s.", allow).with("Allow", allow))
	}
	return verdict{kind: ours, route: route, path: s.base + "/" + strings.Join(segments, "/")}
}

func deny(p *Problem) verdict { return verdict{kind: refused, problem: p} }

// segmentsOf decodes an escaped path, once, and splits it; one trailing slash
// is dropped. Whatever readers are known to disagree about is refused: encoded
// separators and percent signs, path parameters, dot segments, control bytes.
func segmentsOf(escaped string) ([]string, *Problem) {
	malformed := func(what string) *Problem {
		return refuse(http.StatusBadRequest, fhir.IssueInvalid, "The path of the request %s.", what)
	}
	decoded := make([]byte, 0, len(escaped))
	for i := 0; i < len(escaped); i++ {
		c := escaped[i]
		if c == '%' {
			var ok bool
			if c, ok = unhex(escaped[i+1:]); !ok {
				return nil, malformed("has a malformed percent escape")
			}
			if c == '/' {
				return nil, malformed("has an encoded slash")
			}
			i += 2
		}
		switch {
		case c < ' ' || c == 0x7f:
			return nil, malformed("has a control character")
		case strings.IndexByte(`\%;?#`, c) >= 0:
			return nil, malformed(`has one of the characters \ % ; ? # in it`)
		}
		decoded = append(decoded, c)
	}
	if !utf8.Valid(decoded) {
		return nil, malformed("is not UTF-8")
	}
	segments := strings.Split(strings.TrimSuffix(string(decoded[1:]), "/"), "/")
	for _, segment := range segments {
		if strings.Trim(segment, ". ") == "" {
			return nil, malformed("has an empty segment or one of dots")
		}
	}
	return segments, nil
}

// unhex decodes the two digits at the beginning of s.
func unhex(s string) (byte, bool) {
	if len(s) < 2 {
		return 0, false
	}
	var v byte
	for _, c := range []byte(s[:2]) {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		v = v<<4 | c
	}
	return v, true
}

// folded is a segment as the most forgiving reader could take it: without case,
// without dots and spaces at its ends, with full-width characters as their
// ASCII twins and other characters outside ASCII left out. It is only used to
// refuse.
func folded(segment string) string {
	segment = strings.Map(func(r rune) rune {
		switch {
		case r >= 0xFF01 && r <= 0xFF5E:
			return r - 0xFF01 + '!'
		case r == 0xFE69: // small dollar sign
			return '$'
		case r >= utf8.RuneSelf:
			return -1
		}
		return r
	}, segment)
	return strings.ToLower(strings.Trim(segment, ". "))
}

// sameHost compares two authorities; a default port counts as none.
func sameHost(a, b string) bool {
	trim := func(s string) string {
		return strings.TrimSuffix(strings.TrimSuffix(s, ":80"), ":443")
	}
	return strings.EqualFold(trim(a), trim(b))
}
