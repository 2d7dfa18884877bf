package fakefhir

import (
	"encoding/json"
	"slices"
	"testing"
)

// What the statement promises is kept: every listed parameter is understood,
// every listed history is there.
func TestCapabilityStatementIsTrue(t *testing.T) {
	for name, o := range map[string]Options{"all": {}, "no history": {NoHistory: true}, "bulk": {Bulk: Bulk(10)}} {
		s := start(t, o)
		var c struct {
			ResourceType, FHIRVersion string
			Rest                      []struct {
				Mode     string
				Resource []struct {
					Type        string
					Interaction []struct{ Code string }
					SearchParam []struct{ Name, Type string }
				}
				SearchParam []struct{ Name, Type string }
			}
		}
		if err := json.Unmarshal(s.get("/metadata").body, &c); err != nil {
			t.Fatal(err)
		}
		check(t, name, c.ResourceType, "CapabilityStatement")
		check(t, name, c.FHIRVersion, "4.0.1")
		check(t, name, len(c.Rest[0].Resource), len(typeParams))
		example := map[string]string{"token": "x", "reference": "Patient/x", "date": "2020", "string": "x", "uri": "http://x"}
		for _, r := range c.Rest[0].Resource {
			for _, p := range r.SearchParam {
				check(t, name+" "+r.Type+"?"+p.Name, s.get("/"+r.Type+"?"+p.Name+"="+example[p.Type]).status, 200)
			}
			hasHistory := slices.ContainsFunc(r.Interaction, func(i struct{ Code string }) bool { return i.Code == "history-type" })
			check(t, name+" "+r.Type+" history", s.get("/"+r.Type+"/_history").status == 200, hasHistory)
		}
		check(t, name, c.Rest[0].SearchParam[0].Name, "_id")
	}
}
