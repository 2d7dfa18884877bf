package export

import (
	"bufio"
	"context"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"slices"
	"strings"
	"sync"

	"spillway/jobs"
	"spillway/upstream/fhir"
)

// A cohort is the patients of an export, sorted by id, so that units name
// patients by index. It stays in the form that it has in storage, one id a
// line, with a table over it: some 12 bytes a patient beside the ids, exact, and
// it is asked without memory of its own. It never changes.
type cohort struct {
	text  string
	ends  []uint32 // of the ids in text
	slots []uint32 // a power of two of them, at most half full: index + 1 of an id, 0 is free
	seed  maphash.Seed
}

// newCohort takes over the list.
func newCohort(text string) (*cohort, error) {
	if int64(len(text)) > math.MaxUint32 {
		return nil, fmt.Errorf("export: a list of patients of %d bytes", len(text))
	}
	n := strings.Count(text, "\n")
	size := 2
	for size < 2*n {
		size *= 2
	}
	c := &cohort{text: text, ends: make([]uint32, 0, n), slots: make([]uint32, size), seed: maphash.MakeSeed()}
	for at := 0; ; {
		length := strings.IndexByte(text[at:], '\n')
		if length < 0 {
			return c, nil
		}
		c.ends = append(c.ends, uint32(at+length))
		*c.slot(text[at : at+length]) = uint32(len(c.ends))
		at += length + 1
	}
}

func (c *cohort) len() int { return len(c.ends) }

// id returns the id of a patient.
func (c *cohort) id(i int) string {
	begin := uint32(0)
	if i > 0 {
		begin = c.ends[i-1] + 1
	}
	return c.text[begin:c.ends[i]]
}

// slot returns where the index of an id stands, or belongs.
func (c *cohort) slot(id string) *uint32 {
	mask := uint64(len(c.slots) - 1)
	for i := maphash.String(c.seed, id) & mask; ; i = (i + 1) & mask {
		if s := &c.slots[i]; *s == 0 || c.id(int(*s)-1) == id {
			return s
		}
	}
}

// index returns the place of a patient, or -1.
func (c *cohort) index(id string) int { return int(*c.slot(id)) - 1 }

// A batch is the part of a cohort that one unit exports, or the one resource
// that scopeID names.
type batch struct {
	cohort   *cohort
	release  fhir.Release
	from, to int
	only     string // at scopeID
	// parameters are those by which it is searched; nil: all of the compartment.
	parameters []string
	// lenient says that resources of none of the patients are to be expected.
	lenient bool
}

// owner returns the first patient of the cohort to whom a resource belongs, or
// -1, and whether it belongs to others of them, too.
func (b *batch) owner(h fhir.Header, resource []byte) (first int, shared bool, err error) {
	if h.Type == "Patient" { // a link to another patient does not make this one a member
		return b.cohort.index(h.ID), false, nil
	}
	first = -1
	other := -1 // by a parameter that is not searched by
	err = b.release.PatientRefs(h.Type, resource, func(parameter, id string) bool {
		switch i := b.cohort.index(id); {
		case i < 0 || i == first:
		case !b.searchedBy(parameter):
			if other < 0 || i < other {
				other = i
			}
		case first < 0:
			first = i
		default:
			first, shared = min(first, i), true
		}
		return true
	})
	if first < 0 {
		first = other
	}
	return first, shared, err
}

// owns reports whether the resource is this batch's to export. A resource of
// several patients of the cohort belongs to the first of them, so that exactly
// one batch exports it. A resource of none of them means that the upstream
// ignores the patient parameter.
func (b *batch) owns(h fhir.Header, resource []byte) (bool, error) {
	first, _, err := b.owner(h, resource)
	if err != nil {
		return false, err
	}
	if first < 0 && !b.lenient {
		return false, &jobs.UnitError{Permanent: true, Reason: fmt.Sprintf(
			"search %s: the upstream returned a resource that belongs to none of the patients asked for, so it ignores the patient filter; nothing was handed out.", h.Type)}
	}
	return b.from <= first && first < b.to, nil
}

// searchedBy reports whether the searches of the batch find what belongs to a
// patient by a parameter of the compartment. One batch only may own a resource,
// and it must be one that finds it. The parameter "patient" of a type looks at
// the element that another parameter names in other words.
func (b *batch) searchedBy(parameter string) bool {
	return b.parameters == nil || slices.Contains(b.parameters, parameter) ||
		slices.Contains(b.parameters, "patient") && slices.Contains([]string{"subject", "beneficiary", "actor", "individual"}, parameter) ||
		slices.Contains(b.parameters, "subject") && parameter == "patient"
}

// openBatch returns the batch that a slice exports; nil where it knows no patients.
func (a *attempt) openBatch(ctx context.Context, spec sliceSpec) (*batch, error) {
	b, err := a.wholeBatch(ctx, spec.Read)
	if err != nil || spec.Read.Scope != scopeCohort {
		return b, err
	}
	if spec.Batch.From < 0 || spec.Batch.To > b.cohort.len() || spec.Batch.From >= spec.Batch.To || spec.Batch.Size <= 0 {
		return nil, fmt.Errorf("export: batch %d to %d of a cohort of %d", spec.Batch.From, spec.Batch.To, b.cohort.len())
	}
	b.from, b.to, b.parameters, b.lenient = spec.Batch.From, spec.Batch.To, spec.Batch.Parameters, false
	return b, nil
}

// wholeBatch is the whole cohort of a type, for a reading that meets others'
// resources too.
func (a *attempt) wholeBatch(ctx context.Context, read readSpec) (*batch, error) {
	switch read.Scope {
	case scopeID:
		return &batch{only: a.job.Request.GroupID}, nil
	case scopeCohort, scopeMembers:
		c, err := a.cohorts.load(ctx, a, read.Cohort)
		if err != nil {
			return nil, err
		}
		return &batch{cohort: c, release: read.Release, to: c.len(), lenient: true}, nil
	}
	return nil, nil
}

// cohortCache keeps the cohorts of the jobs at work, so that the units of one
// process share them. The zero value is ready.
type cohortCache struct {
	mu   sync.Mutex
	held []heldCohort // the one that was used last comes last
}

type heldCohort struct {
	key string // in storage
	*cohort
}

// maxHeld is how many patients are held at most, but for one cohort. A million
// take some 20 to 50 MB.
const maxHeld = 2_000_000

func (c *cohortCache) load(ctx context.Context, a *attempt, key string) (*cohort, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, h := range c.held {
		if h.key == key {
			c.held = append(slices.Delete(c.held, i, i+1), h)
			return h.cohort, nil
		}
	}
	object, err := a.c.Storage.Stat(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("export: the list of patients: %w", err)
	}
	r, err := a.c.Storage.Open(ctx, key, 0, -1)
	if err != nil {
		return nil, fmt.Errorf("export: the list of patients: %w", err)
	}
	defer r.Close()
	var text strings.Builder
	text.Grow(int(object.Size))
	if _, err := io.Copy(&text, r); err != nil {
		return nil, fmt.Errorf("export: the list of patients: %w", err)
	}
	loaded, err := newCohort(text.String())
	if err != nil {
		return nil, err
	}
	patients := loaded.len()
	for _, h := range c.held {
		patients += h.len()
	}
	for len(c.held) > 0 && patients > maxHeld {
		patients -= c.held[0].len()
		c.held = slices.Delete(c.held, 0, 1)
	}
	c.held = append(c.held, heldCohort{key, loaded})
	return loaded, nil
}

// forget drops the cohorts of a removed job.
func (c *cohortCache) forget(id jobs.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = slices.DeleteFunc(c.held, func(h heldCohort) bool { return strings.HasPrefix(h.key, id.KeyPrefix()) })
}

// storeCohort writes a list of patients and returns its key.
func (a *attempt) storeCohort(ctx context.Context, ids []string) (string, error) {
	a.objects++
	key := fmt.Sprintf("%s%d.cohort", a.prefix, a.objects)
	w, err := a.c.Storage.Create(ctx, key)
	if err != nil {
		return "", unwritten("beginning a list of patients", err)
	}
	defer func() { _ = w.Abort() }() // nothing after Commit
	buffered := bufio.NewWriter(w)
	for _, id := range ids {
		_, _ = buffered.WriteString(id + "\n") // Flush returns the error
	}
	if err := buffered.Flush(); err != nil {
		return "", unwritten("writing a list of patients", err)
	}
	if err := w.Commit(ctx); err != nil {
		return "", unwritten("committing a list of patients", err)
	}
	return key, nil
}
