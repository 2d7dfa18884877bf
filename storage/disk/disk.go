// Package disk keeps objects as files under one folder of a local file system.
//
//	Open        takes the folder for this process and sweeps what others left half-written
//	output      blocks, past the page cache
//	writer      .tmp/RANDOM -> flush, fsync -> rename to its key -> fsync of the folder
//	packs       objects that lie one after another in a file, if wanted
//	Store.Open  a range of a file; List and Stat look at the same files
//	RemoveAll   a folder, and the temporary files of writers under it
//
// The key is the path. Names that begin with a dot are never keys, so ".tmp"
// (unfinished files) and ".lock" (held while a process uses the folder) lie
// beside the objects. Everything goes through os.Root, so no link leads out of
// the folder; links, pipes and devices inside it are refused. Folders have
// mode 0700 and files 0600, whatever the umask. Errors name no key: keys carry
// the ids of exports, and errors are logged.
//
// Renaming without overwriting needs no help from the file system: one process
// has the folder, and one mutex in it orders every rename.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"sync"
	"sync/atomic"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"spillway/storage"
)

const (
	tempFolder = ".tmp"
	lockFile   = ".lock"

	defaultMinFree = 1 << 30
)

var _ storage.Store = (*Store)(nil)

// Options of a Store. The zero value is ready to use.
type Options struct {
	// MinFree is how many bytes must be free on the file system for Ready and
	// Create to succeed. Zero means 1 GiB; a negative number means no check.
	MinFree int64
	// Pack names the group of an object that goes into a pack, "" for one that
	// is a file of its own. Objects of a group lie in a few files, one after
	// another; Locate says where. Nil means that all are files of their own.
	Pack func(key string) string
	// PackSize is the size in bytes from which nothing more is added to a pack.
	PackSize int64
	// Logger gets a warning if the folder is open to other users. Nil means
	// slog.Default.
	Logger *slog.Logger
}

// A Store keeps objects under a folder. Open makes one.
type Store struct {
	root    *os.Root
	self    *os.File    // the folder itself, for statfs
	lock    *os.File    // flock is held until it is closed
	minFree int64       // 0: no check
	buffers sync.Pool   // of *[bufferSize]byte, for outputs
	direct  atomic.Bool // outputs may try it

	packs *packs // nil: none

	mu         sync.Mutex               // orders making folders, renaming and dooming writers
	writers    map[*writer]struct{}     // unfinished ones
	unfinished map[*packWriter]struct{} // the same in packs
	durable    map[string]struct{}      // folders whose entry in their parent is known to be on disk
}

// Open takes the folder at path, which is made if it is missing, for this
// process alone, and removes what earlier processes left unfinished. It fails
// if another process has the folder.
func Open(path string, o Options) (*Store, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	s := &Store{
		minFree:    o.MinFree,
		writers:    map[*writer]struct{}{},
		unfinished: map[*packWriter]struct{}{},
		durable:    map[string]struct{}{},
	}
	s.direct.Store(true)
	switch {
	case o.MinFree == 0:
		s.minFree = defaultMinFree
	case o.MinFree < 0:
		s.minFree = 0
	}
	if err := s.open(path, o); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("disk: storage folder %s: %w", path, err)
	}
	return s, nil
}

func (s *Store) open(path string, o Options) error {
	if err := makeRoot(path, o.Logger); err != nil {
		return err
	}
	var err error
	if s.root, err = os.OpenRoot(path); err != nil {
		return err
	}
	if s.self, err = s.root.Open("."); err != nil {
		return err
	}
	if s.lock, err = s.takeLock(); err != nil {
		return err
	}
	if _, err := s.makeFolder(tempFolder); err != nil {
		return err
	}
	if err := s.sweep(); err != nil || o.Pack == nil {
		return err
	}
	return s.openPacks(o)
}

// makeRoot makes the folder where it is missing. An existing one keeps its
// mode, which is the operator's choice; what is made in it is closed anyway.
func makeRoot(path string, log *slog.Logger) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(path, 0o700); err != nil {
			return err
		}
		return os.Chmod(path, 0o700)
	case err != nil:
		return err
	case !info.IsDir():
		return errors.New("not a folder")
	case info.Mode().Perm()&0o077 != 0:
		log.Warn("the storage folder is open to other users of this machine; chmod 700 closes it",
			"folder", path, "mode", info.Mode().Perm().String())
	}
	return nil
}

func (s *Store) takeLock() (*os.File, error) {
	if info, err := s.root.Lstat(lockFile); err == nil && !info.Mode().IsRegular() {
		return nil, errors.New(lockFile + " in it is not a regular file; remove it")
	}
	f, err := s.root.OpenFile(lockFile, os.O_RDWR|os.O_CREATE|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.New("another process uses it; give each process a folder of its own")
		}
		return nil, fmt.Errorf("lock: %w", err)
	}
	return f, f.Chmod(0o600)
}

// sweep empties the folder of unfinished files. The lock is held, so nobody
// is writing them any more.
func (s *Store) sweep() error {
	entries, err := fs.ReadDir(s.root.FS(), tempFolder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := s.root.RemoveAll(path.Join(tempFolder, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Close gives the folder up. No other method may be running, and no writer
// may be used afterwards.
func (s *Store) Close() error {
	var errs []error
	if s.root != nil {
		errs = append(errs, s.root.Close())
	}
	if s.packs != nil && s.packs.index != nil {
		errs = append(errs, s.packs.index.Close())
	}
	for _, f := range []*os.File{s.self, s.lock} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Ready returns nil if at least MinFree bytes are free.
func (s *Store) Ready(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.minFree == 0 {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(s.self.Fd()), &st); err != nil {
		return fmt.Errorf("disk: free space: %w", err)
	}
	free := uint64(st.Bavail) * uint64(st.Bsize)
	if free < uint64(s.minFree) {
		return fmt.Errorf("%w: %s free on the storage folder's file system, %s wanted",
			storage.ErrFull, humanize.IBytes(free), humanize.IBytes(uint64(s.minFree)))
	}
	return nil
}

// lstat describes what lies at a key without following any link, neither at
// the key nor on the way to it. fs.ErrNotExist if there is nothing.
func (s *Store) lstat(key string) (fs.FileInfo, error) {
	for i := range len(key) {
		if key[i] != '/' {
			continue
		}
		info, err := s.root.Lstat(key[:i])
		if err != nil {
			return nil, err
		}
		if info.Mode().IsRegular() {
			return nil, fs.ErrNotExist
		}
		if !info.IsDir() {
			return nil, errPlanted
		}
	}
	return s.root.Lstat(key)
}

var errPlanted = errors.New("a link or special file lies in the storage folder; it is not ours, remove it")

// makeFolder makes one folder of the store and reports whether it did; an
// existing one must be a real one.
func (s *Store) makeFolder(name string) (made bool, err error) {
	err = s.root.Mkdir(name, 0o700)
	if err == nil {
		return true, s.root.Chmod(name, 0o700) // the umask may have taken bits away
	}
	if !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	info, err := s.root.Lstat(name)
	switch {
	case err != nil:
		return false, err
	case info.Mode().IsRegular():
		return false, fmt.Errorf("%w: a part of the key is itself an object", storage.ErrExists)
	case !info.IsDir():
		return false, errPlanted
	}
	return false, nil
}

// syncFolder makes the entries of a folder durable.
func (s *Store) syncFolder(name string) error {
	d, err := s.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// failed says which step went wrong. It drops the path, and a full file system
// becomes storage.ErrFull.
func failed(step string, err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	if l, ok := errors.AsType[*os.LinkError](err); ok {
		err = l.Err
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %s: %w", storage.ErrFull, step, err)
	}
	return fmt.Errorf("disk: %s: %w", step, err)
}
