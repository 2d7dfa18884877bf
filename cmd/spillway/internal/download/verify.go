package download

import (
	"cmp"
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
	"spillway/upstream/fhir"
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

// compare looks for resources that are there twice, or there and deleted. Where
// digests say so, the files are read again, to tell which.
func (v *verifier) compare(ctx context.Context, checks []*fileCheck) error {
	c := collide(&v.output, &v.deleted, v.options.First)
	if c.twiceCount+c.bothCount == 0 {
		return nil
	}
	s := &search{collision: c, sites: make(map[uint64][]site)}
	if err := v.each(ctx, checks, s.file); err != nil {
		return err
	}
	s.report(&v.found)
	return nil
}

// A search looks for the resources that have certain digests.
type search struct {
	collision
	mu    sync.Mutex
	sites map[uint64][]site
}

// A site is where a resource was met.
type site struct {
	resource string // type/id
	file     string
	line     int64
	deleted  bool
}

// maxSites is how many sites of one digest are kept.
const maxSites = 8

func (s *search) file(c *fileCheck, ctx context.Context) error {
	if c.file.Kind == jobs.KindOutcome {
		return nil
	}
	r, closer, err := open(c.dir, c.name, &c.stored)
	if err != nil {
		return c.broken(err)
	}
	defer closer.Close()
	var line int64
	err = eachLine(r, func([]byte) {}, func(b []byte) error {
		line++
		typ, id, err := c.checker.Check(b)
		switch {
		case err != nil || string(typ) != c.typ:
		case c.file.Kind == jobs.KindOutput:
			s.look(c, typ, id, line)
		default:
			_ = fhir.ReadDeletions(b, func(typ, id string) { s.look(c, []byte(typ), []byte(id), line) }) // told before
		}
		if line%1024 == 0 {
			return context.Cause(ctx)
		}
		return nil
	})
	if errors.Is(err, errPacked) || errors.Is(err, errLongLine) {
		return nil // told before
	}
	return err
}

func (s *search) look(c *fileCheck, typ, id []byte, line int64) {
	var d uint64
	d, c.scratch = c.output.digest(c.scratch, typ, id)
	if !s.twice[d] && !s.both[d] {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sites[d]) < maxSites || c.file.Kind == jobs.KindDeleted {
		s.sites[d] = append(s.sites[d], site{string(typ) + "/" + string(id), c.name, line, c.file.Kind == jobs.KindDeleted})
	}
}

// report tells what was met. Digests that are the same by chance tell nothing.
func (s *search) report(f *findings) {
	s.tell(f, Twice, s.twice, s.twiceCount, func(x, y site) (string, bool) {
		return "is in the output more than once; the first is in", !x.deleted && !y.deleted
	})
	s.tell(f, Both, s.both, s.bothCount, func(x, y site) (string, bool) {
		return "is in the output, and deleted in", x.deleted && !y.deleted
	})
}

// tell adds a problem for each digest of which two sites hold the same resource
// and fit together.
func (s *search) tell(f *findings, k Kind, digests map[uint64]bool, count int64, fit func(x, y site) (string, bool)) {
	unlisted := count - int64(len(digests))
	for d := range digests {
		sites := s.sites[d]
		slices.SortFunc(sites, func(x, y site) int {
			switch {
			case x.deleted && !y.deleted:
				return -1
			case y.deleted && !x.deleted:
				return 1
			}
			return cmp.Or(strings.Compare(x.file, y.file), int(x.line-y.line))
		})
		told := false
		for i, x := range sites {
			for _, y := range sites[i+1:] {
				if words, ok := fit(x, y); ok && !told && x.resource == y.resource {
					told = true
					f.add(k, y.file, y.line, "%s %s %s:%d", y.resource, words, x.file, x.line)
				}
			}
		}
	}
	if unlisted > 0 {
		f.count(k, unlisted)
	}
}
