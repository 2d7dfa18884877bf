package disk

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"math"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"spillway/storage"
)

// A reader is a range of a file.
type reader struct {
	io.LimitedReader // of file
	file             *os.File
}

func (r *reader) Close() error { return r.file.Close() }

// WriteTo lets io.Copy use the kernel's own copying, where w can.
func (r *reader) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, &r.LimitedReader) }

// Open returns a range of an object. See storage.Store. A negative offset is
// an error.
func (s *Store) Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if offset < 0 {
		return nil, errors.New("disk: negative offset")
	}
	if at, packed := s.placeOf(key); packed {
		return s.openPacked(ctx, at, offset, length)
	}
	info, err := s.object(ctx, key)
	if err != nil {
		return nil, err
	}
	// O_NONBLOCK, in case a pipe has taken the name since: opening one would
	// otherwise wait for a writer.
	f, err := s.root.OpenFile(key, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, notFound("open", err)
	}
	opened, err := f.Stat()
	if err == nil && !os.SameFile(info, opened) {
		err = errPlanted
	}
	if err == nil {
		_, err = f.Seek(offset, io.SeekStart)
	}
	if err != nil {
		_ = f.Close()
		return nil, failed("open", err)
	}
	if length < 0 {
		length = math.MaxInt64
	}
	return &reader{io.LimitedReader{R: f, N: length}, f}, nil
}

// openPacked returns a range of an object in a pack.
func (s *Store) openPacked(ctx context.Context, at place, offset, length int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := s.root.OpenFile(at.Pack, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, notFound("open", err)
	}
	offset = min(offset, at.Size)
	if length < 0 {
		length = at.Size
	}
	if _, err := f.Seek(at.Offset+offset, io.SeekStart); err != nil {
		_ = f.Close()
		return nil, failed("open", err)
	}
	return &reader{io.LimitedReader{R: f, N: min(length, at.Size-offset)}, f}, nil
}

// Stat describes an object. See storage.Store.
func (s *Store) Stat(ctx context.Context, key string) (storage.Object, error) {
	if at, packed := s.placeOf(key); packed {
		return storage.Object{Key: key, Size: at.Size, Modified: at.Time}, ctx.Err()
	}
	info, err := s.object(ctx, key)
	if err != nil {
		return storage.Object{}, err
	}
	return describe(key, info), nil
}

// object returns the regular file at a key.
func (s *Store) object(ctx context.Context, key string) (fs.FileInfo, error) {
	if !storage.ValidKey(key) {
		return nil, storage.ErrBadKey
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	info, err := s.lstat(key)
	switch {
	case err != nil:
		return nil, notFound("open", err)
	case info.IsDir():
		return nil, storage.ErrNotFound
	case !info.Mode().IsRegular():
		return nil, failed("open", errPlanted)
	}
	return info, nil
}

func describe(key string, info fs.FileInfo) storage.Object {
	return storage.Object{Key: key, Size: info.Size(), Modified: info.ModTime()}
}

func notFound(step string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return storage.ErrNotFound
	}
	return failed(step, err)
}

// List yields the objects under a prefix in key order. See storage.Store.
// Links and special files are passed over.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[storage.Object, error] {
	files := s.files(ctx, prefix)
	if s.packs == nil {
		return files
	}
	return func(yield func(storage.Object, error) bool) {
		packed := s.packed(prefix)
		for o, err := range files {
			for err == nil && len(packed) > 0 && packed[0].Key < o.Key {
				if !yield(packed[0], nil) {
					return
				}
				packed = packed[1:]
			}
			if !yield(o, err) || err != nil {
				return
			}
		}
		for _, o := range packed {
			if err := ctx.Err(); err != nil {
				yield(storage.Object{}, err)
				return
			}
			if !yield(o, nil) {
				return
			}
		}
	}
}

// files yields the objects that are files of their own.
func (s *Store) files(ctx context.Context, prefix string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(storage.Object{}, err)
			return
		}
		folder := ""
		if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
			folder = prefix[:i]
			if !storage.ValidKey(folder) {
				return // no key begins like this
			}
			switch info, err := s.lstat(folder); {
			case errors.Is(err, fs.ErrNotExist), err == nil && !info.IsDir():
				return
			case err != nil:
				yield(storage.Object{}, failed("list", err))
				return
			}
		}
		if err := s.walk(ctx, folder, prefix, yield); err != nil && !errors.Is(err, errStop) {
			yield(storage.Object{}, err)
		}
	}
}

var errStop = errors.New("disk: no more wanted")

// walk yields what lies in one folder and below it.
func (s *Store) walk(ctx context.Context, folder, prefix string, yield func(storage.Object, error) bool) error {
	entries, err := s.entries(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		key := e.name
		if folder != "" {
			key = folder + "/" + e.name
		}
		if !storage.ValidKey(key) {
			continue
		}
		if e.folder {
			if strings.HasPrefix(key+"/", prefix) || strings.HasPrefix(prefix, key+"/") {
				if err := s.walk(ctx, key, prefix, yield); err != nil {
					return err
				}
			}
			continue
		}
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		info, err := s.root.Lstat(key)
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed since
			continue
		case err != nil:
			return failed("list", err)
		case !info.Mode().IsRegular():
			continue
		}
		if !yield(describe(key, info), nil) {
			return errStop
		}
	}
	return nil
}

type entry struct {
	name   string
	folder bool
}

// entries lists a folder so that walking it yields keys in order: a folder
// stands where its name with a slash would, which is after "a-b" and before "ab".
func (s *Store) entries(folder string) ([]entry, error) {
	if folder == "" {
		folder = "."
	}
	d, err := s.root.Open(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // removed since
	}
	if err != nil {
		return nil, failed("list", err)
	}
	found, err := d.ReadDir(-1)
	_ = d.Close()
	if err != nil {
		return nil, failed("list", err)
	}
	entries := make([]entry, 0, len(found))
	for _, f := range found {
		if f.IsDir() || f.Type().IsRegular() {
			entries = append(entries, entry{f.Name(), f.IsDir()})
		}
	}
	order := func(e entry) string {
		if e.folder {
			return e.name + "/"
		}
		return e.name
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(order(a), order(b)) })
	return entries, nil
}
