package export

import (
	"strconv"
	"testing"
)

func TestIDSet(t *testing.T) {
	const ids = 100_000
	s := newIDSet()
	for range 2 { // and once more after clear
		for i := range ids {
			if id := strconv.Itoa(i); s.has(id) || !s.add(id) || s.add(id) || !s.has(id) {
				t.Fatalf("id %d was not added exactly once", i)
			}
		}
		for i := range ids {
			if !s.has(strconv.Itoa(i)) {
				t.Fatalf("id %d was lost", i)
			}
		}
		if s.len() != int64(ids) {
			t.Fatalf("%d ids", s.len())
		}
		s.clear()
		if s.len() != 0 || s.has("7") {
			t.Fatal("not empty after clear")
		}
	}
}
