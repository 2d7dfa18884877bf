package fhir

import (
	"errors"
	"io"
)

// Limits of ScanLimits where they are zero, and what a decoder may read ahead
// of the value whose size is bounded.
const (
	defaultResourceBytes = 16 << 20
	defaultBodyBytes     = 256 << 20
	defaultDepth         = 200
	readAhead            = 64 << 10
)

// ScanLimits bounds what a body may make us hold and read. The zero value has
// the defaults.
type ScanLimits struct {
	// ResourceBytes is the greatest size of one resource; 0: 16 MiB. Memory in
	// use stays below a small multiple of it whatever comes. All that stands
	// outside a Bundle's entries must fit into it too.
	ResourceBytes int64
	// PageBytes is the greatest size of a whole body, decompressed; 0: 256 MiB.
	PageBytes int64
	// Depth is the greatest nesting within a resource, whose own braces count
	// as 1; 0: 200.
	Depth int
	// Scratch is memory that one scan after another may use; nil: each has its
	// own. Two scans at the same time must not share it.
	Scratch *Scratch
}

// A Scratch is memory to scan with. The zero value is ready for use.
type Scratch struct{ window, line []byte }

// keptScratch is the greatest piece of memory that is kept for later, in bytes.
const keptScratch = 1 << 20

func (l ScanLimits) withDefaults() ScanLimits {
	if l.ResourceBytes <= 0 {
		l.ResourceBytes = defaultResourceBytes
	}
	if l.PageBytes <= 0 {
		l.PageBytes = defaultBodyBytes
	}
	if l.Depth <= 0 {
		l.Depth = defaultDepth
	}
	return l
}

// byteOrderMark in UTF-8 is what some servers put before a body.
const byteOrderMark = "\xef\xbb\xbf"

// A meter stands beneath a decoder and counts. The decoder buffers a value
// until it is whole, so the meter stops the reading, and with it the growth of
// the buffer, as soon as the value cannot fit the limit any more. It also
// swallows a byte order mark.
type meter struct {
	r     io.Reader
	want  string
	lim   ScanLimits
	n     int64 // bytes handed to the decoder
	mark  int64 // where the value being read begins
	begun bool
	head  []byte // read while looking for a byte order mark
	err   error  // what ended the reading, other than io.EOF
}

// A readError carries the error of the reader below through the decoder.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }

func (m *meter) Read(p []byte) (int, error) {
	if m.err != nil {
		return 0, m.err
	}
	if !m.begun {
		m.begun = true
		if err := m.begin(); err != nil {
			return 0, m.end(err)
		}
	}
	// One byte more than is allowed tells an exact fit from too much.
	body := m.lim.PageBytes + 1 - m.n
	value := m.mark + m.lim.ResourceBytes + readAhead + 1 - m.n
	if body <= 0 || value <= 0 {
		return 0, m.end(m.tooLarge(body <= 0))
	}
	p = p[:min(int64(len(p)), body, value)]
	if len(m.head) > 0 {
		n := copy(p, m.head)
		m.head = m.head[n:]
		m.n += int64(n)
		return n, nil
	}
	n, err := m.r.Read(p)
	m.n += int64(n)
	if m.n > m.lim.PageBytes {
		return 0, m.end(m.tooLarge(true))
	}
	return n, m.end(err)
}

// room is how many bytes may be read ahead: as many as surely bring no error.
func (m *meter) room() int64 { return m.mark + m.lim.ResourceBytes + readAhead - m.n }

// begin reads the first three bytes and drops them if they are a byte
// order mark.
func (m *meter) begin() error {
	m.head = make([]byte, 3)
	n, err := io.ReadFull(m.r, m.head)
	m.head = m.head[:n]
	if string(m.head) == byteOrderMark {
		m.head = nil
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		// A body of less than three bytes; its end shows at the next Read.
		return nil
	}
	return err
}

func (m *meter) tooLarge(body bool) *BodyError {
	e := &BodyError{Kind: ErrTooLarge, Want: m.want, Limit: "resource bytes", Max: m.lim.ResourceBytes}
	if body {
		e.Limit, e.Max = "body bytes", m.lim.PageBytes
	}
	return e
}

// end remembers what ended the reading.
func (m *meter) end(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	m.err = &readError{err}
	return m.err
}
