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

func TestPassSet(t *testing.T) {
	const ids = 30_000
	s := newPassSet()
	for range 2 { // and once more after reset
		for pass := range int64(3) {
			for i := range ids {
				id := strconv.Itoa(i)
				if !s.pass(id) || s.pass(id) {
					t.Fatalf("pass %d: id %d is not new once", pass, i)
				}
				if seen := int64(i%3) <= pass; seen && s.see() != (int64(i%3) == pass) {
					t.Fatalf("pass %d: id %d is not seen once", pass, i)
				}
			}
			if want := (pass + 1) * ids / 3; s.passed != ids || s.seen != want {
				t.Fatalf("pass %d: %d ids passed, %d seen, want %d, %d", pass, s.passed, s.seen, ids, want)
			}
			s.next()
			if s.passed != 0 {
				t.Fatalf("%d ids before anything was read", s.passed)
			}
		}
		s.reset()
	}
	s.pass("a")
	s.see()
	for range 2 * epochs {
		s.next()
		if !s.pass("a") || s.see() || s.pass("a") {
			t.Fatal("passes are mixed up")
		}
	}
}
