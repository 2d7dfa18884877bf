package fhir

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// AppendLine appends the resource to dst as one line of NDJSON: white space
// between tokens is left out, all else is the resource's byte for byte, then
// one '\n'. So numbers keep their digits and strings their escapes. The error
// wraps ErrMalformed and means that resource is not one whole JSON object; dst
// is then returned unchanged. What it appends has no other line break.
func AppendLine(dst, resource []byte) ([]byte, error) {
	start := len(dst)
	i := 0
	for i < len(resource) && isSpace(resource[i]) {
		i++
	}
	if i == len(resource) || resource[i] != '{' {
		return dst, fmt.Errorf("%w: a resource is no JSON object", ErrMalformed)
	}
	from, depth := i, 0
	for i < len(resource) {
		switch c := resource[i]; {
		case c == '"':
			if i = lineString(resource, i); i < 0 {
				return dst[:start], fmt.Errorf("%w: a string does not end", ErrMalformed)
			}
			continue
		case c|0x20 == '{': // { or [
			depth++
		case c|0x20 == '}': // } or ]
			if depth--; depth == 0 {
				return endLine(dst, start, resource, from, i+1)
			}
		case c <= ' ':
			if !isSpace(c) {
				return dst[:start], fmt.Errorf("%w: a control character", ErrMalformed)
			}
			dst = append(dst, resource[from:i]...)
			for i < len(resource) && isSpace(resource[i]) {
				i++
			}
			from = i
			continue
		}
		i++
	}
	return dst[:start], fmt.Errorf("%w: a resource does not end", ErrMalformed)
}

// endLine appends the last run of the resource, which ends at end, and checks
// that nothing but white space follows.
func endLine(dst []byte, start int, resource []byte, from, end int) ([]byte, error) {
	for _, c := range resource[end:] {
		if !isSpace(c) {
			return dst[:start], fmt.Errorf("%w: something follows a resource", ErrMalformed)
		}
	}
	dst = append(dst, resource[from:end]...)
	return append(dst, '\n'), nil
}

// lineString is skipString, but also returns -1 for control characters, since
// a line break within a string would cut the line.
func lineString(b []byte, i int) int {
	i++
	for {
		if i+8 <= len(b) {
			w := binary.LittleEndian.Uint64(b[i:])
			// The last term marks bytes below 0x20. As in bytesEqual, the lowest
			// mark is exact.
			m := bytesEqual(w, '"') | bytesEqual(w, '\\') | (w-lows*0x20)&^w&highs
			if m == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(m) >> 3
		} else {
			for i < len(b) && b[i] != '"' && b[i] != '\\' && b[i] >= 0x20 {
				i++
			}
		}
		if i >= len(b) || b[i] < 0x20 {
			return -1
		}
		if b[i] == '"' {
			return i + 1
		}
		if i++; i >= len(b) || b[i] < 0x20 { // what a backslash escapes
			return -1
		}
		i++
	}
}
