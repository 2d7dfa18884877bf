// Package smart writes and reads the discovery document of SMART.
//
//	Handler   serves one that is ours
//	Discover  reads that of another server
//
// Source: SMART App Launch 2.2, Conformance, "Using Well-Known".
package smart

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"spillway/auth/fetch"
)

// Path is where the document is, below the FHIR base and below the host.
const Path = "/.well-known/smart-configuration"

const maxDocument = 64 << 10

// A Configuration is the document, as far as backend services need it.
type Configuration struct {
	Issuer                string   `json:"issuer,omitempty"` // only for servers that sign people in
	JWKSURI               string   `json:"jwks_uri,omitempty"`
	TokenEndpoint         string   `json:"token_endpoint"`
	IntrospectionEndpoint string   `json:"introspection_endpoint,omitempty"`
	TokenAuthMethods      []string `json:"token_endpoint_auth_methods_supported,omitempty"`
	TokenAuthAlgorithms   []string `json:"token_endpoint_auth_signing_alg_values_supported,omitempty"`
	GrantTypes            []string `json:"grant_types_supported"`
	Scopes                []string `json:"scopes_supported,omitempty"`
	CodeChallengeMethods  []string `json:"code_challenge_methods_supported"`
	Capabilities          []string `json:"capabilities"`
}

// BackendServices returns the document of a server whose clients get their
// tokens at the given address, signing with one of the algorithms.
func BackendServices(tokenEndpoint string, algorithms ...string) Configuration {
	return Configuration{
		TokenEndpoint:       tokenEndpoint,
		TokenAuthMethods:    []string{"private_key_jwt"},
		TokenAuthAlgorithms: algorithms,
		GrantTypes:          []string{"client_credentials"},
		Scopes:              []string{"system/*.rs", "system/*.read"},
		// It is required of every server, even of one where nobody signs in.
		CodeChallengeMethods: []string{"S256"},
		Capabilities:         []string{"client-confidential-asymmetric", "permission-v1", "permission-v2"},
	}
}

// Handler serves the document by GET and HEAD, whatever the client accepts, to
// pages of any origin.
func Handler(c Configuration) http.Handler {
	body, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		panic("smart: strings do not encode: " + err.Error()) // impossible
	}
	body = append(body, '\n')
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		h.Set("Content-Type", "application/json")
		h.Set("Content-Length", strconv.Itoa(len(body)))
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Access-Control-Allow-Origin", "*")
		w.WriteHeader(http.StatusOK)
		if r.Method == http.MethodGet {
			_, _ = w.Write(body) // fails only when the client has gone
		}
	})
}

// Discover reads the document of the server at a FHIR base. Its token endpoint
// is absolute.
func Discover(ctx context.Context, c *fetch.Client, base string) (Configuration, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(base, "/")+Path, nil)
	if err != nil {
		return Configuration{}, errors.New("smart: the FHIR base is malformed")
	}
	r.Header.Set("Accept", "application/json")
	got, err := c.Do(r, maxDocument)
	switch {
	case err != nil:
		return Configuration{}, fmt.Errorf("smart: discovery: %w", err)
	case got.Status != http.StatusOK:
		return Configuration{}, fmt.Errorf("smart: discovery: %s answers with status %d", r.URL.Host, got.Status)
	}
	var found Configuration
	if json.Unmarshal(got.Body, &found) != nil {
		return Configuration{}, fmt.Errorf("smart: discovery: %s answers with something that is no such document", r.URL.Host)
	}
	if u, err := url.Parse(found.TokenEndpoint); err != nil || fetch.CheckURL(u, true) != nil {
		return Configuration{}, fmt.Errorf("smart: discovery: %s names no token endpoint", r.URL.Host)
	}
	return found, nil
}
