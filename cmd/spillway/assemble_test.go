package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"spillway/jobs"
	"spillway/storage/disk"
)

// What lies together becomes a file by its name alone, unless something else
// lies there, too; and doing it again changes nothing.
func TestAssemblePacks(t *testing.T) {
	w := workdir{t.TempDir()}
	if err := os.MkdirAll(w.state(), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := disk.Open(w.files(), disk.Options{MinFree: -1, PackSize: 1 << 30, Pack: packOf, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	content := func(key string) string { return strings.Repeat(key+"\n", 1000) }
	put := func(kind jobs.FileKind, typ, key string) jobs.Segment {
		key += "." + typ + ".ndjson"
		o, err := s.Create(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.Write([]byte(content(key))); err != nil {
			t.Fatal(err)
		}
		if err := o.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		return jobs.Segment{Key: key, Kind: kind, Type: typ, StoredSize: int64(len(content(key))), Encoding: jobs.EncodingIdentity}
	}
	file := func(name string, segments ...jobs.Segment) jobs.File {
		return jobs.File{Name: name, Kind: segments[0].Kind, Type: segments[0].Type, Segments: segments}
	}
	a, b := put(jobs.KindOutput, "Patient", "j/a"), put(jobs.KindOutput, "Patient", "j/b")
	put(jobs.KindOutput, "Patient", "j/dead")
	c, d, e := put(jobs.KindOutput, "Bundle", "j/c"), put(jobs.KindDeleted, "Bundle", "j/d"), put(jobs.KindOutput, "Bundle", "j/e")
	j := &jobs.Job{Files: []jobs.File{
		file("1.Bundle.ndjson", c, e), file("2.Patient.ndjson", a, b), file("3.Bundle.ndjson", d),
	}}
	patients, _, err := s.Locate(t.Context(), a.Key)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(patients)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := (&assembler{workdir: w, locate: s.Locate}).assemble(t.Context(), j, func(int64) {}); err != nil {
			t.Fatal(err)
		}
		for name, keys := range map[string][]string{"1.Bundle.ndjson": {c.Key, e.Key}, "2.Patient.ndjson": {a.Key, b.Key}, "3.Bundle.ndjson": {d.Key}} {
			var want []byte
			for key := range slices.Values(keys) {
				want = append(want, content(key)...)
			}
			got, err := os.ReadFile(filepath.Join(w.path, name))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, want %d: %v", name, len(got), len(want), err)
			}
		}
	}
	if after, err := os.Stat(filepath.Join(w.path, "2.Patient.ndjson")); err != nil || !os.SameFile(before, after) {
		t.Errorf("the patients were copied: %v", err)
	}
}
