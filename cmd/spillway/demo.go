package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"spillway/cmd/spillway/internal/config"
	"spillway/test/fakefhir"
)

type demoFlags struct {
	patients int
	out      string
	listen   string
	keep     bool
	quiet    bool
}

func newDemo(c console) *cobra.Command {
	var f demoFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Start a fake FHIR server with a gateway before it, and export it",
		Long: `Start a fake FHIR server with synthetic patients, put the gateway before it,
and export everything through HTTP as any client of Bulk Data would. What is
downloaded stays in a directory; the former demo's is replaced.`,
	}
	s := cmd.Flags()
	s.SortFlags = false
	s.IntVar(&f.patients, "patients", 50, "`number` of synthetic patients; about 400 resources come with each")
	s.StringVar(&f.out, "out", "spillway-demo", "`directory` for what is downloaded")
	s.BoolVar(&f.keep, "keep", false, "leave both servers running until Ctrl-C")
	s.StringVar(&f.listen, "listen", "", "`address` of the gateway (default 127.0.0.1:8088, or any if that is taken)")
	s.BoolVar(&f.quiet, "quiet", false, "no progress")
	return command(cmd, func(ctx context.Context) error {
		if f.patients < 1 || f.patients > 5000 {
			return usageError("--patients: %d is out of range; allowed is 1 to 5000", f.patients)
		}
		err := runDemo(ctx, c, f)
		if finishedBy(ctx, err) {
			return &exitError{exitInterrupted, errInterrupted}
		}
		return err
	})
}

// A demo is the three parties of the demonstration.
type demo struct {
	flags   demoFlags
	console console
	fake    *listener
	data    *fakefhir.Dataset
	server  *server
	dir     string
}

// runDemo builds the parties, lets the client do its work, and stops them.
func runDemo(ctx context.Context, c console, f demoFlags) (err error) {
	if err := demoDir(f.out); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "spillway-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	d := &demo{flags: f, console: c, dir: f.out}
	if err := d.open(ctx, scratch); err != nil {
		return err
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, gctx := errgroup.WithContext(serving)
	g.Go(func() error { return d.fake.Run(gctx, time.Second) })
	g.Go(func() error { return d.server.Run(gctx) })
	g.Go(func() error {
		defer stop()
		// The client ends with the signal, or with one of the servers.
		client, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(gctx, func() { cancel(errors.New("a server of the demo has stopped")) })()
		err := d.act(client)
		switch {
		case err != nil && client.Err() != nil:
			return context.Cause(client) // clearer than the request that was broken off
		case err == nil && f.keep:
			<-client.Done()
		}
		return err
	})
	err = g.Wait()
	if finishedBy(serving, err) && !errors.Is(err, errInterrupted) {
		err = nil
	}
	return err
}

// demoMark is in directories that the demo has made and may replace.
const demoMark = ".spillway-demo"

// demoDir makes an empty directory, in place of that of a former demo.
func demoDir(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return usageError("--out: %w", err)
	}
	mark := filepath.Join(path, demoMark)
	if len(entries) > 0 {
		if _, err := os.Lstat(mark); err != nil {
			return usageError("%s holds something that is not from a former demo; choose another --out", path)
		}
		for _, e := range entries {
			// The demo makes files only; a directory is somebody else's.
			if e.IsDir() {
				return usageError("%s holds a directory that is not from a former demo; choose another --out", path)
			}
		}
		for _, e := range entries {
			if err := os.Remove(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return usageError("--out: %w", err)
	}
	return os.WriteFile(mark, []byte("spillway demo replaces this directory\n"), 0o600)
}

// open builds both servers; scratch is for the gateway's store and storage.
func (d *demo) open(ctx context.Context, scratch string) error {
	log := newLogger(d.console.err, "warn", "text")
	d.data = fakefhir.Generate(fakefhir.GenerateOptions{Patients: d.flags.patients, Seed: 1})
	var err error
	if d.fake, err = listen("127.0.0.1:0", nil); err != nil {
		return err
	}
	d.fake.serve(fakefhir.New(fakefhir.Options{Dataset: d.data, Path: "/fhir"}), adminLimits(), log)
	address, admin := d.flags.listen, "127.0.0.1:0"
	if address == "" {
		address, admin = freeAddress("127.0.0.1:8088"), freeAddress("127.0.0.1:8089")
	}
	cfg, err := config.Load(config.Input{Serve: true, Flags: []config.Flag{
		{Name: "upstream", Key: config.KeyURL, Value: "http://" + d.fake.Addr().String() + "/fhir"},
		{Name: "settle", Key: config.KeySettle, Value: "1s"},
		{Name: "--listen", Key: config.KeyListen, Value: address},
		{Name: "admin", Key: config.KeyAdminListen, Value: admin},
		{Name: "store", Key: config.KeyBoltPath, Value: filepath.Join(scratch, "jobs.db")},
		{Name: "storage", Key: config.KeyDiskPath, Value: filepath.Join(scratch, "files")},
		{Name: "space", Key: config.KeyMinFree, Value: "64MiB"},
		{Name: "drain", Key: config.KeyDrain, Value: "0s"},
		{Name: "grace", Key: config.KeyShutdownGrace, Value: "2s"},
	}})
	if err == nil {
		d.server, err = newServer(ctx, cfg, halves{web: true, work: true}, d.console.out, log)
	}
	if err != nil {
		return errors.Join(err, d.fake.Close())
	}
	return nil
}

// freeAddress returns the address, or one with any port if it is taken.
func freeAddress(address string) string {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return "127.0.0.1:0"
	}
	_ = l.Close() // it is taken for good in a moment; if somebody is faster, that is an error then
	return address
}

// act is the client's part, told to the person who watches.
func (d *demo) act(ctx context.Context) error {
	out := d.console.out
	base := d.server.publicURL.String()
	fmt.Fprintln(out, "Spillway demo")
	fmt.Fprintln(out)
	writeTable(out, "<<<", [][]string{
		{"fake FHIR server", d.server.config.Upstream.URL.String(),
			fmt.Sprintf("%s, %s of %d types", plural(int64(d.flags.patients), "patient"), plural(int64(d.data.Len()), "resource"), len(d.data.Types()))},
		{"gateway before it", base, "adds $export, passes everything else through"},
	})
	fmt.Fprintln(out)

	client := &bulkClient{http: &http.Client{}, base: base}
	began := time.Now()
	status, err := client.kickOff(ctx, "")
	if err != nil {
		return err
	}
	writeTable(out, "<<", [][]string{
		{"GET", base + "/$export"},
		{"202", status},
	})
	display := newDisplay(d.console.err, d.flags.quiet, "text")
	defer display.close()
	manifest, err := client.wait(ctx, status, func(text string) { display.show(exporting(text)) })
	if err != nil {
		return err
	}
	exported := time.Since(began)
	rows, err := d.download(ctx, client, manifest, display)
	if err != nil {
		return err
	}
	display.close()
	fmt.Fprintln(out)
	writeTable(out, "<>>>", rows)
	fmt.Fprintf(out, "\n  exported in %s, downloaded in %s to %s\n", seconds(exported), seconds(time.Since(began)-exported), d.dir)
	d.goOn(out, base, status)
	return nil
}

// download fetches every file and returns the rows of the table.
func (d *demo) download(ctx context.Context, client *bulkClient, m *bulkManifest, display *display) ([][]string, error) {
	var expected, done, bytes int64
	all := append(m.Output, m.Error...)
	for _, f := range all {
		expected += f.Count
	}
	rows := [][]string{{"TYPE", "RESOURCES", "SIZE", "SECONDS"}}
	began := time.Now()
	for _, f := range all {
		start := time.Now()
		size, err := client.download(ctx, f, d.dir, func(n int) {
			done += int64(n)
			display.show(phase{name: "downloading", done: done, total: expected, unit: " resources", count: comma})
		})
		if err != nil {
			return nil, err
		}
		bytes += size
		rows = append(rows, []string{f.Type, comma(f.Count), bytesText(size), fmt.Sprintf("%.2f", time.Since(start).Seconds())})
	}
	rows = append(rows, []string{"total", comma(done), bytesText(bytes), fmt.Sprintf("%.2f", time.Since(began).Seconds())})
	return rows, writeWhole(filepath.Join(d.dir, manifestName), func(out *os.File) error {
		_, err := out.Write(m.raw)
		return err
	})
}

// goOn tells what to try next.
func (d *demo) goOn(out io.Writer, base, status string) {
	fmt.Fprintln(out)
	if d.flags.keep {
		fmt.Fprintln(out, "  Both servers run until Ctrl-C. Go on by hand:")
	} else {
		fmt.Fprintln(out, "  Both servers stop now; with --keep they stay. Then go on by hand:")
		status = base + "/$bulk-status/..."
	}
	fmt.Fprintln(out)
	admin := "http://" + d.server.admin.Addr().String()
	for _, line := range []string{
		"curl -i -H 'Accept: application/fhir+json' -H 'Prefer: respond-async' '" + base + "/Patient/$export?_type=Patient,Observation'",
		"curl -i '" + status + "'     # the Content-Location of the answer above",
		"curl '" + base + "/Patient?_count=1'     # everything else goes through",
		"curl -s " + admin + "/metrics | grep ^spillway_",
	} {
		fmt.Fprintln(out, "    "+line)
	}
	fmt.Fprintln(out)
	if !d.flags.keep {
		fmt.Fprintln(out, "  The same from a server of yours:  spillway export --upstream URL --out DIR")
	}
}

var percentage = regexp.MustCompile(`^(\d{1,3})% done: `)

// exporting is a phase of which only the text of X-Progress is known.
func exporting(text string) phase {
	p := phase{name: "exporting", total: 100, text: text}
	if m := percentage.FindStringSubmatch(text); m != nil {
		p.done, _ = strconv.ParseInt(m[1], 10, 64) // three digits at most
		p.text = text[len(m[0]):]
	}
	return p
}
