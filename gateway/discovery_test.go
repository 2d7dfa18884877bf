package gateway

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"spillway/auth/smart"
)

// protected has all that belongs to authorization.
func protected(c *Config) {
	says := func(what string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, what+" "+r.Method) })
	}
	c.Discovery = smart.Handler(smart.BackendServices("https://fhir.example.org/fhir"+TokenPath, "RS384"))
	c.Token, c.KeySet = says("token"), says("keys")
}

// What belongs to authorization is ours in every spelling, and never reaches the
// upstream, which might answer with a document of its own.
func TestAuthorizationPathsAreOurs(t *testing.T) {
	w := newWorld(t, protected)
	for _, c := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "/fhir/.well-known/smart-configuration", 200, `"token_endpoint": "https://fhir.example.org/fhir/auth/token"`},
		{"HEAD", "/fhir/.well-known/smart-configuration", 200, ""},
		{"GET", "/fhir/.well-known/smart-configuration/", 200, "token_endpoint"},
		{"GET", "/fhir/%2Ewell-known/smart%2Dconfiguration", 200, "token_endpoint"},
		{"GET", "/.well-known/smart-configuration", 200, "token_endpoint"},
		{"GET", "/.well-known/smart-configuration/fhir", 200, "token_endpoint"},
		{"OPTIONS", "/fhir/.well-known/smart-configuration", 204, ""},
		{"OPTIONS", "/.well-known/smart-configuration", 204, ""},
		{"POST", "/fhir/.well-known/smart-configuration", 405, ""},
		{"POST", "/fhir/auth/token", 200, "token POST"},
		{"GET", "/fhir/auth/token", 200, "token GET"}, // the endpoint has its own words for that
		{"POST", "/fhir/auth/token/", 200, "token POST"},
		{"GET", "/fhir/auth/jwks", 200, "keys GET"},

		{"GET", "/fhir/.Well-Known/smart-configuration", 404, "OperationOutcome"},
		{"GET", "/fhir/.well-known/SMART-configuration", 404, "OperationOutcome"},
		{"GET", "/fhir/.well-known/smart-configuration%20", 404, "OperationOutcome"},
		{"GET", "/fhir/.well-known./smart-configuration", 404, "OperationOutcome"},
		{"GET", "/fhir/.well-known%2Fsmart-configuration", 400, "OperationOutcome"},
		{"GET", "/fhir/./.well-known/smart-configuration", 400, "OperationOutcome"},
		{"GET", "/fhir//.well-known/smart-configuration", 400, "OperationOutcome"},
		{"GET", "/fhir/x/../.well-known/smart-configuration", 400, "OperationOutcome"},
		{"GET", "/.well-known/smart-configuration/x", 404, "OperationOutcome"},
		{"GET", "//.well-known/smart-configuration", 404, "OperationOutcome"},
		{"POST", "/fhir/Auth/Token", 404, "OperationOutcome"},
		{"POST", "/fhir/auth/token;x=y", 400, "OperationOutcome"},
		{"POST", "/auth/token", 404, "OperationOutcome"},
		{"GET", "/fhir/auth/JWKS", 404, "OperationOutcome"},
		{"GET", "/fhir/auth/jwk\uFF53", 404, "OperationOutcome"},
	} {
		u := (&url.URL{Path: c.path}).EscapedPath()
		if strings.Contains(c.path, "%") || strings.ContainsAny(c.path, ";") {
			u = c.path
		}
		r := w.send(t, c.method+" "+u)
		if r.StatusCode != c.status || !strings.Contains(string(r.body), c.body) {
			t.Errorf("%s %s: %s %s", c.method, c.path, r.Status, r.body)
		}
		if strings.Contains(c.body, "token_endpoint") && (r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Access-Control-Allow-Origin") != "*" || r.Header.Get("Access-Control-Allow-Credentials") != "") {
			t.Errorf("%s %s: %v", c.method, c.path, r.Header)
		}
	}
	if seen := w.upstream.seen(); len(seen) > 0 {
		t.Errorf("the upstream was asked: %q", seen)
	}
}

// Without a handler they are the upstream's, below the FHIR base.
func TestAuthorizationPathsOfTheUpstream(t *testing.T) {
	w := newWorld(t, nil)
	for _, path := range []string{smart.Path, TokenPath, KeySetPath} {
		w.upstream.forget()
		if r := w.send(t, "GET /fhir"+path); r.StatusCode != 200 || len(w.upstream.seen()) != 1 {
			t.Errorf("%s: %s, %q", path, r.Status, w.upstream.seen())
		}
		w.upstream.forget()
		if r := w.send(t, "GET "+path); r.StatusCode != 404 || len(w.upstream.seen()) != 0 {
			t.Errorf("%s at the host: %s, %q", path, r.Status, w.upstream.seen())
		}
	}
}

// Only what is public may be read by pages of any origin, and never with
// credentials. No Origin is reflected.
func TestCrossOrigin(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		protected(c)
		c.Auth = byToken{"x": principal(t, "lab", "system/*.rs")}
	})
	w.upstream.handler = answering(200, "Content-Type: application/fhir+json\nAccess-Control-Allow-Origin: https://app.example\nAccess-Control-Allow-Credentials: true", []byte(statement))
	const origin = "\nOrigin: https://evil.example"
	_, status := func() (*reply, string) {
		r, _ := w.kickOffAs(t, "x", "/fhir/$export", "")
		return r, r.Header.Get("Content-Location")
	}()
	for _, c := range []struct {
		method, address, headers, want string
		status                         int
	}{
		{"GET", w.base + "/metadata", "", "*", 200}, {"OPTIONS", w.base + "/metadata", "\nAccess-Control-Request-Method: GET", "*", 204},
		{"GET", w.base + smart.Path, "", "*", 200},
		{"GET", status, "\n" + bearer("x"), "", 202}, {"OPTIONS", status, "\nAccess-Control-Request-Method: GET", "", 405},
		{"OPTIONS", w.base + "/$export", "\nAccess-Control-Request-Method: GET", "", 405},
	} {
		r := w.get(t, c.method, c.address, "Accept: application/fhir+json"+origin+c.headers)
		if r.StatusCode != c.status || r.Header.Get("Access-Control-Allow-Origin") != c.want || r.Header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s %s: %s %v", c.method, c.address, r.Status, r.Header)
		}
	}
}

// The statement says how we are protected, in place of what the upstream says.
func TestMetadataSaysHowWeAreProtected(t *testing.T) {
	type security struct {
		Extension []struct {
			URL       string
			Extension []struct{ URL, ValueURI string }
		}
		Service []struct {
			Coding []struct{ System, Code string }
		}
		CORS *bool
	}
	for _, c := range []struct {
		name      string
		change    func(*Config)
		statement string
		token     string
		protected bool
	}{
		{"Token", protected, statement, "/auth/token", true},
		{"InPlaceOfTheUpstreams", protected, strings.Replace(statement, `"mode":"server",`, `"security":{"cors":true,"extension":[{"url":"x"}]},"mode":"server",`, 1), "/auth/token", true},
		{"AnotherTokenEndpoint", func(c *Config) { protected(c); c.Token, c.TokenURL = nil, "https://as.example/token" }, statement, "https://as.example/token", true},
		{"DiscoveryAlone", func(c *Config) { protected(c); c.Token = nil }, statement, "", true},
		{"NoRest", protected, `{"resourceType":"CapabilityStatement"}`, "/auth/token", true},
		{"Open", nil, statement, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.change)
			w.upstream.handler = answering(200, "Content-Type: application/fhir+json", []byte(c.statement))
			r := w.send(t, "GET /fhir/metadata")
			var got struct {
				Rest []struct{ Security *security }
			}
			if err := json.Unmarshal(r.body, &got); err != nil || len(got.Rest) != 1 || (got.Rest[0].Security != nil) != c.protected {
				t.Fatalf("%v: %s", err, r.body)
			}
			if !c.protected {
				return
			}
			s := *got.Rest[0].Security
			want := c.token
			if strings.HasPrefix(want, "/") {
				want = w.base + want
			}
			uri := ""
			for _, e := range s.Extension {
				if e.URL == "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris" && len(e.Extension) == 1 && e.Extension[0].URL == "token" {
					uri = e.Extension[0].ValueURI
				}
			}
			if uri != want || s.CORS != nil || len(s.Service) != 1 || s.Service[0].Coding[0].Code != "SMART-on-FHIR" {
				t.Errorf("%+v", s)
			}
		})
	}
}
