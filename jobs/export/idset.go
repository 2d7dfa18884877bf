package export

import "hash/maphash"

// idSet is a set of strings that keeps 128 bits of each: 10⁶ ids take some
// 40 MB less than the strings would, and no two ids of one server collide in
// practice. Add and Has are for one goroutine.
type idSet struct {
	seeds [2]maphash.Seed
	n     int
	slots [][2]uint64 // a power of two of them, at most three quarters full; zero is free
}

func newIDSet() *idSet {
	return &idSet{
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		slots: make([][2]uint64, 16),
	}
}

func (s *idSet) key(id string) [2]uint64 {
	return [2]uint64{maphash.String(s.seeds[0], id), maphash.String(s.seeds[1], id) | 1} // never zero
}

// probe returns the slot that a key is in, or the free one where it belongs.
func (s *idSet) probe(key [2]uint64) *[2]uint64 {
	mask := uint64(len(s.slots) - 1)
	for i := key[0] & mask; ; i = (i + 1) & mask {
		if slot := &s.slots[i]; *slot == key || *slot == [2]uint64{} {
			return slot
		}
	}
}

// add reports whether id is new.
func (s *idSet) add(id string) bool {
	key := s.key(id)
	slot := s.probe(key)
	if *slot == key {
		return false
	}
	*slot = key
	if s.n++; s.n > len(s.slots)/4*3 {
		s.grow()
	}
	return true
}

func (s *idSet) grow() {
	old := s.slots
	factor := 4 // as far as a window goes; then memory counts more
	if len(old) >= 1<<14 {
		factor = 2
	}
	s.slots = make([][2]uint64, factor*len(old))
	for _, key := range old {
		if key != [2]uint64{} {
			*s.probe(key) = key
		}
	}
}

func (s *idSet) has(id string) bool {
	key := s.key(id)
	return *s.probe(key) == key
}

func (s *idSet) len() int64 { return int64(s.n) }

func (s *idSet) clear() {
	clear(s.slots)
	s.n = 0
}

// A passSet is the ids that a unit reads: which of them in the pass that is under
// way, and which belong to the export. One look-up does both, and the memory is
// used by one unit after another. For one goroutine.
type passSet struct {
	seeds [2]maphash.Seed
	n     int
	slots [][2]uint64 // as in an idSet, but for the marks in the low bits of the second word
	epoch uint64      // mark of the ids of this pass
	last  *[2]uint64  // slot of the id that was passed last

	passed int64 // ids of this pass
	seen   int64 // ids that belong to the export
}

// Marks of an id: the slot is in use, the id was seen, and in which pass it was
// met last.
const (
	markUsed   = 1 << 0
	markSeen   = 1 << 1
	epochShift = 2
	markBits   = 16 // of all of them
	epochs     = 1 << (markBits - epochShift)
	markMask   = 1<<markBits - 1
	epochMask  = markMask &^ (markUsed | markSeen)
)

func newPassSet() *passSet {
	return &passSet{
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		slots: make([][2]uint64, 16),
		epoch: 1,
	}
}

// pass reports whether id is new in this pass.
func (s *passSet) pass(id string) bool {
	key := [2]uint64{maphash.String(s.seeds[0], id), maphash.String(s.seeds[1], id)&^markMask | markUsed}
	slot := s.probe(key)
	if slot[1] == 0 {
		if s.n++; s.n > len(s.slots)/4*3 {
			s.grow()
			slot = s.probe(key)
		}
		*slot = key
	}
	s.last = slot
	if slot[1]&epochMask == s.epoch<<epochShift {
		return false
	}
	slot[1] = slot[1]&^epochMask | s.epoch<<epochShift
	s.passed++
	return true
}

// see reports whether the id that was passed last is seen for the first time.
func (s *passSet) see() bool {
	if s.last[1]&markSeen != 0 {
		return false
	}
	s.last[1] |= markSeen
	s.seen++
	return true
}

func (s *passSet) probe(key [2]uint64) *[2]uint64 {
	mask := uint64(len(s.slots) - 1)
	for i := key[0] & mask; ; i = (i + 1) & mask {
		if slot := &s.slots[i]; slot[1] == 0 || slot[0] == key[0] && (slot[1]^key[1])&^markMask == 0 {
			return slot
		}
	}
}

func (s *passSet) grow() {
	old := s.slots
	factor := 4
	if len(old) >= 1<<14 {
		factor = 2
	}
	s.slots = make([][2]uint64, factor*len(old))
	for _, key := range old {
		if key[1] != 0 {
			*s.probe(key) = key
		}
	}
}

// next begins another pass.
func (s *passSet) next() {
	s.passed = 0
	if s.epoch++; s.epoch < epochs {
		return
	}
	s.epoch = 1
	for i := range s.slots {
		s.slots[i][1] &^= epochMask
	}
}

// reset forgets everything.
func (s *passSet) reset() {
	clear(s.slots)
	s.n, s.epoch, s.last, s.passed, s.seen = 0, 1, nil, 0, 0
}
