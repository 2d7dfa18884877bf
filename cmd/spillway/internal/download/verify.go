package download

import (
	"context"
	"errors"
	"hash/maphash"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"spillway/jobs"
)

// Options of Verify. The zero value is good.
type Options struct {
	// First is how many problems of each kind are listed. 0 means 20.
	First int
	// Parallel is how many files are read at once. 0 means one for each core.
	Parallel int
	// Progress is told at every look how many of the bytes on disk are read. It may
	// be nil, and is called by several goroutines.
	Progress func(done, total int64)
}

// Verify checks what is in a directory against its manifest. It takes 8 bytes of
// memory for each resource, and some megabytes for each file that is being read.
// The error says that it could not be done, as with ErrNoManifest; what is wrong
// with the download is in the report.
func Verify(ctx context.Context, dir string, o Options) (*Report, error) {
	if o.First <= 0 {
		o.First = 20
	}
	if o.Parallel <= 0 {
		o.Parallel = runtime.GOMAXPROCS(0)
	}
	if o.Progress == nil {
		o.Progress = func(int64, int64) {}
	}
	v := &verifier{dir: dir, options: o, found: findings{first: o.First}, types: make(map[string]int64)}
	v.output.seed = maphash.MakeSeed()
	v.deleted.seed = v.output.seed
	m, err := Read(dir)
	switch {
	case errors.Is(err, ErrNoManifest):
		return nil, err
	case err != nil:
		v.found.add(BadManifest, "", 0, "%v", err)
		v.found.into(&v.report, nil)
		return &v.report, nil
	}
	if err := v.run(ctx, m); err != nil {
		return nil, err
	}
	return &v.report, nil
}

// A verifier checks one directory.
type verifier struct {
	dir     string
	options Options
	found   findings
	output  idList
	deleted idList
	stored  atomic.Int64 // bytes read, as they are on disk

	mu        sync.Mutex
	report    Report
	types     map[string]int64 // lines of output by type
	deletions int64
}

func (v *verifier) run(ctx context.Context, m *Manifest) error {
	checks, err := v.plan(m)
	if err != nil {
		return err
	}
	if err := v.each(ctx, checks, (*fileCheck).run); err != nil {
		return err
	}
	if err := v.compare(ctx, checks); err != nil {
		return err
	}
	v.prove(m)
	order := make(map[string]int)
	for i, c := range checks {
		order[c.name] = i
	}
	v.found.into(&v.report, order)
	return nil
}

// plan looks for the files of the manifest, and for others.
func (v *verifier) plan(m *Manifest) ([]*fileCheck, error) {
	var checks []*fileCheck
	named := map[string]bool{ManifestName: true}
	for _, f := range m.Files {
		name := nameOnDisk(v.dir, f.Name)
		switch {
		case name == "":
			v.found.add(Missing, f.Name, 0, "it is not there")
			continue
		case named[name]:
			v.found.add(BadManifest, name, 0, "the manifest names it twice")
			continue
		}
		named[name] = true
		c := &fileCheck{verifier: v, file: f, name: name, typ: f.Type}
		if want := map[jobs.FileKind]string{jobs.KindDeleted: "Bundle", jobs.KindOutcome: "OperationOutcome"}[f.Kind]; want != "" {
			if f.Type != "" && f.Type != want {
				v.found.add(BadManifest, name, 0, "the manifest lists it under %s, but not with the type %s", arrayOf(f.Kind), want)
			}
			c.typ = want
		}
		checks = append(checks, c)
	}
	entries, err := os.ReadDir(v.dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !named[e.Name()] && !strings.HasPrefix(e.Name(), ".") {
			v.found.add(Unnamed, e.Name(), 0, "the manifest does not name it")
		}
	}
	return checks, nil
}

// each does something to every file, the largest first and several at once.
func (v *verifier) each(ctx context.Context, checks []*fileCheck, do func(*fileCheck, context.Context) error) error {
	var total int64
	sizes := make(map[*fileCheck]int64)
	for _, c := range checks {
		if at, err := os.Stat(filepath.Join(v.dir, c.name)); err == nil {
			sizes[c] = at.Size()
			total += at.Size()
		}
	}
	inOrder := slices.Clone(checks)
	slices.SortStableFunc(inOrder, func(x, y *fileCheck) int { return int(min(max(sizes[y]-sizes[x], -1), 1)) })
	v.stored.Store(0)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(v.options.Parallel + 1)
	g.Go(func() error {
		v.watch(watching, total)
		return nil
	})
	var left sync.WaitGroup
	for _, c := range inOrder {
		left.Add(1)
		g.Go(func() error {
			defer left.Done()
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			return do(c, gctx)
		})
	}
	left.Wait()
	stop()
	return g.Wait()
}

// account adds what a file held.
func (c *fileCheck) account(size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &c.report
	r.Files++
	r.Lines += c.lines
	r.Bytes += size
	switch c.file.Kind {
	case jobs.KindOutput:
		c.types[c.typ] += c.lines
	case jobs.KindDeleted:
		c.deletions += c.listed
	case jobs.KindOutcome:
		r.Issues += c.listed
	}
}
