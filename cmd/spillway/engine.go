package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/cmd/spillway/internal/config"
	"spillway/jobs"
	"spillway/jobs/boltstore"
	"spillway/jobs/export"
	"spillway/jobs/worker"
	"spillway/storage/disk"
	"spillway/upstream"
)

// An engine is what performs exports. serve and export use the same one.
type engine struct {
	upstream *upstream.Client
	store    *boltstore.Store
	files    *disk.Store
	exporter *export.Exporter
	worker   *worker.Worker
}

// newClient returns a client for the upstream that c names.
func newClient(c *config.Config, log *slog.Logger, metrics prometheus.Registerer) (*upstream.Client, error) {
	u := c.Upstream
	return upstream.New(upstream.Config{
		URL: u.URL, Aliases: u.Aliases, Header: u.Header, Timeout: u.Timeout, MaxConcurrency: u.MaxConcurrency,
		PageSize: u.PageSize, MaxOutage: u.MaxOutage, PageBytes: u.PageBytes, ResourceBytes: u.ResourceBytes,
		Version: buildVersion(), Registerer: metrics, Logger: log,
	})
}

// openEngine opens store and storage and puts the rest together. It starts
// nothing. encoding is how segments are stored; metrics may be nil.
func openEngine(c *config.Config, client *upstream.Client, encoding jobs.Encoding, log *slog.Logger, metrics prometheus.Registerer) (*engine, error) {
	limits := jobs.Limits{MaxActive: c.Export.MaxActive, Retention: c.Export.Retention}.WithDefaults()
	store, err := boltstore.Open(c.Store.BoltPath, limits)
	if err != nil {
		return nil, fmt.Errorf("cannot open the job store: %w", err)
	}
	minFree := c.Storage.MinFree
	if minFree == 0 {
		minFree = -1 // 0 would mean the default
	}
	files, err := disk.Open(c.Storage.DiskPath, disk.Options{MinFree: minFree, Logger: log})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open the storage: %w", err), store.Close())
	}
	e := &engine{upstream: client, store: store, files: files}
	e.exporter = export.New(export.Config{
		Upstream: client, Storage: files, Jobs: store, Window: int64(c.Export.Window), FileSize: c.Export.FileSize,
		Encoding: encoding, Settle: c.Upstream.Settle, PlanConcurrency: c.Upstream.MaxConcurrency,
		Registerer: metrics, Logger: log,
	})
	name, err := os.Hostname()
	if err != nil {
		name = "spillway"
	}
	e.worker = worker.New(worker.Config{
		Store: store, Prepare: e.learn, Run: e.exporter.Run, RemoveBytes: e.exporter.RemoveBytes, SweepOrphans: e.exporter.SweepOrphans,
		Concurrency: c.Export.Workers, LeaseTTL: limits.LeaseTTL, Name: fmt.Sprintf("%s-%d", name, os.Getpid()),
		Registerer: metrics, Logger: log,
	})
	return e, nil
}

// learn asks the upstream what it can do, so that the answer is there when the
// first unit needs it. A failure is told by that unit, or by readiness.
func (e *engine) learn(ctx context.Context) { _, _ = e.upstream.Learn(ctx) }

// Close gives store and storage up. Nothing may be using them.
func (e *engine) Close() error {
	return errors.Join(e.store.Close(), e.files.Close())
}

// finishedBy reports whether err only says that ctx has ended.
func finishedBy(ctx context.Context, err error) bool {
	return ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx)))
}
