// Command spillway adds FHIR Bulk Data Export to a FHIR server.
//
//	serve    the gateway: two listeners, and the work behind them   (serve.go, admin.go, listener.go)
//	export   one export from the command line, into a directory     (export.go, workdir.go, assemble.go)
//	verify   whether a download is whole                            (verify.go)
//	check    what was learnt about an upstream                      (check.go)
//	demo     a fake upstream, the gateway and one client, in one    (demo.go, bulkclient.go)
//	audit    is the record of who got what whole, and unchanged?    (audit.go)
//	version  which build this is
//
// The package turns flags, YAML and environment into values (internal/config)
// and values into a running process (engine.go, backends.go; access.go says who may
// ask, credential.go who we are to the upstream, reload.go what changes meanwhile).
// Everything else has its own package. What users see is written here: data on standard output, all other
// words on standard error, and an exit status (see exitError).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/redis/go-redis/v9/logging"
	"github.com/spf13/cobra"

	"spillway/cmd/spillway/internal/config"
)

// version is set by the linker: -X main.version=v1.2.3.
var version string

// The exit statuses, the same for every command.
const (
	exitFailed      = 1
	exitUsage       = 2   // bad usage or configuration; nothing was done
	exitIncomplete  = 3   // an export ended with issues of severity error, or lacks a proof
	exitInterrupted = 130 // by SIGINT or SIGTERM
)

// gcPercent is how much the heap may grow between collections where GOGC does
// not say.
const gcPercent = 40

// errInterrupted is the cause of a context that a signal has ended, and
// errTerminated if that was SIGTERM, by which services are stopped.
var (
	errInterrupted = errors.New("interrupted")
	errTerminated  = fmt.Errorf("%w by SIGTERM", errInterrupted)
)

func main() {
	// net/http tells the standard logger of bytes that an upstream sent
	// unasked, and quotes them. Nothing of ours uses that logger.
	log.SetOutput(io.Discard)
	// go-redis has a logger of its own for what it also returns as an error.
	logging.Disable()
	// The live heap is small and most of it is buffers. Collecting more often
	// costs 5 % of CPU, and keeps the memory of a long run at that of a short one.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ctx, stop := interruptible(context.Background(), os.Stderr)
	status := run(ctx, os.Args[1:], console{out: os.Stdout, err: os.Stderr, environ: os.Environ()})
	stop()
	os.Exit(status)
}

// interruptible returns a context that the first SIGINT or SIGTERM cancels. The
// second one ends the process at once.
func interruptible(parent context.Context, stderr io.Writer) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		switch s, open := <-signals; {
		case !open:
			return
		case s == syscall.SIGTERM:
			cancel(errTerminated)
		default:
			cancel(errInterrupted)
		}
		if _, open := <-signals; open {
			fmt.Fprintln(stderr, "spillway: second signal, stopping at once")
			os.Exit(exitInterrupted)
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(signals)
		cancel(nil)
	}
}

// A console is where a command reads and writes.
type console struct {
	out, err io.Writer
	environ  []string
}

// An exitError ends the process with a status. A nil err says nothing more.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usageError is bad usage or configuration.
func usageError(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// run performs one command line and returns the exit status.
func run(ctx context.Context, args []string, c console) int {
	root := newRoot(c)
	root.SetArgs(args)
	root.SetOut(c.out)
	root.SetErr(c.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	// What has no status of its own comes from parsing the command line.
	exit := &exitError{status: exitUsage, err: err}
	errors.As(err, &exit)
	var problems config.Problems
	switch {
	case exit.err == nil:
	case errors.As(exit.err, &problems):
		fmt.Fprintln(c.err, problems) // one a line, each with its place
	default:
		fmt.Fprintf(c.err, "spillway: %v\n", exit.err)
	}
	return exit.status
}

func newRoot(c console) *cobra.Command {
	root := &cobra.Command{
		Use:   "spillway",
		Short: "FHIR Bulk Data Export in front of any FHIR server",
		Long: `Spillway adds FHIR Bulk Data Export to a FHIR server that has none, or a poor one.

Exit status: 0 done, 1 failed, 2 bad usage or configuration,
3 exported or verified, but not proven to be complete, 130 interrupted.`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Args:              cobra.ArbitraryArgs, // RunE has a shorter message for unknown commands
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				_ = cmd.Help() // it can only fail where nothing can be written
				return &exitError{status: exitUsage}
			}
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				return usageError("there is no command %q; did you mean %s?", args[0], near[0])
			}
			return usageError("there is no command %q; spillway --help lists them", args[0])
		},
	}
	root.SuggestionsMinimumDistance = 2
	root.AddCommand(newServe(c), newExport(c), newVerify(c), newCheck(c), newDemo(c), newAudit(c), newVersion(c))
	return root
}

// command completes a command without arguments.
func command(cmd *cobra.Command, do func(ctx context.Context) error) *cobra.Command {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usageError("%s takes flags only, not %q", cmd.Name(), args[0])
		}
		return nil
	}
	return commandOf(cmd, func(ctx context.Context, _ []string) error { return do(ctx) })
}

// commandOf completes a command whose Args are set. Errors of do are failures
// unless they have a status of their own.
func commandOf(cmd *cobra.Command, do func(ctx context.Context, args []string) error) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := do(cmd.Context(), args)
		var exit *exitError
		var problems config.Problems
		switch {
		case err == nil || errors.As(err, &exit):
			return err
		case errors.As(err, &problems):
			return &exitError{exitUsage, err}
		}
		return &exitError{exitFailed, err}
	}
	return cmd
}

func newVersion(c console) *cobra.Command {
	return command(&cobra.Command{
		Use:   "version",
		Short: "Print which build this is",
	}, func(context.Context) error {
		_, err := fmt.Fprintf(c.out, "spillway %s (%s, %s/%s)\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return err
	})
}

// buildVersion is what the linker was told, or else what the module system knows.
func buildVersion() string {
	if version != "" {
		return version
	}
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	if v := build.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range build.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}
