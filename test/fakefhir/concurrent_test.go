package fakefhir

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// Readers, writers and a script at once; the race detector watches.
func TestConcurrentUse(t *testing.T) {
	s := New(Options{Dataset: Generate(GenerateOptions{Patients: 2}), ResultCache: 1})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 50 {
				id := fmt.Sprintf("live-%d-%d", w, i%10)
				if _, err := s.Put("Observation", id, []byte(`{"resourceType":"Observation","status":"final","code":{},"subject":{"reference":"Patient/patient-1"}}`)); err != nil {
					t.Error(err)
				}
				if i%5 == 0 {
					s.Delete("Observation", id)
				}
				s.Script(Fault{Match: Match{Type: "Group"}, Do: Do{DropEntries: 1}})
				_ = s.Log()
			}
		})
		wg.Go(func() {
			for i := range 20 {
				r := &recorder{}
				s.ServeHTTP(r, request("GET", fmt.Sprintf("/fhir/Observation?patient=patient-1&_count=50&_sort=-_lastUpdated&_vary=%d", i), ""))
				s.ServeHTTP(&recorder{}, request("GET", "/fhir/_history?_since=2020-01-01", ""))
				s.ServeHTTP(&recorder{}, request("GET", "/fhir/Group", ""))
				if r.status != 200 || !strings.Contains(string(r.body), `"searchset"`) {
					t.Errorf("status %d: %.200s", r.status, r.body)
				}
			}
		})
	}
	wg.Wait()
	check(t, "live ones", len(s.All("Observation")) > 30, true)
	check(t, "in flight at the end", s.journal.inFlight, 0)
}

func TestMaxInFlight(t *testing.T) {
	s := start(t, Options{})
	s.Script(Fault{Match: Match{Type: "Basic"}, Do: Do{Stall: &Cut{}}})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { s.get("/Basic") })
	}
	for len(s.Log()) < 3 { // all of them wait for Reset
		time.Sleep(time.Millisecond)
	}
	check(t, "in flight", s.MaxInFlight(), 3)
	s.Reset()
	wg.Wait()
}
