package fakefhir

import (
	"errors"
	"math"
	"strings"
	"time"
)

// span is a half-open range of time in Unix milliseconds.
type span struct{ lo, hi int64 }

// always is the span of all times.
var always = span{math.MinInt64, math.MaxInt64}

// parseSpan reads a FHIR date, dateTime or instant of any precision. A value
// to the second covers that second, and so on. No zone means UTC.
func parseSpan(s string) (span, error) {
	lo, hi, err := parseRange(s)
	if err != nil {
		return span{}, err
	}
	return span{ceilMilli(lo), ceilMilli(hi)}, nil
}

func parseRange(s string) (lo, hi time.Time, err error) {
	clock, zone := s, "Z"
	if t := strings.IndexByte(s, 'T'); t >= 0 {
		if z := strings.IndexAny(s[t:], "Z+-"); z >= 0 {
			clock, zone = s[:t+z], s[t+z:]
		}
	}
	parse := func(layout string) { lo, err = time.Parse(layout+"Z07:00", clock+zone) }
	switch len(clock) {
	case len("2006"):
		parse("2006")
		return lo, lo.AddDate(1, 0, 0), err
	case len("2006-01"):
		parse("2006-01")
		return lo, lo.AddDate(0, 1, 0), err
	case len("2006-01-02"):
		parse("2006-01-02")
		return lo, lo.AddDate(0, 0, 1), err
	case len("2006-01-02T15:04"):
		parse("2006-01-02T15:04")
		return lo, lo.Add(time.Minute), err
	case len("2006-01-02T15:04:05"):
		parse("2006-01-02T15:04:05")
		return lo, lo.Add(time.Second), err
	}
	digits := len(clock) - len("2006-01-02T15:04:05.")
	if digits < 1 || digits > 9 {
		return lo, hi, errors.New("not a date")
	}
	parse("2006-01-02T15:04:05") // which accepts a fraction, too
	width := time.Second
	for range digits {
		width /= 10
	}
	return lo, lo.Add(width), err
}

func ceilMilli(t time.Time) int64 {
	ms := t.UnixMilli()
	if t.Nanosecond()%int(time.Millisecond) != 0 {
		ms++
	}
	return ms
}

// instantLayout is how HAPI writes instants: the offset is +00:00, not Z.
const instantLayout = "2006-01-02T15:04:05.000-07:00"

func formatMilli(ms int64) string { return time.UnixMilli(ms).UTC().Format(instantLayout) }

// datePrefix splits "ge2020-01-01" into comparator and value. No comparator
// is "eq".
func datePrefix(s string) (prefix, value string) {
	if len(s) > 2 && s[0] >= 'a' && s[0] <= 'z' {
		return s[:2], s[2:]
	}
	return "eq", s
}

// narrow cuts w down to the instants that stand in the relation to p.
// ok is false for a comparator that is no interval or not known.
func (w span) narrow(prefix string, p span) (_ span, ok bool) {
	switch prefix {
	case "eq":
		w.lo, w.hi = max(w.lo, p.lo), min(w.hi, p.hi)
	case "ge":
		w.lo = max(w.lo, p.lo)
	case "gt", "sa":
		w.lo = max(w.lo, p.hi)
	case "lt", "eb":
		w.hi = min(w.hi, p.lo)
	case "le":
		w.hi = min(w.hi, p.hi)
	default:
		return w, false
	}
	return w, true
}

// compare says whether the range v of a resource stands in the relation to
// the range p of a parameter.
func (v span) compare(prefix string, p span) bool {
	switch prefix {
	case "eq":
		return p.lo <= v.lo && v.hi <= p.hi
	case "ne":
		return v.lo < p.lo || p.hi < v.hi
	case "gt":
		return v.hi > p.hi
	case "ge":
		return v.hi > p.lo
	case "lt":
		return v.lo < p.lo
	case "le":
		return v.lo < p.hi
	case "sa":
		return v.lo >= p.hi
	case "eb":
		return v.hi <= p.lo
	}
	return false
}

// knownPrefix says whether compare knows the comparator.
func knownPrefix(p string) bool {
	switch p {
	case "eq", "ne", "gt", "ge", "lt", "le", "sa", "eb":
		return true
	}
	return false
}
