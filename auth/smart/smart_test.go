package smart

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spillway/auth/fetch"
)

func TestHandler(t *testing.T) {
	h := Handler(BackendServices("https://fhir.example.org/token", "RS384", "ES384"))
	for _, tt := range []struct {
		method, accept string
		status         int
	}{
		{http.MethodGet, "", http.StatusOK},
		{http.MethodGet, "application/fhir+xml", http.StatusOK},
		{http.MethodHead, "", http.StatusOK},
		{http.MethodPost, "", http.StatusMethodNotAllowed},
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(tt.method, "/", nil)
		if tt.accept != "" {
			r.Header.Set("Accept", tt.accept)
		}
		h.ServeHTTP(w, r)
		if w.Code != tt.status {
			t.Errorf("%s: %d", tt.method, w.Code)
		}
		if tt.status != http.StatusOK {
			continue
		}
		if w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("header %v", w.Header())
		}
		if tt.method == http.MethodHead {
			continue
		}
		want := map[string]any{
			"token_endpoint":                                   "https://fhir.example.org/token",
			"token_endpoint_auth_methods_supported":            []any{"private_key_jwt"},
			"token_endpoint_auth_signing_alg_values_supported": []any{"RS384", "ES384"},
			"grant_types_supported":                            []any{"client_credentials"},
			"scopes_supported":                                 []any{"system/*.rs", "system/*.read"},
			"code_challenge_methods_supported":                 []any{"S256"},
			"capabilities":                                     []any{"client-confidential-asymmetric", "permission-v1", "permission-v2"},
		}
		var got map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || !cmp.Equal(got, want) {
			t.Error(err, cmp.Diff(want, got))
		}
	}
}

func TestDiscover(t *testing.T) {
	documents := map[string]string{
		"/ok":       `{"token_endpoint":"https://as.example.org/token","x":1}`,
		"/relative": `{"token_endpoint":"/token"}`,
		"/none":     `{}`,
		"/file":     `{"token_endpoint":"file:///etc/passwd"}`,
		"/html":     `<html>`,
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for base, document := range documents {
			if r.URL.Path == base+"/fhir"+Path {
				_, _ = w.Write([]byte(document))
				return
			}
		}
		http.NotFound(w, r)
	}))
	defer s.Close()
	c := fetch.New(fetch.Options{Plain: true, Private: true})
	for base := range documents {
		got, err := Discover(t.Context(), c, s.URL+base+"/fhir/")
		if (err == nil) != (base == "/ok") || err == nil && got.TokenEndpoint != "https://as.example.org/token" {
			t.Errorf("%s: %+v, %v", base, got, err)
		}
	}
	if _, err := Discover(t.Context(), c, s.URL+"/missing"); err == nil {
		t.Error("a server without the document was read")
	}
}
