package soak

import (
	"context"
	"fmt"
	"maps"
	"sync"
)

// domain is what an event happens to.
type domain int

const (
	toUpstream domain = iota // a request
	toStorage                // an operation of the storage
	toStore                  // a call of the job store
	domains
)

func (d domain) String() string { return [...]string{"upstream", "storage", "store"}[d] }

// mode is what goes wrong.
type mode string

const (
	fine  mode = ""
	kill  mode = "kill"  // the process is gone before it happens
	after mode = "after" // the process is gone after it happened, before it knows
	fails mode = "fails" // an error, and nothing happened
	lost  mode = "lost"  // it happened, but an error is told
	stall mode = "stall" // nothing comes for a while

	// Of the upstream alone.
	cut     mode = "cut"     // the connection is closed without an answer
	half    mode = "half"    // the connection is closed half-way
	short   mode = "short"   // half an answer, as if it were all
	noise   mode = "noise"   // 200, and no JSON
	html    mode = "html"    // 200, and a login page
	busy    mode = "busy"    // 503
	empty   mode = "empty"   // 200, and a Bundle of nothing; searches and counts only
	down    mode = "down"    // nothing answers from then on
	garbage mode = "garbage" // of the storage: other bytes than were written
	full    mode = "full"    // of the storage: nothing can be written from then on
)

var modes = [domains][]mode{
	toUpstream: {kill, after, stall, cut, half, short, noise, html, busy, empty, down},
	toStorage:  {kill, after, stall, fails, lost, garbage, full},
	toStore:    {kill, after, stall, fails, lost},
}

// fits reports whether a mode makes sense at a step.
func (m mode) fits(step string) bool {
	switch m {
	case garbage:
		return step == "open"
	case empty: // that nothing happened nobody could tell from an empty history
		return step == "count" || step == "search" || step == "next link"
	}
	return true
}

// A fault strikes once, at the n-th event of a step, from 1. Down and full last.
type fault struct {
	domain domain
	step   string
	n      int
	mode   mode
}

func (f fault) String() string { return fmt.Sprintf("%s-%s-%d-%s", f.domain, f.step, f.n, f.mode) }

// points counts events and strikes. It belongs to one export.
type points struct {
	fault fault
	end   <-chan struct{} // of the test: frozen processes may go then

	mu     sync.Mutex
	events [domains]map[string]int // by step
	struck bool
}

// A process is what is killed: from then on nothing of it has an effect.
type process struct {
	dead chan struct{}
	once sync.Once
}

func newProcess() *process { return &process{dead: make(chan struct{})} }

func (p *process) kill() { p.once.Do(func() { close(p.dead) }) }

// at counts an event and returns what is to happen to it.
func (p *points) at(d domain, step string) mode {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.events[d] == nil {
		p.events[d] = make(map[string]int)
	}
	p.events[d][step]++
	n, lasts := p.events[d][step], p.fault.mode == down || p.fault.mode == full
	switch {
	case p.struck && lasts && d == p.fault.domain:
	case p.struck || d != p.fault.domain || step != p.fault.step || n != p.fault.n:
		return fine
	}
	p.struck = true
	return p.fault.mode
}

// seen is how often each step of a domain came, and whether the fault struck.
func (p *points) seen(d domain) (events map[string]int, struck bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.events[d]), p.struck
}

// alive waits for ever where the process is dead, as nothing of it goes on then.
func (p *points) alive(ctx context.Context, of *process) error {
	select {
	case <-of.dead:
		<-p.end
		return context.Canceled
	default:
		return ctx.Err()
	}
}
