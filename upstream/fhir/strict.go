package fhir

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// A strict steps over JSON from outside in one pass, several times faster than
// jsontext, and accepts only what jsontext accepts, too: no member name twice
// in an object, no invalid UTF-8, no half surrogate. It may refuse what is
// valid but rare (names with escapes or outside ASCII, very deep nesting), so
// whatever it refuses is read again by jsontext, which has the last word.
type strict struct {
	b       []byte
	i       int
	depth   int      // containers open at i
	deepest int      // greatest depth met
	names   []uint64 // of the members met in the open objects, as nameWord gives them
	spaced  bool     // white space stood between tokens
	failed  bool
	short   bool // failed because b ends: with more bytes it may go well
}

// strictDepth is the greatest depth that a strict goes to. It is above the
// usual limit, so that going deeper is an error in any case.
const strictDepth = 256

// reset begins anew at b[i].
func (s *strict) reset(b []byte, i int) {
	*s = strict{b: b, i: i, names: s.names[:0]}
}

func (s *strict) fail() {
	s.failed = true
	s.i = len(s.b)
}

// end fails because more bytes are needed. After another failure it changes nothing.
func (s *strict) end() {
	if !s.failed {
		s.short = true
		s.fail()
	}
}

// next skips white space and returns the first byte of what comes next, 0
// after a failure.
func (s *strict) next() byte {
	if s.i < len(s.b) && s.b[s.i] > ' ' {
		return s.b[s.i]
	}
	return s.nextSpaced()
}

func (s *strict) nextSpaced() byte {
	for s.i < len(s.b) {
		c := s.b[s.i]
		if !isSpace(c) {
			if c < ' ' {
				s.fail()
				return 0
			}
			return c
		}
		s.spaced = true
		s.i++
	}
	s.end()
	return 0
}

// enter steps over the bracket that opens a container, and returns what member
// wants to know of an object.
func (s *strict) enter() (mark int) {
	s.i++
	s.depth++
	s.deepest = max(s.deepest, s.depth)
	if s.depth > strictDepth {
		s.fail()
	}
	return len(s.names)
}

// member steps over the name of the next member of an object and its colon, or
// over the brace that closes the object. The name has no escapes.
func (s *strict) member(mark int) (name []byte, ok bool) {
	c := s.next()
	if c == '}' {
		s.i++
		s.depth--
		s.names = s.names[:mark]
		return nil, false
	}
	if len(s.names) > mark {
		if c != ',' {
			s.fail()
			return nil, false
		}
		s.i++
		c = s.next()
	}
	if c != '"' {
		s.fail()
		return nil, false
	}
	from := s.i + 1
	word := s.nameWord()
	for _, other := range s.names[mark:] {
		if other == word {
			s.fail() // the same name, or very rarely another
		}
	}
	if s.failed {
		return nil, false
	}
	s.names = append(s.names, word)
	name = s.b[from : s.i-1]
	if s.next() != ':' {
		s.fail()
		return nil, false
	}
	s.i++
	return name, true
}

// nameWord steps over a name and returns a word that is the same for the same
// name, and nearly always different for different ones.
func (s *strict) nameWord() (word uint64) {
	b, i := s.b, s.i+1
	for i+8 <= len(b) {
		w := binary.LittleEndian.Uint64(b[i:])
		m := special(w) | w&highs
		if m == 0 {
			word = mix(word, w)
			i += 8
			continue
		}
		n := bits.TrailingZeros64(m) >> 3
		if b[i+n] != '"' {
			s.fail()
			return 0
		}
		s.i = i + n + 1
		return mix(word, w&(1<<(8*n)-1))
	}
	var w uint64
	for n := 0; i < len(b); i, n = i+1, n+8 {
		switch c := b[i]; {
		case c == '"':
			s.i = i + 1
			return mix(word, w)
		case c < ' ', c == '\\', c >= utf8.RuneSelf:
			s.fail()
			return 0
		default:
			w |= uint64(c) << n
		}
	}
	s.end()
	return 0
}

func mix(word, w uint64) uint64 { return bits.RotateLeft64((word^w)*0x9e3779b97f4a7c15, 29) }

// special marks the bytes of w that are a quote, a backslash or a control
// character. As in bytesEqual, the lowest mark is exact.
func special(w uint64) uint64 {
	return bytesEqual(w, '"') | bytesEqual(w, '\\') | (w-lows*0x20)&^w&highs
}

// text steps over a string, which must come next, and returns what is between
// its quotes.
func (s *strict) text() (content []byte, escaped bool) {
	if s.next() != '"' {
		s.fail()
		return nil, false
	}
	b, from := s.b, s.i+1
	var seen uint64 // bytes met, and some after the string
	for i := from; ; {
		if i+8 <= len(b) {
			w := binary.LittleEndian.Uint64(b[i:])
			seen |= w
			m := special(w)
			if m == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(m) >> 3
		} else {
			for i < len(b) && b[i] != '"' && b[i] != '\\' && b[i] >= ' ' {
				seen |= uint64(b[i])
				i++
			}
			if i == len(b) {
				s.end()
				return nil, false
			}
		}
		switch b[i] {
		case '"':
			if seen&highs != 0 && !utf8.Valid(b[from:i]) {
				s.fail()
				return nil, false
			}
			s.i = i + 1
			return b[from:i], escaped
		case '\\':
			n := s.escape(i)
			if n == 0 {
				return nil, false
			}
			i += n
			escaped = true
		default:
			s.fail()
			return nil, false
		}
	}
}

// escape returns the length of the escape sequence at b[i], or fails and
// returns 0.
func (s *strict) escape(i int) int {
	if i+1 >= len(s.b) {
		s.end()
		return 0
	}
	switch s.b[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
	default:
		s.fail()
		return 0
	}
	switch r := s.hex(i + 2); {
	case r < 0:
		return 0
	case r&^0x7ff != 0xd800: // no half of a surrogate pair
		return 6
	case r&0x400 == 0: // the first half
		if i+8 > len(s.b) {
			s.end()
			return 0
		}
		if s.b[i+6] == '\\' && s.b[i+7] == 'u' {
			if r := s.hex(i + 8); r < 0 {
				return 0
			} else if r&^0x3ff == 0xdc00 {
				return 12
			}
		}
	}
	s.fail()
	return 0
}

// hex returns the number that four hexadecimal digits at b[i] are, or fails and
// returns a negative one.
func (s *strict) hex(i int) (r int) {
	if i+4 > len(s.b) {
		s.end()
		return -1
	}
	for _, c := range s.b[i : i+4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			s.fail()
			return -1
		}
		r = r<<4 | int(c)
	}
	return r
}

// value steps over the next value.
func (s *strict) value() {
	switch c := s.next(); c {
	case '"':
		s.text()
	case '{':
		mark := s.enter()
		for _, ok := s.member(mark); ok; _, ok = s.member(mark) {
			s.value()
		}
	case '[':
		s.array()
	case 't':
		s.literal("true")
	case 'f':
		s.literal("false")
	case 'n':
		s.literal("null")
	default:
		s.number()
	}
}

func (s *strict) array() {
	s.enter()
	if s.next() == ']' {
		s.i++
		s.depth--
		return
	}
	for {
		s.value()
		switch s.next() {
		case ',':
			s.i++
		case ']':
			s.i++
			s.depth--
			return
		default:
			s.fail()
			return
		}
	}
}

func (s *strict) literal(word string) {
	if s.i+len(word) > len(s.b) {
		s.end()
		return
	}
	if string(s.b[s.i:s.i+len(word)]) != word {
		s.fail()
		return
	}
	s.i += len(word)
}

// number steps over -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?
func (s *strict) number() {
	if s.at('-') {
		s.i++
	}
	if s.at('0') {
		s.i++
	} else {
		s.digits()
	}
	if s.at('.') {
		s.i++
		s.digits()
	}
	if s.at('e') || s.at('E') {
		s.i++
		if s.at('+') || s.at('-') {
			s.i++
		}
		s.digits()
	}
}

func (s *strict) at(c byte) bool { return s.i < len(s.b) && s.b[s.i] == c }

// digits steps over one or more digits.
func (s *strict) digits() {
	from := s.i
	for s.i < len(s.b) && s.b[s.i]-'0' <= 9 {
		s.i++
	}
	switch {
	case s.i == len(s.b):
		s.end()
	case s.i == from:
		s.fail()
	}
}
