package upstream

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// adding is a RoundTripper that adds a credential, or fails to.
type adding struct {
	next http.RoundTripper
	fail error
}

func (a adding) RoundTrip(r *http.Request) (*http.Response, error) {
	if a.fail != nil {
		return nil, a.fail
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer ours")
	return a.next.RoundTrip(r)
}

// adder returns a Wrap that fails with an error, if there is one.
func adder(fail error) func(http.RoundTripper) (http.RoundTripper, error) {
	return func(next http.RoundTripper) (http.RoundTripper, error) { return adding{next, fail}, nil }
}

// TestOurCredential: what goes through with our credential has none of the
// caller's, and a refusal of ours is no word to the caller about his own.
func TestOurCredential(t *testing.T) {
	var got http.Header
	status := http.StatusOK
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		w.Header().Set("WWW-Authenticate", `Bearer realm="inside"`)
		w.WriteHeader(status)
		_, _ = fmt.Fprint(w, "inside knowledge")
	}))
	defer up.Close()
	base, err := url.Parse(up.URL + "/fhir")
	if err != nil {
		t.Fatal(err)
	}
	away := &CredentialError{errors.New("access token for the upstream: auth.example.org answers with status 503")}
	for _, test := range []struct {
		name         string
		config       ProxyConfig
		status       int
		want         int
		sent, cookie string // to the upstream
	}{
		{name: "CallersOwn", status: 401, want: 401, sent: "Bearer callers", cookie: "a=b"},
		{name: "Ours", config: ProxyConfig{Ours: true, Wrap: adder(nil)}, status: 200, want: 200, sent: "Bearer ours"},
		{name: "OursRefused", config: ProxyConfig{Ours: true, Wrap: adder(nil)}, status: 401, want: 502, sent: "Bearer ours"},
		{name: "OursForbidden", config: ProxyConfig{Ours: true, Wrap: adder(nil)}, status: 403, want: 502, sent: "Bearer ours"},
		{name: "OursNotFound", config: ProxyConfig{Ours: true, Wrap: adder(nil)}, status: 404, want: 404, sent: "Bearer ours"},
		{name: "OursIsACertificate", config: ProxyConfig{Ours: true}, status: 200, want: 200},
		{name: "OursCannotBeHad", config: ProxyConfig{Ours: true, Wrap: adder(away)}, want: 502},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, status = nil, test.status
			test.config.Upstream, test.config.Logger = base, slog.New(slog.DiscardHandler)
			r := httptest.NewRequest(http.MethodGet, "/Patient/1", nil)
			r.Header.Set("Authorization", "Bearer callers")
			r.Header.Set("Cookie", "a=b")
			w := httptest.NewRecorder()
			NewProxy(test.config).ServeHTTP(w, r)
			if w.Code != test.want || got.Get("Authorization") != test.sent || got.Get("Cookie") != test.cookie {
				t.Errorf("status %d, sent %q and %q", w.Code, got.Get("Authorization"), got.Get("Cookie"))
			}
			if w.Code == http.StatusBadGateway && (w.Header().Get("WWW-Authenticate") != "" || strings.Contains(w.Body.String(), "inside")) {
				t.Errorf("it tells of the inside: %v %s", w.Header(), w.Body)
			}
		})
	}
	c, err := New(Config{URL: base, Wrap: adder(away), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	failed := c.unreached(t.Context(), &request{op: opMetadata}, away)
	if !failed.Temporary() || !strings.Contains(failed.Error(), "our credential for it cannot be had: access token for the upstream: auth.example.org answers with status 503") {
		t.Errorf("%v", failed)
	}
}
