package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"spillway/cmd/spillway/internal/config"
	"spillway/upstream"
)

func newCheck(c console) *cobra.Command {
	var o struct {
		config, upstream, profile string
		headers                   []string
	}
	cmd := &cobra.Command{
		Use:   "check --config FILE | --upstream URL",
		Short: "Tell what an upstream can do, and whether the configuration can work",
		Long: `Ask the upstream what it can do, because capability statements do not always
tell, and look at what the configuration needs on this machine.

Exit status: 0 it can work, 1 it cannot, 2 the configuration is wrong.`,
	}
	cmd.Flags().StringVar(&o.config, "config", "", "YAML `file` of the configuration")
	cmd.Flags().StringVar(&o.upstream, "upstream", "", "FHIR base `URL` to ask")
	cmd.Flags().StringVar(&o.profile, "profile", "", "`name` of the kind of server, or a file with its facts (default auto)")
	cmd.Flags().StringArrayVar(&o.headers, "header", nil, "`header` to send, as 'Name: value' or 'Name: @file'")
	return command(cmd, func(ctx context.Context) error {
		in := config.Input{File: o.config, Environ: c.environ, URLFlag: "--upstream", Serve: o.config != ""}
		if o.upstream != "" {
			in.Flags = append(in.Flags, config.Flag{Name: "--upstream", Key: config.KeyURL, Value: o.upstream})
		}
		if o.profile != "" {
			in.Flags = append(in.Flags, config.Flag{Name: "--profile", Key: config.KeyProfile, Value: o.profile})
		}
		for _, h := range o.headers {
			in.Flags = append(in.Flags, config.Flag{Name: "--header", Key: config.KeyHeaders, Value: h})
		}
		cfg, err := config.Load(in)
		if err != nil {
			return err
		}
		r := &report{}
		if o.config != "" {
			r.machine(ctx, cfg)
		}
		err = r.ask(ctx, cfg)
		if finishedBy(ctx, err) {
			return &exitError{exitInterrupted, errInterrupted}
		}
		return r.write(c, cfg, err)
	})
}

// A report is what check found.
type report struct {
	rows    [][]string
	notes   []string // what an operator should know
	blocked []string // why it cannot work
}

func (r *report) row(name, format string, args ...any) {
	r.rows = append(r.rows, []string{name, fmt.Sprintf(format, args...)})
}

func (r *report) block(key string, err error) {
	r.blockFor(key, fmt.Errorf("%s: %w", key, err))
}

// blockFor is block for an error that names its key.
func (r *report) blockFor(row string, err error) {
	r.row(row, "cannot be used")
	r.blocked = append(r.blocked, err.Error())
}

// machine looks at what the gateway needs here. It opens neither a store nor a
// storage that a running gateway may hold alone.
func (r *report) machine(ctx context.Context, cfg *config.Config) {
	r.notes = append(r.notes, cfg.Warnings...)
	if cfg.Server.CertFile != "" {
		_, pair, err := serverTLS(cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			r.blockFor("server.tls", err)
		} else {
			r.certificate("certificate", pair)
		}
	}
	r.access(ctx, cfg)
	r.audit(cfg)
	if cfg.Store.Redis.URL != "" {
		r.redis(ctx, cfg)
	} else {
		r.bolt(cfg)
	}
	if cfg.Storage.Bucket.URL != "" {
		r.bucket(ctx, cfg)
	} else {
		r.disk(cfg)
	}
}

func (r *report) bolt(cfg *config.Config) {
	folder := filepath.Dir(cfg.Store.BoltPath)
	if err := writable(folder); err != nil {
		r.block(config.KeyBoltPath, err)
	} else {
		r.row("store", "%s can be written", folder)
	}
}

func (r *report) disk(cfg *config.Config) {
	path := cfg.Storage.DiskPath
	free, err := freeSpace(path)
	switch err = errors.Join(writable(path), err); {
	case err != nil:
		r.block(config.KeyDiskPath, err)
	case free < cfg.Storage.MinFree:
		r.block(config.KeyDiskPath, fmt.Errorf("%s are free, less than storage.disk.min_free of %s; exports would wait",
			bytesText(free), bytesText(cfg.Storage.MinFree)))
	default:
		r.row("storage", "%s can be written, %s free", path, bytesText(free))
	}
}

// redis connects as the gateway would.
func (r *report) redis(ctx context.Context, cfg *config.Config) {
	s, err := openRedis(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		r.blockFor("store", err)
		return
	}
	defer func() { _ = s.Close() }() // nothing was left in it
	r.row("store", "%s answers", storeText(cfg))
	for _, w := range s.Warnings() {
		r.notes = append(r.notes, config.KeyRedisURL+": "+w)
	}
}

// bucket tries out what the gateway would do in it.
func (r *report) bucket(ctx context.Context, cfg *config.Config) {
	s, warnings, err := openBucket(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		r.blockFor("storage", err)
		return
	}
	defer func() { _ = s.Close() }() // what was tried out is over
	r.row("storage", "%s can be written, read and deleted in", storageText(cfg))
	for _, w := range warnings {
		r.notes = append(r.notes, config.KeyBucketURL+": "+w)
	}
	if ttl := cfg.Storage.Bucket.Presign; ttl > 0 {
		r.row("links", "work, each for %s", ttl)
	} else {
		r.row("links", "none, files go through the gateway")
	}
}

// existing is path, or the nearest folder above it that exists.
func existing(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	for {
		_, err := os.Stat(path)
		if err == nil || !errors.Is(err, fs.ErrNotExist) || filepath.Dir(path) == path {
			return path, err
		}
		path = filepath.Dir(path)
	}
}

// writable tries to make a file in a folder, or in that above it which exists.
func writable(folder string) error {
	folder, err := existing(folder)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(folder, ".spillway-check-")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// freeSpace is what is left for us on the file system of a folder, in bytes.
func freeSpace(folder string) (int64, error) {
	folder, err := existing(folder)
	if err != nil {
		return 0, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(folder, &st); err != nil {
		return 0, fmt.Errorf("free space: %w", err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// ask learns the upstream and tells what came out.
func (r *report) ask(ctx context.Context, cfg *config.Config) error {
	before := len(r.blocked)
	credential, err := r.credential(ctx, cfg)
	if err != nil || len(r.blocked) > before {
		return err // without its credential the upstream would be asked in vain
	}
	client, err := newClient(cfg, credential, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return err
	}
	r.row("upstream", "%s", cfg.Upstream.URL.Redacted())
	facts, err := client.Learn(ctx)
	if err != nil {
		r.blocked = append(r.blocked, err.Error())
		return err
	}
	r.facts(facts, cfg.Upstream.PageSize)
	r.profile(facts, cfg)
	return nil
}

func (r *report) facts(f *upstream.Facts, asked int) {
	c := f.Capabilities
	r.row("FHIR version", "%s", orUnknown(c.FHIRVersion))
	r.row("software", "%s", orUnknown(strings.TrimSpace(c.Software+" "+c.SoftwareVersion)))
	r.row("types", "%s", comma(int64(len(c.Types))))
	r.row("clock", "%s", clockText(f))
	r.row("probed with", "%s", orUnknown(f.ProbeType))
	r.row("_lastUpdated", "%s", f.LastUpdated)
	if f.Counts == upstream.Works {
		r.row("counts", "%s (%s)", f.Counts, f.CountMode)
	} else {
		r.row("counts", "%s", f.Counts)
	}
	r.row("sort", "%s", f.Sort)
	r.row("POST search", "%s", f.PostSearch)
	if f.Direct == upstream.Works {
		r.row("direct pages", "%s (%s)", f.Direct, comma(int64(f.DirectSize)))
	}
	r.row("history", "%s, of the whole server %s", f.History, f.SystemHistory)
	r.row("next links", "%s", f.NextLinks)
	if f.PageSize == asked {
		r.row("page size", "%s", comma(int64(asked)))
	} else {
		r.row("page size", "%s (asked for %s)", comma(int64(f.PageSize)), comma(int64(asked)))
	}
	r.notes = append(r.notes, f.Problems...)
	if len(c.Types) == 0 {
		r.blocked = append(r.blocked, "The capability statement names no types, so there is nothing to export.")
	}
	if v := c.FHIRVersion; v != "" && v[0] < '4' && v[0] >= '0' {
		r.blocked = append(r.blocked, "FHIR "+v+" is not supported; R4, R4B and R5 are.")
	}
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func clockText(f *upstream.Facts) string {
	switch offset := f.ClockOffset.Round(100 * time.Millisecond); {
	case !f.ClockSkewKnown:
		return "unknown (no Date header)"
	case offset > 0:
		return fmt.Sprintf("up to %s ahead of ours", offset)
	case offset < 0:
		return fmt.Sprintf("%s behind ours", -offset)
	}
	return "in step with ours"
}

// write prints the report and gives the verdict. failed is why the upstream
// could not be learnt, if so.
func (r *report) write(c console, cfg *config.Config, failed error) error {
	writeTable(c.out, "<<", r.rows)
	for _, n := range r.notes {
		fmt.Fprintf(c.out, "  ! %s\n", n)
	}
	if failed != nil && len(r.blocked) == 0 {
		return failed
	}
	if len(r.blocked) > 0 {
		return fmt.Errorf("it cannot work:\n  %s", strings.Join(r.blocked, "\n  "))
	}
	_, err := fmt.Fprintln(c.out, "  it can work")
	return err
}
