package disk

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"spillway/storage"
)

var (
	errRemoved = errors.New("disk: the object was removed while it was being written")
	errClosed  = errors.New("disk: the writer has committed or aborted already")
)

// A writer is one unfinished object: a temporary file with a random name.
type writer struct {
	s    *Store
	key  string
	temp string // path of the temporary file
	writing
}

// writing takes bytes of an object, wherever it comes to lie.
type writing struct {
	out     *output     // nil after Commit and Abort
	err     error       // first of Write
	removed atomic.Bool // RemoveAll took it away
}

// Create begins an object. See storage.Store.
func (s *Store) Create(ctx context.Context, key string) (storage.Writer, error) {
	if !storage.ValidKey(key) {
		return nil, storage.ErrBadKey
	}
	if err := s.Ready(ctx); err != nil { // ctx too
		return nil, err
	}
	switch _, err := s.lstat(key); {
	case err == nil:
		return nil, storage.ErrExists
	case !errors.Is(err, fs.ErrNotExist):
		return nil, failed("create", err)
	}
	if s.packs != nil {
		if group := s.packs.groupOf(key); group != "" {
			return s.createPacked(key, group)
		}
		if _, taken := s.placeOf(key); taken {
			return nil, storage.ErrExists
		}
	}
	w := &writer{s: s, key: key, temp: path.Join(tempFolder, "."+rand.Text())}
	out, err := s.takeOutput(w.temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, failed("create", err)
	}
	if err := out.file.Chmod(0o600); err != nil { // the umask may have taken bits away
		_ = s.giveBack(out)
		_ = s.root.Remove(w.temp)
		return nil, failed("create", err)
	}
	w.out = out
	s.mu.Lock()
	s.writers[w] = struct{}{}
	s.mu.Unlock()
	return w, nil
}

// Write takes bytes of the object. storage.ErrFull if the file system is full.
func (w *writing) Write(p []byte) (int, error) {
	switch {
	case w.out == nil:
		return 0, errClosed
	case w.removed.Load():
		return 0, errRemoved
	case w.err != nil:
		return 0, w.err
	}
	n, err := w.out.Write(p)
	if err != nil {
		w.err = failed("write", err)
	}
	return n, w.err
}

// Commit makes the object visible and durable: bytes first, then the folders
// above it, then the name.
func (w *writer) Commit(ctx context.Context) error {
	if w.out == nil {
		return errClosed
	}
	defer func() { _ = w.discard() }() // after the rename there is nothing left to discard
	if err := ctx.Err(); err != nil {
		return err
	}
	if w.err != nil {
		return w.err
	}
	if err := w.out.flush(); err != nil {
		return failed("write", err)
	}
	if err := w.out.file.Truncate(w.out.size()); err != nil {
		return failed("write", err)
	}
	now := time.Now() // the last write may be long ago
	if err := w.s.root.Chtimes(w.temp, now, now); err != nil && !w.removed.Load() {
		return failed("commit", err)
	}
	// The folders are made before the file is synced: on journalling file
	// systems that sync writes them too, and theirs costs next to nothing.
	if err := w.makeParents(); err != nil {
		return err
	}
	if err := w.out.file.Sync(); err != nil {
		return failed("sync", err)
	}
	if err := w.syncParents(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := w.rename(); err != nil {
		return err
	}
	if err := w.s.syncFolder(path.Dir(w.key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failed("sync folder", err)
	}
	return nil
}

// Abort discards the object, if it was not committed.
func (w *writer) Abort() error {
	return w.discard()
}

// discard closes the temporary file and removes it, if it is still there.
func (w *writer) discard() error {
	if w.out == nil {
		return nil
	}
	err := w.s.giveBack(w.out)
	w.out = nil

	w.s.mu.Lock()
	_, unfinished := w.s.writers[w]
	delete(w.s.writers, w)
	w.s.mu.Unlock()
	if !unfinished {
		return nil // committed, or RemoveAll was here
	}
	if rerr := w.s.root.Remove(w.temp); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	if err != nil {
		return failed("abort", err)
	}
	return nil
}

// makeParents makes the folders above the key.
func (w *writer) makeParents() error {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	// Under the mutex, so that RemoveAll is not followed by an empty folder.
	if w.removed.Load() {
		return errRemoved
	}
	for folder := range parents(w.key) {
		made, err := w.s.makeFolder(folder)
		if err != nil {
			return failed("make folder", err)
		}
		if made {
			delete(w.s.durable, folder) // RemoveAll may have taken the former one
		}
	}
	return nil
}

// syncParents makes the folders above the key durable. Another writer may have
// made one a moment ago and not synced it yet, so what counts is not who made
// it but whether anybody has synced it since.
func (w *writer) syncParents() error {
	var fresh []string
	w.s.mu.Lock()
	for folder := range parents(w.key) {
		if _, known := w.s.durable[folder]; !known {
			fresh = append(fresh, folder)
		}
	}
	w.s.mu.Unlock()
	if len(fresh) == 0 {
		return nil
	}
	for _, folder := range fresh {
		if err := w.s.syncFolder(path.Dir(folder)); err != nil {
			if w.removed.Load() {
				return errRemoved
			}
			return failed("sync folder", err)
		}
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.removed.Load() {
		return errRemoved // and the folders with it
	}
	for _, folder := range fresh {
		w.s.durable[folder] = struct{}{}
	}
	return nil
}

// rename gives the object its key, unless the key is taken.
func (w *writer) rename() error {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.removed.Load() {
		return errRemoved
	}
	switch _, err := w.s.lstat(w.key); {
	case err == nil:
		return storage.ErrExists
	case !errors.Is(err, fs.ErrNotExist):
		return failed("commit", err)
	}
	if err := w.s.root.Rename(w.temp, w.key); err != nil {
		return failed("commit", err)
	}
	delete(w.s.writers, w)
	return nil
}

// parents yields the folders above a key, the outermost first.
func parents(key string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for i := range len(key) {
			if key[i] == '/' && !yield(key[:i]) {
				return
			}
		}
	}
}

// RemoveAll deletes every object under a prefix. See storage.Store. Writers
// under the prefix lose their bytes, and their Commit fails.
func (s *Store) RemoveAll(ctx context.Context, prefix string) error {
	folder, ok := strings.CutSuffix(prefix, "/")
	if !ok || !storage.ValidKey(folder) {
		return storage.ErrBadKey
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	errs := s.doom(folder)
	if s.packs != nil {
		if err := s.removePacked(folder); err != nil {
			errs = append(errs, err)
		}
	}
	info, err := s.lstat(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.Join(errs...)
	case err != nil:
		return errors.Join(append(errs, failed("remove", err))...)
	case info.Mode().IsRegular():
		return errors.Join(errs...) // an object beside the prefix, not under it
	}
	// Removed in place, so that after an error a second call goes on. A
	// planted link is removed itself, never what it leads to.
	if err := s.root.RemoveAll(folder); err != nil {
		errs = append(errs, failed("remove", err))
	}
	if err := s.syncFolder(path.Dir(folder)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, failed("sync folder", err))
	}
	return errors.Join(errs...)
}

// doom takes the temporary files of all unfinished writers under a folder.
func (s *Store) doom(folder string) (errs []error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.writers {
		if !strings.HasPrefix(w.key, folder+"/") {
			continue
		}
		w.removed.Store(true)
		delete(s.writers, w)
		if err := s.root.Remove(w.temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, failed("remove", err))
		}
	}
	for d := range s.durable {
		if d == folder || strings.HasPrefix(d, folder+"/") {
			delete(s.durable, d)
		}
	}
	return errs
}
