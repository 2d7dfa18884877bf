// Command fakefhir serves a fake FHIR R4 server on a loopback address: a
// generated dataset, or (with -bulk) a great number of computed Observations.
// It prints the URL of the FHIR root on standard output when it is ready, and
// stops on SIGTERM or SIGINT.
//
//	fakefhir -patients 50
//	fakefhir -bulk 1000000 -addr 127.0.0.1:8080
//	fakefhir -patients 200000 -brief 100000
//	fakefhir -patients 5 -script faults.json
//	fakefhir -patients 5 -like epic
//	fakefhir -patients 20 -transactions | gzip >generated.ndjson.gz
//
// With -transactions it serves nothing but prints the resources as transaction
// Bundles, one a line, for another server to load.
// Faults can be scripted while it runs, too: POST them to /_control/faults.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"spillway/test/fakefhir"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "fakefhir:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("fakefhir", flag.ExitOnError)
	addr := flags.String("addr", "127.0.0.1:0", "loopback `address` to listen on")
	patients := flags.Int("patients", 50, "`number` of patients, with about 400 resources each")
	bulk := flags.Int("bulk", 0, "`number` of computed Observations, instead of patients unless -patients is given, too")
	members := flags.Int("brief", 0, "patients with very little data, of which this `number` are in the Group \"brief\"")
	seed := flags.Uint64("seed", 1, "seed of the generated resources")
	path := flags.String("base", "/fhir", "`path` of the FHIR root")
	like := flags.String("like", "", "`server` that is played: "+strings.Join(fakefhir.Dialects(), ", "))
	pageMax := flags.Int("page-max", 0, "largest page; 0: as the server that is played, or 1000")
	latency := flags.Duration("latency", 0, "waited before every answer")
	noGzip := flags.Bool("no-gzip", false, "compress nothing")
	noDirect := flags.Bool("no-direct", false, "know no pages past the store of searches, as servers other than HAPI")
	script := flags.String("script", "", "JSON `file` of faults")
	transactions := flags.Bool("transactions", false, "print transaction Bundles instead of serving")
	if err := flags.Parse(args); err != nil {
		return err
	}
	patientsGiven := false
	flags.Visit(func(f *flag.Flag) { patientsGiven = patientsGiven || f.Name == "patients" })

	if *like != "" && !slices.Contains(fakefhir.Dialects(), *like) {
		return fmt.Errorf("-like %s: want one of %s", *like, strings.Join(fakefhir.Dialects(), ", "))
	}
	o := fakefhir.Options{Like: *like, Path: *path, AtRoot: *path == "/", PageMax: *pageMax, Latency: *latency, NoGzip: *noGzip, NoDirect: *noDirect}
	if *bulk > 0 {
		o.Bulk = fakefhir.Bulk(*bulk)
	}
	switch {
	case *members > 0:
		o.Dataset = fakefhir.GenerateBrief(fakefhir.BriefOptions{Patients: *patients, Members: *members})
	case *bulk <= 0 || patientsGiven:
		o.Dataset = fakefhir.Generate(fakefhir.GenerateOptions{Patients: *patients, Seed: *seed})
	}
	if *transactions {
		return printTransactions(out, o.Dataset)
	}
	s := fakefhir.New(o)
	if *script != "" {
		f, err := os.Open(*script)
		if err != nil {
			return err
		}
		faults, err := fakefhir.ReadFaults(f)
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", *script, err)
		}
		s.Script(faults...)
	}
	return serve(ctx, *addr, s, o, out)
}

// printTransactions prints Bundles of 500 entries.
func printTransactions(out io.Writer, d *fakefhir.Dataset) error {
	if d == nil {
		return errors.New("-transactions needs -patients")
	}
	w := bufio.NewWriter(out)
	for b := range d.Transactions(500) {
		_, _ = w.Write(b) // Flush reports an error
		_ = w.WriteByte('\n')
	}
	return w.Flush()
}

func serve(ctx context.Context, addr string, s *fakefhir.Server, o fakefhir.Options, out io.Writer) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	if !l.Addr().(*net.TCPAddr).IP.IsLoopback() {
		_ = l.Close()
		return fmt.Errorf("%s is not a loopback address", addr)
	}
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	root := "http://" + l.Addr().String()
	if !o.AtRoot {
		root += o.Path
	}
	fmt.Fprintln(out, root)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	s.Reset() // frees what a fault holds up
	grace, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		_ = srv.Close()
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
