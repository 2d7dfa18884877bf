package gateway

import (
	"strconv"
	"strings"
)

// A span is a range of bytes of a representation.
type span struct{ first, length int64 }

// readRange reads the Range header of a GET of size bytes. ok is false if the
// header is absent, malformed, or asks for several ranges: then the whole is
// sent. A span of length 0 cannot be satisfied. Source: RFC 9110, 14.2.
func readRange(header string, size int64) (s span, ok bool) {
	spec, found := strings.CutPrefix(header, "bytes=")
	if !found || strings.Contains(spec, ",") {
		return span{}, false
	}
	from, to, found := strings.Cut(strings.TrimSpace(spec), "-")
	if !found {
		return span{}, false
	}
	if from == "" { // the last bytes
		n, valid := digits(to)
		n = min(n, size)
		return span{first: size - n, length: n}, valid
	}
	first, valid := digits(from)
	last := size - 1
	if to != "" {
		wanted, validTo := digits(to)
		valid = valid && validTo && wanted >= first
		last = min(last, wanted)
	}
	if !valid {
		return span{}, false
	}
	if first >= size {
		return span{}, true
	}
	return span{first: first, length: last - first + 1}, true
}

// digits reads a number of decimal digits alone.
func digits(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// listsTag reports whether an If-None-Match header names the entity tag, by
// weak comparison. Source: RFC 9110, 13.1.2.
func listsTag(header, tag string) bool {
	if strings.TrimSpace(header) == "*" {
		return true
	}
	for listed := range strings.SplitSeq(header, ",") {
		if strings.TrimPrefix(strings.TrimSpace(listed), "W/") == tag {
			return true
		}
	}
	return false
}
