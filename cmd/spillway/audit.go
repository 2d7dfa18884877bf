package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"spillway/auth/audit"
	"spillway/cmd/spillway/internal/config"
)

// A recorder keeps the audit of this process. A nil one keeps none.
type recorder struct {
	log      *audit.Log
	deny     bool
	failures prometheus.Counter
	logger   *slog.Logger
	purposes atomic.Pointer[map[string]string] // by client
}

// openRecorder opens the sinks that are configured, or returns nil if there are
// none. Standard output is out.
func openRecorder(c *config.Config, process string, out io.Writer, log *slog.Logger, metrics prometheus.Registerer) (*recorder, error) {
	if !c.Audit.On() {
		return nil, nil
	}
	r := &recorder{deny: c.Audit.Deny, logger: log, failures: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "spillway_audit_failures_total", Help: "Writes to a sink of the audit that have failed.",
	})}
	if err := metrics.Register(r.failures); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	r.setClients(c.Auth.Everybody())
	var sinks []audit.Sink
	if c.Audit.File != "" {
		if err := os.MkdirAll(filepath.Dir(c.Audit.File), 0o700); err != nil {
			return nil, fmt.Errorf("%s: %w", config.KeyAuditFile, err)
		}
		f, err := audit.OpenFile(c.Audit.File)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", config.KeyAuditFile, err)
		}
		if n := f.Torn(); n > 0 {
			log.Warn("the audit file ended in the middle of a line, which was cut off; nobody was told that it is kept", "bytes", n)
		}
		sinks = append(sinks, countedSink{f, r.failures})
	}
	if c.Audit.Stdout {
		sinks = append(sinks, countedSink{audit.NewStream(out), r.failures})
	}
	var err error
	r.log, err = audit.Open(audit.Options{Process: process, Sinks: sinks, Key: c.Audit.Key, Tolerant: !r.deny, Logger: log})
	if err != nil {
		for _, s := range sinks {
			err = errors.Join(err, s.Close())
		}
		return nil, fmt.Errorf("%s: %w", config.KeyAuditFile, err)
	}
	return r, nil
}

// A countedSink counts its failures.
type countedSink struct {
	audit.Sink
	failures prometheus.Counter
}

// Write implements audit.Sink.
func (s countedSink) Write(lines []byte) error {
	err := s.Sink.Write(lines)
	if err != nil {
		s.failures.Inc()
	}
	return err
}

func (r *recorder) setClients(all []*config.Client) {
	if r == nil {
		return
	}
	purposes := make(map[string]string, len(all))
	for _, c := range all {
		purposes[c.ID] = c.Purpose
	}
	r.purposes.Store(&purposes)
}

// recordWithin is how long a sink may take before what it was to record is
// refused.
const recordWithin = 10 * time.Second

// record keeps an event, or says why what it would allow must not happen.
func (r *recorder) record(ctx context.Context, e audit.Event) error {
	if r == nil {
		return nil
	}
	if e.Purpose == "" && e.Client != "" {
		e.Purpose = (*r.purposes.Load())[e.Client]
	}
	ctx, cancel := context.WithTimeout(ctx, recordWithin)
	defer cancel()
	return r.log.Record(ctx, e)
}

// note keeps an event that has happened whatever becomes of its record.
func (r *recorder) note(ctx context.Context, e audit.Event) {
	if r == nil {
		return
	}
	if err := r.record(context.WithoutCancel(ctx), e); err != nil {
		r.logger.ErrorContext(ctx, "an event could not be recorded", "kind", e.Kind, "outcome", e.Outcome, "error", err)
	}
}

// close ends the record.
func (r *recorder) close() error {
	if r == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), recordWithin)
	defer cancel()
	return r.log.Close(ctx)
}

func newAudit(c console) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Look after the audit",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_ = cmd.Help() // it can only fail where nothing can be written
			return &exitError{status: exitUsage}
		},
	}
	cmd.AddCommand(newAuditVerify(c))
	return cmd
}

func newAuditVerify(c console) *cobra.Command {
	var keyFile string
	cmd := &cobra.Command{
		Use:   "verify FILE...",
		Short: "Tell whether an audit is whole and unchanged",
		Long: `Check the files of one audit, in the order in which they were written: that each
line is as it was written, and that none was added, moved or taken out. What is
missing at the end is found by comparing the head with that in the log.

Exit status: 0 whole, 1 not whole, 2 it could not be checked.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError("verify takes the files of an audit, the oldest first")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&keyFile, "key-file", "", "`file` with the key that the hashes were made with, as in audit.key_file")
	cmd.RunE = func(_ *cobra.Command, args []string) error { return verifyAudit(c, args, keyFile) }
	return cmd
}

func verifyAudit(c console, files []string, keyFile string) error {
	v := &audit.Verifier{}
	if keyFile != "" {
		key, err := config.ReadPrivate(keyFile)
		if err != nil {
			return usageError("--key-file: %w", err)
		}
		v.Key = []byte(key)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return usageError("%w", err)
		}
		err = v.Verify(f)
		_ = f.Close() // it was only read
		var broken *audit.BrokenError
		switch {
		case errors.As(err, &broken):
			return &exitError{exitFailed, fmt.Errorf("%s:%d: %s", name, broken.Line, broken.Problem)}
		case err != nil:
			return usageError("%s: %w", name, err)
		}
	}
	if v.Events == 0 {
		return &exitError{exitFailed, errors.New("there is no event in it")}
	}
	fmt.Fprintf(c.out, "whole: %s, %d to %d, from %s to %s\nhead: %s\n", plural(v.Events, "event"), v.First, v.First+v.Events-1,
		v.From.Format(time.RFC3339), v.Until.Format(time.RFC3339), v.Head)
	if v.First > 1 {
		fmt.Fprintf(c.out, "the %s before the first one are in older files\n", plural(v.First-1, "event"))
	}
	return nil
}
