//go:build e2e

package chaos

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	fake "spillway/test/fakefhir"
)

// manifest is the output manifest of a finished export.
type manifest struct {
	Output  []manifestFile `json:"output"`
	Deleted []manifestFile `json:"deleted"`
	Error   []manifestFile `json:"error"`
}

type manifestFile struct {
	Type     string `json:"type"`
	URL      string `json:"url"`
	Count    *int   `json:"count"`
	FileSize *int64 `json:"fileSize"`
}

// exact reads all files of an export and says how it differs from what it must
// hold: Observations 0 to n-1 of the FHIR server, each once and byte for byte.
// fetch returns a file as gzip.
func exact(raw []byte, n int, fetch func(url string) ([]byte, error)) error {
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if len(m.Error) > 0 || len(m.Deleted) > 0 {
		return fmt.Errorf("the manifest has files of errors or deletions: %s", raw)
	}
	want := fake.Bulk(n)
	seen := make([]bool, n)
	lines, listed := 0, make(map[string]bool)
	for _, f := range m.Output {
		if listed[f.URL] {
			return fmt.Errorf("the manifest lists %s twice", f.URL)
		}
		listed[f.URL] = true
		packed, err := fetch(f.URL)
		if err != nil {
			return err
		}
		count, err := exactFile(f, packed, want, seen)
		if err != nil {
			return err
		}
		lines += count
	}
	if lines != n {
		return fmt.Errorf("%d resources of %d; the first that is missing is %s", lines, n, firstMissing(want, seen))
	}
	return nil
}

// exactFile checks one file against its entry and marks what it holds.
func exactFile(f manifestFile, packed []byte, want *fake.BulkObservations, seen []bool) (lines int, err error) {
	unpacked, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", f.URL, err)
	}
	in := bufio.NewReaderSize(unpacked, 1<<16)
	var size int64
	var expected []byte
	for {
		line, err := in.ReadSlice('\n')
		if err == io.EOF && len(line) == 0 {
			break
		}
		if err != nil {
			return 0, fmt.Errorf("%s after %d lines: %w", f.URL, lines, err)
		}
		lines, size = lines+1, size+int64(len(line))
		line = line[:len(line)-1]
		i, ok := index(line, len(seen))
		if !ok || f.Type != "Observation" {
			return 0, fmt.Errorf("%s holds what was not asked for: %.100s", f.URL, line)
		}
		if seen[i] {
			return 0, fmt.Errorf("%s is there twice", want.ID(i))
		}
		seen[i] = true
		if expected = want.AppendResource(expected[:0], i); !bytes.Equal(line, expected) {
			return 0, fmt.Errorf("%s has other content: %s", want.ID(i), line)
		}
	}
	if f.Count == nil || *f.Count != lines {
		return 0, fmt.Errorf("%s has %d lines; the manifest says %v", f.URL, lines, f.Count)
	}
	if f.FileSize != nil && *f.FileSize != size {
		return 0, fmt.Errorf("%s has %d bytes; the manifest says %d", f.URL, size, *f.FileSize)
	}
	return lines, nil
}

const linePrefix = `{"resourceType":"Observation","id":"bulk-`

// index returns which of n Observations a line is.
func index(line []byte, n int) (int, bool) {
	rest, ok := bytes.CutPrefix(line, []byte(linePrefix))
	if !ok {
		return 0, false
	}
	digits, _, ok := bytes.Cut(rest, []byte(`"`))
	if !ok {
		return 0, false
	}
	i, err := strconv.Atoi(string(digits))
	return i, err == nil && i >= 0 && i < n
}

func firstMissing(want *fake.BulkObservations, seen []bool) string {
	for i, there := range seen {
		if !there {
			return want.ID(i)
		}
	}
	return "none"
}
