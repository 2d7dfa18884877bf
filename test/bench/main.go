package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// A bench is what the flags say, and the report that grows.
type bench struct {
	bin, into             string
	resources, rounds     int
	concurrency           int
	withHAPI, withNative  bool
	onlyPass, onlyShares  bool
	onlyHAPI              bool
	data                  string // what HAPI is loaded with; "": generated
	caddy                 string
	answers               []time.Duration // how long the upstream takes to answer, without using the cores
	atOnce                []int           // requests at once
	spillway, fakeProgram string
	report                report
}

func run(ctx context.Context, args []string) error {
	var b bench
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&b.bin, "bin", "", "`folder` of the programs spillway and fakefhir")
	flags.StringVar(&b.into, "into", "", "`folder` for README.md and plot.svg; none: print only")
	flags.IntVar(&b.resources, "resources", 1_000_000, "`number` of Observations; a tenth of it is measured, too")
	flags.IntVar(&b.rounds, "rounds", 3, "`number` of runs of which the median is told")
	flags.IntVar(&b.concurrency, "concurrency", 2, "`number` of requests at once")
	flags.BoolVar(&b.withHAPI, "hapi", false, "measure before HAPI, too (Java and Maven)")
	flags.BoolVar(&b.withNative, "native", false, "with -hapi: HAPI's own $export, too (minutes)")
	flags.BoolVar(&b.onlyHAPI, "only-hapi", false, "measure before HAPI alone, and print it only")
	flags.StringVar(&b.data, "data", "", "`file` of transaction Bundles that HAPI is loaded with, one a line, gzipped; none: generated ones")
	flags.StringVar(&b.caddy, "caddy", "", "the `program` caddy, to compare the pass-through with; none: that is left out")
	flags.BoolVar(&b.onlyPass, "only-passthrough", false, "compare the pass-through alone, and print it only")
	flags.BoolVar(&b.onlyShares, "only-shares", false, "compare exports with raw fetches alone, and print it only")
	flags.Func("answers", "with -only-shares: how long an answer takes, as many `times` as wanted", func(v string) error {
		d, err := time.ParseDuration(v)
		b.answers = append(b.answers, d)
		return err
	})
	flags.Func("at-once", "with -only-shares: `number` of requests at once, as many as wanted", func(v string) error {
		n, err := strconv.Atoi(v)
		b.atOnce = append(b.atOnce, n)
		return err
	})
	kilobytes := flags.Bool("serve-kilobyte", false, "be the upstream of the pass-through")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *kilobytes {
		return serveKilobyte()
	}
	b.spillway, b.fakeProgram = filepath.Join(b.bin, "spillway"), filepath.Join(b.bin, "fakefhir")
	steps := []func(context.Context) error{b.small, b.large, b.shares, b.allocations}
	if b.withHAPI {
		steps = append(steps, b.hapi)
	}
	if b.caddy != "" {
		steps = append(steps, b.passThrough)
	}
	if b.onlyShares {
		b.into, steps = "", []func(context.Context) error{b.shares}
	} else {
		b.answers, b.atOnce = nil, nil
	}
	if len(b.answers) == 0 {
		b.answers = []time.Duration{0, 10 * time.Millisecond, 50 * time.Millisecond}
	}
	if len(b.atOnce) == 0 {
		b.atOnce = []int{2, 8, 16}
	}
	if b.onlyPass {
		b.into, steps = "", []func(context.Context) error{b.passThrough}
	}
	if b.onlyHAPI {
		b.into, steps = "", []func(context.Context) error{b.hapi}
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
		if b.into == "" {
			continue
		}
		if err := b.report.write(b.into); err != nil { // what there is, should a later step fail
			return err
		}
	}
	return nil
}

// fake starts the fake server with n Observations.
func (b *bench) fake(ctx context.Context, n int, gzip bool, more ...string) (*server, error) {
	args := append([]string{"-bulk", strconv.Itoa(n)}, more...)
	if !gzip {
		args = append(args, "-no-gzip")
	}
	return start(ctx, "", b.fakeProgram, args...)
}

// exports runs rounds exports and returns them, the one of the median CPU first.
func (b *bench) exports(ctx context.Context, base string, args ...string) ([]export, error) {
	var all []export
	for range b.rounds {
		e, err := runExport(ctx, b.spillway, base, true, append([]string{"--concurrency", strconv.Itoa(b.concurrency)}, args...)...)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(x, y export) int { return cmp.Compare(x.cpu, y.cpu) })
	m := len(all) / 2
	all[0], all[m] = all[m], all[0]
	return all, nil
}

// small measures a tenth of the resources, for the memory.
func (b *bench) small(ctx context.Context) error {
	s, err := b.fake(ctx, b.resources/10, false)
	if err != nil {
		return err
	}
	defer s.stop()
	all, err := b.exports(ctx, s.url)
	if err != nil {
		return err
	}
	b.report.rssSmall = median(all, func(e export) float64 { return float64(e.rss) })
	return nil
}

// large measures all of them, and the yardstick in turn with the exports. On the
// wire nothing is compressed, but for one row.
func (b *bench) large(ctx context.Context) error {
	s, err := b.fake(ctx, b.resources, false)
	if err != nil {
		return err
	}
	defer s.stop()
	var raws, plain []export
	for range b.rounds {
		wall, err := rawFetch(ctx, s.url, b.resources, b.concurrency, false)
		if err != nil {
			return err
		}
		e, err := runExport(ctx, b.spillway, s.url, true, "--concurrency", strconv.Itoa(b.concurrency))
		if err != nil {
			return err
		}
		if e.lines != int64(b.resources) {
			return fmt.Errorf("the export has %d of %d resources", e.lines, b.resources)
		}
		raws, plain = append(raws, export{wall: wall}), append(plain, e)
	}
	zipped, err := b.exports(ctx, s.url, "--gzip")
	if err != nil {
		return err
	}
	n := float64(b.resources)
	r := &b.report
	perResource := func(e export) float64 { return e.cpu.Seconds() * 1e6 / n }
	rate := func(e export) float64 { return n / e.wall.Seconds() }
	rss := func(e export) float64 { return float64(e.rss) }
	r.add("raw fetch of the same pages", "resources/s", "%.0f", "", spread(raws, rate)...)
	r.add("export", "resources/s", "%.0f", "", spread(plain, rate)...)
	r.add("export, files compressed", "resources/s", "%.0f", "", spread(zipped, rate)...)
	r.add("CPU", "µs a resource", "%.1f", "at most 6", spread(plain, perResource)...)
	r.add("CPU, files compressed", "µs a resource", "%.1f", "", spread(zipped, perResource)...)
	if err := b.wireGzip(ctx, perResource); err != nil {
		return err
	}
	r.add(fmt.Sprintf("peak memory at %d resources", b.resources), "MB", "%.1f", "under 150", scale(spread(plain, rss), 1e-6)...)
	r.add(fmt.Sprintf("peak memory against that at %d", b.resources/10), "ratio", "%.2f", "at most 1.1", scale(spread(plain, rss), 1/r.rssSmall)...)
	r.add("requests beyond the pages", "per 10⁶ resources", "%.0f", "at most 400", spread(plain, func(e export) float64 { return float64(e.beyond) * 1e6 / n })...)
	r.add("from start to the first page", "share of the export", "%.3f", "", spread(plain, func(e export) float64 { return e.planning.Seconds() / e.wall.Seconds() })...)
	r.add("from the last page to the manifest", "s", "%.2f", "under 1", spread(plain, func(e export) float64 { return e.tail.Seconds() })...)
	return b.download(ctx, s.url)
}

// wireGzip measures what it costs to inflate the pages.
func (b *bench) wireGzip(ctx context.Context, perResource func(export) float64) error {
	s, err := b.fake(ctx, b.resources, true)
	if err != nil {
		return err
	}
	defer s.stop()
	all, err := b.exports(ctx, s.url)
	if err == nil {
		b.report.add("CPU, gzip on the wire", "µs a resource", "%.1f", "", spread(all, perResource)...)
	}
	return err
}

// allocations runs the Go benchmark of the read path.
func (b *bench) allocations(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "ScanBundle$", "-benchmem", "./upstream/fhir")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("go test: %w\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if i := slices.Index(f, "allocs/op"); i > 0 {
			n, err := strconv.ParseFloat(f[i-1], 64)
			if err != nil {
				return err
			}
			b.report.add("allocations of the scanner", "per resource", "%.2f", "", n/1000)
		}
	}
	return nil
}

func spread[T any](all []T, f func(T) float64) []float64 {
	var v []float64
	for _, one := range all {
		v = append(v, f(one))
	}
	slices.Sort(v)
	return v
}

func median[T any](all []T, f func(T) float64) float64 {
	return middle(spread(all, f))
}

func scale(v []float64, by float64) []float64 {
	for i := range v {
		v[i] *= by
	}
	return v
}

func seconds(d time.Duration) float64 { return d.Seconds() }
