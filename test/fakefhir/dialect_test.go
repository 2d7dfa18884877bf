package fakefhir

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestDialects sends one request to each server. "next" follows the next link
// of the former request.
func TestDialects(t *testing.T) {
	data := Generate(GenerateOptions{Patients: 3, Seed: 7})
	get := func(t *testing.T, s *Server, method, target, body string, header ...string) (*httptest.ResponseRecorder, map[string]any) {
		t.Helper()
		r := httptest.NewRequest(method, target, strings.NewReader(body))
		for i := 0; i+1 < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		var b map[string]any
		_ = json.Unmarshal(w.Body.Bytes(), &b) // what is none is nil
		return w, b
	}
	next := func(b map[string]any) string {
		links, _ := b["link"].([]any)
		for _, l := range links {
			if l := l.(map[string]any); l["relation"] == "next" {
				return l["url"].(string)
			}
		}
		return ""
	}
	for _, tt := range []struct {
		like, method, path string
		strict             bool
		status, entries    int
		next               string // part of the next link; "-": there is none
		total              string // "": any; "none", "right", "wrong"
	}{
		{like: "hapi", path: "Observation?_count=5", status: 200, entries: 5, next: "fhir?_getpages="},
		{like: "hapi", path: "Observation?nonsense=1", status: 400},
		{like: "microsoft", path: "Patient?_count=2", status: 200, entries: 0, next: "/Patient?ct=", total: "none"},
		{like: "microsoft", path: "Patient?nonsense=1", status: 200, entries: 4, total: "none"},
		{like: "microsoft", path: "Patient?nonsense=1", strict: true, status: 400},
		{like: "google", path: "Patient?_count=2", status: 200, entries: 2, next: "_page_token=", total: "wrong"},
		{like: "google", path: "Patient?_count=20", status: 200, entries: 3, next: "-", total: "right"},
		{like: "google", method: "POST", path: "Patient/_search", status: 415},
		{like: "firely", path: "Observation?_count=1000", status: 200, entries: 50, next: "fhir?_query="},
		{like: "firely", path: "Patient?_total=accurate", status: 200, entries: 3, total: "right"},
		{like: "blaze", path: "Patient?_count=1", status: 200, entries: 1, next: "/Patient/__page?__token="},
		{like: "blaze", path: "Patient?nonsense=1", status: 200, entries: 3},
		{like: "blaze", path: "Patient?nonsense=1", strict: true, status: 400},
		{like: "linuxforhealth", path: "Observation", status: 200, entries: 10, next: "/Observation?_count=10&_page=2"},
		{like: "medplum", path: "Patient?_count=2", status: 200, entries: 2, next: "_offset=2"},
		{like: "medplum", path: "Patient?_count=2&_offset=10001", status: 400},
		{like: "cerner", path: "Observation?_count=5", status: 400},
		{like: "cerner", path: "Observation?_count=500&patient=patient-1,patient-2,patient-3", status: 200, entries: 200, next: "&direction=NEXT", total: "none"},
		{like: "cerner", path: "Patient", status: 400},
		{like: "cerner", path: "Patient?_id=patient-1,patient-2", status: 200, entries: 2},
		{like: "cerner", path: "Group?_id=group-all", status: 400},
		{like: "cerner", path: "Group/group-all", status: 200},
		{like: "cerner", method: "POST", path: "Patient/_search", status: 404},
		{like: "cerner", path: "Encounter/_history", status: 400},
		{like: "epic", path: "Observation?patient=patient-1", status: 400},
		{like: "epic", path: "Observation?patient=patient-1&category=laboratory&_count=2", status: 200, entries: 2, next: "/Observation?sessionID=", total: "none"},
		{like: "epic", path: "Encounter?patient=patient-1,patient-2", status: 400},
		{like: "epic", path: "Encounter?patient=patient-1&_lastUpdated=gt2999&_count=2", strict: true, status: 200, entries: 3},
		{like: "epic", path: "Patient?_id=" + strings.Repeat("x", 5000), status: 414},
	} {
		t.Run(strings.TrimSpace(tt.like+" "+tt.method+" "+tt.path[:min(len(tt.path), 60)]), func(t *testing.T) {
			s := New(Options{Like: tt.like, Dataset: data})
			if tt.method == "" {
				tt.method = http.MethodGet
			}
			header := []string{"Content-Type", "application/x-www-form-urlencoded"}
			if tt.strict {
				header = append(header, "Prefer", "handling=strict")
			}
			w, b := get(t, s, tt.method, "http://fake.test/fhir/"+tt.path, "", header...)
			entries, _ := b["entry"].([]any)
			if w.Code != tt.status || tt.status == 200 && len(entries) != tt.entries {
				t.Errorf("%d with %d entries, want %d with %d", w.Code, len(entries), tt.status, tt.entries)
			}
			link := next(b)
			if tt.next == "-" && link != "" || tt.next != "-" && !strings.Contains(link, tt.next) {
				t.Errorf("next link %q", link)
			}
			total, told := b["total"].(float64)
			right := len(s.All("Patient"))
			switch tt.total {
			case "none":
				if told {
					t.Errorf("total %v", total)
				}
			case "right", "wrong":
				if !told || (int(total) == right) != (tt.total == "right") {
					t.Errorf("total %v, %d are right", total, right)
				}
			}
			if link != "" {
				if w, b := get(t, s, http.MethodGet, link, ""); w.Code != 200 || len(b["entry"].([]any)) == 0 {
					t.Errorf("the next page: %d %s", w.Code, fmt.Sprint(b["issue"]))
				}
			}
		})
	}
}

// TestDialectPagesHoldEverything follows next links to the end, at all that
// search whole types.
func TestDialectPagesHoldEverything(t *testing.T) {
	data := Generate(GenerateOptions{Patients: 2, Seed: 7})
	for _, name := range Dialects() {
		t.Run(name, func(t *testing.T) {
			s := New(Options{Like: name, Dataset: data})
			at := "http://fake.test/fhir/Encounter?_count=7&patient=patient-1"
			want, err := s.Find("Encounter", "patient=patient-1")
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]bool{}
			for pages := 0; at != ""; pages++ {
				w := httptest.NewRecorder()
				s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, at, nil))
				var b struct {
					Link  []struct{ Relation, URL string }
					Entry []struct {
						Resource struct{ ID, ResourceType string }
					}
				}
				if err := json.Unmarshal(w.Body.Bytes(), &b); err != nil || w.Code != 200 || pages > 100 {
					t.Fatalf("page %d: %d %v", pages, w.Code, err)
				}
				for _, e := range b.Entry {
					if e.Resource.ResourceType == "Encounter" {
						got[e.Resource.ID] = true
					}
				}
				at = ""
				for _, l := range b.Link {
					if l.Relation == "next" {
						at = l.URL
					}
				}
			}
			if len(got) != len(want) || len(want) < 8 {
				t.Errorf("%d of %d", len(got), len(want))
			}
		})
	}
}
