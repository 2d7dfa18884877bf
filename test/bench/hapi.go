package main

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// hapiPatients is how many patients HAPI is loaded with, some 400 resources each.
const hapiPatients = 90

// hapi measures Spillway before a HAPI server, against a crawl by next links
// and HAPI's own $export of the same data.
func (b *bench) hapi(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "spillway-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	data := filepath.Join(dir, "data.ndjson.gz")
	if err := b.bundles(ctx, data); err != nil {
		return err
	}
	s, err := start(ctx, "ready ", "test/hapi/run", "start", "--port", "0", "--db", filepath.Join(dir, "db"), "--data", data, "--export", "--stdin")
	if err != nil {
		return err
	}
	defer s.stop()
	types, err := typesHeld(ctx, s.url)
	if err != nil {
		return err
	}
	var export, crawled, exportCPU, crawledCPU []float64
	measure := func(f func() error) (wall, cpu float64, err error) {
		before, began := s.cpu(), time.Now()
		err = f()
		return seconds(time.Since(began)), seconds(s.cpu() - before), err
	}
	for round := range b.rounds + 1 {
		var seen int
		wall, cpu, err := measure(func() (err error) { seen, err = crawl(ctx, s.url, types); return err })
		if err != nil {
			return err
		}
		var own int64
		ownWall, ownCPU, err := measure(func() error {
			e, err := runExport(ctx, b.spillway, s.url, false, "--concurrency", "2")
			own = e.lines
			return err
		})
		switch {
		case err != nil:
			return err
		case own != int64(seen):
			return fmt.Errorf("HAPI: the crawl saw %d resources, the export has %d", seen, own)
		case round == 0: // the JVM is warm from here on
			continue
		}
		crawled, crawledCPU = append(crawled, wall), append(crawledCPU, cpu)
		export, exportCPU = append(export, ownWall), append(exportCPU, ownCPU)
	}
	same := func(v float64) float64 { return v }
	export, crawled, exportCPU, crawledCPU = spread(export, same), spread(crawled, same), spread(exportCPU, same), spread(crawledCPU, same)
	r := &b.report
	r.add("HAPI: export", "s", "%.1f", "", export...)
	r.add("HAPI: crawl by next links", "s", "%.1f", "", crawled...)
	r.add("HAPI: its CPU for the export", "CPU s", "%.1f", "", exportCPU...)
	r.add("HAPI: its CPU for the crawl", "CPU s", "%.1f", "", crawledCPU...)
	r.add("HAPI: the crawl's time against the export's", "ratio", "%.1f", "at least 3", mid(crawled)/mid(export))
	r.add("HAPI: its CPU for the export against the crawl's", "ratio", "%.2f", "at most 0.55", mid(exportCPU)/mid(crawledCPU))
	if !b.withNative {
		return nil
	}
	wall, cpu, err := measure(func() error { _, err := bulkExport(ctx, s.url); return err })
	if err != nil {
		return err
	}
	r.add("HAPI: its own $export", "s", "%.1f", "", wall)
	r.add("HAPI: its CPU for its own $export", "CPU s", "%.1f", "", cpu)
	r.add("HAPI: its own $export's time against the export's", "ratio", "%.1f", "at least 40", wall/mid(export))
	return nil
}

func mid(sorted []float64) float64 { return sorted[len(sorted)/2] }

// bundles writes what HAPI is loaded with.
func (b *bench) bundles(ctx context.Context, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	zip := gzip.NewWriter(f)
	cmd := exec.CommandContext(ctx, b.fakeProgram, "-patients", fmt.Sprint(hapiPatients), "-transactions")
	cmd.Stdout, cmd.Stderr = zip, os.Stderr
	return errors.Join(cmd.Run(), zip.Close(), f.Close())
}

// typesHeld are the types that the server has resources of.
func typesHeld(ctx context.Context, base string) (types []string, err error) {
	var statement struct {
		Rest []struct {
			Resource []struct{ Type string }
		}
	}
	if err := getJSON(ctx, base+"/metadata", &statement); err != nil || len(statement.Rest) == 0 {
		return nil, errors.Join(err, errors.New("no resources in the capability statement"))
	}
	for _, r := range statement.Rest[0].Resource {
		var count struct{ Total int }
		if err := getJSON(ctx, base+"/"+r.Type+"?_summary=count", &count); err == nil && count.Total > 0 {
			types = append(types, r.Type) // an error: what cannot be searched is not crawled
		}
	}
	return types, nil
}

func getJSON(ctx context.Context, url string, into any) error {
	resp, err := get(ctx, url, "Accept", "application/fhir+json")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}
