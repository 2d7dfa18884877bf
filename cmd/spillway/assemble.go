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

// assemble moves the files of a completed job from storage to their names in
// the directory, and writes the manifest last. It may be repeated after an
// interruption at any moment. step is told the bytes of each file that is whole.
func (w workdir) assemble(ctx context.Context, j *jobs.Job, step func(bytes int64)) error {
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

func (w workdir) assembleFile(ctx context.Context, f jobs.File) error {
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
	if len(f.Segments) == 1 {
		return w.place(f.Segments[0], place)
	}
	return w.join(ctx, f, place)
}

// place gives the only segment of a file its name.
func (w workdir) place(s jobs.Segment, place string) error {
	have, err := os.Stat(w.segment(s))
	if err != nil {
		return err
	}
	if have.Size() != s.StoredSize {
		return errSegmentSize
	}
	return os.Rename(w.segment(s), place)
}

var errSegmentSize = errors.New("a segment has not the size that was recorded; remove the directory and export again")

// join appends the segments of a file, and frees their space when it is whole.
// gzip segments become one gzip member.
func (w workdir) join(ctx context.Context, f jobs.File, place string) error {
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
			if err := w.appendSegment(out, s); err != nil {
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
		if err := os.Remove(w.segment(s)); err != nil {
			return err
		}
	}
	return nil
}

func (w workdir) appendSegment(out *os.File, s jobs.Segment) error {
	in, err := os.Open(w.segment(s))
	if err != nil {
		return err
	}
	defer in.Close()
	have, err := in.Stat()
	if err != nil {
		return err
	}
	if have.Size() != s.StoredSize {
		return errSegmentSize
	}
	wanted := s.StoredSize
	if s.Encoding == jobs.EncodingGzip {
		offset, length := s.Blocks()
		if _, err := in.Seek(offset, io.SeekStart); err != nil {
			return err
		}
		wanted = length
	}
	_, err = io.CopyN(out, in, wanted) // between two files the kernel copies
	return err
}
