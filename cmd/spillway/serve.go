package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"spillway/auth/audit"
	"spillway/cmd/spillway/internal/config"
	"spillway/gateway"
	"spillway/jobs"
	"spillway/upstream"
)

func newServe(c console) *cobra.Command {
	var o struct {
		config   string
		noWork   bool
		onlyWork bool
	}
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Run the gateway",
		Long: `Run the gateway: what is not Bulk Data goes through to the upstream untouched.

Every key of the configuration can also be set by an environment variable, such
as SPILLWAY_UPSTREAM_URL; without --config only these count.

After SIGHUP, and when the file of the configuration changes, clients and their
rights are read again; other keys need a restart.

The first SIGTERM or SIGINT stops it gracefully: work on exports is handed back
at once, and downloads have server.shutdown_grace to end. After SIGTERM requests
are still taken for server.drain, while /readyz says that it stops. The second
signal stops it at once.`,
	}
	cmd.Flags().StringVar(&o.config, "config", "", "YAML `file` of the configuration")
	cmd.Flags().BoolVar(&o.noWork, "no-workers", false, "only answer requests; exports wait for another process")
	cmd.Flags().BoolVar(&o.onlyWork, "workers-only", false, "only work on exports; do not answer requests")
	return command(cmd, func(ctx context.Context) error {
		if o.noWork && o.onlyWork {
			return usageError("--no-workers and --workers-only leave nothing to do")
		}
		input := config.Input{File: o.config, Environ: c.environ, Serve: true}
		cfg, err := config.Load(input)
		if err != nil {
			return err
		}
		log := newLogger(c.err, cfg.Log.Level, cfg.Log.Format)
		s, err := newServer(ctx, cfg, halves{web: !o.onlyWork, work: !o.noWork}, c.out, log)
		if finishedBy(ctx, err) {
			return &exitError{exitInterrupted, errInterrupted}
		}
		if err != nil {
			return err
		}
		s.reloader = newReloader(s, input)
		floor := make([]byte, heapFloor)
		defer runtime.KeepAlive(floor)
		return s.Run(ctx)
	})
}

// heapFloor is counted as heap, but never touched, so it takes no memory. With a
// live heap of a few megabytes the collector would run a hundred times a second
// under load, which cost the pass-through a third of its CPU. Now it lets some
// 13 MB gather first.
const heapFloor = 32 << 20

// halves says which parts of the gateway a process runs.
type halves struct{ web, work bool }

// A server is the whole gateway process, listening but not yet serving.
type server struct {
	config    *config.Config
	effective *config.Config // config with the clients that were read last
	halves    halves
	out       io.Writer // of the audit, if it goes to standard output
	log       *slog.Logger

	engine     *engine
	credential *credential
	record     *recorder // nil: there is no audit
	roster     *roster   // nil: nobody is told apart
	access     *access   // nil without the web half
	reloader   *reloader // nil: the configuration is never read again
	readiness  *readiness
	public     *listener // nil without the web half
	admin      *listener
	publicURL  *url.URL // FHIR base as clients see it; nil without the web half
}

// newServer opens everything that can fail for reasons of this machine or of its
// configuration: files, ports, certificates, Redis, the bucket. That the upstream
// is away is no error. It starts nothing; a server that is not run must be closed.
// out takes the audit if that is to go to standard output.
func newServer(ctx context.Context, cfg *config.Config, parts halves, out io.Writer, log *slog.Logger) (*server, error) {
	s := &server{config: cfg, effective: cfg, halves: parts, out: out, log: log}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *server) open(ctx context.Context) error {
	cfg, metrics := s.config, prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	// Ports first: a second start on the same machine fails here, with the
	// clearest message, and not at the lock of the store.
	var err error
	if s.admin, err = listen(cfg.Server.AdminListen, nil); err != nil {
		return fmt.Errorf("server.admin_listen: %w", err)
	}
	if s.halves.web {
		secure, pair, err := serverTLS(cfg, s.log)
		if err != nil {
			return err
		}
		if err := registerExpiry(metrics, "server", pair); err != nil {
			return err
		}
		if s.public, err = listen(cfg.Server.Listen, secure); err != nil {
			return fmt.Errorf("server.listen: %w", err)
		}
		s.publicURL = cfg.PublicURL(s.public.Addr())
	}
	if s.engine, err = openEngine(ctx, cfg, s.log); err != nil {
		return err
	}
	if s.record, err = openRecorder(cfg, s.engine.process, s.out, s.log, metrics); err != nil {
		return err
	}
	if s.credential, err = openCredential(cfg, s.log, metrics, s.record); err != nil {
		return err
	}
	client, err := s.engine.newClient(cfg, s.credential, s.admin.Addr(), s.log, metrics)
	if err != nil {
		return err
	}
	s.roster = newRoster(&cfg.Auth)
	s.engine.build(cfg, client, jobs.EncodingGzip, oversightOf(s.roster, s.record), s.log, metrics)
	s.readiness = newReadiness(s.engine, s.log)
	s.admin.serve(adminHandler(metrics, s.readiness), adminLimits(), s.log)
	if s.halves.web {
		handler, err := s.gateway(client, metrics)
		if err != nil {
			return err
		}
		s.readiness.issuer = s.access.ready
		s.public.serve(s.closing(handler), cfg.Server.Limits, s.log)
	}
	return nil
}

// gateway puts the web half together.
func (s *server) gateway(client *upstream.Client, metrics prometheus.Registerer) (http.Handler, error) {
	cfg, ours := s.config, s.config.Upstream.Auth.PassThrough
	through := upstream.ProxyConfig{
		Upstream: cfg.Upstream.URL, Aliases: cfg.Upstream.Aliases, PublicURL: s.publicURL, TLS: s.credential.bare, TrustedProxies: cfg.Server.TrustedProxies,
		Timeout: cfg.Upstream.Timeout, Observe: client.ObservePassThrough, Registerer: metrics, Logger: s.log,
	}
	if ours {
		through.Ours, through.TLS, through.Wrap = true, s.credential.ours, s.credential.wrap
	}
	proxy := upstream.NewProxy(through)
	var err error
	if s.access, err = openAccess(cfg, accessNeeds{
		public: s.publicURL, store: s.engine.store, upstream: proxy, record: s.record, metrics: metrics, log: s.log,
	}); err != nil {
		return nil, err
	}
	g := gateway.Config{
		PublicURL:          s.publicURL,
		Upstream:           s.access.passed(proxy),
		Capabilities:       client.Capabilities,
		Group:              groups(client),
		Referenced:         cfg.Export.Referenced,
		Jobs:               s.engine.store,
		Storage:            s.engine.files,
		Links:              s.engine.links,
		LinkTTL:            cfg.Storage.Bucket.Presign,
		Auth:               s.access,
		Discovery:          s.access.discovery,
		Token:              s.access.token,
		TokenURL:           s.access.tokenURL,
		KeySet:             s.credential.keys,
		Unchecked:          cfg.Auth.Unchecked,
		PassThroughGrant:   ours,
		Limits:             gatewayLimits(cfg.Limits, cfg.Auth.Enforces()),
		TrustedProxies:     cfg.Server.TrustedProxies,
		RequireAccept:      cfg.Server.RequireAccept,
		RequirePreferAsync: cfg.Server.RequirePreferAsync,
		Registerer:         metrics,
		Logger:             s.log,
	}
	if s.roster != nil {
		g.Enabled = s.roster.enabled
	}
	if s.record != nil {
		g.Audit, g.AuditDeny, g.AuditDigest = s.record.record, s.record.deny, s.record.log.Digest
	}
	return gateway.New(g)
}

// groups reads Groups for the kick-offs of exports.
func groups(client *upstream.Client) func(ctx context.Context, id string) ([]byte, bool, error) {
	return func(ctx context.Context, id string) ([]byte, bool, error) {
		resource, err := client.Read(ctx, "Group", id)
		if errors.Is(err, upstream.ErrNotFound) || errors.Is(err, upstream.ErrGone) {
			return nil, false, nil
		}
		return resource, err == nil, err
	}
}

// gatewayLimits gives limits the gateway's form, in which 0 means a default. The
// exports of clients that nobody tells apart are not counted as those of one.
func gatewayLimits(l config.Limits, apart bool) gateway.Limits {
	perMinute := func(n int) gateway.Rate {
		if n == 0 {
			return gateway.Rate{PerMinute: -1}
		}
		return gateway.Rate{PerMinute: float64(n)}
	}
	unfinished := l.Unfinished
	if unfinished == 0 || !apart {
		unfinished = -1
	}
	return gateway.Limits{KickOffs: perMinute(l.KickOffs), Polls: perMinute(l.Polls), Downloads: perMinute(l.Downloads), Exports: unfinished}
}

// Close gives up what a server that was not run holds.
func (s *server) Close() error {
	var errs []error
	for _, l := range []*listener{s.admin, s.public} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	if s.engine != nil {
		errs = append(errs, s.engine.Close())
	}
	return errors.Join(append(errs, s.record.close())...)
}

// Run serves until ctx ends, then stops within the drain and the grace time and
// closes everything. An end by ctx is no error.
func (s *server) Run(ctx context.Context) error {
	s.announce()
	if err := s.started(ctx); err != nil {
		return errors.Join(err, s.Close())
	}
	// The admin listener outlives the others, so that the end can be watched.
	adminCtx, stopAdmin := context.WithCancel(context.WithoutCancel(ctx))
	all, allCtx := errgroup.WithContext(ctx)
	all.Go(func() error { return s.admin.Run(adminCtx, time.Second) })
	all.Go(func() error {
		defer stopAdmin()
		g, gctx := errgroup.WithContext(allCtx)
		serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
		if s.public != nil {
			g.Go(func() error { return s.public.Run(serving, s.config.Server.ShutdownGrace) })
		}
		g.Go(func() error { return s.engine.run(gctx, s.halves.work) })
		g.Go(func() error { return s.readiness.Run(gctx) })
		g.Go(func() error { return s.remind(gctx) })
		if s.reloader != nil {
			g.Go(func() error { return s.reloader.Run(gctx) })
		}
		g.Go(func() error {
			defer stopServing()
			<-gctx.Done()
			s.drain(ctx)
			return nil
		})
		return g.Wait()
	})
	err := all.Wait()
	if finishedBy(ctx, err) {
		err = nil
	}
	s.stopped(ctx)
	if err = errors.Join(err, s.engine.Close(), s.record.close()); err == nil {
		s.log.Info("stopped")
	}
	return err
}

// drain says that this process stops, and takes requests for a while longer if
// it is a service that was told to: load balancers take some time to notice. A
// person who presses Ctrl-C has none.
func (s *server) drain(ctx context.Context) {
	s.readiness.stop()
	wait := s.config.Server.Drain
	if !s.halves.web || !errors.Is(context.Cause(ctx), errTerminated) {
		wait = 0
	}
	s.log.Info("stopping", "drain", wait.String(), "grace", s.config.Server.ShutdownGrace.String())
	time.Sleep(wait) // a second signal ends the process
}

// closing asks clients for new connections once this process stops, so that
// their next requests go elsewhere.
func (s *server) closing(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.readiness.isStopping() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

func (s *server) announce() {
	cfg := s.config
	for _, w := range slices.Concat(cfg.Warnings, s.engine.warnings) {
		s.log.Warn(w)
	}
	s.log.Debug("configuration in effect", "keys", cfg.String())
	at := []any{
		"admin", s.admin.Addr().String(), "upstream", cfg.Upstream.URL.Redacted(), "store", storeText(cfg), "storage", storageText(cfg),
		"auth", cfg.Auth.Mode, "name", s.engine.process, "version", buildVersion(),
	}
	if s.public != nil {
		at = append(at, "listen", s.public.Addr().String(), "public", s.publicURL.String())
	}
	s.log.Info("spillway is up", at...)
	if s.halves.web && !s.halves.work && !s.engine.shared {
		s.log.Warn("this process does not work on exports, and no other can use its store; configure store.redis")
	} else if s.halves.web && !s.halves.work {
		s.log.Warn("this process does not work on exports; they wait until one that shares its store does")
	}
}

// started records that this process is up. What must be recorded cannot happen
// where that fails, so neither does the start.
func (s *server) started(ctx context.Context) error {
	e := audit.Event{Kind: audit.KindStart, Outcome: audit.OutcomeDone, Version: buildVersion(), Config: s.config.Digest()}
	if err := s.record.record(ctx, e); err != nil {
		return fmt.Errorf("%s: %w", config.KeyAuditFile, err)
	}
	return nil
}

// stopped records that this process ends.
func (s *server) stopped(ctx context.Context) {
	s.record.note(ctx, audit.Event{Kind: audit.KindStop, Outcome: audit.OutcomeDone, Version: buildVersion(), Config: s.effective.Digest()})
}

// remindEvery is how often the log is told again what should not stay so.
const remindEvery = 5 * time.Minute

// remind tells the log of what should not stay so, until ctx ends.
func (s *server) remind(ctx context.Context) error {
	for {
		for _, w := range reminders(s.config) {
			s.log.Warn(w)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(remindEvery):
		}
	}
}
