package export

import (
	"fmt"
	"strings"
	"testing"
)

func TestCohortIndex(t *testing.T) {
	for _, n := range []int{0, 1, 2, 1000, 50_000} {
		var text strings.Builder
		for i := range n {
			fmt.Fprintf(&text, "patient-%07d\n", 2*i)
		}
		c, err := newCohort(text.String())
		if err != nil || c.len() != n {
			t.Fatalf("%d ids, %v, want %d", c.len(), err, n)
		}
		for i := range n {
			if id := fmt.Sprintf("patient-%07d", 2*i); c.id(i) != id || c.index(id) != i {
				t.Fatalf("place %d has %s, and %s is at %d", i, c.id(i), id, c.index(id))
			}
		}
		for _, id := range []string{"", "patient", "patient-0000001", "patient-00000000", "\n"} {
			if i := c.index(id); i != -1 {
				t.Errorf("%q is at %d of %d", id, i, n)
			}
		}
		if n == 0 {
			continue
		}
		// A table over the ids and nothing else, and no memory to ask it.
		if beside := 4 * (cap(c.ends) + len(c.slots)); beside > 20*n+32 {
			t.Errorf("%d bytes beside %d ids", beside, n)
		}
		member, stranger := c.id(n/2), "patient-0000001"
		if allocs := testing.AllocsPerRun(10, func() { c.index(member); c.index(stranger) }); allocs > 0 {
			t.Errorf("%v allocations", allocs)
		}
	}
}

// TestCohortCost holds the choice against what a person would choose.
func TestCohortCost(t *testing.T) {
	const size = 100
	for _, tt := range []struct {
		name                 string
		total, members, held int64
		searches             int64 // by how many parameters
		batches              bool
	}{
		{"ten patients of a large type", 10_000_000, 10, 1000, 2, true},
		{"ten patients of a type that fits on a page", 40, 10, 20, 2, false},
		{"half of all, with much data each", 20_000_000, 100_000, 10_000_000, 2, true},
		{"half of all, with one resource each", 200_000, 100_000, 100_000, 2, false},
		{"nearly all", 4_000_000, 199_000, 3_980_000, 1, false},
		{"many who have nothing of it", 5000, 100_000, 50, 1, false},
	} {
		n := (tt.members + size - 1) / size
		c := cohortCost{total: tt.total, searches: n * tt.searches, names: tt.members * tt.searches, page: 1000, window: 10_000}
		if got := c.batches(tt.held) < c.scan(); got != tt.batches {
			t.Errorf("%s: scan %d, batches %d", tt.name, c.scan(), c.batches(tt.held))
		}
	}
}
