//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// variable are the headers that differ between two answers to one request.
var variable = []string{"Date", "X-Request-Id", "X-Cache", "Last-Modified", "Keep-Alive", "Connection"}

func TestPassThrough(t *testing.T) {
	base, held := server.ready(t)
	g := serve(t, settings{upstream: base})
	members, _ := cohort(t, base)
	patient := "/Patient/" + members[0]
	version := held["Patient"][members[0]].Meta.VersionID
	long := strings.Repeat("0123456789abcdef,", 400) // HAPI's web server refuses more than 8 kB
	for _, tc := range []struct {
		name, method, path, body string
		headers                  []string
	}{
		{name: "read", path: patient},
		{name: "compressed", path: patient, headers: []string{"Accept-Encoding: gzip"}},
		{name: "XML", path: patient, headers: []string{"Accept: application/fhir+xml"}},
		{name: "a version", path: patient + "/_history/" + version},
		{name: "not modified", path: patient, headers: []string{`If-None-Match: W/"` + version + `"`}},
		{name: "HEAD", method: http.MethodHead, path: patient},
		{name: "missing", path: "/Patient/no-such-patient"},
		{name: "deleted", path: "/Basic/e2e-deleted"},
		{name: "unknown type", path: "/Nonsense/1"},
		{name: "search", path: "/Patient?_count=3&_sort=_id&_total=accurate"},
		{name: "an escaped space", path: "/Patient?name=a%20b"},
		{name: "a plus", path: "/Patient?name=a+b"},
		{name: "a semicolon", path: "/Patient?name=a;b"},
		{name: "a repeated parameter", path: "/Patient?birthdate=ge1950-01-01&birthdate=lt1980-01-01&_sort=_id&_count=5"},
		{name: "a bad parameter", path: "/Patient?nonsense=1"},
		{name: "an escaped bar", path: "/Patient?identifier=http%3A%2F%2Fx%7Cy"},
		{name: "a long query", path: "/Patient?_id=" + long},
		{name: "POST search", method: http.MethodPost, path: "/Patient/_search", body: "gender=female&_sort=_id&_count=3", headers: []string{"Content-Type: application/x-www-form-urlencoded"}},
		{name: "an operation of the server", path: "/$meta"},
		{name: "validation of garbage", method: http.MethodPost, path: "/Patient", body: "{garbage", headers: []string{contentFHIR}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			method := tc.method
			if method == "" {
				method = http.MethodGet
			}
			direct := ask(t, method, base+tc.path, tc.body, tc.headers...)
			through := ask(t, method, g.base+tc.path, tc.body, tc.headers...)
			if through.status != direct.status {
				t.Fatalf("status %d, want %d", through.status, direct.status)
			}
			if !sameBody(t, direct, through) {
				t.Errorf("the body is\n%.600s\nwant\n%.600s", through.body, direct.body)
			}
			for name := range direct.header {
				want := direct.header.Get(name)
				switch {
				case slices.Contains(variable, name):
					continue
				case name == "Location", name == "Content-Location":
					want = strings.Replace(want, base, g.base, 1)
				case name == "Content-Type" && direct.status == http.StatusNotModified:
					continue // of no use without a body: net/http drops it
				}
				if got := through.header.Get(name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
		})
	}

	t.Run("writing", func(t *testing.T) {
		created := ask(t, http.MethodPost, g.base+"/Basic", `{"resourceType":"Basic","code":{"text":"one"}}`, contentFHIR).mustBe(t, http.StatusCreated)
		location := created.header.Get("Location")
		if !strings.HasPrefix(location, g.base+"/Basic/") {
			t.Fatalf("Location %q is not below the gateway, %s", location, g.base)
		}
		at, _, _ := strings.Cut(location, "/_history/")
		t.Cleanup(func() { _ = write(http.MethodDelete, at, "") }) // other tests compare all that there is
		var h header
		if err := json.Unmarshal(ask(t, http.MethodGet, at, "").mustBe(t, http.StatusOK).body, &h); err != nil {
			t.Fatal(err)
		}
		updated := `{"resourceType":"Basic","id":"` + h.ID + `","code":{"text":"two"}}`
		ask(t, http.MethodPut, at, updated, contentFHIR).mustBe(t, http.StatusOK)
		patch := `[{"op":"replace","path":"/code/text","value":"three"}]`
		ask(t, http.MethodPatch, at, patch, "Content-Type: application/json-patch+json").mustBe(t, http.StatusOK)
		if got := ask(t, http.MethodGet, at, "").mustBe(t, http.StatusOK); !bytes.Contains(got.body, []byte("three")) {
			t.Errorf("after the patch it is %s", got.body)
		}
		ask(t, http.MethodDelete, at, "").mustBe(t, http.StatusOK)
		ask(t, http.MethodGet, at, "").mustBe(t, http.StatusGone)
	})
}

// sameBody compares two bodies. Bundles have an id, a time and links of their
// own each time they are made; only those may differ.
func sameBody(t *testing.T, direct, through reply) bool {
	t.Helper()
	if bytes.Equal(direct.body, through.body) {
		return true
	}
	var x, y map[string]json.RawMessage
	if json.Unmarshal(direct.body, &x) != nil || json.Unmarshal(through.body, &y) != nil || string(x["resourceType"]) != `"Bundle"` {
		return false
	}
	for _, members := range []map[string]json.RawMessage{x, y} {
		delete(members, "id")
		delete(members, "meta")
		delete(members, "link")
	}
	return reflect.DeepEqual(x, y)
}

func TestExportNeverReachesTheUpstream(t *testing.T) {
	base, _ := server.ready(t)
	p := spoil(t, base)
	g := serve(t, p.settings())
	root := strings.TrimSuffix(g.base, "/fhir")
	for _, path := range []string{
		"/fhir/$export", "/fhir/%24export", "/fhir/%24%65xport", "/fhir/$export/", "/fhir//$export", "/fhir/./$export",
		"/fhir/Patient/../$export", "/fhir/Patient/%2e%2e/$export", "/fhir/Patient/$export/", "/fhir/Patient/%24export",
		"/fhir/Patient%2F$export", "/fhir/Group/x/%24export", "/fhir/Group/a%2Fb/$export", "/fhir/$export;x=1", "/fhir/$export%00",
		"/fhir/$EXPORT", "/fhir/Observation/$export", "/fhir/Patient/1/$export", "/fhir/$export/../$export", "/fhir/%2524export",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
			r, err := http.NewRequestWithContext(t.Context(), method, root, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.URL.Opaque = path // sent as it is written
			send(t, r, acceptFHIR)
		}
	}
	for _, a := range p.requests() {
		if strings.Contains(strings.ToLower(a.path), "export") {
			t.Errorf("%s reached the upstream", a.path)
		}
	}
}

func TestMetadataIsMerged(t *testing.T) {
	base, _ := server.ready(t)
	g := serve(t, settings{upstream: base})
	var theirs, ours map[string]any
	for address, into := range map[string]*map[string]any{base: &theirs, g.base: &ours} {
		r := ask(t, http.MethodGet, address+"/metadata", "", acceptFHIR).mustBe(t, http.StatusOK)
		d := json.NewDecoder(bytes.NewReader(r.body))
		d.UseNumber()
		if err := d.Decode(into); err != nil {
			t.Fatal(err)
		}
	}
	const ig = "http://hl7.org/fhir/uv/bulkdata/"
	if !slices.Contains(list(ours["instantiates"]), any(ig+"CapabilityStatement/bulk-data")) {
		t.Errorf("instantiates is %v", ours["instantiates"])
	}
	rest, was := list(ours["rest"])[0].(map[string]any), list(theirs["rest"])[0].(map[string]any)
	if len(list(ours["rest"])) != 1 {
		t.Error("there is more than one rest")
	}
	mustOffer(t, rest, map[string]string{"export": ig + "OperationDefinition/export"})
	byType := func(rest map[string]any) map[string]map[string]any {
		found := make(map[string]map[string]any)
		for _, r := range list(rest["resource"]) {
			found[r.(map[string]any)["type"].(string)] = r.(map[string]any)
		}
		return found
	}
	now, before := byType(rest), byType(was)
	mustOffer(t, now["Patient"], map[string]string{"export": ig + "OperationDefinition/patient-export", "patient-export": ig + "OperationDefinition/patient-export"})
	mustOffer(t, now["Group"], map[string]string{"export": ig + "OperationDefinition/group-export", "group-export": ig + "OperationDefinition/group-export"})

	// Without what was added, nothing may be lost or changed.
	for _, r := range []map[string]any{rest, was, now["Patient"], before["Patient"], now["Group"], before["Group"]} {
		delete(r, "operation")
	}
	for _, s := range []map[string]any{ours, theirs} {
		delete(s, "instantiates")
		delete(s, "date") // HAPI's is of the moment
	}
	if !reflect.DeepEqual(ours, theirs) {
		for name := range theirs {
			if !reflect.DeepEqual(ours[name], theirs[name]) {
				t.Errorf("%s differs from the upstream's statement", name)
			}
		}
	}

	t.Run("XML is passed through", func(t *testing.T) {
		r := ask(t, http.MethodGet, g.base+"/metadata", "", "Accept: application/fhir+xml").mustBe(t, http.StatusOK)
		if !strings.Contains(r.header.Get("Content-Type"), "xml") || !bytes.Contains(r.body, []byte("<CapabilityStatement")) {
			t.Errorf("%s: %.100s", r.header.Get("Content-Type"), r.body)
		}
	})
}

// mustOffer checks that operations have these definitions, by name.
func mustOffer(t *testing.T, in map[string]any, want map[string]string) {
	t.Helper()
	got := make(map[string]string)
	for _, o := range list(in["operation"]) {
		operation := o.(map[string]any)
		got[operation["name"].(string)] = operation["definition"].(string)
	}
	for name, definition := range want {
		if got[name] != definition {
			t.Errorf("operation %s has the definition %q, want %q", name, got[name], definition)
		}
	}
}

func list(value any) []any {
	items, _ := value.([]any)
	return items
}
