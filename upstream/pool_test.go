package upstream

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A peer is a process as the pool's users are: it believes what it was granted
// for grantTTL by a clock of its own, which always runs evenly.
type peer struct {
	name     string
	want     int
	slots    int
	until    time.Time
	inFlight int
	answer   *grant // on its way
	asked    time.Time
	heard    time.Time // when the pool last heard of it
}

func (p *peer) valid(now time.Time) bool { return now.Before(p.until) }

// usage is what the process has under way or may send, now or when it gets the
// answer that is on its way. What is still under way when the pool has not
// heard of the process for long does not count: it is not cut off.
func (p *peer) usage(now time.Time) (n int) {
	if now.Before(p.heard.Add(grantTTL)) {
		n = p.inFlight
	}
	if p.valid(now) {
		n = max(n, p.slots)
	}
	if p.answer != nil && now.Before(p.asked.Add(grantTTL)) {
		n = max(n, p.answer.slots)
	}
	return n
}

// Whatever happens, the processes together never come to use more than the
// limit; and while it is lowered they use no more than before.
func TestPoolKeepsToTheLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 6
		var (
			store  = []byte("null")
			now    = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC) // evenly running
			skew   time.Duration                                 // of the store's clock
			jumped time.Time                                     // when it last leapt ahead
			peers  []*peer
			born   int
			now0   pool // as it stands
		)
		join := func() *peer {
			born++
			p := &peer{name: fmt.Sprint("p", born), want: rapid.IntRange(0, 10).Draw(t, "want")}
			return p
		}
		for range rapid.IntRange(1, 9).Draw(t, "peers") {
			peers = append(peers, join())
		}
		total := func() (n int) {
			for _, p := range peers {
				n += p.usage(now)
			}
			return n
		}
		receive := func(p *peer) {
			p.slots, p.until, p.answer = p.answer.slots, p.asked.Add(grantTTL), nil
		}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			before := total()
			p := rapid.SampledFrom(peers).Draw(t, "peer")
			switch rapid.SampledFrom([]string{"ask", "ask", "ask", "begin", "begin", "end", "pass", "pass", "want", "crash", "ahead", "back", "receive"}).Draw(t, "step") {
			case "ask":
				if p.answer != nil {
					break
				}
				if !now.Before(p.heard.Add(grantTTL)) {
					p.inFlight = 0
				}
				p.heard = now
				a := ask{
					process: p.name, max: limit, want: max(p.want, p.inFlight), busy: p.inFlight, peak: p.inFlight, epoch: now0.Epoch,
					vote: vote(rapid.IntRange(0, 3).Draw(t, "vote")), back: stepBack(max(rapid.IntRange(-20, int(backOutage)).Draw(t, "back"), 0)),
				}
				if p.valid(now) {
					a.held = p.slots
				}
				var s pool
				if err := json.Unmarshal(store, &s); err != nil {
					t.Fatal(err)
				}
				g := s.settle(a, now.Add(skew))
				var err error
				if store, err = json.Marshal(s); err != nil {
					t.Fatal(err)
				}
				now0 = s
				p.asked = now
				switch rapid.SampledFrom([]string{"soon", "soon", "late", "lost"}).Draw(t, "answer") {
				case "soon":
					p.answer = &g
					receive(p)
				case "late":
					p.answer = &g
				}
			case "receive":
				if p.answer != nil {
					receive(p)
				}
			case "begin":
				if p.valid(now) && p.inFlight < p.slots {
					p.inFlight++
				}
			case "end":
				p.inFlight = max(p.inFlight-1, 0)
			case "pass":
				now = now.Add(time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond)
			case "want":
				p.want = rapid.IntRange(0, 10).Draw(t, "want")
			case "crash": // another takes its place, perhaps under its name
				*p = peer{name: p.name, want: p.want}
				if rapid.Bool().Draw(t, "renamed") {
					*p = *join()
				}
			case "ahead":
				if now.Sub(jumped) > bookedTTL {
					skew += time.Duration(rapid.IntRange(1, 100_000).Draw(t, "ms")) * time.Millisecond
					jumped = now
				}
			case "back":
				skew -= time.Duration(rapid.IntRange(1, 100_000).Draw(t, "ms")) * time.Millisecond
			}
			if now0.Limit < 0 || now0.Limit > limit {
				t.Fatalf("the limit is %d", now0.Limit)
			}
			if after := total(); after > before && after > now0.Limit {
				t.Fatalf("%d may be under way, %d before, at a limit of %d\n%s", after, before, now0.Limit, store)
			}
		}
	})
}

// settleAll has every process ask several times, a second apart.
func settleAll(p *pool, now time.Time, rounds, limit int, wants map[string]int) map[string]int {
	held := map[string]int{}
	for range rounds {
		for name, want := range wants {
			now = now.Add(time.Second / time.Duration(len(wants)))
			held[name] = p.settle(ask{process: name, max: limit, want: want, busy: min(held[name], want), held: held[name]}, now).slots
		}
	}
	return held
}

// Demand is met, and where it cannot be nobody gets more than another who wants
// as much.
func TestPoolIsFair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 40).Draw(t, "limit")
		wants := map[string]int{}
		sum := 0
		for i := range rapid.IntRange(1, limit).Draw(t, "peers") {
			want := rapid.IntRange(1, 20).Draw(t, "want")
			wants[fmt.Sprint("p", i)] = want
			sum += want
		}
		at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		p := &pool{At: at, Limit: limit, Threshold: limit}
		// Some start alone and have it all.
		first := "p0"
		p.settle(ask{process: first, max: limit, want: 100}, at)
		got := settleAll(p, at, 8, limit, wants)
		total := 0
		for x, slots := range got {
			total += slots
			if slots < 1 || slots > wants[x] {
				t.Fatalf("%s has %d of %d: %v", x, slots, wants[x], got)
			}
			for y := range got {
				if slots < wants[x] && got[y] > slots+1 {
					t.Fatalf("%s has %d, %s has %d; they want %v at a limit of %d", x, slots, y, got[y], wants, limit)
				}
			}
		}
		if total != min(limit, sum) {
			t.Fatalf("%d slots are dealt out of %d, wanted are %d", total, limit, sum)
		}
	})
}

// Where there are more processes than slots they take turns.
func TestPoolTakesTurns(t *testing.T) {
	for _, limit := range []int{1, 2, 3} {
		at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		p := &pool{At: at, Limit: limit, Threshold: limit}
		held, had := [7]int{}, [7]int{}
		for tick := range 2000 { // of 100 ms
			at = at.Add(100 * time.Millisecond)
			i := tick % len(held)
			held[i] = p.settle(ask{process: fmt.Sprint("p", i), max: limit, want: 5, busy: held[i], held: held[i]}, at).slots
			sum := 0
			for j, n := range held {
				had[j] += n
				sum += n
			}
			if sum > limit {
				t.Fatalf("%v at a limit of %d", held, limit)
			}
		}
		total := 0
		for _, n := range had {
			total += n
		}
		if total < 2000*limit/2 {
			t.Errorf("limit %d: only %d of %d slots were used", limit, total, 2000*limit)
		}
		for j, n := range had {
			if n < total/7*2/3 || n > total/7*4/3 {
				t.Errorf("limit %d: p%d had %d of %v", limit, j, n, had)
			}
		}
	}
}

// Slots that were given back are dealt out again when their holder has said
// that it knows, and not before.
func TestPoolWaitsForConfirmation(t *testing.T) {
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	p := &pool{At: at, Limit: 4, Threshold: 4}
	for i, tt := range []struct {
		process    string
		held, busy int
		want       int
	}{
		{"a", 0, 0, 4},
		{"b", 0, 0, 0},
		{"a", 4, 0, 2}, // it may begin four more before it gets this answer
		{"b", 0, 0, 0},
		{"a", 2, 3, 2}, // and it has begun three
		{"b", 0, 0, 1},
		{"a", 2, 2, 2},
		{"b", 1, 1, 2},
	} {
		at = at.Add(100 * time.Millisecond)
		g := p.settle(ask{process: tt.process, max: 4, want: 4, held: tt.held, busy: tt.busy}, at)
		if g.slots != tt.want {
			t.Errorf("step %d: %s has %d slots, want %d", i, tt.process, g.slots, tt.want)
		}
	}
	// One that wants no more may be using what it held until it knows.
	p.settle(ask{process: "a", max: 4, held: 2}, at)
	if g := p.settle(ask{process: "b", max: 4, want: 4, held: 2, busy: 2}, at); g.slots != 2 {
		t.Errorf("b has %d slots", g.slots)
	}
	p.settle(ask{process: "a", max: 4}, at)
	if g := p.settle(ask{process: "b", max: 4, want: 4, held: 2, busy: 2}, at); g.slots != 4 || len(p.Members) != 1 {
		t.Errorf("b has %d slots; %d members", g.slots, len(p.Members))
	}
}

// The slots of one that is never heard of again become free, whatever the clock
// does, within some seconds of work.
func TestPoolForgetsTheDead(t *testing.T) {
	for _, jump := range []time.Duration{0, 24 * time.Hour, -24 * time.Hour} {
		at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		p := &pool{At: at, Limit: 4, Threshold: 4}
		p.settle(ask{process: "dead", max: 4, want: 4}, at)
		at = at.Add(jump)
		slots := 0
		for range 10 {
			at = at.Add(750 * time.Millisecond)
			slots = p.settle(ask{process: "b", max: 4, want: 4, held: slots, busy: slots}, at).slots
		}
		if slots != 4 {
			t.Errorf("%d slots after a jump of %s", slots, jump)
		}
	}
}

// What the store's clock does to itself lasts no longer than it did.
func TestPoolClockSetBack(t *testing.T) {
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	var p pool
	p.settle(ask{process: "a", max: 8, want: 8, pause: time.Minute}, at)
	at = at.Add(10*time.Second - 24*time.Hour)
	// Nobody knows how much of the day has passed: none, as far as a pause goes.
	if g := p.settle(ask{process: "a", max: 8, want: 8}, at); g.pause != time.Minute {
		t.Errorf("the pause lasts for %s more", g.pause)
	}
	at = at.Add(time.Second)
	p.settle(ask{process: "a", max: 8, want: 8, peak: 4, back: backThrottled}, at)
	if p.Limit != 2 {
		t.Errorf("the limit is %d", p.Limit)
	}
	at = at.Add(-24 * time.Hour)
	for range 4 {
		at = at.Add(time.Second)
		p.settle(ask{process: "a", max: 8, want: 8, vote: voteGrow}, at)
	}
	if p.Limit != 3 { // up to where it was refused
		t.Errorf("the limit is %d", p.Limit)
	}
}

// A pool that was left alone begins cautiously again, and what it does not
// understand is nothing.
func TestPoolBeginsAnew(t *testing.T) {
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	p := pool{At: at, Limit: 32, Threshold: 32}
	if g := p.settle(ask{process: "a", max: 32, want: 32}, at.Add(2*idleReset)); g.limit != startLimit || p.Threshold != 32 {
		t.Errorf("the limit is %d", g.limit)
	}
	if g := p.settle(ask{process: "b", max: 2, want: 32}, at.Add(2*idleReset)); g.limit != 2 {
		t.Errorf("the limit is %d for one that is allowed 2", g.limit)
	}
}
