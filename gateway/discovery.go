package gateway

import (
	"net/http"
	"slices"
	"strings"

	"spillway/auth/smart"
	"spillway/upstream/fhir"
)

// Where what belongs to authorization is served, below the FHIR base.
const (
	TokenPath  = "/auth/token"
	KeySetPath = "/auth/jwks"
)

// classifyAuth is classify for the paths of discovery, token endpoint and key
// set. It is not ok for others.
func (s site) classifyAuth(segments []string) (v verdict, ok bool) {
	for _, own := range []struct {
		served bool
		route  string
	}{{s.discovery, routeDiscovery}, {s.token, TokenPath}, {s.keySet, KeySetPath}} {
		if !own.served {
			continue
		}
		names := strings.Split(own.route[1:], "/")
		if slices.Equal(segments, names) { // the handlers know their methods, and say so in their own words
			return verdict{kind: ours, route: own.route, path: s.base + own.route}, true
		}
		if slices.EqualFunc(segments, names, func(a, b string) bool { return folded(a) == folded(b) }) {
			return deny(refuse(http.StatusNotFound, fhir.IssueNotFound, "Nothing is served here.")), true
		}
	}
	return verdict{}, false
}

// atHost is classify for the discovery document below the host, where clients
// look that take the FHIR base for a host: with the path of the base after it,
// too. It is not ok for other paths.
func (s site) atHost(path string) (v verdict, ok bool) {
	if !s.discovery || path != smart.Path && path != smart.Path+s.base {
		return verdict{}, false
	}
	return verdict{kind: ours, route: routeDiscovery, path: smart.Path}, true
}

// discovery serves our SMART configuration to pages of any origin.
func (s *server) discovery(w http.ResponseWriter, r *http.Request) error {
	anyOrigin(w.Header())
	if r.Method == http.MethodOptions {
		return preflight(w)
	}
	s.Discovery.ServeHTTP(w, r)
	return nil
}

// anyOrigin lets pages of every origin read what is public, without credentials.
// Source: SMART App Launch 2.2, "Considerations for Cross-Origin Resource
// Sharing (CORS) support".
func anyOrigin(h http.Header) {
	h.Set("Access-Control-Allow-Origin", "*")
	h.Del("Access-Control-Allow-Credentials")
}

// preflight answers a browser that asks whether it may read.
func preflight(w http.ResponseWriter) error {
	h := w.Header()
	h.Set("Access-Control-Allow-Methods", "GET, HEAD")
	h.Set("Access-Control-Allow-Headers", "Accept")
	h.Set("Access-Control-Max-Age", "3600")
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// serving returns a handler that is configured as one of ours.
func serving(h http.Handler) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		h.ServeHTTP(w, r)
		return nil
	}
}
