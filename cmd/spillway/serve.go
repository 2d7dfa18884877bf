package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
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

The first SIGTERM or SIGINT stops it gracefully within server.shutdown_grace:
downloads end, unfinished work is kept for the next start. The second stops it
at once.`,
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
		s, err := newServer(cfg, halves{web: !o.onlyWork, work: !o.noWork}, log)
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

// newServer opens everything that can fail for reasons of this machine: files,
// ports, certificates. That the upstream is away is no error. It starts
// nothing; a server that is not run must be closed.
func newServer(cfg *config.Config, parts halves, log *slog.Logger) (*server, error) {
	s := &server{config: cfg, halves: parts, log: log}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *server) open() error {
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
	client, err := newClient(cfg, s.log, metrics)
	if err != nil {
		return err
	}
	if s.engine, err = openEngine(cfg, client, jobs.EncodingGzip, s.log, metrics); err != nil {
		return err
	}
	s.readiness = newReadiness(s.engine, s.log)
	s.admin.serve(adminHandler(metrics, s.readiness), s.log)
	if s.halves.web {
		handler, err := s.gateway(client, metrics)
		if err != nil {
			return err
		}
		s.public.serve(handler, s.log)
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
			Timeout: cfg.Upstream.Timeout, Registerer: metrics, Logger: s.log,
		}),
		Capabilities:       client.Capabilities,
		Jobs:               s.engine.store,
		Storage:            s.engine.files,
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

// Run serves until ctx ends, then stops within the grace time and closes
// everything. An end by ctx is no error.
func (s *server) Run(ctx context.Context) error {
	s.announce()
	grace := s.config.Server.ShutdownGrace
	// The admin listener outlives the others, so that the end can be watched.
	adminCtx, stopAdmin := context.WithCancel(context.WithoutCancel(ctx))
	all, allCtx := errgroup.WithContext(ctx)
	all.Go(func() error { return s.admin.Run(adminCtx, time.Second) })
	all.Go(func() error {
		defer stopAdmin()
		g, gctx := errgroup.WithContext(allCtx)
		if s.public != nil {
			g.Go(func() error { return s.public.Run(gctx, grace) })
		}
		if s.halves.work {
			g.Go(func() error { return s.engine.worker.Run(gctx) })
		}
		g.Go(func() error { return s.readiness.Run(gctx) })
		g.Go(func() error {
			<-gctx.Done()
			s.readiness.stop()
			s.log.Info("stopping", "grace", grace.String())
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

func (s *server) announce() {
	cfg := s.config
	for _, w := range cfg.Warnings {
		s.log.Warn(w)
	}
	s.log.Debug("configuration in effect", "keys", cfg.String())
	at := []any{"admin", s.admin.Addr().String(), "upstream", cfg.Upstream.URL.Redacted(), "version", buildVersion()}
	if s.public != nil {
		at = append(at, "listen", s.public.Addr().String(), "public", s.publicURL.String())
	}
	s.log.Info("spillway is up", at...)
	if s.halves.web && !s.halves.work {
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

// A listener is a port with the HTTP server on it.
type listener struct {
	net.Listener
	secure *tls.Config // nil: plain HTTP
	server *http.Server
}

// listen takes the port, so that a busy one is an error at start.
func listen(address string, secure *tls.Config) (*listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	return &listener{Listener: l, secure: secure}, nil
}

// serve says what is answered.
func (l *listener) serve(handler http.Handler, log *slog.Logger) {
	l.server = &http.Server{
		Handler:           handler,
		TLSConfig:         l.secure,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		// No write timeout: a download may take hours.
	}
}

// Run serves until ctx ends; then it takes no more requests, and those under
// way have the grace time to end.
func (l *listener) Run(ctx context.Context, grace time.Duration) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := l.serveAny()
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return err
	})
	g.Go(func() error {
		<-gctx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		if err := l.server.Shutdown(stop); err != nil {
			return l.server.Close() // what did not end in time is cut
		}
		return nil
	})
	return g.Wait()
}

func (l *listener) serveAny() error {
	if l.secure != nil {
		return l.server.ServeTLS(l.Listener, "", "")
	}
	return l.server.Serve(l.Listener)
}
