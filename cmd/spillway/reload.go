package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"spillway/auth/audit"
	"spillway/cmd/spillway/internal/config"
)

// A reloader reads the configuration again while the process runs.
type reloader struct {
	server *server
	input  config.Input
	every  time.Duration // between two looks at the file
	seen   time.Time     // when it was last changed, as far as is known
}

func newReloader(s *server, input config.Input) *reloader {
	r := &reloader{server: s, input: input, every: watchEvery}
	r.seen = r.changed()
	return r
}

// watchEvery is how often the file is looked at by default.
const watchEvery = 5 * time.Second

// changed returns when the file was last changed; zero: there is none.
func (r *reloader) changed() time.Time {
	if r.input.File == "" {
		return time.Time{}
	}
	info, err := os.Stat(r.input.File)
	if err != nil {
		return r.seen // it is just being replaced
	}
	return info.ModTime()
}

// Run reads the configuration again after each SIGHUP, and when the file has
// changed, until ctx ends.
func (r *reloader) Run(ctx context.Context) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	ticker := time.NewTicker(r.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			r.seen = r.changed()
			r.reload(ctx, true)
		case <-ticker.C:
			if at := r.changed(); at != r.seen {
				r.seen = at
				r.reload(ctx, false)
			}
		}
	}
}

// reload puts what may change in place. A configuration that is wrong changes
// nothing.
func (r *reloader) reload(ctx context.Context, asked bool) {
	s := r.server
	c, err := config.Load(r.input)
	if err == nil {
		err = s.reconfigure(ctx, c)
	}
	if err != nil {
		var problems config.Problems
		if !errors.As(err, &problems) {
			s.log.ErrorContext(ctx, "the configuration could not be read again; nothing was changed", "error", err)
			return
		}
		for _, p := range problems {
			s.log.ErrorContext(ctx, "the configuration is wrong; nothing was changed", "problem", p.String())
		}
		return
	}
	if asked {
		s.log.InfoContext(ctx, "the configuration was read again")
	}
}

// reconfigure puts the clients and their rights of another configuration in
// place, and says what else is different.
func (s *server) reconfigure(ctx context.Context, c *config.Config) error {
	was := s.effective
	live, restart := was.Differences(c)
	if len(restart) > 0 {
		s.log.WarnContext(ctx, "keys were changed that take effect at the next start only", "keys", strings.Join(restart, ", "))
	}
	if c.Auth.Mode != was.Auth.Mode {
		return nil // its clients are those of the next start
	}
	e := audit.Event{Kind: audit.KindChange, Outcome: audit.OutcomeDone, Reason: "clients", Version: buildVersion(), Config: c.Digest()}
	if len(live) > 0 {
		if err := s.record.record(ctx, e); err != nil {
			return err
		}
	}
	// Also without a difference that shows: a file of keys may be another one.
	if s.access != nil {
		if err := s.access.change(&c.Auth); err != nil {
			return err
		}
	}
	if s.roster != nil {
		s.roster.set(&c.Auth)
		if err := s.roster.end(ctx, s.engine.store); err != nil {
			s.log.WarnContext(ctx, "exports of clients that may have none any more could not be ended at once; workers will end them", "error", err)
		}
	}
	s.record.setClients(c.Auth.Everybody())
	if len(live) > 0 {
		s.log.InfoContext(ctx, "clients were changed", "keys", strings.Join(live, ", "))
	}
	s.effective = was.WithClients(c)
	return nil
}
