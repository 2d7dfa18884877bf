package download

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
)

const (
	readBytes = 256 << 10
	// maxLine is the greatest length of a line that is held.
	maxLine = 256 << 20
)

// open opens a file of a directory as the lines it holds: inflated if it is
// compressed, whatever its name. done counts the bytes as stored.
func open(dir, name string, done *atomic.Int64) (io.Reader, io.Closer, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, nil, err
	}
	in := bufio.NewReaderSize(&counted{f, done}, readBytes)
	if magic, _ := in.Peek(2); !bytes.Equal(magic, []byte{0x1f, 0x8b}) { // JSON cannot begin so
		return in, f, nil
	}
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%w: %w", errPacked, err), f.Close())
	}
	return unpacking{z}, f, nil
}

// errPacked: a compressed file is damaged.
var errPacked = errors.New("it cannot be decompressed")

// unpacking tells a damaged file from one that cannot be read.
type unpacking struct{ z *gzip.Reader }

func (u unpacking) Read(p []byte) (int, error) {
	n, err := u.z.Read(p)
	var system *os.PathError
	if err != nil && err != io.EOF && !errors.As(err, &system) {
		err = fmt.Errorf("%w: %w", errPacked, err)
	}
	return n, err
}

// counted counts what is read.
type counted struct {
	r io.Reader
	n *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// errLongLine: a line is longer than maxLine. What follows it is not looked at.
var errLongLine = fmt.Errorf("a line is longer than %d bytes", maxLine)

// eachLine calls f with every line of r, without its line break, and saw with all
// bytes before. The bytes are valid until either returns.
func eachLine(r io.Reader, saw func([]byte), f func(line []byte) error) error {
	buf := make([]byte, 0, 2*readBytes)
	for {
		if len(buf) == cap(buf) {
			if len(buf) >= maxLine {
				return errLongLine
			}
			buf = append(make([]byte, 0, 2*cap(buf)), buf...)
		}
		old := len(buf)
		n, err := r.Read(buf[old:cap(buf)])
		buf = buf[:old+n]
		saw(buf[old:])
		rest := buf
		for search := old; ; search = 0 { // before old there is no line break
			i := bytes.IndexByte(rest[search:], '\n')
			if i < 0 {
				break
			}
			if err := f(rest[:search+i]); err != nil {
				return err
			}
			rest = rest[search+i+1:]
		}
		if err == io.EOF {
			if len(rest) > 0 {
				return f(rest)
			}
			return nil
		}
		if err != nil {
			return err
		}
		buf = buf[:copy(buf[:cap(buf)], rest)]
	}
}

// A hasher compares what passes with the segments of a file.
type hasher struct {
	segments []segment
	differs  func(n int, offset, line int64) // told of a segment that is not what it should be

	n            int   // the present segment
	offset, line int64 // where it begins
	left         int64 // bytes of it to come
	size, breaks int64 // of all that has passed
	sum          hash.Hash
}

func (h *hasher) write(p []byte) {
	for len(p) > 0 && h.n < len(h.segments) {
		if h.left == 0 {
			if h.sum == nil {
				h.sum = sha256.New()
			}
			h.sum.Reset()
			h.left, h.offset, h.line = h.segments[h.n].Size, h.size, h.breaks+1
		}
		part := p[:min(int64(len(p)), h.left)]
		h.sum.Write(part)
		h.pass(part)
		if h.left -= int64(len(part)); h.left == 0 {
			if hex.EncodeToString(h.sum.Sum(nil)) != h.segments[h.n].SHA256 {
				h.differs(h.n, h.offset, h.line)
			}
			h.n++
		}
		p = p[len(part):]
	}
	h.pass(p)
}

func (h *hasher) pass(p []byte) {
	h.size += int64(len(p))
	if h.n < len(h.segments) { // else nobody asks
		h.breaks += int64(bytes.Count(p, []byte{'\n'}))
	}
}
