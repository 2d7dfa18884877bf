package disk

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"spillway/storage"
)

// Beside the objects that are files there may be objects in packs: files of
// their own that hold one object after another, without anything in between. So
// what was written in pieces need not be copied together at the end.
//
//	.packs/N      bytes of objects of one group; one writer at a time adds to it
//	.packs/index  what is where: one record for each object, durable after its bytes
//
// An object is there once its record is. What lies in a pack behind the last
// object has no meaning.
const (
	packFolder = ".packs"
	packIndex  = ".packs/index"
)

// packs is nil in a Store without.
type packs struct {
	groupOf func(key string) string
	size    int64

	// recording is held while a record is made durable and becomes true. It is
	// taken before Store.mu.
	recording sync.Mutex
	index     *os.File
	length    int64 // of the index

	// Guarded by Store.mu, as is what the packs say of themselves.
	objects map[string]place
	all     map[string]*pack
	next    int // number of the next pack
}

// A pack is one file.
type pack struct {
	name  string
	group string
	end   int64 // of its last object
	busy  bool  // a writer has it
}

// A place is where an object is.
type place struct {
	Pack   string    `json:"pack"`
	Offset int64     `json:"offset"`
	Size   int64     `json:"size"`
	Time   time.Time `json:"time"`
}

// A record is a line of the index.
type record struct {
	Key string `json:"key,omitempty"`
	place
	Group   string `json:"group,omitempty"`
	Removed string `json:"removed,omitempty"` // all objects under this folder
}

// openPacks reads the index. Packs that are not there any more were taken away
// by whoever used them up.
func (s *Store) openPacks(o Options) error {
	p := &packs{groupOf: o.Pack, size: o.PackSize, objects: map[string]place{}, all: map[string]*pack{}}
	if _, err := s.makeFolder(packFolder); err != nil {
		return err
	}
	if err := s.syncFolder("."); err != nil {
		return err
	}
	var err error
	if p.index, err = s.root.OpenFile(packIndex, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600); err != nil {
		return err
	}
	s.packs = p
	b, err := io.ReadAll(p.index)
	if err != nil {
		return err
	}
	whole := b[:bytes.LastIndexByte(b, '\n')+1] // the last record may have been cut off
	p.length = int64(len(whole))
	for line := range bytes.Lines(whole) {
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("the index of packs is damaged: %w", err)
		}
		if r.Removed != "" {
			p.remove(r.Removed)
			continue
		}
		p.objects[r.Key] = r.place
		p.pack(r.Pack, r.Group)
	}
	return s.settlePacks()
}

// settlePacks compares the index with the files.
func (s *Store) settlePacks() error {
	p := s.packs
	entries, err := fs.ReadDir(s.root.FS(), packFolder)
	if err != nil {
		return err
	}
	sizes := map[string]int64{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		name := path.Join(packFolder, e.Name())
		sizes[name] = info.Size()
		if p.all[name] == nil && name != packIndex { // made, but never added to
			if err := s.root.Remove(name); err != nil {
				return err
			}
		}
	}
	maps.DeleteFunc(p.objects, func(_ string, at place) bool {
		size, there := sizes[at.Pack]
		return !there || size < at.Offset+at.Size
	})
	for name, pk := range p.all {
		if _, there := sizes[name]; !there {
			delete(p.all, name)
		}
		pk.end = p.endOf(name)
	}
	return nil
}

// pack returns the pack of a name.
func (p *packs) pack(name, group string) *pack {
	if p.all[name] == nil {
		p.all[name] = &pack{name: name, group: group}
		var n int
		if _, err := fmt.Sscanf(path.Base(name), "%d", &n); err == nil {
			p.next = max(p.next, n+1)
		}
	}
	return p.all[name]
}

// endOf is where the last object of a pack ends.
func (p *packs) endOf(name string) (end int64) {
	for _, at := range p.objects {
		if at.Pack == name {
			end = max(end, at.Offset+at.Size)
		}
	}
	return end
}

// remove forgets the objects under a folder.
func (p *packs) remove(folder string) (any bool) {
	maps.DeleteFunc(p.objects, func(key string, _ place) bool {
		under := strings.HasPrefix(key, folder+"/")
		any = any || under
		return under
	})
	return any
}

// write makes a record durable. recording is held.
func (p *packs) write(r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if _, err := p.index.WriteAt(b, p.length); err != nil {
		return failed("write", err)
	}
	if err := unix.Fdatasync(int(p.index.Fd())); err != nil {
		return failed("sync", err)
	}
	p.length += int64(len(b))
	return nil
}

// A packWriter adds an object to a pack.
type packWriter struct {
	s     *Store
	key   string
	pack  *pack
	begin int64
	writing
}

// createPacked begins an object of a group.
func (s *Store) createPacked(key, group string) (storage.Writer, error) {
	w := &packWriter{s: s, key: key}
	fresh := false
	s.mu.Lock()
	if s.packs.holds(key) {
		s.mu.Unlock()
		return nil, storage.ErrExists
	}
	// The fullest one, so that there are as few as may be.
	for _, pk := range s.packs.all {
		if !pk.busy && pk.group == group && pk.end < s.packs.size && (w.pack == nil || pk.end > w.pack.end) {
			w.pack = pk
		}
	}
	if w.pack == nil {
		fresh = true
		w.pack = s.packs.pack(path.Join(packFolder, fmt.Sprint(s.packs.next)), group)
	}
	w.pack.busy, w.begin = true, w.pack.end
	s.unfinished[w] = struct{}{}
	s.mu.Unlock()
	if err := w.open(fresh); err != nil {
		if fresh {
			s.mu.Lock()
			delete(s.packs.all, w.pack.name)
			s.mu.Unlock()
		}
		_ = w.discard()
		return nil, failed("create", err)
	}
	return w, nil
}

// holds reports whether there is an object in the way of a key.
func (p *packs) holds(key string) bool {
	if _, taken := p.objects[key]; taken {
		return true
	}
	for folder := range parents(key) {
		if _, taken := p.objects[folder]; taken {
			return true
		}
	}
	return false
}

// open opens the pack and reads the block in which the object begins.
func (w *packWriter) open(fresh bool) (err error) {
	if fresh {
		w.out, err = w.s.takeOutput(w.pack.name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
		if err == nil {
			err = errors.Join(w.out.file.Chmod(0o600), w.s.syncFolder(packFolder))
		}
		return err
	}
	if w.out, err = w.s.takeOutput(w.pack.name, os.O_RDWR); err != nil {
		return err
	}
	w.out.at = w.begin / blockSize * blockSize
	if w.out.n = int(w.begin - w.out.at); w.out.n == 0 {
		return nil
	}
	if n, err := w.out.file.ReadAt(w.out.buffer[:blockSize], w.out.at); n < w.out.n {
		return cmp.Or(err, io.ErrUnexpectedEOF)
	}
	return nil
}

// Commit makes the object durable, and then visible.
func (w *packWriter) Commit(ctx context.Context) error {
	if w.out == nil {
		return errClosed
	}
	defer func() { _ = w.discard() }()
	if err := cmp.Or(ctx.Err(), w.err); err != nil {
		return err
	}
	if err := w.out.flush(); err != nil {
		return failed("write", err)
	}
	if err := unix.Fdatasync(int(w.out.file.Fd())); err != nil {
		return failed("sync", err)
	}
	p := w.s.packs
	p.recording.Lock()
	defer p.recording.Unlock()
	switch _, err := w.s.lstat(w.key); {
	case w.removed.Load():
		return errRemoved
	case err == nil:
		return storage.ErrExists
	case !errors.Is(err, fs.ErrNotExist):
		return failed("commit", err)
	}
	w.s.mu.Lock()
	taken := p.holds(w.key)
	w.s.mu.Unlock()
	if taken {
		return storage.ErrExists
	}
	at := place{Pack: w.pack.name, Offset: w.begin, Size: w.out.size() - w.begin, Time: time.Now()}
	if err := p.write(record{Key: w.key, place: at, Group: w.pack.group}); err != nil {
		return err
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	p.objects[w.key], w.pack.end = at, at.Offset+at.Size
	return nil
}

// Abort discards the object, if it was not committed.
func (w *packWriter) Abort() error { return w.discard() }

// discard lets go of the pack.
func (w *packWriter) discard() error {
	w.s.mu.Lock()
	_, unfinished := w.s.unfinished[w]
	delete(w.s.unfinished, w)
	if unfinished {
		w.pack.busy = false
	}
	w.s.mu.Unlock()
	if w.out == nil {
		return nil
	}
	err := w.s.giveBack(w.out)
	w.out = nil
	if err != nil {
		return failed("abort", err)
	}
	return nil
}

// removePacked removes the objects under a folder, and the packs that hold
// nothing then.
func (s *Store) removePacked(folder string) error {
	p := s.packs
	p.recording.Lock()
	defer p.recording.Unlock()
	s.mu.Lock()
	for w := range s.unfinished {
		if strings.HasPrefix(w.key, folder+"/") {
			w.removed.Store(true)
		}
	}
	s.mu.Unlock()
	if !slices.ContainsFunc(slices.Collect(maps.Keys(p.objects)), func(key string) bool { return strings.HasPrefix(key, folder+"/") }) {
		return nil
	}
	if err := p.write(record{Removed: folder}); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p.remove(folder)
	var errs []error
	for name, pk := range p.all {
		if pk.busy {
			continue
		}
		if pk.end = p.endOf(name); pk.end == 0 {
			delete(p.all, name)
			if err := s.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, failed("remove", err))
			}
		}
	}
	return errors.Join(errs...)
}

// placeOf says where a packed object is.
func (s *Store) placeOf(key string) (place, bool) {
	if s.packs == nil {
		return place{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.packs.objects[key]
	return at, ok
}

// packed returns the packed objects under a prefix in key order.
func (s *Store) packed(prefix string) (found []storage.Object) {
	if s.packs == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, at := range s.packs.objects {
		if strings.HasPrefix(key, prefix) {
			found = append(found, storage.Object{Key: key, Size: at.Size, Modified: at.Time})
		}
	}
	slices.SortFunc(found, func(a, b storage.Object) int { return strings.Compare(a.Key, b.Key) })
	return found
}

// Locate returns the file in which an object lies, and from where on.
// storage.ErrNotFound.
func (s *Store) Locate(ctx context.Context, key string) (file string, offset int64, err error) {
	if at, ok := s.placeOf(key); ok {
		return filepath.Join(s.root.Name(), filepath.FromSlash(at.Pack)), at.Offset, ctx.Err()
	}
	if _, err := s.object(ctx, key); err != nil {
		return "", 0, err
	}
	return filepath.Join(s.root.Name(), filepath.FromSlash(key)), 0, nil
}
