package fhir

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/go-json-experiment/json/jsontext"
)

const notJSON = "not JSON"

// A cursor walks over JSON that jsontext has already found valid, several
// times faster than a parser that must check. On other bytes it fails or
// returns nonsense, but it never panics, and every step consumes at least one
// byte or fails.
type cursor struct {
	b       []byte
	i       int
	depth   int    // containers open at i
	deepest int    // greatest depth met, skipped values included
	nameAt  int    // where the name that member last returned begins, with its quote
	problem string // why the walk ended early; "" while all is well
	at      int    // where that was
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

// fail ends the walk: from then on there are no members, elements or values.
func (c *cursor) fail(problem string) {
	if c.problem == "" {
		c.problem, c.at = problem, c.i
	}
	c.i = len(c.b)
}

// err returns an error that wraps ErrMalformed if the walk ended early.
func (c *cursor) err() error {
	if c.problem == "" {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrMalformed, c.problem)
}

// kind skips white space and returns the first byte of what comes next, 0 at
// the end.
func (c *cursor) kind() byte {
	for c.i < len(c.b) {
		if k := c.b[c.i]; !isSpace(k) {
			return k
		}
		c.i++
	}
	return 0
}

// open enters the container that begins with bracket, and reports whether the
// next value is one. If it is not, the cursor stays before the value.
func (c *cursor) open(bracket byte) bool {
	if c.kind() != bracket {
		return false
	}
	c.i++
	c.depth++
	c.deepest = max(c.deepest, c.depth)
	return true
}

// object enters an object that must stand next; where is for the error. After
// a failure there are no members.
func (c *cursor) object(where string) {
	if !c.open('{') {
		c.fail(where + " is no object")
	}
}

// element reports whether the array that was entered has another element, and
// leaves the array if not.
func (c *cursor) element() bool { return c.more(']') }

// member returns the name of the next member of the object that was entered,
// and leaves the object if there is none.
func (c *cursor) member() (name []byte, ok bool) {
	if !c.more('}') {
		return nil, false
	}
	if c.kind() != '"' {
		c.fail(notJSON)
		return nil, false
	}
	c.nameAt = c.i
	name = c.quoted()
	if c.kind() != ':' {
		c.fail(notJSON)
		return nil, false
	}
	c.i++
	return name, true
}

func (c *cursor) more(closing byte) bool {
	switch k := c.kind(); k {
	case closing:
		c.i++
		c.depth--
		return false
	case ',':
		c.i++
		return c.kind() != 0
	case 0:
		c.fail(notJSON)
		return false
	}
	return true
}

// value steps over the next value and returns its bytes, without the white
// space around it.
func (c *cursor) value() []byte {
	if c.kind() == 0 {
		c.fail(notJSON)
		return nil
	}
	start := c.i
	end, deep := skipValue(c.b, c.i)
	if end < 0 {
		c.fail(notJSON)
		return nil
	}
	c.deepest = max(c.deepest, c.depth+deep)
	c.i = end
	return c.b[start:end]
}

// text steps over the next value and returns the content of a string. ok is
// false if the value is of another kind.
func (c *cursor) text() (s []byte, ok bool) {
	if c.kind() != '"' {
		c.value()
		return nil, false
	}
	s = c.quoted()
	return s, c.problem == ""
}

// optionalText is text for a member that must be a string or null. where is
// for the error.
func (c *cursor) optionalText(where string) []byte {
	if c.kind() == 'n' {
		c.value()
		return nil
	}
	s, ok := c.text()
	if !ok {
		c.fail(where + " is no string")
	}
	return s
}

// quoted returns the content of the string that begins at the cursor. It
// copies only if the string has escapes.
func (c *cursor) quoted() []byte {
	start := c.i
	end, escaped := skipString(c.b, c.i)
	if end < 0 {
		c.fail(notJSON)
		return nil
	}
	c.i = end
	if !escaped {
		return c.b[start+1 : end-1]
	}
	s, err := jsontext.AppendUnquote(nil, c.b[start:end])
	if err != nil {
		c.fail(notJSON)
		return nil
	}
	return s
}

// skipValue returns the offset after the value that begins at b[i], and how
// many containers it nests. The offset is -1 if no value begins or ends there.
func skipValue(b []byte, i int) (end, deep int) {
	switch c := b[i]; {
	case c == '"':
		end, _ = skipString(b, i)
		return end, 0
	case c|0x20 == '{': // { or [
		return skipContainer(b, i)
	}
	start := i
	for i < len(b) {
		switch b[i] {
		case ',', '}', ']', ':', '"', '{', '[', ' ', '\n', '\r', '\t':
			if i == start {
				return -1, 0
			}
			return i, 0
		}
		i++
	}
	return i, 0
}

func skipContainer(b []byte, i int) (end, deep int) {
	depth := 0
	for i < len(b) {
		switch c := b[i]; {
		case c == '"':
			if i, _ = skipString(b, i); i < 0 {
				return -1, 0
			}
			continue
		case c|0x20 == '{': // { or [
			depth++
			deep = max(deep, depth)
		case c|0x20 == '}': // } or ]
			depth--
			if depth == 0 {
				return i + 1, deep
			}
		}
		i++
	}
	return -1, 0
}

// Eight bytes at a time: a byte of these words has its high bit set if the
// same byte of w is the one looked for. Only the lowest such bit is exact,
// which is the one that is used.
const (
	lows  = 0x0101010101010101
	highs = 0x8080808080808080
)

func bytesEqual(w uint64, c byte) uint64 {
	w ^= lows * uint64(c)
	return (w - lows) &^ w & highs
}

// skipString returns the offset after the string that begins at b[i], which
// must be its opening quote, and whether it has escapes. The offset is -1 if
// the string does not end.
func skipString(b []byte, i int) (end int, escaped bool) {
	i++
	for {
		if i+8 <= len(b) {
			w := binary.LittleEndian.Uint64(b[i:])
			m := bytesEqual(w, '"') | bytesEqual(w, '\\')
			if m == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(m) >> 3
		} else {
			for i < len(b) && b[i] != '"' && b[i] != '\\' {
				i++
			}
			if i >= len(b) {
				return -1, escaped
			}
		}
		if b[i] == '"' {
			return i + 1, escaped
		}
		escaped = true
		i += 2
	}
}
