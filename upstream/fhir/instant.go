package fhir

import (
	"errors"
	"time"
)

// Errors of ParseInstant and ParseDateTime. They do not repeat the value.
var (
	errInstantForm  = errors.New("an instant looks like 2006-01-02T15:04:05Z or 2006-01-02T15:04:05.123+01:00")
	errInstantSpace = errors.New("an instant needs Z or an offset; a + in a URL must be sent as %2B")
	errCalendar     = errors.New("no such date or time of day")
	errDateForm     = errors.New("a date looks like 2006, 2006-01, 2006-01-02 or 2006-01-02T15:04:05Z")
)

// ParseInstant reads a FHIR instant: a date, a time with seconds and an offset
// (Z or ±hh:mm, 14:00 at most), with none to nine digits of a fraction. The
// calendar is checked; the leap second :60 counts as the second after :59. The
// result is in UTC, in the years 1 to 9999.
// Source: FHIR R4, Data Types, "instant".
func ParseInstant(s string) (time.Time, error) {
	p := dateParser{s: s}
	p.date(3)
	p.byte('T')
	p.clock(9)
	if p.bad {
		return time.Time{}, errInstantForm
	}
	if p.s == "" || p.s[0] == ' ' {
		return time.Time{}, errInstantSpace
	}
	p.offset(true)
	if p.bad || p.s != "" {
		return time.Time{}, errInstantForm
	}
	return p.time()
}

// ParseDateTime reads a FHIR date, dateTime or instant as servers write them:
// a year, month or day alone stands for its first moment, a missing offset for
// UTC; the offset may lack its colon or minutes, the fraction may have any
// number of digits, of which nine count. The result is in UTC, in the years 1
// to 9999. Source: FHIR R4, Data Types, "dateTime".
func ParseDateTime(s string) (time.Time, error) {
	start, _, err := parseRange(s)
	return start, err
}

// parseRange returns the first moment of a date or time, and the first moment
// after it: 2024-05 ends with May, 10:00:00 ends at 10:00:01.
func parseRange(s string) (start, end time.Time, err error) {
	p := dateParser{s: s}
	parts := p.date(1)
	hasClock := parts == 3 && p.s != "" && (p.s[0] == 'T' || p.s[0] == 't')
	if hasClock {
		p.s = p.s[1:]
		p.clock(1 << 20)
		if p.s != "" {
			p.offset(false)
		}
	}
	if p.bad || p.s != "" {
		return start, end, errDateForm
	}
	if start, err = p.time(); err != nil {
		return start, end, err
	}
	switch {
	case hasClock:
		end = start.Add(p.unit)
	case parts == 3:
		end = start.AddDate(0, 0, 1)
	case parts == 2:
		end = start.AddDate(0, 1, 0)
	default:
		end = start.AddDate(1, 0, 0)
	}
	return start, end, nil
}

// FormatInstant writes t as a FHIR instant in UTC, always with milliseconds;
// what is finer is cut off.
func FormatInstant(t time.Time) string {
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

// A dateParser eats a date from the front of s. After bad is set the rest has
// no meaning.
type dateParser struct {
	s                                      string
	bad                                    bool
	year, month, day, hour, minute, second int
	nanos                                  int
	east                                   int           // offset in seconds
	unit                                   time.Duration // of the last digit of the time of day
}

// digits eats n digits.
func (p *dateParser) digits(n int) (v int) {
	if len(p.s) < n {
		p.bad = true
		return 0
	}
	for _, c := range []byte(p.s[:n]) {
		if c < '0' || c > '9' {
			p.bad = true
			return 0
		}
		v = v*10 + int(c-'0')
	}
	p.s = p.s[n:]
	return v
}

func (p *dateParser) byte(c byte) {
	if p.s == "" || p.s[0] != c {
		p.bad = true
		return
	}
	p.s = p.s[1:]
}

// date eats a date of at least min parts, and returns the number of its parts.
func (p *dateParser) date(least int) (parts int) {
	p.month, p.day = 1, 1
	p.year = p.digits(4)
	for parts = 1; parts < 3 && !p.bad; parts++ {
		if parts >= least && (p.s == "" || p.s[0] != '-') {
			break
		}
		p.byte('-')
		if parts == 1 {
			p.month = p.digits(2)
		} else {
			p.day = p.digits(2)
		}
	}
	return parts
}

// clock eats hh:mm:ss and a fraction of at most limit digits.
func (p *dateParser) clock(limit int) {
	p.hour = p.digits(2)
	p.byte(':')
	p.minute = p.digits(2)
	p.byte(':')
	p.second = p.digits(2)
	p.unit = time.Second
	if p.bad || p.s == "" || p.s[0] != '.' {
		return
	}
	p.s = p.s[1:]
	n, scale := 0, 100_000_000
	for ; n < len(p.s) && p.s[n] >= '0' && p.s[n] <= '9'; n++ {
		p.nanos += int(p.s[n]-'0') * scale
		scale /= 10
		p.unit = max(p.unit/10, 1)
	}
	p.bad = n == 0 || n > limit
	p.s = p.s[n:]
}

// offset eats Z or an offset from UTC.
func (p *dateParser) offset(strict bool) {
	if p.s == "Z" || !strict && p.s == "z" {
		p.s = ""
		return
	}
	if p.s == "" || p.s[0] != '+' && p.s[0] != '-' {
		p.bad = true
		return
	}
	sign := 1
	if p.s[0] == '-' {
		sign = -1
	}
	p.s = p.s[1:]
	hours, minutes := p.digits(2), 0
	if strict || p.s != "" {
		if strict || p.s[0] == ':' {
			p.byte(':')
		}
		minutes = p.digits(2)
	}
	if hours > 14 || minutes > 59 || hours == 14 && minutes > 0 {
		p.bad = true
	}
	p.east = sign * (hours*3600 + minutes*60)
}

// time checks the calendar and returns the moment.
func (p *dateParser) time() (time.Time, error) {
	if p.month < 1 || p.month > 12 || p.hour > 23 || p.minute > 59 || p.second > 60 {
		return time.Time{}, errCalendar
	}
	t := time.Date(p.year, time.Month(p.month), p.day, 0, 0, 0, 0, time.UTC)
	if t.Day() != p.day || t.Month() != time.Month(p.month) || p.year < 1 {
		return time.Time{}, errCalendar
	}
	seconds := p.hour*3600 + p.minute*60 + p.second - p.east
	t = t.Add(time.Duration(seconds)*time.Second + time.Duration(p.nanos))
	if t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}, errCalendar
	}
	return t, nil
}
