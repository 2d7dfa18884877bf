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
