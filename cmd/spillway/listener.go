package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"spillway/cmd/spillway/internal/config"
)

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

// serve says what is answered, to how many connections and how patiently.
func (l *listener) serve(handler http.Handler, limits config.ServerLimits, log *slog.Logger) {
	l.Listener = limit(l.Listener, limits.Connections)
	l.server = &http.Server{
		Handler:           bounded(handler, limits),
		TLSConfig:         l.secure,
		ReadHeaderTimeout: limits.ReadHeader,
		IdleTimeout:       limits.Idle,
		MaxHeaderBytes:    int(limits.HeaderBytes),
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		// No write timeout: a download may take hours. See bounded.
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams, WriteByteTimeout: limits.Stall},
	}
}

// maxStreams is how many requests one connection of HTTP/2 may have under way.
const maxStreams = 100

// adminLimits are those of listeners that are not for everybody.
func adminLimits() config.ServerLimits {
	return config.ServerLimits{
		HeaderBytes: 32 << 10, Connections: 1000, ReadHeader: 10 * time.Second, Idle: 2 * time.Minute, Stall: 2 * time.Minute,
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
