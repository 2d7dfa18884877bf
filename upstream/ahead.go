package upstream

import (
	"io"
	"sync"
)

const (
	aheadBlock  = 64 << 10 // bytes
	aheadBlocks = 16       // that one answer may have read ahead
)

// An ahead reads an answer into memory as fast as it comes, up to 1 MiB before
// whoever reads from it. So the upstream has its hands free for the next request
// while this answer is looked through and stored.
type ahead struct {
	in   io.Reader
	pool *sync.Pool // of *[aheadBlock]byte
	done chan struct{}

	mu     sync.Mutex
	more   sync.Cond // on mu: something was read, or taken, or it is over
	blocks []*[aheadBlock]byte
	from   int   // of the first block, taken
	to     int   // of the last block, filled
	err    error // what ended the reading
	closed bool
}

func newAhead(in io.Reader, pool *sync.Pool) *ahead {
	a := &ahead{in: in, pool: pool, done: make(chan struct{})}
	a.more.L = &a.mu
	return a
}

// run reads until the end, and calls whole when that is where it should be.
func (a *ahead) run(whole func()) {
	defer close(a.done)
	for {
		free := a.room()
		if free == nil {
			return
		}
		n, err := a.in.Read(free)
		if err == io.EOF {
			whole()
		}
		a.mu.Lock()
		a.to += n
		a.err = err
		a.more.Signal()
		a.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// room waits for room to read into. It returns nil once a is closed.
func (a *ahead) room() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.blocks) > 0 && a.to < aheadBlock {
		return a.blocks[len(a.blocks)-1][a.to:]
	}
	for len(a.blocks) >= aheadBlocks && !a.closed {
		a.more.Wait()
	}
	if a.closed {
		return nil
	}
	b, ok := a.pool.Get().(*[aheadBlock]byte)
	if !ok {
		b = new([aheadBlock]byte)
	}
	if len(a.blocks) == 0 {
		a.from = 0
	}
	a.blocks, a.to = append(a.blocks, b), 0
	return b[:]
}

// Read takes what has been read.
func (a *ahead) Read(p []byte) (n int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		for len(a.blocks) > 0 && n < len(p) {
			b, end := a.blocks[0], aheadBlock
			if len(a.blocks) == 1 {
				end = a.to
			}
			if a.from == end && end < aheadBlock {
				break // the rest of it is being filled
			}
			k := copy(p[n:], b[a.from:end])
			n, a.from = n+k, a.from+k
			if a.from == aheadBlock {
				a.take(b)
			}
		}
		switch {
		case n > 0:
			return n, nil
		case a.err != nil:
			return 0, a.err
		case a.closed:
			return 0, io.ErrClosedPipe
		case len(p) == 0:
			return 0, nil
		}
		a.more.Wait()
	}
}

// take gives back the first block.
func (a *ahead) take(b *[aheadBlock]byte) {
	a.pool.Put(b)
	a.blocks, a.from = a.blocks[1:], 0
	a.more.Signal()
}

// close waits for the end of run, which whoever closes must have brought about
// by cancelling the request if it is not over, and gives the memory back.
func (a *ahead) close() {
	a.mu.Lock()
	a.closed = true
	a.more.Broadcast()
	a.mu.Unlock()
	<-a.done
	for _, b := range a.blocks {
		a.pool.Put(b)
	}
	a.blocks = nil
}
