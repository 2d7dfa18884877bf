package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"spillway/gateway"
	"spillway/jobs"
	"spillway/storage"
)

// An assembler makes the files of a directory of what lies in its storage.
type assembler struct {
	workdir
	locate locator
	lie    map[string]int // how many segments lie in a file of the storage
}

// assemble moves the files of a completed job from storage to their names in
// the directory, and writes the manifest last. It may be repeated after an
// interruption at any moment. step is told the bytes of each file that is whole.
func (w *assembler) assemble(ctx context.Context, j *jobs.Job, step func(bytes int64)) error {
	if err := w.look(ctx, j.Files); err != nil {
		return err
	}
	for _, f := range j.Files {
		if err := w.assembleFile(ctx, f); err != nil {
			return fmt.Errorf("assembling %s: %w", f.Name, err)
		}
		step(storedSize(f))
	}
	if err := syncDir(w.path); err != nil {
		return err
	}
	return writeWhole(w.manifest(), func(f *os.File) error {
		return gateway.WriteManifest(f, j, fileName, false)
	})
}

// fileName is the name of a file in the directory, and its URL in the manifest.
func fileName(f jobs.File) string {
	if len(f.Segments) > 0 && f.Segments[0].Encoding == jobs.EncodingGzip {
		return f.Name + ".gz"
	}
	return f.Name
}

// storedSize is the size of a file in the directory.
func storedSize(f jobs.File) (n int64) {
	for _, s := range f.Segments {
		n += s.StoredSize
	}
	if extra := int64(len(f.Segments)) - 1; extra > 0 && f.Segments[0].Encoding == jobs.EncodingGzip {
		n -= extra * jobs.GzipOverhead // one frame is left
	}
	return n
}

func (w assembler) assembleFile(ctx context.Context, f jobs.File) error {
	name := fileName(f)
	if !storage.ValidKey(name) || filepath.Base(name) != name {
		return fmt.Errorf("%q is no name for a file", name)
	}
	place := filepath.Join(w.path, name)
	switch have, err := os.Lstat(place); {
	case err == nil && have.Mode().IsRegular() && have.Size() == storedSize(f):
		return nil // an earlier run came this far
	case err == nil:
		return errors.New("another file of this name is in the way")
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	at, alone, err := w.alone(ctx, f)
	if err != nil || !alone {
		return errors.Join(err, w.join(ctx, f, place))
	}
	return w.place(at, storedSize(f), place)
}

// look finds out what lies together.
func (w *assembler) look(ctx context.Context, files []jobs.File) error {
	w.lie = make(map[string]int)
	for _, f := range files {
		for _, s := range f.Segments {
			switch file, _, err := w.locate(ctx, s.Key); {
			case err == nil:
				w.lie[file]++
			case !errors.Is(err, storage.ErrNotFound): // else an earlier run has moved it
				return err
			}
		}
	}
	return nil
}

// alone reports whether a file holds the segments of f, one after another, and
// no others.
func (w assembler) alone(ctx context.Context, f jobs.File) (file string, alone bool, err error) {
	var end int64
	for i, s := range f.Segments {
		at, offset, err := w.locate(ctx, s.Key)
		if err != nil {
			return "", false, err
		}
		if i > 0 && (at != file || s.Encoding == jobs.EncodingGzip) || offset != end {
			return "", false, nil
		}
		file, end = at, end+s.StoredSize
	}
	return file, w.lie[file] == len(f.Segments), nil
}

// place gives a file its name. What is behind its size are leftovers.
func (w assembler) place(file string, size int64, place string) (err error) {
	have, err := os.Stat(file)
	switch {
	case err != nil:
		return err
	case have.Size() < size:
		return errSegmentSize
	case have.Size() > size:
		if err := cut(file, size); err != nil {
			return err
		}
	}
	return os.Rename(file, place)
}

// cut makes a file shorter.
func cut(file string, size int64) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Sync(), f.Close())
}

var errSegmentSize = errors.New("a segment has not the size that was recorded; remove the directory and export again")

// join appends the segments of a file, and frees their space when it is whole.
// gzip segments become one gzip member.
func (w assembler) join(ctx context.Context, f jobs.File, place string) error {
	joined := filepath.Join(w.state(), "joining")
	packed := f.Segments[0].Encoding == jobs.EncodingGzip
	if err := writeWhole(joined, func(out *os.File) error {
		if packed {
			if _, err := out.Write(jobs.GzipHeader()); err != nil {
				return err
			}
		}
		for _, s := range f.Segments {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			if err := w.appendSegment(ctx, out, s); err != nil {
				return err
			}
		}
		if packed {
			_, err := out.Write(f.Trailer())
			return err
		}
		return nil
	}); err != nil {
		return err
	}
	if err := os.Rename(joined, place); err != nil {
		return err
	}
	for _, s := range f.Segments {
		// Those that lie in a file with others go with the storage.
		if err := os.Remove(w.segment(s)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (w assembler) appendSegment(ctx context.Context, out *os.File, s jobs.Segment) error {
	file, from, err := w.locate(ctx, s.Key)
	if err != nil {
		return err
	}
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	have, err := in.Stat()
	if err != nil {
		return err
	}
	if have.Size() < from+s.StoredSize {
		return errSegmentSize
	}
	wanted := s.StoredSize
	if s.Encoding == jobs.EncodingGzip {
		offset, length := s.Blocks()
		from, wanted = from+offset, length
	}
	if _, err := in.Seek(from, io.SeekStart); err != nil {
		return err
	}
	_, err = io.CopyN(out, in, wanted) // between two files the kernel copies
	return err
}
