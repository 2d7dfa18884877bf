package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"spillway/jobs"
)

// A workdir is the directory that an export fills:
//
//	manifest.json       written last; its presence says that the export is finished
//	1.Patient.ndjson …  moved here when all of them are whole
//	.spillway/run.json  what was asked for, to recognise the same command
//	.spillway/jobs.db, .spillway/files/  job store and storage, gone when finished
type workdir struct{ path string }

const (
	manifestName = "manifest.json"
	stateName    = ".spillway"
)

func (w workdir) manifest() string { return filepath.Join(w.path, manifestName) }
func (w workdir) state() string    { return filepath.Join(w.path, stateName) }
func (w workdir) run() string      { return filepath.Join(w.state(), "run.json") }
func (w workdir) store() string    { return filepath.Join(w.state(), "jobs.db") }
func (w workdir) files() string    { return filepath.Join(w.state(), "files") }

// segment is the path of a segment: storage on disk keeps a key at its path.
func (w workdir) segment(s jobs.Segment) string {
	return filepath.Join(w.files(), filepath.FromSlash(s.Key))
}

// A runRecord says what a directory is being filled with.
type runRecord struct {
	Version  int          `json:"version"` // 1
	Upstream string       `json:"upstream"`
	Gzip     bool         `json:"gzip"`
	Request  jobs.Request `json:"request"`
	// SinceFlag is --since as it was given, where it names an earlier run.
	SinceFlag string `json:"sinceFlag,omitempty"`
	// SinceIncomplete says that that run had errors.
	SinceIncomplete bool `json:"sinceIncomplete,omitempty"`
	Finished        bool `json:"finished"`
}

const runVersion = 1

// check refuses a directory that must not be touched: one that holds a
// finished export, or files of somebody else.
func (w workdir) check() error {
	entries, err := os.ReadDir(w.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return usageError("--out: %w", err)
	}
	var finished, foreign bool
	for _, e := range entries {
		switch e.Name() {
		case manifestName:
			finished = true
		case stateName, "lost+found": // the latter at the root of a file system
		default:
			foreign = true
		}
	}
	record, err := w.read()
	switch {
	case err != nil:
		return err
	case finished:
		if record != nil && !record.Finished { // stopped between the manifest and the last step
			err = w.finish(*record)
		}
		return errors.Join(usageError("%s holds a finished export; choose another --out", w.path), err)
	case record != nil && record.Finished:
		return usageError("%s holds files of a finished export, without its %s; choose another --out", w.path, manifestName)
	case foreign && record == nil:
		return usageError("%s is not empty, and what it holds is no export of Spillway; choose an empty or a new directory as --out", w.path)
	}
	return nil
}

// read returns the record of the directory, or nil if there is none.
func (w workdir) read() (*runRecord, error) {
	b, err := os.ReadFile(w.run())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the state of the export: %w", err)
	}
	var r runRecord
	if err := json.Unmarshal(b, &r); err != nil || r.Version != runVersion {
		return nil, usageError("%s is not of this version of Spillway; choose another --out, or remove %s", w.run(), w.path)
	}
	return &r, nil
}

// claim prepares the directory for an export. resumed says that it was begun
// by an earlier run of the same command.
func (w workdir) claim(want runRecord) (resumed bool, err error) {
	want.Version = runVersion
	if err := w.check(); err != nil {
		return false, err
	}
	have, err := w.read()
	if err != nil {
		return false, err
	}
	if have != nil {
		if different := have.differences(want); len(different) > 0 {
			return false, usageError("%s holds an unfinished export that was asked for differently (%s); repeat the former command to resume it, or choose another --out",
				w.path, strings.Join(different, ", "))
		}
		return true, nil
	}
	if err := os.MkdirAll(w.state(), 0o700); err != nil {
		return false, usageError("--out: %w", err)
	}
	return false, w.write(want)
}

func (w workdir) write(r runRecord) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return writeWhole(w.run(), func(f *os.File) error {
		_, err := f.Write(append(b, '\n'))
		return err
	})
}

// finish marks the export as finished and removes what it does not need any
// more. Nothing may be using store and storage.
func (w workdir) finish(r runRecord) error {
	r.Version, r.Finished = runVersion, true
	if err := w.write(r); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(w.files()), os.RemoveAll(w.store()))
}

// differences names the flags in which two records differ.
func (r runRecord) differences(other runRecord) []string {
	a, b := r.Request, other.Request
	var flags []string
	for _, c := range []struct {
		flag string
		same bool
	}{
		{"--upstream", r.Upstream == other.Upstream},
		{"--gzip", r.Gzip == other.Gzip},
		{"--patients or --group", a.Level == b.Level && a.GroupID == b.GroupID},
		{"--type", same(a.Types, b.Types)},
		{"--since", a.Since.Equal(b.Since)},
		{"--until", a.Until.Equal(b.Until)},
		{"--type-filter", same(a.TypeFilters, b.TypeFilters)},
		{"--elements", same(a.Elements, b.Elements)},
		{"--patient", same(a.Patients, b.Patients)},
		{"--include-associated-data", same(a.IncludeAssociatedData, b.IncludeAssociatedData)},
		{"--lenient", a.Lenient == b.Lenient},
	} {
		if !c.same {
			flags = append(flags, c.flag)
		}
	}
	return flags
}

// same compares lists; an empty one and none are the same.
func same[T any](a, b []T) bool {
	return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b)
}

// writeWhole writes a file that is never seen in part: beside its place, then
// synced, renamed and its directory synced.
func writeWhole(path string, fill func(*os.File) error) error {
	temporary := path + ".tmp"
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(fill(f), f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes renames in a directory durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
