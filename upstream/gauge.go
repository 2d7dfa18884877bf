package upstream

import (
	"math"
	"math/bits"
	"time"
)

const (
	normWeight  = 1.0 / 16         // of a new latency in the mean of its class
	normWarm    = 8                // latencies before a class says anything
	baseDrift   = 10 * time.Minute // in which a base follows a mean that stays above it
	maxClasses  = 1024
	queueGrow   = 3 // requests that may wait in the upstream before the limit stops to grow
	queueShrink = 6 // and before it shrinks
)

// A gauge tells from latencies whether the upstream has begun to queue what it
// is asked. By Little's law a server that is at its capacity answers no more
// requests a second when more are sent, they only take longer. So, as in TCP
// Vegas, of limit requests under way
//
//	limit × (1 − base / now)
//
// wait in a queue, where base is the latency that the same requests have at
// their best. Up to three of them keep the server busy between two of our
// requests; then the limit stops to grow, and from six on it shrinks. For limits
// above 9 a third and six tenths of them take the place of three and six (a
// latency of 1.5 and 2.5 times the base), since the noise grows with the limit. So latency alone
// never brings the limit below 6, and a wrong idea of the base costs little.
//
// Latencies of different requests say nothing about each other. Each is
// compared with the mean of its own class: same operation and type, and same
// size of the answer within a factor of two. base is the least that this mean,
// taken over some sixteen answers and of the logarithms, has been; it follows
// slowly where the upstream stays slower for long. Counts are left out: two of
// the same type may differ a thousandfold.
//
// A round is as many answers as there are slots, to requests that were sent
// after the round before was over. Its mean against the bases is one vote. A
// round in which some slots stayed free says nothing about more slots, and it
// takes two in a row to end the doubling: the first bases are unsure. The
// zero gauge is ready for use.
type gauge struct {
	classes map[latencyClass]*norm
	round   int64
	n       int     // good answers of the round
	bound   bool    // all slots were in use
	sum     float64 // of the logarithms of latency against base
	judged  int     // how many these are
	doubts  int     // rounds in a row in which latency had risen
}

// A latencyClass is requests of one kind.
type latencyClass struct {
	kind, op string
	size     int // power of two
}

// A norm is what a class of requests usually takes.
type norm struct {
	n    int
	mean float64 // of the logarithms
	base float64 // least mean
	at   time.Time
}

// add takes a latency in and returns the logarithm of it against the base.
func (m *norm) add(latency time.Duration, now time.Time) (against float64, known bool) {
	x := math.Log(max(latency.Seconds(), 1e-6))
	m.n++
	m.mean += (x - m.mean) * max(normWeight, 1/float64(m.n))
	if m.n < normWarm {
		return 0, false
	}
	if m.n == normWarm || m.mean < m.base {
		m.base = m.mean
	} else {
		m.base += (m.mean - m.base) * -math.Expm1(-now.Sub(m.at).Seconds()/baseDrift.Seconds())
	}
	m.at = now
	return x - m.base, true
}

// good takes an answer in. round is when its request was sent.
func (g *gauge) good(v verdict, round int64, now time.Time) {
	against, known := g.judge(v, now)
	if round != g.round {
		return
	}
	g.n++
	if known {
		g.sum += against
		g.judged++
	}
}

func (g *gauge) judge(v verdict, now time.Time) (against float64, known bool) {
	switch v.requestKind {
	case kindCount, kindMetadata, kindProbe, "":
		return 0, false
	}
	c := latencyClass{v.requestKind, v.op, bits.Len64(uint64(v.bytes))}
	m := g.classes[c]
	if m == nil {
		if g.classes == nil || len(g.classes) >= maxClasses {
			g.classes = make(map[latencyClass]*norm)
		}
		m = &norm{}
		g.classes[c] = m
	}
	return m.add(v.latency, now)
}

// vote ends the round if it is over, and says what came of it.
func (g *gauge) vote(slots, limit int) vote {
	if g.n < max(slots, 1) {
		return voteNone
	}
	ratio := 1.0
	if g.judged > 0 {
		ratio = math.Exp(g.sum / float64(g.judged))
	}
	bound := g.bound
	g.restart()
	queue := float64(limit) * (1 - 1/ratio)
	switch {
	case queue >= max(queueShrink, 0.6*float64(limit)):
		return voteShrink
	case queue >= max(queueGrow, float64(limit)/3):
		if g.doubts++; g.doubts == 1 {
			return voteNone
		}
		return voteHold
	}
	g.doubts = 0
	if bound {
		return voteGrow
	}
	return voteNone
}

// restart begins a new round.
func (g *gauge) restart() {
	g.round++
	g.n, g.bound, g.sum, g.judged = 0, false, 0, 0
}
