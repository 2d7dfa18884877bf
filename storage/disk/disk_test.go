package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"spillway/storage"
	"spillway/storage/storagetest"
	"spillway/test/testenv"
)

func TestStore(t *testing.T) {
	for _, direct := range []bool{true, false} { // as file systems do and do not allow it
		t.Run(fmt.Sprintf("Direct=%t", direct), func(t *testing.T) {
			storagetest.Run(t, func(t *testing.T) storage.Store {
				s := open(t, t.TempDir())
				s.direct.Store(direct)
				return s
			})
		})
	}
}

// With all objects in packs the contract is the same.
func TestPackedStore(t *testing.T) {
	for _, direct := range []bool{true, false} {
		t.Run(fmt.Sprintf("Direct=%t", direct), func(t *testing.T) {
			storagetest.Run(t, func(t *testing.T) storage.Store {
				s := openPacked(t, t.TempDir())
				s.direct.Store(direct)
				return s
			})
		})
	}
}

func openPacked(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path, Options{
		MinFree: -1, Logger: slog.New(slog.DiscardHandler), PackSize: 1 << 20,
		Pack: func(key string) string { return "all" },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Errorf("Close = %v", err)
		}
	})
	return s
}

// Sizes around those of blocks and buffers come back as they were written, in
// pieces that fit and that do not.
func TestSizes(t *testing.T) {
	for _, direct := range []bool{true, false} {
		s := open(t, t.TempDir())
		s.direct.Store(direct)
		text := aligned()
		text = append(text[:bufferSize:bufferSize], text...)
		for i := range text {
			text[i] = byte(i * i >> 7)
		}
		for _, size := range []int{0, 1, blockSize - 1, blockSize, blockSize + 1, bufferSize - 1, bufferSize, bufferSize + 1, len(text)} {
			for _, piece := range []int{1000, blockSize, bufferSize, len(text)} {
				key := fmt.Sprintf("a/%d-%d", size, piece)
				w, err := s.Create(t.Context(), key)
				if err != nil {
					t.Fatal(err)
				}
				for p := range slices.Chunk(text[:size], piece) {
					if _, err := w.Write(p); err != nil {
						t.Fatal(err)
					}
				}
				if err := w.Commit(t.Context()); err != nil {
					t.Fatal(err)
				}
				r, err := s.Open(t.Context(), key, 0, -1)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(r)
				if err != nil || !bytes.Equal(got, text[:size]) {
					t.Errorf("direct %t: %d bytes in pieces of %d come back as %d bytes, %v", direct, size, piece, len(got), err)
				}
				_ = r.Close()
			}
		}
	}
}

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path, Options{MinFree: -1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Errorf("Close = %v", err)
		}
	})
	return s
}

func put(t *testing.T, s *Store, key string) {
	t.Helper()
	w, err := s.Create(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, key); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// tree lists all there is in a folder but the lock.
func tree(t *testing.T, path string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(path, p)
		if err == nil && rel != "." && rel != lockFile && rel != tempFolder {
			found = append(found, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestModesWhateverTheUmask(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o277} {
		path := filepath.Join(t.TempDir(), "files")
		func() {
			defer unix.Umask(unix.Umask(umask))
			s := open(t, path)
			put(t, s, "a/b/c")
			w, err := s.Create(t.Context(), "a/unfinished")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = w.Abort() })
		}()
		err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			want := fs.FileMode(0o600)
			if d.IsDir() {
				want = fs.ModeDir | 0o700
			}
			if info.Mode() != want {
				t.Errorf("umask %#o: %s has mode %v, want %v", umask, d.Name(), info.Mode(), want)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpenToOthersIsWarnedAbout(t *testing.T) {
	path := t.TempDir()
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s, err := Open(path, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if !strings.Contains(log.String(), "open to other users") {
		t.Errorf("log = %q, want a warning", log.String())
	}
}

func TestOneProcessAtATime(t *testing.T) {
	path := t.TempDir()
	first := open(t, path)
	if s, err := Open(path, Options{}); err == nil {
		_ = s.Close()
		t.Fatal("a second Open of the same folder succeeded")
	} else if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "another process uses it") {
		t.Errorf("a second Open = %v, want it to name the folder and the reason", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, path)
}

func TestOpenRefuses(t *testing.T) {
	for name, plant := range map[string]func(dir string) error{
		"file in place of the folder": func(dir string) error { return errors.Join(os.Remove(dir), os.WriteFile(dir, nil, 0o600)) },
		"link in place of the lock":   func(dir string) error { return os.Symlink("elsewhere", filepath.Join(dir, lockFile)) },
		"pipe in place of the lock":   func(dir string) error { return unix.Mkfifo(filepath.Join(dir, lockFile), 0o600) },
		"link in place of temp":       func(dir string) error { return os.Symlink(os.TempDir(), filepath.Join(dir, tempFolder)) },
		"file in place of temp":       func(dir string) error { return os.WriteFile(filepath.Join(dir, tempFolder), nil, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "files")
			if err := errors.Join(os.Mkdir(dir, 0o700), plant(dir)); err != nil {
				t.Fatal(err)
			}
			if s, err := Open(dir, Options{}); err == nil {
				_ = s.Close()
				t.Error("Open succeeded")
			}
		})
	}
}

func TestFreeSpace(t *testing.T) {
	s, err := Open(t.TempDir(), Options{MinFree: math.MaxInt64})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if err := s.Ready(t.Context()); !errors.Is(err, storage.ErrFull) || !strings.Contains(err.Error(), "8.0 EiB wanted") {
		t.Errorf("Ready = %v, want ErrFull with the figures", err)
	}
	if _, err := s.Create(t.Context(), "a"); !errors.Is(err, storage.ErrFull) {
		t.Errorf("Create = %v, want ErrFull", err)
	}
	enough, err := Open(t.TempDir(), Options{MinFree: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = enough.Close() }()
	if err := enough.Ready(t.Context()); err != nil {
		t.Errorf("Ready with a byte wanted = %v", err)
	}
}

// A device that is always full stands for a file system that fills up while an
// object is being written.
func TestFullWhileWriting(t *testing.T) {
	path := t.TempDir()
	s := open(t, path)
	for _, size := range []int{10, bufferSize + 1} {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			testenv.Skip(t, "devfull", "there is no /dev/full here")
		}
		created, err := s.Create(t.Context(), "a/b")
		if err != nil {
			t.Fatal(err)
		}
		w := created.(*writer)
		_ = w.out.file.Close()
		w.out.file = full
		_, werr := w.Write(make([]byte, size))
		if (werr != nil) != (size > bufferSize) || werr != nil && !errors.Is(werr, storage.ErrFull) {
			t.Errorf("Write of %d bytes = %v, want ErrFull once the buffer is full", size, werr)
		}
		if err := w.Commit(t.Context()); !errors.Is(err, storage.ErrFull) {
			t.Errorf("Commit = %v, want ErrFull", err)
		}
		_ = full.Close()
		if left := tree(t, path); len(left) != 0 {
			t.Errorf("left behind: %q", left)
		}
	}
	put(t, s, "a/b")
}

func TestPlanted(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	plants := map[string]func(at string) error{
		"link to a file outside":   func(at string) error { return os.Symlink(secret, at) },
		"link to a file inside":    func(at string) error { return os.Symlink("real", at) },
		"link to nothing":          func(at string) error { return os.Symlink("nothing", at) },
		"link to a folder outside": func(at string) error { return os.Symlink(outside, at) },
		"pipe":                     func(at string) error { return unix.Mkfifo(at, 0o600) },
		"socket":                   func(at string) error { return unix.Mknod(at, unix.S_IFSOCK|0o600, 0) },
	}
	for name, plant := range plants {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			s := open(t, path)
			put(t, s, "job/real")
			if err := plant(filepath.Join(path, "job", "planted")); err != nil {
				t.Fatal(err)
			}
			if r, err := s.Open(t.Context(), "job/planted", 0, -1); err == nil {
				b, _ := io.ReadAll(r)
				t.Errorf("Open gave %q", b)
			} else if strings.Contains(err.Error(), "planted") {
				t.Errorf("the error names the key: %v", err)
			}
			if _, err := s.Stat(t.Context(), "job/planted"); err == nil {
				t.Error("Stat succeeded")
			}
			if w, err := s.Create(t.Context(), "job/planted"); err == nil {
				t.Errorf("Create succeeded, then Commit = %v", w.Commit(t.Context()))
			}
			if w, err := s.Create(t.Context(), "job/planted/x"); err == nil {
				if err := w.Commit(t.Context()); err == nil {
					t.Error("an object was written below the planted name")
				}
			}
			for o, err := range s.List(t.Context(), "") {
				if err != nil || o.Key != "job/real" {
					t.Errorf("List gave %q, %v", o.Key, err)
				}
			}
			for o, err := range s.List(t.Context(), "job/planted/") {
				if err == nil {
					t.Errorf("List went through the planted name to %q", o.Key)
				}
			}
			if err := s.RemoveAll(t.Context(), "job/planted/secret/"); err == nil {
				t.Error("RemoveAll went through the planted name")
			}
			for _, prefix := range []string{"job/planted/", "job/"} { // the name itself may go
				if err := s.RemoveAll(t.Context(), prefix); err != nil {
					t.Errorf("RemoveAll(%q) = %v", prefix, err)
				}
			}
			if left := tree(t, path); len(left) != 0 {
				t.Errorf("left after RemoveAll: %q", left)
			}
			if b, err := os.ReadFile(secret); err != nil || string(b) != "secret" {
				t.Errorf("what lies outside was touched: %q, %v", b, err)
			}
			if found, _ := os.ReadDir(outside); len(found) != 1 {
				t.Errorf("outside there are %d entries, want 1", len(found))
			}
		})
	}
}

// A folder that is replaced by a link while a writer is at work.
func TestFolderReplacedDuringWrite(t *testing.T) {
	path, outside := t.TempDir(), t.TempDir()
	s := open(t, path)
	put(t, s, "job/one")
	w, err := s.Create(t.Context(), "job/two")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(path, "job")), os.Symlink(outside, filepath.Join(path, "job"))); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context()); err == nil {
		t.Error("Commit through a link succeeded")
	}
	if found, _ := os.ReadDir(outside); len(found) != 0 {
		t.Errorf("%d files outside", len(found))
	}
	if left := tree(t, path); len(left) != 1 {
		t.Errorf("in the folder: %q, want the link alone", left)
	}
}

func TestRemoveAllTakesUnfinishedBytes(t *testing.T) {
	path := t.TempDir()
	s := open(t, path)
	created, err := s.Create(t.Context(), "job/a/b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := created.Write(make([]byte, bufferSize+1)); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveAll(t.Context(), "job/"); err != nil {
		t.Fatal(err)
	}
	if left := tree(t, path); len(left) != 0 {
		t.Errorf("left after RemoveAll: %q", left)
	}
	if _, err := created.Write([]byte("x")); !errors.Is(err, errRemoved) {
		t.Errorf("Write after RemoveAll = %v, want errRemoved", err)
	}
	if err := created.Commit(t.Context()); err == nil {
		t.Error("Commit after RemoveAll succeeded")
	}
	if left := tree(t, path); len(left) != 0 {
		t.Errorf("left after Commit: %q", left)
	}
}

// TestSweepAfterKill lets another process die in the middle of a write.
func TestSweepAfterKill(t *testing.T) {
	if dir := os.Getenv("DISK_TEST_VICTIM"); dir != "" {
		s, err := Open(dir, Options{MinFree: -1})
		if err != nil {
			t.Fatal(err)
		}
		put(t, s, "job/whole")
		w, err := s.Create(context.Background(), "job/part")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, 3*bufferSize)); err != nil {
			t.Fatal(err)
		}
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
	path := t.TempDir()
	victim := exec.Command(os.Args[0], "-test.run=^TestSweepAfterKill$")
	victim.Env = append(os.Environ(), "DISK_TEST_VICTIM="+path)
	out, err := victim.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != -1 {
		t.Fatalf("the other process was not killed: %v\n%s", err, out)
	}
	if before := tree(t, path); len(before) != 3 { // job, job/whole, a temporary file
		t.Fatalf("after the kill: %q, want an unfinished file among three", before)
	}
	s := open(t, path)
	if after := tree(t, path); len(after) != 2 || after[1] != "job/whole" {
		t.Errorf("after Open: %q, want the whole object alone", after)
	}
	if _, err := s.Stat(t.Context(), "job/part"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Stat of the part = %v, want ErrNotFound", err)
	}
}
