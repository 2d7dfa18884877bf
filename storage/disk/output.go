package disk

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// bufferSize is what is gathered before it is written to a file, in bytes.
	bufferSize = 256 << 10
	// blockSize is what direct writes are a multiple of, in place, length and
	// memory.
	blockSize = 4 << 10
)

// An output writes to a file in order, from some place on. Where the file
// system allows it, bytes go to the disk without a copy in the page cache: a
// segment is written once, synced at once and read much later or never, and the
// copy would cost more than all else that is done with the bytes.
type output struct {
	file   *os.File
	direct bool
	buffer []byte // bufferSize, aligned
	n      int    // bytes in it
	at     int64  // where in the file it belongs; a multiple of blockSize
}

// aligned returns a buffer that direct writes can be made of.
func aligned() []byte {
	b := make([]byte, bufferSize+blockSize)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) % blockSize
	return b[skip : skip+bufferSize]
}

// takeOutput opens a file for writing. The caller gives the output back.
func (s *Store) takeOutput(name string, flags int) (*output, error) {
	f, err := (*os.File)(nil), error(unix.EINVAL)
	direct := s.direct.Load()
	if direct {
		f, err = s.root.OpenFile(name, flags|unix.O_DIRECT, 0o600)
	}
	if errors.Is(err, unix.EINVAL) { // the file system does not do it
		if direct && flags&os.O_EXCL != 0 {
			_ = s.root.Remove(name) // it was made all the same
		}
		s.direct.Store(false)
		direct = false
		f, err = s.root.OpenFile(name, flags, 0o600)
	}
	if err != nil {
		return nil, err
	}
	o := &output{file: f, direct: direct}
	if b, ok := s.buffers.Get().(*[bufferSize]byte); ok {
		o.buffer = b[:]
	} else {
		o.buffer = aligned()
	}
	return o, nil
}

// giveBack closes the file.
func (s *Store) giveBack(o *output) error {
	s.buffers.Put((*[bufferSize]byte)(o.buffer))
	o.buffer = nil
	return o.file.Close()
}

// Write takes bytes. Whole buffers are written.
func (o *output) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		if o.n == 0 && len(p) >= bufferSize && o.suits(p) {
			k := len(p) / blockSize * blockSize
			if err := o.put(p[:k]); err != nil {
				return n, err
			}
			n, p = n+k, p[k:]
			continue
		}
		k := copy(o.buffer[o.n:], p)
		n, p = n+k, p[k:]
		if o.n += k; o.n == bufferSize {
			if err := o.put(o.buffer); err != nil {
				return n, err
			}
			o.n = 0
		}
	}
	return n, nil
}

// suits reports whether p can be written as it is.
func (o *output) suits(p []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(p)))%blockSize == 0
}

// put writes blocks.
func (o *output) put(p []byte) error {
	_, err := o.file.WriteAt(p, o.at)
	if o.direct && errors.Is(err, unix.EINVAL) { // larger blocks are asked for than anybody has
		if err = o.indirect(); err == nil {
			_, err = o.file.WriteAt(p, o.at)
		}
	}
	o.at += int64(len(p))
	return err
}

// indirect lets all that follows go through the page cache.
func (o *output) indirect() error {
	flags, err := unix.FcntlInt(o.file.Fd(), unix.F_GETFL, 0)
	if err == nil {
		_, err = unix.FcntlInt(o.file.Fd(), unix.F_SETFL, flags&^unix.O_DIRECT)
	}
	o.direct = false
	return err
}

// size is where in the file the next byte would go.
func (o *output) size() int64 { return o.at + int64(o.n) }

// flush writes the rest. What is in the file behind it has no meaning.
func (o *output) flush() error {
	if o.n == 0 {
		return nil
	}
	padded := (o.n + blockSize - 1) / blockSize * blockSize
	clear(o.buffer[o.n:padded])
	at := o.at
	err := o.put(o.buffer[:padded])
	o.at = at
	return err
}
