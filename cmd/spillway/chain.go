package main

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"spillway/cmd/spillway/internal/config"
	"spillway/cmd/spillway/internal/download"
	"spillway/jobs"
	"spillway/upstream/fhir"
)

// An export can continue an earlier one: then it has what changed since that
// one's transactionTime. `--since last` finds the earlier one beside --out,
// `--since last:PATH` or a path names it. It is taken only if it asked for the
// same, was finished, and is complete: what it lacks, this one would lack, too.

const sinceLast = "last"

// An earlierRun is a finished export in some directory.
type earlierRun struct {
	dir        string
	incomplete bool // it had errors, which are accepted
	*download.Manifest
}

// continued returns the run that --since asks to continue, nil if it names an
// instant or nothing. An interrupted export goes on continuing what it continued.
func (f *exportFlags) continued(cfg *config.Config, dir workdir) (*earlierRun, error) {
	path, sibling := f.earlierPath()
	if path == "" && !sibling {
		if f.sinceIncomplete {
			return nil, usageError("--since-incomplete goes with --since last or a path")
		}
		return nil, nil
	}
	switch record, err := dir.read(); {
	case err != nil:
		return nil, err
	case record != nil && !record.Finished && record.SinceFlag == f.since:
		return &earlierRun{incomplete: record.SinceIncomplete, Manifest: &download.Manifest{TransactionTime: record.Request.Continues}}, nil
	}
	asked := kickOffOf(f.kickOffURL(cfg))
	var run *earlierRun
	var err error
	if sibling {
		run, err = lastSibling(dir.path, asked)
	} else {
		run, err = namedRun(path, asked)
	}
	if err != nil {
		return nil, err
	}
	return run, f.acceptable(run)
}

// earlierPath returns what --since names: a path, or the last run beside --out.
func (f *exportFlags) earlierPath() (path string, sibling bool) {
	if f.since == sinceLast {
		return "", true
	}
	if path, ok := strings.CutPrefix(f.since, sinceLast+":"); ok {
		return path, false
	}
	if f.since == "" || !strings.ContainsAny(f.since, `/\`) && filepath.Base(f.since) != manifestName {
		if at, err := os.Stat(f.since); err != nil || !at.IsDir() {
			return "", false
		}
	}
	return f.since, false
}

// acceptable refuses a run that lacks something.
func (f *exportFlags) acceptable(run *earlierRun) error {
	if until := run.Request.Query().Get("_until"); until != "" {
		if at, err := fhir.ParseInstant(until); err != nil || at.Before(run.TransactionTime) {
			return usageError("--since: the export in %s ends at its --until, %s, and a continuation begins at its transactionTime, so neither would have what changed in between; export again with --since %s",
				run.dir, until, until)
		}
	}
	errs, err := run.Errors(run.dir)
	switch {
	case err != nil:
		return usageError("--since: the export in %s cannot be continued: %w", run.dir, err)
	case errs > 0 && !f.sinceIncomplete:
		return usageError("--since: the export in %s has %s of severity error in its error file. What it lacks would be missing from this one, too, unless it has changed since. "+
			"Continue the run before it (--since last:DIR), or accept that with --since-incomplete", run.dir, plural(errs, "issue"))
	}
	run.incomplete = errs > 0
	return nil
}

// namedRun reads the run at a path: a directory or its manifest.
func namedRun(path string, asked kickOff) (*earlierRun, error) {
	dir := path
	if filepath.Base(path) == manifestName {
		dir = filepath.Dir(path)
	}
	if at, err := os.Stat(dir); err != nil || !at.IsDir() {
		return nil, usageError("--since: %s is no directory of an export, and no instant such as 2026-06-01T00:00:00Z", path)
	}
	m, err := download.Read(dir)
	switch {
	case errors.Is(err, download.ErrNoManifest) && unfinished(dir):
		return nil, usageError("--since: the export in %s is not finished; repeat its command first", dir)
	case err != nil:
		return nil, usageError("--since: %s holds no finished export: %w", dir, err)
	}
	if different := asked.differences(kickOffOf(m.Request)); len(different) > 0 {
		return nil, usageError("--since: the export in %s was asked for differently (%s); to continue it all the same, give its transactionTime: --since %s",
			dir, strings.Join(different, ", "), fhir.FormatInstant(m.TransactionTime))
	}
	return &earlierRun{dir: dir, Manifest: m}, nil
}

// unfinished reports whether a directory holds an export that has begun.
func unfinished(dir string) bool {
	_, err := os.Stat(workdir{dir}.run())
	return err == nil
}

// lastSibling returns the newest finished run beside a directory that asked for
// the same.
func lastSibling(out string, asked kickOff) (*earlierRun, error) {
	out, err := filepath.Abs(out)
	if err != nil {
		return nil, err
	}
	parent := filepath.Dir(out)
	entries, err := os.ReadDir(parent)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, usageError("--since: %w", err)
	}
	var same, other *earlierRun
	var begun string
	for _, e := range entries {
		dir := filepath.Join(parent, e.Name())
		if dir == out {
			continue
		}
		m, err := download.Read(dir)
		if err != nil {
			if unfinished(dir) {
				begun = dir
			}
			continue
		}
		best := &same
		if len(asked.differences(kickOffOf(m.Request))) > 0 {
			best = &other
		}
		if *best == nil || m.TransactionTime.After((*best).TransactionTime) {
			*best = &earlierRun{dir: dir, Manifest: m}
		}
	}
	switch {
	case same != nil:
		return same, nil
	case other != nil:
		return nil, usageError("--since: no export in %s was asked for in the same way; the newest, %s, differs in %s",
			parent, other.dir, strings.Join(asked.differences(kickOffOf(other.Request)), ", "))
	case begun != "":
		return nil, usageError("--since: there is no finished export in %s, only one that has begun, %s; repeat its command first", parent, begun)
	}
	return nil, usageError("--since: there is no finished export in %s to continue; the first one goes without --since", parent)
}

// A kickOff is what an export was asked for, by its address, apart from times.
type kickOff struct {
	base, level string
	params      map[string][]string // sorted, each once
}

// flagOf names the flag of each parameter that must be the same.
var flagOf = map[string]string{
	"_type": "--type", "_typeFilter": "--type-filter", "_elements": "--elements",
	"patient": "--patient", "includeAssociatedData": "--include-associated-data",
}

// kickOffOf reads the address of a kick-off.
func kickOffOf(u *url.URL) kickOff {
	k := kickOff{params: make(map[string][]string)}
	path := strings.TrimSuffix(u.EscapedPath(), "/$export")
	parts := strings.Split(path, "/")
	switch n := len(parts); {
	case n > 0 && parts[n-1] == "Patient":
		parts, k.level = parts[:n-1], "Patient"
	case n > 1 && parts[n-2] == "Group":
		parts, k.level = parts[:n-2], "Group/"+parts[n-1]
	}
	k.base = strings.ToLower(u.Scheme+"://"+u.Host) + strings.TrimRight(strings.Join(parts, "/"), "/")
	query := u.Query()
	for name := range flagOf {
		for _, v := range query[name] {
			if name == "_typeFilter" { // a comma is part of the search
				k.params[name] = append(k.params[name], v)
				continue
			}
			k.params[name] = append(k.params[name], strings.Split(v, ",")...)
		}
		slices.Sort(k.params[name])
		k.params[name] = slices.Compact(k.params[name])
	}
	return k
}

// differences names the flags in which two kick-offs differ, sorted.
func (k kickOff) differences(other kickOff) []string {
	var flags []string
	if k.base != other.base {
		flags = append(flags, "--upstream")
	}
	if k.level != other.level {
		flags = append(flags, "--patients or --group")
	}
	for name, flag := range flagOf {
		if !slices.Equal(k.params[name], other.params[name]) {
			flags = append(flags, flag)
		}
	}
	slices.Sort(flags)
	return flags
}

// into lets a request continue the earlier run.
func (run *earlierRun) into(r *jobs.Request) {
	r.Continues = run.TransactionTime
	if run.incomplete {
		r.Notes = append(r.Notes, jobs.Note{Severity: jobs.SeverityWarning, Code: string(fhir.IssueIncomplete), Text: "The export that this one continues, of " +
			fhir.FormatInstant(run.TransactionTime) + ", had errors. What was missing from it is missing from this one, too, unless it has changed since."})
	}
}

// clock is the time by which a request that continues a run is judged: the
// transactionTime is on the upstream's clock, which may be ahead of ours.
func (run *earlierRun) clock(now time.Time) time.Time {
	if run != nil && run.TransactionTime.After(now) {
		return run.TransactionTime
	}
	return now
}
