package download

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"spillway/jobs"
	"spillway/upstream/fhir"
)

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
