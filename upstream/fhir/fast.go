package fhir

import (
	"bytes"
	"io"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Sizes in bytes: what a page is read through, and what strings of entries are
// gathered in.
const (
	windowBytes = 64 << 10
	textBytes   = 4 << 10
)

// A window is what lies in memory of a body whose reading a strict has taken
// over from the decoder.
type window struct {
	b    []byte
	pos  int   // where the next element begins, with its comma
	base int64 // offset of b[0] in the body
	err  error // what ended the reading
}

// fastEntries reads entries, from within their array, for as long as a strict
// accepts them. What it does not accept, be it the end of the array, is left to
// the decoder, which then stands before it. So an error is always worded by the
// decoder, and a strict decides nothing but speed.
func (s *bundleScan) fastEntries() error {
	w := window{base: s.offset()}
	head := s.dec.UnreadBuffer()
	if scratch := s.lim.Scratch; scratch != nil {
		w.b = scratch.window[:0]
		defer func() {
			if cap(w.b) <= keptScratch {
				scratch.window = w.b // others may use it once all of the body is read
			}
		}()
	}
	if cap(w.b) < max(windowBytes, 2*len(head)) {
		w.b = make([]byte, 0, max(windowBytes, 2*len(head)))
	}
	w.b = append(w.b, head...)
	for any := false; ; {
		s.mark(w.base + int64(w.pos))
		s.fast.reset(w.b, w.pos)
		var e rawEntry
		switch {
		case s.fast.element(&e, any) && s.fits(&e):
			any = true
			w.pos = s.fast.i
			s.page.Entries++
			if err := s.keep(&e, s.fast.spaced); err != nil {
				return err
			}
			if err := s.visit(&s.entry); err != nil {
				return err
			}
		case s.fast.short && w.err == nil && s.m.room() > 0:
			w.more(&s.m)
		default:
			return s.giveBack(&w, any)
		}
	}
}

func (s *bundleScan) fits(e *rawEntry) bool {
	return int64(len(e.resource)) <= s.lim.ResourceBytes && e.deep <= s.lim.Depth
}

// more reads on: what there is, or for a large element until there is twice as
// much of it, so that scanning it again and again costs little.
func (w *window) more(m *meter) {
	have := len(w.b) - w.pos
	if w.base += int64(w.pos); 2*have > cap(w.b) {
		w.b = append(make([]byte, 0, 4*have), w.b[w.pos:]...)
	} else {
		w.b = w.b[:copy(w.b, w.b[w.pos:])]
	}
	w.pos = 0
	want := have + 1
	if have > windowBytes/4 {
		want = 2 * have
	}
	for w.err == nil && len(w.b) < want && m.room() > 0 {
		free := w.b[len(w.b):cap(w.b)]
		var n int
		n, w.err = m.Read(free[:min(int64(len(free)), m.room())])
		w.b = w.b[:len(w.b)+n]
	}
}

// giveBack lets the decoder go on from the window, within the array of entries.
// It is told the names of the members before, so that it finds one that comes
// again.
func (s *bundleScan) giveBack(w *window, any bool) error {
	prefix := []byte{'{'}
	for _, name := range s.names {
		var err error
		if prefix, err = jsontext.AppendQuote(prefix, name); err != nil {
			return err // the decoder has read it, so it cannot be
		}
		prefix = append(prefix, ":null,"...)
	}
	prefix = append(bytes.TrimSuffix(prefix, []byte("null,")), '[')
	if any {
		prefix = append(prefix, "null"...)
	}
	s.before = w.base + int64(w.pos) - int64(len(prefix))
	s.dec.Reset(io.MultiReader(bytes.NewReader(prefix), bytes.NewReader(w.b[w.pos:]), &s.m), decoding()...)
	for s.dec.InputOffset() < int64(len(prefix)) {
		if _, err := s.dec.ReadToken(); err != nil {
			return s.fail(err)
		}
	}
	return nil
}

// element steps over an entry that stands in an array, after a comma if it is
// not the first.
func (s *strict) element(e *rawEntry, comma bool) bool {
	if comma {
		if s.next() != ',' {
			s.fail()
			return false
		}
		s.i++
	}
	s.entry(e)
	return !s.failed
}

// entry steps over an entry and fills e. spaced is then about its resource.
func (s *strict) entry(e *rawEntry) {
	if s.next() != '{' {
		s.fail()
		return
	}
	spaced := false
	mark := s.enter()
	for name, ok := s.member(mark); ok; name, ok = s.member(mark) {
		if string(name) == "resource" {
			s.resource(e)
			spaced = s.spaced
			continue
		}
		c := s.checked()
		e.member(string(name), &c)
		s.agree(&c)
	}
	s.spaced = spaced
}

// resource steps over a resource and fills e.
func (s *strict) resource(e *rawEntry) {
	if s.next() != '{' {
		s.fail()
		return
	}
	start, outside := s.i, s.depth
	s.deepest = outside
	s.spaced = false
	mark := s.enter()
	for name, ok := s.member(mark); ok; name, ok = s.member(mark) {
		switch string(name) {
		case "resourceType":
			e.header.typ = s.plain()
		case "id":
			e.header.id = s.plain()
		case "meta":
			c := s.checked()
			e.header.readMeta(&c)
			s.agree(&c)
		default:
			s.value()
		}
	}
	if !s.failed {
		e.resource, e.deep = s.b[start:s.i:s.i], s.deepest-outside
	}
}

// plain steps over a string without escapes and returns its content.
func (s *strict) plain() []byte {
	content, escaped := s.text()
	if escaped {
		s.fail()
	}
	return content
}

// checked steps over the next value and returns a cursor before it.
func (s *strict) checked() cursor {
	s.next()
	start := s.i
	s.value()
	return cursor{b: s.b[:s.i], i: start}
}

// agree fails if the walk of c did.
func (s *strict) agree(c *cursor) {
	if c.problem != "" {
		s.fail()
	}
}

// A texts makes strings that share memory, a few dozen entries at a time.
type texts struct{ strings.Builder }

// add returns b as a string.
func (t *texts) add(b []byte) string {
	if t.Len()+len(b) > t.Cap() {
		t.Reset()
		t.Grow(max(textBytes, len(b)))
	}
	from := t.Len()
	t.Write(b)
	return t.String()[from:]
}
