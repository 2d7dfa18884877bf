package export

import (
	"context"
	"errors"
	"fmt"
	"time"

	scopes "spillway/auth/scope"
	"spillway/jobs"
	"spillway/upstream"
	"spillway/upstream/fhir"
)

const (
	maxPasses     = 2         // reads of one window before it is split or reported
	maxSplits     = 24        // depth of splitting; 2^24 parts of any window are below a tick
	maxBarren     = 4         // splits in a row that bring no new resource before a difference is reported; the first part of a window begins with what was read of the whole
	maxRestarts   = 3         // of a chain whose next link had expired
	maxStale      = 3         // pages in a row that bring nothing new before a chain is left
	maxEmpty      = 50        // empty pages in a row before a chain is left
	maxPages      = 1_000_000 // of one chain
	borderSlack   = 2 * tick  // rounding of upstreams that store finer than a tick
	runawayFactor = 2         // a chain may bring this times its count, plus runawaySlack
	runawaySlack  = 10_000
)

// sink takes a resource that passed every check, once per id. The bytes are
// valid until it returns.
type sink func(ctx context.Context, h fhir.Header, resource []byte) error

// reader reads windows of one type and proves them. Used by one goroutine.
type reader struct {
	*attempt
	spec  readSpec
	batch *batch // where the scope is about a cohort or one id
	sink  sink
	notes *notes
	ways  [maxPasses]method

	ids *passSet // seen are those of this unit that belong to the time asked for; a pass is over one chain
	// keepLate exports what changed after the transaction time while its page
	// was on the way. Otherwise it is left to the tail.
	keepLate bool
	late     int64          // entries of the pass that changed after the transaction time
	moved    bool           // the pass had entries that were made or changed after it
	filters  []scopes.Query // of the type, where all of them can be evaluated here; of slices only
	stated   statedTotal
	trouble  string // a sentence on what was wrong with a chain of the pass, after a space; "" if nothing

	summary readSummary
}

func (a *attempt) newReader(spec readSpec, b *batch, n *notes, s sink) *reader {
	return &reader{
		attempt: a, spec: spec, batch: b, sink: s, notes: n, ways: methods(spec),
		ids:     newPassSet(),
		summary: readSummary{Type: spec.Type, Proven: true},
	}
}

// search returns the search of one alternative in a window.
func (r *reader) search(alternative string, w windowSpec) upstream.Search {
	s := upstream.Search{Type: r.spec.Type, Query: alternative}
	if !r.spec.Whole {
		s.From, s.To = w.From, w.To
	}
	return s
}

// count asks for the number of resources in a window, summed over the
// alternatives; -1 if the upstream gives no usable count.
func (r *reader) count(ctx context.Context, w windowSpec) (int64, error) {
	var sum int64
	for _, alternative := range r.spec.Alternatives {
		n, err := r.c.Upstream.Count(ctx, r.search(alternative, w))
		if errors.Is(err, upstream.ErrNoCount) || err != nil && refused(err) && r.refusable() {
			return -1, nil
		}
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// prove reads a window until the distinct ids read equal the count. Where they
// do not, it counts afresh, reads again, and splits; what is left in the end
// is said in a note with the numbers.
func (r *reader) prove(ctx context.Context, w windowSpec) error {
	return r.proveSplit(ctx, w, 0, 0)
}

// proveSplit is prove, depth splits down, the last barren of which brought
// nothing new: an upstream whose counts are wrong is not worth reading for ever.
func (r *reader) proveSplit(ctx context.Context, w windowSpec, depth, barren int) error {
	if w.Counted > 2*r.c.Window && !r.spec.Whole && w.divisible() && depth < maxSplits {
		return r.proveHalves(ctx, w, depth, barren)
	}
	counted, before := w.Counted, r.ids.seen
	var read int64
	for pass, way := range r.ways {
		var err error
		if read, err = r.readOnce(ctx, w, counted, way); err != nil {
			return err
		}
		if counted < 0 && r.stated.pages == len(r.spec.Alternatives) {
			if r.stated.sum != read {
				continue
			}
			r.proven(read, read)
			return nil
		}
		if counted < 0 && r.spec.Scope == scopeID && read == 1 {
			r.proven(read, read)
			return nil
		}
		if counted < 0 {
			r.unproven(read)
			return nil
		}
		again := r.spec.Whole && r.moved && pass == 0 // what came may make up for what was lost
		if read == counted && !again {
			r.proven(counted, read)
			return nil
		}
		had := counted
		if counted, err = r.count(ctx, w); err != nil {
			return err
		}
		// What changes leaves its window, so a window shrinks while it is read,
		// and what was read lies between what it held before and after. That
		// nothing else is missing the closing count shows. Where none follows,
		// because a whole type grows too, a second reading must bring what the
		// first may have lost.
		explained := counted == read || counted == read-r.late || had >= read && read >= counted && counted >= 0 && r.shrinks()
		if explained && (pass > 0 || !r.spec.Whole) {
			r.proven(read, read)
			return nil
		}
		if counted < 0 {
			r.unproven(read)
			return nil
		}
	}
	if counted < 0 {
		r.differs(r.stated.sum, read)
		return nil
	}
	if barren++; r.ids.seen > before {
		barren = 0
	}
	// Splitting finds what a chain that ends early hides. It cannot help where
	// more was read than counted.
	if read < counted && barren < maxBarren && !r.spec.Whole && w.divisible() && depth < maxSplits {
		return r.proveHalves(ctx, windowSpec{From: w.From, To: w.To, Counted: counted}, depth, barren)
	}
	r.differs(counted, read)
	return nil
}

// proveHalves proves the parts of a window, each by its own count.
func (r *reader) proveHalves(ctx context.Context, w windowSpec, depth, barren int) error {
	var sum int64
	already := r.summary.Read
	halves, err := r.parts(ctx, w, depth)
	if err != nil {
		return err
	}
	for _, half := range halves {
		sum += half.Counted
	}
	for _, half := range halves {
		// A half that is counted empty is read all the same unless the counts
		// add up: only then nothing can hide in it.
		if half.Counted == 0 && sum == w.Counted && w.Counted > 0 {
			continue
		}
		if err := r.proveSplit(ctx, half, depth+1, barren); err != nil {
			return err
		}
	}
	// Each half may be proven by a count of its own that is too low.
	if read := r.summary.Read - already; r.summary.Proven && read < w.Counted {
		now, err := r.count(ctx, w)
		if err != nil {
			return err
		}
		if now > read {
			r.summary.Proven = false
			r.notes.add(jobs.SeverityError, fhir.IssueIncomplete,
				"%s: the upstream counts %d in a window, but its parts hold only %d by its own counts; %d may be missing from this export.",
				r.spec.Type, now, read, now-read)
		}
	}
	return nil
}

// parts cuts a window into such that hold at most half of what is counted in it,
// or in two where the counts do not help.
func (r *reader) parts(ctx context.Context, w windowSpec, depth int) ([]windowSpec, error) {
	if w.Counted > 1 {
		parts, err := cutWindows(ctx, r.countFunc(), w, cutting{limit: w.Counted / 2, parallel: 2})
		var uncounted *jobs.UnitError
		if err != nil && !errors.As(err, &uncounted) {
			return nil, err
		}
		if err == nil && len(parts) > 1 {
			return parts, nil
		}
	}
	halves := halve(w, depth)
	for i := range halves {
		n, err := r.count(ctx, halves[i])
		if err != nil {
			return nil, err
		}
		halves[i].Counted = n
	}
	return halves[:], nil
}

// halve cuts a window in two. One that is open to the past is cut at a distance
// from its end that grows with depth.
func halve(w windowSpec, depth int) [2]windowSpec {
	var middle time.Time
	if w.From.IsZero() {
		middle = before(w.To, gallop[min(depth, len(gallop)-1)])
	} else {
		middle = w.From.Add((w.To.Sub(w.From) / 2).Truncate(tick))
	}
	return [2]windowSpec{{From: w.From, To: middle}, {From: middle, To: w.To}}
}

// shrinks reports whether resources can only leave the windows of the unit, and
// whether a closing count follows. Those that are missing then are found by it.
func (r *reader) shrinks() bool {
	return r.spec.Scope != scopeID && !r.spec.Whole && !r.keepLate
}

func (r *reader) proven(counted, read int64) {
	r.summary.Late += r.late
	r.summary.add(counted, read)
	r.metrics.windows.WithLabelValues("proven").Inc()
}

// differs records a difference that stays.
func (r *reader) differs(counted, read int64) {
	r.summary.Late += r.late
	r.summary.add(counted, read)
	r.summary.Proven = false
	r.metrics.windows.WithLabelValues("differs").Inc()
	if read < counted {
		r.notes.add(jobs.SeverityError, fhir.IssueIncomplete,
			"%s: the upstream counts %d in a window but gives only %d, after reading it %d times and in parts; %d may be missing from this export.%s",
			r.spec.Type, counted, read, maxPasses, counted-read, r.trouble)
		return
	}
	r.notes.add(jobs.SeverityError, fhir.IssueIncomplete,
		"%s: the upstream counts %d in a window but gives %d, after reading it %d times and in parts; all that it gave is in this export, but its counts prove nothing.%s",
		r.spec.Type, counted, read, maxPasses, r.trouble)
}

// unproven records a window that no count can prove.
func (r *reader) unproven(read int64) {
	r.summary.Late += r.late
	r.summary.add(-1, read)
	r.summary.Proven = false
	r.metrics.windows.WithLabelValues("uncounted").Inc()
	if !r.spec.Said || r.trouble != "" {
		r.notes.add(jobs.SeverityError, fhir.IssueIncomplete, unprovenText, r.spec.Type, r.trouble)
	}
}

const unprovenText = "%s: the upstream gives no usable counts, so it could not be proven that this export is complete. What its pages held is here.%s"

// readOnce reads all alternatives of a window and returns the number of
// distinct ids, summed over the alternatives.
func (r *reader) readOnce(ctx context.Context, w windowSpec, counted int64, way method) (int64, error) {
	r.late, r.moved, r.trouble, r.stated = 0, false, "", statedTotal{}
	var sum int64
	for _, alternative := range r.spec.Alternatives {
		r.ids.next()
		read := r.chain
		if way == byKeyset {
			read = r.walk
		}
		if err := read(ctx, r.search(alternative, w), w, counted); err != nil {
			if !refused(err) || !r.refusable() {
				return 0, err
			}
			r.sayRefused(err)
		}
		sum += r.ids.passed
	}
	return sum, nil
}

// statedTotal is what the last pages of a pass stated, where that is exact.
type statedTotal struct {
	sum   int64
	pages int // that stated a total
}

// refusable reports whether a search that is refused leaves the others of the
// unit to be made: an upstream that is searched by patient may refuse some.
func (r *reader) refusable() bool { return r.spec.Scope == scopeCohort }

// sayRefused notes that a search was refused. What it was stays out: it names
// patients.
func (r *reader) sayRefused(err error) {
	r.summary.Proven = false
	r.notes.add(jobs.SeverityError, fhir.IssueNotSupported,
		"%s: searches by patient were refused; what they would have found is not in this export: %v", r.spec.Type, err)
}

// chain follows one search from its first page to its last.
func (r *reader) chain(ctx context.Context, s upstream.Search, w windowSpec, counted int64) error {
	var (
		next            string
		seen            = newIDSet() // next links
		restarts, pages int
		stale, empty    int
	)
	visit := func(entry *fhir.Entry) error { return r.entry(ctx, entry, w) }
	for {
		before := r.ids.passed
		page, err := r.c.Upstream.Page(ctx, s, next, visit)
		if next != "" && isGone(err) {
			if restarts++; restarts > maxRestarts {
				r.trouble = " Its next links expired before they could be followed."
				return nil
			}
			next, seen = "", newIDSet()
			continue
		}
		if next != "" && err != nil && refused(err) {
			r.trouble = " A next link was refused."
			return nil
		}
		if err != nil {
			return err
		}
		pages++
		stale, empty = stale+1, empty+1
		if page.Entries > 0 {
			empty = 0
		}
		if r.ids.passed > before || page.Entries == 0 || restarts > 0 {
			stale = 0
		}
		switch {
		case page.Next == "":
			if r.spec.Paging.LastTotal && page.Total != nil {
				r.stated.sum += *page.Total
				r.stated.pages++
			}
			return nil
		case !seen.add(page.Next):
			r.trouble = " Its next links ran in a circle."
			return nil
		case stale >= maxStale:
			r.trouble = " Its pages repeated what had been read."
			return nil
		case empty >= maxEmpty:
			r.trouble = " Its pages stayed empty while it promised more."
			return nil
		case pages >= maxPages, r.runaway(counted):
			return r.endless(counted)
		}
		next = page.Next
	}
}

// runaway reports whether a pass has brought far more than was counted.
func (r *reader) runaway(counted int64) bool {
	return counted >= 0 && r.ids.passed > runawayFactor*counted+runawaySlack
}

func (r *reader) endless(counted int64) error {
	return &jobs.UnitError{Permanent: true, Reason: fmt.Sprintf(
		"search %s: the upstream counted %d resources but kept sending pages after %d; its paging or its counts are broken, so the export was stopped.",
		r.spec.Type, counted, r.ids.passed)}
}

func isGone(err error) bool {
	var request *upstream.RequestError
	return errors.As(err, &request) && request.Kind == upstream.KindGone
}
