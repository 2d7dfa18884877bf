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

const (
	// hapiPatients is how many patients HAPI is loaded with where no file of data
	// is named, some 400 resources each.
	hapiPatients = 90
	// hapiRest is how long HAPI is left alone after each measurement. What it
	// does then belongs to the CPU of that measurement: a crawl by next links
	// leaves records of its searches that the database has yet to put in order.
	hapiRest = 3 * time.Second
	// hapiWarm is after how many rounds HAPI's JVM has compiled what it uses.
	hapiWarm = 2
	// hapiSettle is the default of upstream.settle.
	hapiSettle = 5 * time.Second
)

// A hapi is a HAPI server and what is measured before it.
type hapi struct {
	*server
	types []string
	rest  time.Duration
}

// A cost is what one way to read everything took.
type cost struct{ wall, cpu float64 }

// startHAPI starts a fresh HAPI with the data, as an operator would, unless the
// environment says with which options of the JVM.
func startHAPI(ctx context.Context, data string) (*hapi, func(), error) {
	const options = "SPILLWAY_TEST_JAVA_OPTS"
	if os.Getenv(options) == "" {
		if err := os.Setenv(options, "-Xmx2g"); err != nil {
			return nil, nil, err
		}
	}
	dir, err := os.MkdirTemp("", "spillway-bench-")
	if err != nil {
		return nil, nil, err
	}
	remove := func() { _ = os.RemoveAll(dir) }
	s, err := start(ctx, "ready ", "test/hapi/run", "start", "--port", "0", "--db", filepath.Join(dir, "db"), "--data", data, "--export", "--stdin")
	if err != nil {
		remove()
		return nil, nil, err
	}
	stop := func() { s.stop(); remove() }
	h := &hapi{server: s, rest: hapiRest}
	if h.types, err = typesHeld(ctx, s.url); err != nil {
		stop()
		return nil, nil, err
	}
	return h, stop, nil
}

// measure runs f, which reads want resources (0: as many as there are), and
// returns how many it read.
func (h *hapi) measure(ctx context.Context, want int, f func() (int, error)) (c cost, n int, err error) {
	before, began := h.cpu(), time.Now()
	if n, err = f(); err != nil {
		return c, n, err
	}
	c.wall = seconds(time.Since(began))
	select {
	case <-time.After(h.rest):
	case <-ctx.Done():
		return c, n, ctx.Err()
	}
	c.cpu = seconds(h.cpu() - before)
	if want > 0 && n != want {
		err = fmt.Errorf("HAPI: the crawl saw %d resources, this way read %d", want, n)
	}
	return c, n, err
}

func (h *hapi) crawl(ctx context.Context) (int, error) {
	n, err := crawl(ctx, h.url, h.types)
	return n, err
}

func (h *hapi) export(ctx context.Context, b *bench, args ...string) func() (int, error) {
	return func() (int, error) {
		e, err := runExport(ctx, b.spillway, h.url, false, append([]string{"--concurrency", "2"}, args...)...)
		return int(e.lines), err
	}
}

// hapi measures Spillway before a HAPI server, against a crawl by next links
// and HAPI's own $export of the same data.
func (b *bench) hapi(ctx context.Context) error {
	data := b.data
	if data == "" {
		dir, err := os.MkdirTemp("", "spillway-bench-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		data = filepath.Join(dir, "data.ndjson.gz")
		if err := b.bundles(ctx, data); err != nil {
			return err
		}
	}
	if err := b.hapiCold(ctx, data); err != nil {
		return err
	}
	h, stop, err := startHAPI(ctx, data)
	if err != nil {
		return err
	}
	defer stop()
	settled, err := b.hapiRounds(ctx, h)
	if err != nil || !b.withNative {
		return err
	}
	own, _, err := h.measure(ctx, 0, func() (int, error) { _, err := bulkExport(ctx, h.url); return 0, err })
	if err != nil {
		return err
	}
	r := &b.report
	r.add("HAPI: its own $export", "s", "%.1f", "", own.wall)
	r.add("HAPI: its CPU for its own $export", "CPU s", "%.1f", "", own.cpu)
	r.add("HAPI: its own $export's time against the export's", "ratio", "%.1f", "at least 40", own.wall/settled)
	return nil
}

// hapiCold compares the first crawl of one fresh HAPI with the first export of
// another. Most of their time the JVM has not compiled what it runs.
func (b *bench) hapiCold(ctx context.Context, data string) error {
	first := func(want int, read func(h *hapi) func() (int, error)) (cost, int, error) {
		h, stop, err := startHAPI(ctx, data)
		if err != nil {
			return cost{}, 0, err
		}
		defer stop()
		return h.measure(ctx, want, read(h))
	}
	crawled, n, err := first(0, func(h *hapi) func() (int, error) { return func() (int, error) { return h.crawl(ctx) } })
	if err != nil {
		return err
	}
	exported, _, err := first(n, func(h *hapi) func() (int, error) { return h.export(ctx, b) })
	if err != nil {
		return err
	}
	r := &b.report
	r.add("HAPI just started: export", "s", "%.1f", "", exported.wall)
	r.add("HAPI just started: crawl by next links", "s", "%.1f", "", crawled.wall)
	r.add("HAPI just started: its CPU for the export", "CPU s", "%.1f", "", exported.cpu)
	r.add("HAPI just started: its CPU for the crawl", "CPU s", "%.1f", "", crawled.cpu)
	r.add("HAPI just started: the crawl's time against the export's", "ratio", "%.1f", "at least 3", crawled.wall/exported.wall)
	r.add("HAPI just started: its CPU for the export against the crawl's", "ratio", "%.2f", "at most 0.55", exported.cpu/crawled.cpu)
	return nil
}

// hapiRounds takes turns, and returns the median time of an export without its
// settle time.
func (b *bench) hapiRounds(ctx context.Context, h *hapi) (float64, error) {
	pages, err := pagesOf(ctx, h.url, h.types)
	if err != nil {
		return 0, err
	}
	ways := []struct {
		name  string
		read  func() (int, error)
		costs []cost
	}{
		{name: "crawl by next links", read: func() (int, error) { return h.crawl(ctx) }},
		{name: "export", read: h.export(ctx, b)},
		{name: "pages alone", read: func() (int, error) { return readPages(ctx, h.url, pages, 2) }},
		{name: "export with its settle time, less that", read: h.export(ctx, b, "--settle", hapiSettle.String())},
	}
	want := 0
	for round := range b.rounds + hapiWarm {
		for i := range ways {
			c, n, err := h.measure(ctx, want, ways[i].read)
			if err != nil {
				return 0, err
			}
			if want = n; round >= hapiWarm {
				ways[i].costs = append(ways[i].costs, c)
			}
		}
	}
	r := &b.report
	wall := func(way int) []float64 { return spread(ways[way].costs, func(c cost) float64 { return c.wall }) }
	cpu := func(way int) []float64 { return spread(ways[way].costs, func(c cost) float64 { return c.cpu }) }
	settled := spread(ways[3].costs, func(c cost) float64 { return c.wall - hapiSettle.Seconds() })
	for i, way := range ways[:3] {
		r.add("HAPI: "+way.name, "s", "%.1f", "", wall(i)...)
	}
	r.add("HAPI: "+ways[3].name, "s", "%.1f", "", settled...)
	for i, way := range ways[:3] {
		r.add("HAPI: its CPU for the "+way.name, "CPU s", "%.1f", "", cpu(i)...)
	}
	// Rounds are compared with themselves: how busy the machine is changes.
	perRound := func(f func(round int) float64) []float64 {
		rounds := make([]int, b.rounds)
		for i := range rounds {
			rounds[i] = i
		}
		return spread(rounds, f)
	}
	r.add("HAPI: the crawl's time against the export's, same round", "ratio", "%.1f", "at least 3",
		perRound(func(i int) float64 { return ways[0].costs[i].wall / ways[1].costs[i].wall })...)
	r.add("HAPI: the crawl's time against the export's less its settle time, same round", "ratio", "%.1f", "at least 3",
		perRound(func(i int) float64 { return ways[0].costs[i].wall / (ways[3].costs[i].wall - hapiSettle.Seconds()) })...)
	r.add("HAPI: its CPU for the export against the crawl's, same round", "ratio", "%.2f", "at most 0.55",
		perRound(func(i int) float64 { return ways[1].costs[i].cpu / ways[0].costs[i].cpu })...)
	r.add("HAPI: its CPU for the pages alone against the crawl's, same round", "ratio", "%.2f", "",
		perRound(func(i int) float64 { return ways[2].costs[i].cpu / ways[0].costs[i].cpu })...)
	return mid(settled), nil
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
