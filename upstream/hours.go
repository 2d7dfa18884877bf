package upstream

import (
	"fmt"
	"strings"
	"time"
)

// Hours are the times of the week at which the upstream may be asked. The zero
// value is always. Make others with ParseHours.
type Hours struct {
	spans []hoursSpan
	in    *time.Location
	text  string
}

// A hoursSpan begins on some weekdays, and may end on the next day.
type hoursSpan struct {
	days     [7]bool // by time.Weekday
	from, to int     // minutes since midnight; to > from, and beyond 24 hours if it ends on the next day
}

// ParseHours reads ranges such as "22:00-06:00", or several of them with
// weekdays, such as "Mo-Fr 20:00-06:00, Sa-Su". A range that passes midnight
// belongs to the day on which it begins. Weekdays without a range are whole
// days; a range without weekdays is for every day. Weekdays may be written with
// two letters, three, or in full. An empty text is always. in is the time zone;
// nil means UTC.
func ParseHours(s string, in *time.Location) (Hours, error) {
	if in == nil {
		in = time.UTC
	}
	h := Hours{in: in, text: strings.Join(strings.Fields(s), " ")}
	if h.text == "" {
		return Hours{}, nil
	}
	for part := range strings.SplitSeq(h.text, ",") {
		span, err := parseSpan(strings.TrimSpace(part))
		if err != nil {
			return Hours{}, fmt.Errorf("%q is no range of hours: %w", part, err)
		}
		h.spans = append(h.spans, span)
	}
	return h, nil
}

func parseSpan(s string) (hoursSpan, error) {
	words := strings.Fields(s)
	span := hoursSpan{days: [7]bool{true, true, true, true, true, true, true}, to: 24 * 60}
	if len(words) == 0 || len(words) > 2 {
		return span, fmt.Errorf("write one like Mo-Fr 20:00-06:00")
	}
	var err error
	if first := words[0]; first[0] < '0' || first[0] > '9' {
		if span.days, err = parseDays(first); err != nil {
			return span, err
		}
		words = words[1:]
	} else if len(words) == 2 {
		return span, fmt.Errorf("the weekdays come first")
	}
	if len(words) == 0 {
		return span, nil
	}
	from, to, ok := strings.Cut(words[0], "-")
	if !ok {
		return span, fmt.Errorf("there is no end of the range")
	}
	if span.from, err = parseClock(from); err != nil {
		return span, err
	}
	if span.to, err = parseClock(to); err != nil {
		return span, err
	}
	switch {
	case span.from == 24*60:
		return span, fmt.Errorf("it begins at 24:00")
	case span.from == span.to:
		return span, fmt.Errorf("it ends when it begins; for the whole day write 00:00-24:00")
	case span.to < span.from:
		span.to += 24 * 60
	}
	return span, nil
}

func parseClock(s string) (minutes int, err error) {
	var h, m int
	if len(s) == 5 && s[2] == ':' && digits(s[:2]) && digits(s[3:]) {
		h, m = int(s[0]-'0')*10+int(s[1]-'0'), int(s[3]-'0')*10+int(s[4]-'0')
		if h < 24 && m < 60 || h == 24 && m == 0 {
			return h*60 + m, nil
		}
	}
	return 0, fmt.Errorf("%q is no time of day; write one like 06:30", s)
}

func digits(s string) bool { return strings.Trim(s, "0123456789") == "" }

func parseDays(s string) (days [7]bool, err error) {
	first, last, isRange := strings.Cut(s, "-")
	from, err := parseDay(first)
	if err != nil || !isRange {
		days[from] = err == nil
		return days, err
	}
	to, err := parseDay(last)
	if err != nil {
		return days, err
	}
	for d := from; ; d = (d + 1) % 7 {
		days[d] = true
		if d == to {
			return days, nil
		}
	}
}

func parseDay(s string) (time.Weekday, error) {
	for d := time.Sunday; d <= time.Saturday; d++ {
		name := d.String()
		if strings.EqualFold(s, name) || strings.EqualFold(s, name[:2]) || strings.EqualFold(s, name[:3]) {
			return d, nil
		}
	}
	return 0, fmt.Errorf("%q is no weekday; write one like Mo or Mo-Fr", s)
}

// IsZero reports whether the hours are always.
func (h Hours) IsZero() bool { return len(h.spans) == 0 }

// String returns the text that h was read from.
func (h Hours) String() string { return h.text }

// Next returns t if it lies within the hours, or else when they begin next.
func (h Hours) Next(t time.Time) time.Time {
	begins, _ := h.next(t)
	return begins
}

// next returns Next, and when the range that is meant ends.
func (h Hours) next(t time.Time) (begins, ends time.Time) {
	if h.IsZero() {
		return t, t.AddDate(1, 0, 0)
	}
	y, m, d := t.In(h.in).Date()
	for day := d - 1; day <= d+14; day++ { // the day before may not be over yet
		weekday := time.Date(y, m, day, 12, 0, 0, 0, h.in).Weekday()
		for _, s := range h.spans {
			if !s.days[weekday] {
				continue
			}
			from := time.Date(y, m, day, 0, s.from, 0, 0, h.in)
			to := time.Date(y, m, day, 0, s.to, 0, 0, h.in)
			switch {
			case !to.After(t) || !to.After(from): // over; or in an hour that the clocks leave out
			case !from.After(t):
				if begins != t || to.After(ends) {
					begins, ends = t, to
				}
			case begins.IsZero() || from.Before(begins):
				begins, ends = from, to
			}
		}
	}
	return begins, ends
}

// An hoursGate remembers when the hours change, so that it is not worked out
// for each request. The zero value is ready for use.
type hoursGate struct {
	checked, change time.Time
	open            bool
}

// closed returns how long the hours do not begin yet, or 0 if they have.
func (g *hoursGate) closed(h Hours, now time.Time) time.Duration {
	if now.Before(g.checked) || !now.Before(g.change) {
		begins, ends := h.next(now)
		g.checked, g.open = now, !begins.After(now)
		if g.change = begins; g.open {
			g.change = ends
		}
	}
	if g.open {
		return 0
	}
	return g.change.Sub(now)
}
