package download

import (
	"hash/maphash"
	"slices"
	"sync"
)

// idShards is into how many parts the digests are divided, so that they can be
// added by several goroutines and sorted one part at a time.
const idShards = 256

// An idList keeps 8 bytes of each id that is added: 10⁷ ids take 80 MB. Two ids
// may have the same digest (of 10⁷, in one of 400,000 lists), so what it finds
// is looked at again. It is ready for use with a seed.
type idList struct {
	seed   maphash.Seed
	shards [idShards]idShard
}

type idShard struct {
	mu     sync.Mutex
	n      int
	blocks [][]uint64 // none grows once it is full, so nothing is copied
}

const (
	firstBlock = 64
	mostBlock  = 4096
)

// digest returns that of a type and an id. scratch is used and returned.
func (l *idList) digest(scratch, typ, id []byte) (uint64, []byte) {
	scratch = append(append(append(scratch[:0], typ...), '/'), id...)
	return maphash.Bytes(l.seed, scratch), scratch
}

func (l *idList) add(digest uint64) {
	s := &l.shards[digest%idShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.blocks) - 1
	if last < 0 || len(s.blocks[last]) == cap(s.blocks[last]) {
		s.blocks = append(s.blocks, make([]uint64, 0, min(max(s.n, firstBlock), mostBlock)))
		last++
	}
	s.blocks[last] = append(s.blocks[last], digest)
	s.n++
}

// sorted returns one shard in order, in buffer if that is large enough.
func (s *idShard) sorted(buffer []uint64) []uint64 {
	buffer = slices.Grow(buffer[:0], s.n)
	for _, b := range s.blocks {
		buffer = append(buffer, b...)
	}
	slices.Sort(buffer)
	return buffer
}

// A collision is what two lists of ids tell of each other, by digest.
type collision struct {
	twice map[uint64]bool // the first that are in output more than once
	both  map[uint64]bool // the first that are in output and in deleted
	// How many there are of each.
	twiceCount, bothCount int64
}

// collide finds digests that are in output twice, or in output and deleted, and
// lists the first of each.
func collide(output, deleted *idList, first int) collision {
	c := collision{twice: make(map[uint64]bool), both: make(map[uint64]bool)}
	note := func(set map[uint64]bool, count *int64, d uint64) {
		if *count++; len(set) < first {
			set[d] = true
		}
	}
	var out, gone []uint64
	for i := range output.shards {
		out, gone = output.shards[i].sorted(out), deleted.shards[i].sorted(gone)
		del := gone
		for n := 0; n < len(out); {
			d, from := out[n], n
			for n++; n < len(out) && out[n] == d; n++ {
				continue
			}
			if n-from > 1 {
				note(c.twice, &c.twiceCount, d)
			}
			for len(del) > 0 && del[0] < d {
				del = del[1:]
			}
			if len(del) > 0 && del[0] == d {
				note(c.both, &c.bothCount, d)
			}
		}
	}
	return c
}
