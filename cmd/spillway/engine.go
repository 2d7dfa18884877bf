package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"spillway/cmd/spillway/internal/config"
	"spillway/jobs"
	"spillway/jobs/export"
	"spillway/jobs/worker"
	"spillway/storage"
	"spillway/upstream"
)

// An engine is what performs exports. serve and export use the same one.
type engine struct {
	store    jobs.Store
	files    storage.Store
	links    storage.Linker // nil: there are none
	locate   locator        // of files on disk
	ending   chan struct{}  // closed when the first export is about to end
	end      sync.Once      // closes it
	warnings []string       // of store and storage, for the operator
	process  string         // the name of this one
	shared   bool           // other processes may use the store
	closers  []func() error

	upstream *upstream.Client
	exporter *export.Exporter
	worker   *worker.Worker
}

// A locator says in which file an object lies, and from where on.
type locator = func(ctx context.Context, key string) (file string, offset int64, err error)

// openEngine opens store and storage. build puts the rest together.
func openEngine(ctx context.Context, c *config.Config, log *slog.Logger) (*engine, error) {
	e := &engine{process: processName(), ending: make(chan struct{}), shared: c.Store.Redis.URL != ""}
	err := e.openStore(ctx, c, log)
	if err == nil {
		err = e.openFiles(ctx, c, log)
	}
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// newClient returns a client for the upstream that c names, which spares it by
// itself alone, and is known to it by k. metrics may be nil.
func newClient(c *config.Config, k *credential, log *slog.Logger, metrics prometheus.Registerer) (*upstream.Client, error) {
	return upstream.New(upstreamConfig(c, k, log, metrics))
}

// newClient returns a client that spares the upstream together with those of
// the other processes that use the store. Among them this one is known by its
// host and the admin address that it alone can hold there: so one that is
// started again has at once what its killed predecessor had, instead of waiting
// until that has run out.
func (e *engine) newClient(c *config.Config, k *credential, admin net.Addr, log *slog.Logger, metrics prometheus.Registerer) (*upstream.Client, error) {
	u := upstreamConfig(c, k, log, metrics)
	if e.shared {
		u.Share, u.Process = share(e.store, c.Upstream.URL), hostName()+" "+admin.String()
	}
	return upstream.New(u)
}

func upstreamConfig(c *config.Config, k *credential, log *slog.Logger, metrics prometheus.Registerer) upstream.Config {
	u := c.Upstream
	return upstream.Config{
		URL: u.URL, Aliases: u.Aliases, Header: u.Header, TLS: k.ours, Wrap: k.wrap, Timeout: u.Timeout, MaxConcurrency: u.MaxConcurrency,
		PageSize: u.PageSize, Profile: u.Profile, MaxOutage: u.MaxOutage, Hours: u.Hours, PageBytes: u.PageBytes, ResourceBytes: u.ResourceBytes,
		Version: buildVersion(), Registerer: metrics, Logger: log,
	}
}

// build makes what performs exports. It starts nothing. encoding is how segments
// are stored; metrics may be nil.
func (e *engine) build(c *config.Config, client *upstream.Client, encoding jobs.Encoding, o oversight, log *slog.Logger, metrics prometheus.Registerer) {
	e.upstream = client
	x := export.Config{
		Upstream: client, Storage: e.files, Jobs: e.store, Window: int64(c.Export.Window), FileSize: c.Export.FileSize,
		Encoding: encoding, Settle: c.Upstream.Settle, SettleByProfile: !c.Upstream.SettleSet, PlanConcurrency: c.Upstream.MaxConcurrency,
		Cohorts: export.Cohorts(c.Export.Cohorts), Referenced: c.Export.Referenced, SinceNewMembers: c.Export.SinceNewMembers,
		Registerer: metrics, Logger: log,
	}
	if c.Storage.Bucket.Presign > 0 {
		x.Links = e.links
	}
	if c.Storage.Packed {
		x.Locate = e.locate
	}
	e.exporter = export.New(x)
	limits := limitsOf(c)
	e.worker = worker.New(worker.Config{
		Store: e.store, Prepare: e.learn, Run: e.perform, RemoveBytes: e.exporter.RemoveBytes, SweepOrphans: e.exporter.SweepOrphans,
		Revoked: o.revoked, Observe: o.observe, Read: o.read,
		OrphanAge: limits.Retention, Concurrency: c.Export.Workers, LeaseTTL: limits.LeaseTTL, Name: e.process,
		Registerer: metrics, Logger: log,
	})
}

func limitsOf(c *config.Config) jobs.Limits {
	return jobs.Limits{
		MaxActive: c.Export.MaxActive, MaxActivePerOwner: c.Export.MaxActivePerClient, Retention: c.Export.Retention,
	}.WithDefaults()
}

// processName is different for every process that ever shares a store: process
// numbers are the same in all containers, and host names may be.
func processName() string {
	return fmt.Sprintf("%s-%d-%s", hostName(), os.Getpid(), strings.ToLower(rand.Text()[:6]))
}

func hostName() string {
	if host, err := os.Hostname(); err == nil {
		return host
	}
	return "spillway"
}

// run works on exports until ctx ends, if work says so. What the processes agree
// on about the upstream is kept up for as long as a unit may send requests.
func (e *engine) run(ctx context.Context, work bool) error {
	sharing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var g errgroup.Group
	g.Go(func() error { return e.upstream.Run(sharing) })
	g.Go(func() error {
		defer stop()
		if work {
			return e.worker.Run(ctx)
		}
		<-ctx.Done()
		return nil
	})
	return g.Wait()
}

// perform performs a unit.
func (e *engine) perform(ctx context.Context, j *jobs.Job, l *jobs.Lease, save func(context.Context, json.RawMessage) error) (jobs.Result, error) {
	r, err := e.exporter.Run(ctx, j, l, save)
	if err == nil && l.Unit.Kind == jobs.UnitFinish {
		e.end.Do(func() { close(e.ending) })
	}
	return r, err
}

// learn asks the upstream what it can do, so that the answer is there when the
// first unit needs it. A failure is told by that unit, or by readiness.
func (e *engine) learn(ctx context.Context) { _, _ = e.upstream.Learn(ctx) }

// Close gives store and storage up. Nothing may be using them.
func (e *engine) Close() error {
	var errs []error
	for _, c := range e.closers {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}

// finishedBy reports whether err only says that ctx has ended.
func finishedBy(ctx context.Context, err error) bool {
	return ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx)))
}
