package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"spillway/auth"
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
		cfg, err := config.Load(config.Input{File: o.config, Environ: c.environ, Serve: true})
		if err != nil {
			return err
		}
		log := newLogger(c.err, cfg.Log.Level, cfg.Log.Format)
		s, err := newServer(ctx, cfg, halves{web: !o.onlyWork, work: !o.noWork}, log)
		if finishedBy(ctx, err) {
			return &exitError{exitInterrupted, errInterrupted}
		}
		if err != nil {
			return err
		}
		return s.Run(ctx)
	})
}

// halves says which parts of the gateway a process runs.
type halves struct{ web, work bool }

// A server is the whole gateway process, listening but not yet serving.
type server struct {
	config *config.Config
	halves halves
	log    *slog.Logger

	engine    *engine
	readiness *readiness
	public    *listener // nil without the web half
	admin     *listener
	publicURL *url.URL // FHIR base as clients see it; nil without the web half
}

// newServer opens everything that can fail for reasons of this machine or of its
// configuration: files, ports, certificates, Redis, the bucket. That the upstream
// is away is no error. It starts nothing; a server that is not run must be closed.
func newServer(ctx context.Context, cfg *config.Config, parts halves, log *slog.Logger) (*server, error) {
	s := &server{config: cfg, halves: parts, log: log}
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
	var secure *tls.Config
	if s.halves.web {
		if secure, err = serverTLS(cfg.Server); err != nil {
			return err
		}
		if s.public, err = listen(cfg.Server.Listen, secure); err != nil {
			return fmt.Errorf("server.listen: %w", err)
		}
	}
	if s.engine, err = openEngine(ctx, cfg, s.log); err != nil {
		return err
	}
	client, err := s.engine.newClient(cfg, s.admin.Addr(), s.log, metrics)
	if err != nil {
		return err
	}
	s.engine.build(cfg, client, jobs.EncodingGzip, s.log, metrics)
	s.readiness = newReadiness(s.engine, s.log)
	s.admin.serve(adminHandler(metrics, s.readiness), s.log)
	if s.halves.web {
		handler, err := s.gateway(client, metrics)
		if err != nil {
			return err
		}
		s.public.serve(s.closing(handler), s.log)
	}
	return nil
}

// gateway puts the web half together.
func (s *server) gateway(client *upstream.Client, metrics prometheus.Registerer) (http.Handler, error) {
	cfg := s.config
	s.publicURL = cfg.PublicURL(s.public.Addr())
	return gateway.New(gateway.Config{
		PublicURL: s.publicURL,
		Upstream: upstream.NewProxy(upstream.ProxyConfig{
			Upstream: cfg.Upstream.URL, Aliases: cfg.Upstream.Aliases, PublicURL: s.publicURL,
			Timeout: cfg.Upstream.Timeout, Observe: client.ObservePassThrough, Registerer: metrics, Logger: s.log,
		}),
		Capabilities:       client.Capabilities,
		Jobs:               s.engine.store,
		Storage:            s.engine.files,
		Links:              s.engine.links,
		LinkTTL:            cfg.Storage.Bucket.Presign,
		Auth:               auth.None(),
		RequireAccept:      cfg.Server.RequireAccept,
		RequirePreferAsync: cfg.Server.RequirePreferAsync,
		Registerer:         metrics,
		Logger:             s.log,
	})
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
	return errors.Join(errs...)
}

// Run serves until ctx ends, then stops within the drain and the grace time and
// closes everything. An end by ctx is no error.
func (s *server) Run(ctx context.Context) error {
	s.announce()
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
	if err = errors.Join(err, s.engine.Close()); err == nil {
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
		"name", s.engine.process, "version", buildVersion(),
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

// serverTLS returns nil where no certificate is configured.
func serverTLS(c config.Server) (*tls.Config, error) {
	if c.CertFile == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, usageError("server.tls: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}}, nil
}
