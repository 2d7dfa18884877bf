package fakefhir

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestBulkIsInOrder(t *testing.T) {
	check(t, "a cycle", clusterEnds[len(clusterEnds)-1], cycleLen)
	const n = 25_123
	b := Bulk(n)
	last, clusters, size, largest := int64(0), 0, 0, 0
	for i := range n {
		at := b.updated(i)
		if at < last {
			t.Fatalf("%d is older than the one before", i)
		}
		if at > last {
			clusters, size = clusters+1, 0
		}
		size++
		largest = max(largest, size)
		last = at
		if j, ok := b.index(b.ID(i)); !ok || j != i {
			t.Fatalf("index of %s is %d, %t", b.ID(i), j, ok)
		}
	}
	check(t, "largest cluster", largest, 1500)
	check(t, "clusters", clusters > 200, true)
	for _, id := range []string{"", "bulk-", "bulk-0000025123", "bulk-+000000001", "hulk-0000000001", "bulk-00000000001"} {
		if i, ok := b.index(id); ok {
			t.Errorf("%q is Observation %d", id, i)
		}
	}
}

func TestBulkResources(t *testing.T) {
	b := Bulk(1_000_000)
	total := 0
	for i := 0; i < b.Len(); i += 9973 {
		raw := b.AppendResource(nil, i)
		total += len(raw)
		var r struct {
			ID   string
			Meta struct{ LastUpdated time.Time }
		}
		if err := json.Unmarshal(raw, &r); err != nil {
			t.Fatalf("%v in %s", err, raw)
		}
		check(t, "id", r.ID, b.ID(i))
		check(t, "lastUpdated", r.Meta.LastUpdated.UTC(), b.LastUpdated(i))
	}
	if mean := total / 101; mean < 900 || mean > 1500 {
		t.Errorf("%d bytes each", mean)
	}
}

// Every search gives what looking at each Observation would give.
func TestBulkSearch(t *testing.T) {
	const n = 12_000
	s := start(t, Options{Bulk: Bulk(n)})
	first, last := s.o.Bulk.updated(0), s.o.Bulk.updated(n-1)
	for _, at := range []int64{0, first - 1, first, first + 1, s.o.Bulk.updated(1500), s.o.Bulk.updated(7000), s.o.Bulk.updated(9999), s.o.Bulk.updated(10_000), last, last + 1, 253370764800000} {
		for _, prefix := range []string{"ge", "gt", "lt", "le", "eq"} {
			p, _ := parseSpan(formatMilli(at))
			w, _ := always.narrow(prefix, p)
			want := 0
			for i := range n {
				if u := s.o.Bulk.updated(i); u >= w.lo && u < w.hi {
					want++
				}
			}
			got := *s.bundle("/Observation?_summary=count&_lastUpdated=" + prefix + url.QueryEscape(formatMilli(at))).Total
			check(t, prefix+formatMilli(at), got, want)
		}
	}
	one := url.QueryEscape(formatMilli(s.o.Bulk.updated(1600)))
	for _, c := range []struct{ query, want string }{
		{"_count=2", "bulk-0000000000 bulk-0000000001"},
		{"_count=2&_sort=-_lastUpdated", "bulk-0000011999 bulk-0000011998"},
		{"_id=bulk-0000000007,nobody,bulk-0000000003", "bulk-0000000003 bulk-0000000007"},
		{"_id=bulk-0000000007&_lastUpdated=lt" + url.QueryEscape(formatMilli(first)), ""},
		{"_lastUpdated=" + one + "&_count=1", "bulk-0000001500"},
		{"_lastUpdated=" + one + "&_count=1&_sort=-_id", "bulk-0000001899"},
	} {
		check(t, c.query, s.bundle("/Observation?"+c.query).ids(), c.want)
	}
	pages := s.follow("/Observation?_lastUpdated=" + one + "&_count=150")
	check(t, "pages of a cluster", fmt.Sprint(len(pages[0].Entry), len(pages[1].Entry), len(pages[2].Entry), len(pages)), "150 150 100 3")
	check(t, "no-store", len(s.bundle("/Observation?_count=1000", "Cache-Control", "no-store,max-results=30").Entry), 30)

	for _, bad := range []string{"/Observation?status=final", "/Observation?_tag=x", "/Observation?_sort=date", "/Observation?_has:Provenance:target:_id=1",
		"/Patient?_has:Observation:patient:_id=1", "/Observation/_history"} {
		check(t, bad, s.get(bad).status, 400)
	}
	check(t, "read", string(s.get("/Observation/bulk-0000000005").body), string(s.o.Bulk.AppendResource(nil, 5)))
	check(t, "vread", s.get("/Observation/bulk-0000000005/_history/1").status, 200)
	check(t, "vread of another", s.get("/Observation/bulk-0000000005/_history/2").status, 404)
	check(t, "read of another", s.get("/Observation/x").status, 404)
	check(t, "write", s.do("POST", "/Observation", `{"resourceType":"Observation"}`).status, 405)
	check(t, "the statement says so", strings.Contains(string(s.get("/metadata").body), `StructureDefinition/Observation","interaction":[{"code":"read"},{"code":"vread"},{"code":"search-type"}]`), true)
}

func TestBulkOfNothing(t *testing.T) {
	s := start(t, Options{Bulk: Bulk(0)})
	check(t, "total", *s.bundle("/Observation?_lastUpdated=gt2000").Total, 0)
}

func TestBulkBesideADataset(t *testing.T) {
	s := start(t, Options{Bulk: Bulk(100), Dataset: Generate(GenerateOptions{Patients: 1})})
	check(t, "Observations", *s.bundle("/Observation?_summary=count").Total, 100)
	check(t, "Patients", s.bundle("/Patient").ids(), "patient-1")
}
