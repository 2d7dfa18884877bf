package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"spillway/cmd/spillway/internal/download"
)

func newVerify(c console) *cobra.Command {
	var o download.Options
	var quiet bool
	cmd := &cobra.Command{
		Use:   "verify DIR",
		Short: "Check a finished download against its manifest",
		Long: `Check what a bulk export has left in a directory against its manifest.json: that
all files are there and nothing else, with as many lines as stated; that every
line is one resource of the file's type; that no resource is there twice, or both
there and deleted; and where the manifest states them, sizes, hashes and the
evidence of completeness. The files are those of spillway export, or of another
client that names them as the last path segments of their URLs.

Problems are written to standard output, one a line, with ids only.

Exit status: 0 whole and proven to be complete; 3 whole, but the error file has
issues of severity error, or a proof is missing; 1 something is wrong.`,
		Example: "  spillway verify DIR",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError("verify takes one directory")
			}
			return nil
		},
	}
	s := cmd.Flags()
	s.SortFlags = false
	s.IntVar(&o.First, "first", 20, "`number` of problems of each kind to list")
	s.IntVar(&o.Parallel, "parallel", 0, "`number` of files to read at once (default one for each core)")
	s.BoolVar(&quiet, "quiet", false, "no progress and no summary, only problems")
	return commandOf(cmd, func(ctx context.Context, args []string) error {
		if o.First < 1 || o.Parallel < 0 {
			return usageError("--first and --parallel must be positive")
		}
		return runVerify(ctx, c, args[0], o, quiet)
	})
}

func runVerify(ctx context.Context, c console, dir string, o download.Options, quiet bool) error {
	if at, err := os.Stat(dir); err != nil || !at.IsDir() {
		return usageError("%s is no directory", dir)
	}
	display := newDisplay(c.err, quiet, "text")
	o.Progress = func(done, total int64) {
		display.show(phase{name: "verifying", done: done, total: total, count: bytesText})
	}
	began := time.Now()
	r, err := download.Verify(ctx, dir, o)
	display.close()
	switch {
	case finishedBy(ctx, err):
		return &exitError{exitInterrupted, errInterrupted}
	case errors.Is(err, download.ErrNoManifest):
		return fmt.Errorf("%s has no %s, so it holds no finished download", dir, manifestName)
	case err != nil:
		return err
	}
	writeReport(c, r)
	if took := time.Since(began); !quiet {
		fmt.Fprintf(c.err, "verified %s, %s, %s in %s (%s/s)\n", plural(r.Files, "file"), plural(r.Lines, "line"),
			bytesText(r.Bytes), seconds(took), bytesText(int64(float64(r.Bytes)/max(took.Seconds(), 0.001))))
	}
	switch {
	case !r.Sound():
		return fmt.Errorf("%s in %s", plural(r.Total(), "problem"), dir)
	case !r.Complete():
		return &exitError{exitIncomplete, fmt.Errorf("%s is as the manifest says, but not proven to be complete", dir)}
	}
	return nil
}

// writeReport writes what was found: data of this command, on standard output.
func writeReport(c console, r *download.Report) {
	for i, p := range r.Problems {
		fmt.Fprintln(c.out, p)
		last := i+1 == len(r.Problems) || r.Problems[i+1].Kind != p.Kind
		if more := r.More[p.Kind]; last && more > 0 {
			fmt.Fprintf(c.out, "and %s more of this kind\n", comma(more))
		}
	}
	for _, sentence := range r.Unproven {
		fmt.Fprintln(c.out, "not proven: "+sentence)
	}
	if r.Issues > 0 {
		fmt.Fprintf(c.out, "not complete: the error file has %s of severity error\n", plural(r.Issues, "issue"))
	}
}
