package export

import (
	"context"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// stamped counts a sorted list of instants, as an upstream would.
type stamped struct {
	at     []time.Time
	counts int
}

func (s *stamped) count(_ context.Context, from, to time.Time) (int64, error) {
	s.counts++
	return s.between(from, to), nil
}

func (s *stamped) between(from, to time.Time) int64 {
	n := int64(0)
	for _, at := range s.at {
		if !at.Before(from) && at.Before(to) {
			n++
		}
	}
	return n
}

// checkWindows fails unless windows cover [from, to) without gap or overlap
// and each holds what it says, at most limit unless it cannot be cut.
func checkWindows(t interface {
	Helper()
	Fatalf(string, ...any)
}, s *stamped, windows []windowSpec, from, to time.Time, limit int64) {
	t.Helper()
	if len(windows) == 0 || !windows[0].From.Equal(from) || !windows[len(windows)-1].To.Equal(to) {
		t.Fatalf("windows %v do not span [%v, %v)", windows, from, to)
	}
	for i, w := range windows {
		if i > 0 && !w.From.Equal(windows[i-1].To) {
			t.Fatalf("gap or overlap between %v and %v", windows[i-1], w)
		}
		if n := s.between(w.From, w.To); n != w.Counted {
			t.Fatalf("window %v holds %d", w, n)
		}
		if w.Counted > limit && !w.From.IsZero() && w.To.Sub(w.From) >= 2*tick {
			t.Fatalf("window %v holds more than %d and can be cut", w, limit)
		}
	}
}

func TestCutWindows(t *testing.T) {
	base := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	to := base.Add(24 * time.Hour)
	repeat := func(at time.Time, n int) []time.Time { return slices.Repeat([]time.Time{at}, n) }
	spread := func(n int, step time.Duration) (all []time.Time) {
		for i := range n {
			all = append(all, base.Add(time.Duration(i)*step))
		}
		return all
	}
	for _, test := range []struct {
		name      string
		at        []time.Time
		from      time.Time
		limit     int64
		maxCounts int
	}{
		{name: "OKSmall", at: spread(10, time.Second), limit: 100, maxCounts: 0},
		{name: "OKBulkLoad", at: spread(5000, time.Millisecond), limit: 500, maxCounts: 80},
		{name: "OKSinceGiven", at: spread(5000, time.Second), from: base, limit: 1000, maxCounts: 40},
		{name: "OKTiesInOneTick", at: append(spread(100, time.Second), repeat(base.Add(time.Hour), 900)...), limit: 200, maxCounts: 60},
		{name: "OKDecades", at: append(repeat(base.AddDate(-40, 0, 0), 300), spread(300, time.Minute)...), limit: 250, maxCounts: 100},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &stamped{at: test.at}
			total := s.between(test.from, to)
			windows, err := cutWindows(t.Context(), s.count, windowSpec{From: test.from, To: to, Counted: total}, cutting{limit: test.limit, parallel: 1})
			if err != nil {
				t.Fatal(err)
			}
			checkWindows(t, s, windows, test.from, to, test.limit)
			if s.counts > test.maxCounts {
				t.Errorf("%d counts, at most %d expected", s.counts, test.maxCounts)
			}
		})
	}
}

func TestCutWindowsProperty(t *testing.T) {
	base := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		s := &stamped{}
		for _, ms := range rapid.SliceOf(rapid.Int64Range(0, 1<<40)).Draw(t, "ms") {
			n := rapid.IntRange(1, 5).Draw(t, "ties")
			s.at = append(s.at, slices.Repeat([]time.Time{base.Add(time.Duration(ms) * time.Millisecond)}, n)...)
		}
		to := base.Add(1 << 40 * time.Millisecond).Add(tick)
		limit := rapid.Int64Range(1, 20).Draw(t, "limit")
		from := time.Time{}
		if rapid.Bool().Draw(t, "since") {
			from = base
		}
		how := cutting{limit: limit, parallel: 1}
		if rapid.Bool().Draw(t, "hurry") {
			how.until = time.Unix(1, 0) // long ago: what is left is cut again, as by further units
		}
		todo := []windowSpec{{From: from, To: to, Counted: int64(len(s.at))}}
		var windows []windowSpec
		for len(todo) > 0 {
			cuts, err := cutWindows(context.Background(), s.count, todo[0], how)
			if err != nil {
				t.Fatalf("%v", err)
			}
			todo = todo[1:]
			for i, w := range cuts {
				if w.Counted > limit && w.divisible() {
					todo = append(slices.Clone(cuts[i:]), todo...)
					break
				}
				windows = append(windows, w)
			}
		}
		checkWindows(t, s, windows, from, to, limit)
	})
}
