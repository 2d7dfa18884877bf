package scope

import (
	"strings"
	"testing"
)

func TestInteract(t *testing.T) {
	for _, tt := range []struct {
		request string // method, path, names of parameters
		want    string // type and permissions; empty: refused
	}{
		{"GET Patient/1", "Patient r"},
		{"HEAD Patient/1", "Patient r"},
		{"GET Patient/1/_history", "Patient r"},
		{"GET Patient/1/_history/2", "Patient r"},
		{"GET Patient/_history", "Patient rs"},
		{"GET _history", "* rs"},
		{"GET Patient", "Patient rs"},
		{"GET Patient name _count", "Patient rs"},
		{"GET Patient name:exact", "Patient rs"},
		{"GET", "* rs"},
		{"GET  _type", "* rs"},
		{"GET  _getpages", "* rs"},
		{"GET Patient/1/Observation code", "Observation rs"},
		{"GET Patient/1/*", "* rs"},
		{"POST Patient/_search name", "Patient rs"},
		{"POST _search _type", "* rs"},
		{"POST Patient/1/Observation/_search", "Observation rs"},
		{"GET Observation subject.name", "* rs"},
		{"GET Observation subject:Patient.name", "* rs"},
		{"GET Observation _has:Provenance:target:agent", "* rs"},
		{"GET Observation _include", "* rs"},
		{"GET Observation _include:iterate", "* rs"},
		{"GET Observation _revinclude", "* rs"},
		{"GET Observation _list", "* rs"},
		{"GET Observation _query", "* rs"},
		{"GET Observation _filter", "* rs"},
		{"GET Observation _unknown", "* rs"},
		{"POST Patient", "Patient c"},
		{"POST! Patient", "Patient cs"},
		{"PUT Patient/1", "Patient u"},
		{"PUT Patient identifier", "Patient cus"},
		{"PATCH Patient/1", "Patient u"},
		{"PATCH Patient identifier", "Patient us"},
		{"DELETE Patient/1", "Patient d"},
		{"DELETE Patient identifier", "Patient ds"},
		{"DELETE Patient organization.name", "* ds"},

		{"POST", ""}, // batch, transaction
		{"POST $export", ""},
		{"GET $export", ""},
		{"GET Patient/$everything", ""},
		{"GET Patient/1/$everything", ""},
		{"POST Patient/1", ""},
		{"POST Patient name", ""},
		{"PUT Patient/1 x", ""},
		{"DELETE", ""},
		{"DELETE Patient/1/_history", ""},
		{"PUT", ""},
		{"GET Patient/..", ""},
		{"GET Patient/.", ""},
		{"GET Patient/1/", ""},
		{"GET //Patient", ""},
		{"GET patient/1", ""},
		{"GET Patient/1/_history/2/3", ""},
		{"GET Patient/1/_history/..", ""},
		{"GET Patient/1/observation", ""},
		{"GET ../1/Observation", ""},
		{"GET metadata", ""},
		{"GET Patient/a b", ""},
		{"OPTIONS Patient", ""},
		{"TRACE Patient/1", ""},
		{"get Patient/1", ""},
	} {
		fields := strings.Split(tt.request, " ")
		method, conditional := strings.CutSuffix(fields[0], "!")
		var segments, parameters []string
		if len(fields) > 1 {
			if fields[1] != "" {
				segments = strings.Split(fields[1], "/")
			}
			parameters = fields[2:]
		}
		if tt.request == "GET Patient/a b" {
			segments, parameters = []string{"Patient", "a b"}, nil
		}
		got := ""
		i, ok := Interact(method, segments, parameters, conditional)
		if ok {
			got = i.Type + " " + i.Need.String()
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.request, got, tt.want)
		}
		if !ok && (grant(t, "system/*.cruds").Permits(i) || Everything().Permits(i)) {
			t.Errorf("%s: refused and permitted", tt.request)
		}
	}
}

func TestPermits(t *testing.T) {
	for _, tt := range []struct {
		scopes string
		i      Interaction
		want   bool
	}{
		{"system/Patient.r", Interaction{"Patient", Read}, true},
		{"system/Patient.r", Interaction{"Patient", Read | Search}, false},
		{"system/Patient.read", Interaction{"Patient", Update}, false},
		{"system/Patient.write", Interaction{"Patient", Create | Update}, true},
		{"system/Patient.rs", Interaction{"Observation", Read}, false},
		{"system/Patient.rs system/Observation.rs", Interaction{"*", Read | Search}, false},
		{"system/*.rs", Interaction{"*", Read | Search}, true},
		{"system/Observation.rs?category=lab", Interaction{"Observation", Read}, false},
		{"system/*.cruds", Interaction{}, false},
	} {
		if got := grant(t, tt.scopes).Permits(tt.i); got != tt.want {
			t.Errorf("%q permits %+v: %v", tt.scopes, tt.i, got)
		}
	}
}
