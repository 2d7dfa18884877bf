package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// downloads is how often the files of an export are downloaded.
const downloads = 10

// download exports through the gateway and downloads the files, with gzip
// accepted: what that costs the gateway is told per 100 MB on the wire.
func (b *bench) download(ctx context.Context, base string) error {
	dir, err := os.MkdirTemp("", "spillway-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	listen, err := freeAddress()
	if err != nil {
		return err
	}
	config := filepath.Join(dir, "spillway.yaml")
	text := fmt.Sprintf("upstream: {url: %q, settle: 0s, max_concurrency: %d}\nserver: {listen: %q, admin_listen: \"127.0.0.1:0\"}\nstore: {bolt: {path: %q}}\nstorage: {disk: {path: %q}}\nlog: {level: warn}\n",
		base, b.concurrency, listen, filepath.Join(dir, "jobs.db"), filepath.Join(dir, "files"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	s, err := startQuiet(ctx, b.spillway, "serve", "--config", config)
	if err != nil {
		return err
	}
	defer s.stop()
	files, err := bulkExport(ctx, "http://"+listen+"/fhir")
	if err != nil {
		return err
	}
	ended := time.Now()
	last, err := lastPage(base)
	if err != nil {
		return err
	}
	b.report.add("from the last page to the manifest, by the gateway", "s", "%.2f", "under 1", seconds(ended.Sub(last)))
	var bytes int64
	cpu, began := s.cpu(), time.Now()
	for range downloads {
		for _, url := range files {
			n, err := fetchFile(ctx, url)
			if err != nil {
				return err
			}
			bytes += n
		}
	}
	wall := time.Since(began)
	hundred := float64(bytes) / 100e6
	b.report.add("download of files, gzip accepted", "MB/s on the wire", "%.0f", "", float64(bytes)/1e6/seconds(wall))
	b.report.add("CPU of a download at 100 MB/s", "of a core", "%.3f", "under 0.05", seconds(s.cpu()-cpu)/hundred)
	return nil
}

// lastPage is when the last page with entries was asked for.
func lastPage(base string) (at time.Time, err error) {
	log, err := requests(base)
	for _, r := range log {
		if r.Entries > 0 {
			at = r.Time
		}
	}
	return at, err
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return "127.0.0.1:" + strconv.Itoa(l.Addr().(*net.TCPAddr).Port), nil
}

func fetchFile(ctx context.Context, url string) (int64, error) {
	resp, err := get(ctx, url, "Accept-Encoding", "gzip")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("download: status %d", resp.StatusCode)
	}
	return io.Copy(io.Discard, resp.Body)
}

func get(ctx context.Context, url string, header ...string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return http.DefaultClient.Do(r)
}

// bulkExport performs a bulk export at base and returns the URLs of its files.
func bulkExport(ctx context.Context, base string) (files []string, err error) {
	var status string
	for status == "" { // the gateway may not listen yet
		resp, err := get(ctx, base+"/$export", "Accept", "application/fhir+json", "Prefer", "respond-async")
		if err == nil {
			_ = resp.Body.Close()
			if status = resp.Header.Get("Content-Location"); resp.StatusCode != http.StatusAccepted || status == "" {
				return nil, fmt.Errorf("kick-off: status %d", resp.StatusCode)
			}
			continue
		}
		if err := pause(ctx, err); err != nil {
			return nil, err
		}
	}
	for {
		resp, err := get(ctx, status, "Accept", "application/json")
		if err != nil {
			return nil, err
		}
		var m struct {
			Output []struct {
				URL string `json:"url"`
			} `json:"output"`
		}
		switch resp.StatusCode {
		case http.StatusAccepted:
			err = pause(ctx, nil)
		case http.StatusOK:
			err = json.NewDecoder(resp.Body).Decode(&m)
		default:
			err = fmt.Errorf("status of an export: %d", resp.StatusCode)
		}
		_ = resp.Body.Close()
		if err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusOK {
			for _, o := range m.Output {
				files = append(files, o.URL)
			}
			return files, nil
		}
	}
}

// pause waits a little, and returns why it was in vain if ctx ends.
func pause(ctx context.Context, why error) error {
	select {
	case <-ctx.Done():
		if why == nil {
			why = ctx.Err()
		}
		return why
	case <-time.After(20 * time.Millisecond):
		return nil
	}
}
