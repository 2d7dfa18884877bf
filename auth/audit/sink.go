package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// maxLine bounds a line.
const maxLine = 256 << 10

// A File is a sink that syncs to the disk what it is given. A file that was
// moved away or deleted is made anew.
type File struct {
	path string
	file handle
	size int64 // what is known to be whole
	last []byte
	torn int64
}

// A handle is what a File needs of an *os.File.
type handle interface {
	io.WriteCloser
	Sync() error
	Truncate(size int64) error
	Stat() (fs.FileInfo, error)
}

// OpenFile opens a file to append to, readable and writable by its owner
// alone. What a crash has left of a line at its end, which nobody was told is
// kept, is cut off.
func OpenFile(path string) (*File, error) {
	f := &File{path: path}
	if err := f.open(); err != nil {
		return nil, fmt.Errorf("audit: file: %w", bare(err))
	}
	return f, nil
}

// Torn returns how many bytes of a last line were cut off when the file was
// opened.
func (f *File) Torn() int64 { return f.torn }

func (f *File) open() error {
	file, err := os.OpenFile(f.path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		err = errors.New("another process writes to it")
	} else {
		err = f.inspect(file)
	}
	if err != nil {
		_ = file.Close() // nothing was written
		return err
	}
	f.file = file
	return nil
}

// inspect finds the last whole line and cuts off what follows it.
func (f *File) inspect(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("it is no regular file")
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := file.Chmod(0o600); err != nil {
			return err
		}
	}
	start := max(info.Size()-2*maxLine, 0)
	tail, err := io.ReadAll(io.NewSectionReader(file, start, info.Size()-start))
	if err != nil {
		return err
	}
	end := bytes.LastIndexByte(tail, '\n')
	if end < 0 && (start > 0 || len(tail) > maxLine) {
		return errors.New("it is no audit record")
	}
	f.size = start + int64(end) + 1
	if f.torn = info.Size() - f.size; f.torn > 0 {
		if err := file.Truncate(f.size); err != nil {
			return err
		}
	}
	f.last = nil
	if end >= 0 {
		whole := tail[:end]
		f.last = bytes.Clone(whole[bytes.LastIndexByte(whole, '\n')+1:])
	}
	return file.Sync()
}

// Last implements Sink.
func (f *File) Last() ([]byte, error) { return f.last, nil }

// Write implements Sink.
func (f *File) Write(lines []byte) error {
	if err := f.follow(); err != nil {
		return bare(err)
	}
	_, err := f.file.Write(lines)
	if err == nil {
		err = f.file.Sync()
	}
	if err == nil {
		f.size += int64(len(lines))
		return nil
	}
	if undo := f.file.Truncate(f.size); undo != nil { // or else half of it would be there
		_ = f.file.Close()
		f.file = nil // opened again, and cut, by the next Write
	}
	return bare(err)
}

// follow opens the file again if it is not the one of this name any more.
func (f *File) follow() error {
	if f.file != nil {
		there, err := os.Stat(f.path)
		if err == nil {
			if ours, err := f.file.Stat(); err == nil && os.SameFile(there, ours) {
				return nil
			}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		_ = f.file.Close() // all that it holds was synced
		f.file = nil
	}
	return f.open()
}

// Close implements Sink.
func (f *File) Close() error {
	if f.file == nil {
		return nil
	}
	return bare(f.file.Close())
}

// bare keeps the name of the file out of an error.
func bare(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// A Stream is a sink that cannot be read again, such as standard output. Its
// chain begins anew with each process.
type Stream struct{ w io.Writer }

// NewStream returns a sink that writes to w.
func NewStream(w io.Writer) Stream { return Stream{w} }

// Last implements Sink.
func (Stream) Last() ([]byte, error) { return nil, nil }

// Write implements Sink.
func (s Stream) Write(lines []byte) error {
	_, err := s.w.Write(lines)
	return err
}

// Close implements Sink. The writer stays open.
func (Stream) Close() error { return nil }
