package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"spillway/auth/scope"
	"spillway/cmd/spillway/internal/config"
	"spillway/gateway"
	"spillway/jobs"
	"spillway/jobs/export"
	"spillway/upstream"
	"spillway/upstream/fhir"
)

// exportFlags is the command line of export.
type exportFlags struct {
	upstream, out, config string
	headers               []string

	types, typeFilters, elements, associated []string
	since, until                             string
	sinceIncomplete                          bool
	patients, lenient                        bool
	group                                    string
	patientIDs                               []string

	gzip, quiet         bool
	logFormat, logLevel string

	referenced []string
	newMembers bool

	profile, settle, concurrency, pageSize, timeout string // "": as configured
}

func newExport(c console) *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use:   "export --upstream URL --out DIR",
		Short: "Export to a directory, without a gateway",
		Long: `Export a FHIR server to NDJSON files and a manifest.json in a directory.

The path of manifest.json is all that is written to standard output. An
interrupted export is resumed by the same command. A finished directory is
never overwritten.`,
		Example: `  spillway export --upstream https://fhir.example.org/fhir --out all
  spillway export --upstream https://fhir.example.org/fhir --out runs/2026-06-02 --since last
  spillway export --upstream https://fhir.example.org/fhir --out since-june \
      --type Patient,Observation --type-filter 'Observation?status=final' \
      --since 2026-06-01T00:00:00Z --header 'Authorization: @token.txt'`,
	}
	s := cmd.Flags()
	s.SortFlags = false
	s.StringVar(&f.upstream, "upstream", "", "FHIR base `URL` to export from")
	s.StringVar(&f.out, "out", "", "`directory` to fill; new, empty, or of an interrupted export")
	s.StringSliceVar(&f.types, "type", nil, "resource `types`, separated by commas (default all)")
	s.StringVar(&f.since, "since", "", "only what changed at or after this `instant`, such as 2026-06-01T00:00:00Z; or since the last run beside --out (last), or the run in a directory (last:DIR)")
	s.BoolVar(&f.sinceIncomplete, "since-incomplete", false, "continue that run even if it had errors")
	s.StringVar(&f.until, "until", "", "only what changed up to this `instant`")
	s.StringArrayVar(&f.typeFilters, "type-filter", nil, "a `search` that resources of its type must match, such as 'Observation?status=final'; several are alternatives")
	s.BoolVar(&f.patients, "patients", false, "only Patients and what belongs to them")
	s.StringVar(&f.group, "group", "", "only the members of the Group with this `id`, and what belongs to them")
	s.StringSliceVar(&f.patientIDs, "patient", nil, "only the Patients with these `ids`, and what belongs to them")
	s.StringSliceVar(&f.elements, "elements", nil, "only these root `elements`, such as id,Patient.name")
	s.StringSliceVar(&f.associated, "include-associated-data", nil, "`what` else: LatestProvenanceResources or RelevantProvenanceResources")
	s.StringSliceVar(&f.referenced, "referenced", nil, "with --group, or if --type names them: `types` outside of the patients' data of which that is exported which it refers to; all, none or some of "+strings.Join(export.ReferencedTypes(), ", ")+" (default all)")
	s.BoolVar(&f.newMembers, "since-new-members", false, "with --since and --group: of members who joined since, also what is older")
	s.BoolVar(&f.lenient, "lenient", false, "ignore what is not supported, and say so in the error file")
	s.StringArrayVar(&f.headers, "header", nil, "`header` to send, as 'Name: value' or 'Name: @file'")
	s.BoolVar(&f.gzip, "gzip", false, "keep the files compressed (.ndjson.gz)")
	s.StringVar(&f.config, "config", "", "YAML `file`; its sections upstream and export are used")
	s.StringVar(&f.profile, "profile", "", "`name` of the kind of server, or a file with its facts (default auto)")
	s.StringVar(&f.settle, "settle", "", "`time` to wait before the newest resources are read (default by profile, or 5s)")
	s.StringVar(&f.concurrency, "concurrency", "", "`number` of requests at once (default 8)")
	s.StringVar(&f.pageSize, "page-size", "", "`number` of resources to ask for at once (default 1000)")
	s.StringVar(&f.timeout, "timeout", "", "`time` to wait for an answer (default 60s)")
	s.BoolVar(&f.quiet, "quiet", false, "no progress and no summary")
	s.StringVar(&f.logFormat, "log-format", "text", "`format`, text or json; with json, progress is logged too")
	s.StringVar(&f.logLevel, "log-level", "", "`level`, debug, info, warn or error (default warn; with --log-format json info)")
	return command(cmd, func(ctx context.Context) error { return runExport(ctx, c, f) })
}

// runExport performs the command. Its phases are in the order in which users
// want their mistakes told: flags, directory, upstream, request.
func runExport(ctx context.Context, c console, f exportFlags) error {
	cfg, err := f.load(c.environ)
	if err != nil {
		return err
	}
	dir := workdir{f.out}
	if err := dir.check(); err != nil {
		return err
	}
	earlier, err := f.continued(cfg, dir)
	if err != nil {
		return err
	}
	display := newDisplay(c.err, f.quiet, f.logFormat)
	defer display.close()
	log := newLogger(display, f.logLevel, f.logFormat)
	for _, w := range cfg.Warnings {
		log.Warn(w)
	}
	credential, err := openCredential(cfg, log, nil, nil)
	if err != nil {
		return err
	}
	client, err := newClient(cfg, credential, log, nil)
	if err != nil {
		return err
	}
	record := runRecord{Upstream: cfg.Upstream.URL.String(), Gzip: f.gzip}
	if earlier != nil {
		record.SinceIncomplete, record.SinceFlag = earlier.incomplete, f.since
		f.since = fhir.FormatInstant(earlier.TransactionTime)
		display.note("continuing the export of %s", f.since)
	}
	if record.Request, err = f.request(ctx, cfg, client, earlier); err != nil {
		return interruptedBefore(ctx, err)
	}
	resumed, err := dir.claim(record)
	if err != nil {
		return err
	}
	r := &exportRun{dir: dir, record: record, resumed: resumed, display: display, log: log}
	if err := r.run(ctx, cfg, client); err != nil {
		if finishedBy(ctx, err) {
			return &exitError{exitInterrupted, fmt.Errorf("interrupted; the same command resumes the export, its state is in %s", dir.state())}
		}
		return err
	}
	fmt.Fprintln(c.out, dir.manifest())
	return r.verdict
}

// interruptedBefore gives an interruption that left nothing behind its status.
func interruptedBefore(ctx context.Context, err error) error {
	if finishedBy(ctx, err) {
		return &exitError{exitInterrupted, errors.New("interrupted; nothing was exported yet")}
	}
	return err
}

// load checks the flags and turns them and the configuration into one.
func (f *exportFlags) load(environ []string) (*config.Config, error) {
	switch {
	case f.out == "":
		return nil, usageError("--out is required: the directory to fill")
	case f.patients && f.group != "":
		return nil, usageError("--patients and --group exclude each other")
	}
	if err := oneOf("--log-format", f.logFormat, "text", "json"); err != nil {
		return nil, err
	}
	if f.logLevel == "" {
		f.logLevel = map[string]string{"text": "warn", "json": "info"}[f.logFormat]
	}
	if err := oneOf("--log-level", f.logLevel, "debug", "info", "warn", "error"); err != nil {
		return nil, err
	}
	in := config.Input{File: f.config, Environ: environ, URLFlag: "--upstream"}
	for _, o := range []config.Flag{
		{Name: "--upstream", Key: config.KeyURL, Value: f.upstream},
		{Name: "--profile", Key: config.KeyProfile, Value: f.profile},
		{Name: "--settle", Key: config.KeySettle, Value: f.settle},
		{Name: "--concurrency", Key: config.KeyConcurrency, Value: f.concurrency},
		{Name: "--page-size", Key: config.KeyPageSize, Value: f.pageSize},
		{Name: "--referenced", Key: config.KeyReferenced, Value: strings.Join(f.referenced, ",")},
		{Name: "--timeout", Key: config.KeyTimeout, Value: f.timeout},
	} {
		if o.Value != "" {
			in.Flags = append(in.Flags, o)
		}
	}
	if f.newMembers {
		in.Flags = append(in.Flags, config.Flag{Name: "--since-new-members", Key: config.KeyNewMembers, Value: "true"})
	}
	for _, h := range f.headers {
		in.Flags = append(in.Flags, config.Flag{Name: "--header", Key: config.KeyHeaders, Value: h})
	}
	cfg, err := config.Load(in)
	if err != nil {
		return nil, err
	}
	dir := workdir{f.out}
	cfg.Store = config.Store{BoltPath: dir.store()}
	// Compressed segments are one file only once their frames are taken off.
	cfg.Storage = config.Storage{DiskPath: dir.files(), MinFree: cfg.Storage.MinFree, Packed: !f.gzip}
	// An interrupted export may be resumed months later; the directory ends
	// its life, not a clock.
	cfg.Export.Retention = 100 * 365 * 24 * time.Hour
	return cfg, nil
}

// request parses the flags through the gateway's parser, so that a client of
// the gateway and a user of the command line are told the same.
// earlier is the run that it continues, or nil.
func (f *exportFlags) request(ctx context.Context, cfg *config.Config, client *upstream.Client, earlier *earlierRun) (jobs.Request, error) {
	capabilities, err := client.Capabilities(ctx)
	if err != nil {
		return jobs.Request{}, err
	}
	level, _ := f.level()
	request, err := gateway.ParseRequest(level, f.group, f.params(), f.lenient, capabilities, cfg.Export.Referenced, earlier.clock(time.Now()))
	if err != nil {
		var problem *gateway.Problem
		if errors.As(err, &problem) {
			return jobs.Request{}, usageError("%s", inFlags(problem.Error()))
		}
		return jobs.Request{}, err
	}
	request.URL = f.kickOffURL(cfg).String()
	if earlier != nil {
		earlier.into(&request)
	}
	return request, nil
}

// level returns where the kick-off is, and its path below the base.
func (f *exportFlags) level() (jobs.Level, string) {
	switch {
	case f.group != "":
		return jobs.LevelGroup, "/Group/" + url.PathEscape(f.group) + "/$export"
	case f.patients || len(f.patientIDs) > 0:
		return jobs.LevelPatient, "/Patient/$export"
	}
	return jobs.LevelSystem, "/$export"
}

// kickOffURL is the address that a client would kick this export off at.
func (f *exportFlags) kickOffURL(cfg *config.Config) *url.URL {
	_, path := f.level()
	u := cfg.Upstream.URL.JoinPath(path)
	u.RawQuery = f.params().Encode()
	return u
}

// params are the kick-off parameters that the flags stand for.
func (f *exportFlags) params() url.Values {
	p := url.Values{}
	for name, values := range map[string][]string{
		"_type": f.types, "_typeFilter": f.typeFilters, "_elements": f.elements,
		"patient": f.patientIDs, "includeAssociatedData": f.associated,
	} {
		for _, v := range values {
			p.Add(name, v)
		}
	}
	for name, value := range map[string]string{"_since": f.since, "_until": f.until} {
		if value != "" {
			p.Set(name, value)
		}
	}
	return p
}

// inFlags puts the names of flags in place of those of parameters.
func inFlags(message string) string {
	if rest, ok := strings.CutPrefix(message, "patient:"); ok {
		message = "--patient:" + rest
	}
	return strings.NewReplacer(
		"_typeFilter", "--type-filter", "_type", "--type", "_since", "--since", "_until", "--until",
		"_elements", "--elements", "includeAssociatedData", "--include-associated-data",
		"handling=lenient", "--lenient",
	).Replace(message)
}

// An exportRun is one run of one export, from the record in the directory to
// the verdict.
type exportRun struct {
	dir     workdir
	record  runRecord
	resumed bool
	display *display
	log     *slog.Logger
	verdict error // how a complete export is to be judged; nil if it has no errors
}

func (r *exportRun) run(ctx context.Context, cfg *config.Config, client *upstream.Client) (err error) {
	encoding := jobs.EncodingIdentity
	if r.record.Gzip {
		encoding = jobs.EncodingGzip
	}
	began := time.Now()
	engine, err := openEngine(ctx, cfg, r.log)
	if err != nil {
		return err
	}
	engine.build(cfg, client, encoding, oversight{}, r.log, nil)
	open := true
	defer func() {
		if open {
			err = errors.Join(err, engine.Close())
		}
	}()
	id, err := r.job(ctx, engine)
	if err != nil {
		return err
	}
	j, err := r.work(ctx, engine, id)
	if err != nil {
		return err
	}
	if j.State != jobs.Completed {
		return fmt.Errorf("the export failed: %s", inWords(j))
	}
	assembling := phase{name: "assembling", total: storedSizes(j.Files), count: bytesText}
	if err := (&assembler{workdir: r.dir, locate: engine.locate}).assemble(ctx, j, func(bytes int64) {
		assembling.done += bytes
		r.display.show(assembling)
	}); err != nil {
		return err
	}
	open = false
	if err := errors.Join(engine.Close(), r.dir.finish(r.record)); err != nil {
		return err
	}
	r.display.close()
	issues, err := r.dir.issues(j.Files)
	if err != nil {
		return err
	}
	r.display.summary(j, issues, time.Since(began), r.resumed)
	if issues.errors > 0 {
		r.verdict = &exitError{exitIncomplete, fmt.Errorf("exported, but the error file has %s; see %s", plural(issues.errors, "error"), issues.file)}
	}
	return nil
}

func storedSizes(files []jobs.File) (n int64) {
	for _, f := range files {
		n += storedSize(f)
	}
	return n
}

// inWords says why a job did not complete.
func inWords(j *jobs.Job) string {
	if j.Failure != "" {
		return j.Failure
	}
	return "it was " + string(j.State)
}

// job returns the export of this directory: that of an earlier run if it can
// be resumed, or else a new one.
func (r *exportRun) job(ctx context.Context, e *engine) (jobs.ID, error) {
	all, err := e.store.List(ctx)
	if err != nil {
		return "", err
	}
	for _, j := range all {
		if j.State != jobs.Failed && j.State != jobs.Canceled {
			r.display.note("resuming the export that was begun on %s", j.CreatedAt.Local().Format(time.DateTime))
			return j.ID, nil
		}
		// The same command is a new attempt; nothing of the failed one is of use.
		if err := errors.Join(e.exporter.RemoveBytes(ctx, j.ID), e.store.Remove(ctx, j.ID)); err != nil {
			return "", err
		}
	}
	// Later it would wait for space, which a gateway may and a command may not.
	if err := e.files.Ready(ctx); err != nil {
		return "", fmt.Errorf("%w; storage.disk.min_free says how much must stay free", err)
	}
	j, first := jobs.New(r.record.Request, "", time.Now())
	j.Authorization = scope.Snapshot{All: true}.Encode() // the operator's own
	return j.ID, e.store.Create(ctx, j, first)
}

// How often the progress is read: usually, and when nothing is left but to note
// the end.
const (
	look      = 250 * time.Millisecond
	lookAtEnd = 5 * time.Millisecond
)

// work performs the export and returns it when it has ended.
func (r *exportRun) work(ctx context.Context, e *engine, id jobs.ID) (*jobs.Job, error) {
	working, ended := context.WithCancel(ctx)
	defer ended()
	g, gctx := errgroup.WithContext(working)
	g.Go(func() error { return e.worker.Run(gctx) })
	var last *jobs.Job
	g.Go(func() error {
		defer ended()
		tick, ending := time.NewTicker(look), e.ending
		defer tick.Stop()
		for {
			j, err := e.store.Get(gctx, id)
			if err != nil {
				return err
			}
			if last = j; j.State.Ended() {
				return nil
			}
			r.display.progress(j, e.files.Ready(gctx))
			select {
			case <-gctx.Done():
				return context.Cause(ctx)
			case <-tick.C:
			case <-ending:
				ending = nil
				tick.Reset(lookAtEnd)
			}
		}
	})
	err := g.Wait()
	switch {
	case last != nil && last.State.Ended():
		return last, nil // the worker was told to stop
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err == nil:
		err = errors.New("the work stopped before the export ended")
	}
	return nil, err
}
