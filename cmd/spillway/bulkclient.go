package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"spillway/storage"
	"spillway/upstream/fhir"
)

// A bulkClient is a small client of Bulk Data, as the demo needs one. It knows
// the gateway by its public address only.
type bulkClient struct {
	http *http.Client
	base string // FHIR base of the gateway, without a trailing slash
}

// kickOff starts an export and returns the address of its status.
func (b *bulkClient) kickOff(ctx context.Context, query string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.base+"/$export"+query, nil)
	if err != nil {
		return "", err
	}
	r.Header.Set("Accept", "application/fhir+json")
	r.Header.Set("Prefer", "respond-async")
	answer, err := b.http.Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusAccepted {
		return "", refusal("kick-off", answer)
	}
	return answer.Header.Get("Content-Location"), nil
}

// A bulkManifest is what the demo reads of a manifest.
type bulkManifest struct {
	Output []bulkFile `json:"output"`
	Error  []bulkFile `json:"error"`

	raw []byte // as it came
}

// A bulkFile is one entry of a manifest.
type bulkFile struct {
	Type  string `json:"type"`
	URL   string `json:"url"`
	Count int64  `json:"count"`
}

// wait polls the status until the export is complete. progress is told what
// X-Progress says.
func (b *bulkClient) wait(ctx context.Context, status string, progress func(string)) (*bulkManifest, error) {
	for {
		m, after, err := b.poll(ctx, status, progress)
		if m != nil || err != nil {
			return m, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(after):
		}
	}
}

// poll asks once; after is when to ask again if there is no manifest yet.
func (b *bulkClient) poll(ctx context.Context, status string, progress func(string)) (m *bulkManifest, after time.Duration, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, status, nil)
	if err != nil {
		return nil, 0, err
	}
	r.Header.Set("Accept", "application/json")
	answer, err := b.http.Do(r)
	if err != nil {
		return nil, 0, err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusAccepted:
		progress(answer.Header.Get("X-Progress"))
		n, err := strconv.Atoi(answer.Header.Get("Retry-After"))
		if err != nil || n < 1 {
			n = 1
		}
		return nil, time.Duration(n) * time.Second, nil
	case http.StatusOK:
		m = &bulkManifest{}
		if m.raw, err = io.ReadAll(answer.Body); err != nil {
			return nil, 0, err
		}
		return m, 0, json.Unmarshal(m.raw, m)
	}
	return nil, 0, refusal("status", answer)
}

// download writes a file below dir under the name in its URL, and checks that
// it has as many lines as the manifest says.
func (b *bulkClient) download(ctx context.Context, f bulkFile, dir string, got func(n int)) (size int64, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.URL, nil)
	if err != nil {
		return 0, err
	}
	r.Header.Set("Accept", "application/fhir+ndjson")
	answer, err := b.http.Do(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	name := filepath.Base(r.URL.Path)
	if answer.StatusCode != http.StatusOK {
		return 0, refusal("download of "+name, answer)
	}
	if !storage.ValidKey(name) {
		return 0, fmt.Errorf("the manifest names a file %q", name)
	}
	lines := &lineCounter{got: got}
	err = writeWhole(filepath.Join(dir, name), func(out *os.File) error {
		_, err := io.Copy(io.MultiWriter(out, lines), answer.Body)
		return err
	})
	if err == nil && lines.lines != f.Count {
		err = fmt.Errorf("%s has %d lines, but the manifest says %d", name, lines.lines, f.Count)
	}
	return lines.bytes, err
}

// A lineCounter counts what passes.
type lineCounter struct {
	bytes, lines int64
	got          func(n int) // is told the lines of each write
}

func (l *lineCounter) Write(p []byte) (int, error) {
	n := bytes.Count(p, []byte{'\n'})
	l.bytes += int64(len(p))
	l.lines += int64(n)
	l.got(n)
	return len(p), nil
}

// refusal is an answer that was not hoped for, in the words of its
// OperationOutcome if it has one.
func refusal(what string, answer *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	if err != nil {
		return err
	}
	text := ""
	if issues, err := fhir.ReadOutcome(body); err == nil && len(issues) > 0 {
		text = ": " + issues[0].Diagnostics
	}
	return errors.New(what + " was answered " + answer.Status + text)
}
