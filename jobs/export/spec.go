package export

import (
	"encoding/json"
	"fmt"
	"time"

	"spillway/jobs"
	"spillway/upstream"
	"spillway/upstream/fhir"
)

// windowSpec is a half-open window on meta.lastUpdated, [From, To), in UTC.
// A zero bound is open.
type windowSpec struct {
	From time.Time `json:"from,omitzero"`
	To   time.Time `json:"to,omitzero"`
	// Counted is what the plan counted in it; -1 where no count is usable.
	Counted int64 `json:"counted"`
}

// readSpec says what to read of one type, whatever the window.
type readSpec struct {
	Type string `json:"type"`
	// Alternatives are encoded queries; a resource that any of them finds is
	// wanted. One empty query where there is no filter.
	Alternatives []string `json:"alternatives"`
	// Since and Until bound meta.lastUpdated for the whole export; the upper
	// bound is exclusive. They are checked on every entry.
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	// Whole says that the upstream cannot search by _lastUpdated: one window,
	// no bounds sent, entries filtered here.
	Whole bool `json:"whole,omitempty"`
	// Former says that the history has what changed after the transaction time
	// as it was, so that the tail brings it and no slice need export it.
	Former bool `json:"former,omitempty"`
	// Paging is how the upstream can be read page by page.
	Paging paging `json:"paging,omitzero"`
	// Fine says that the slices are small and their pages end where a time does.
	Fine bool `json:"fine,omitempty"`
	// Said says that the plan has told the client that no count proves the type.
	Said bool `json:"said,omitempty"`
	// Scope says which resources of the type the export may hold.
	Scope scope `json:"scope"`
	// Cohort is the storage key of the list of patients, at scopeCohort and
	// scopeMembers.
	Cohort string `json:"cohort,omitempty"`
	// Part tells apart what is read of one type for several reasons, in ids of
	// units; empty for the first.
	Part string `json:"part,omitempty"`
	// Follow are the types of which references are collected.
	Follow []string `json:"follow,omitempty"`
	// Release of the upstream decides on what belongs to a patient.
	Release fhir.Release `json:"release,omitempty"`
}

// paging is what of the facts decides on how pages are read. It goes with the
// spec, so that a fresh process need not learn before it reads.
type paging struct {
	Sort   bool `json:"sort,omitempty"`   // windows on _lastUpdated can be sorted by it
	NoNext bool `json:"noNext,omitempty"` // next links do not work
	Direct int  `json:"direct,omitempty"` // resources on a page that is read directly; 0: none is
	Skip   bool `json:"skip,omitempty"`   // such a page can pass over some
	Fits   int  `json:"fits,omitempty"`   // resources on other pages; 0: as many as asked for
	// LastTotal says that the total on a search's last page is exact, where there
	// are no counts.
	LastTotal bool `json:"lastTotal,omitempty"`
}

func pagingOf(f *upstream.Facts) paging {
	return paging{
		Sort:   f.LastUpdated == upstream.Works && f.Sort == upstream.Works,
		NoNext: f.NextLinks == upstream.Refused || f.NextLinks == upstream.Ignored,
		Direct: f.DirectSize, Skip: f.Skip == upstream.Works, Fits: f.PageSize, LastTotal: f.LastPageTotal,
	}
}

// inTime reports whether a version lies in the time asked for.
func (s readSpec) inTime(h fhir.Header) bool {
	at, err := fhir.ParseDateTime(h.LastUpdated)
	if err != nil {
		return true
	}
	at = at.Truncate(tick)
	return !at.Before(s.Since) && (s.Until.IsZero() || at.Before(s.Until))
}

// scope is a check made on every entry besides type and time.
type scope string

const (
	scopeAll         scope = ""            // every resource
	scopeCompartment scope = "compartment" // those that reference some patient
	scopeCohort      scope = "cohort"      // those that reference a patient of the batch, found by naming these
	scopeMembers     scope = "members"     // those that reference a patient of the cohort, found by reading all
	scopeID          scope = "id"          // the one resource that the search named
)

// sliceSpec is the Spec of a slice.
type sliceSpec struct {
	Read   readSpec   `json:"read"`
	Window windowSpec `json:"window"`
	Batch  batchSpec  `json:"batch,omitzero"` // at scopeCohort only
	// ByID says that the one resource of scopeID is read, because the upstream
	// does not search its type.
	ByID bool `json:"byId,omitempty"`
}

// searches is how many searches may each count a resource of the slice.
func (s sliceSpec) searches() int64 {
	return int64(len(s.Read.Alternatives) * max(len(s.Batch.Parameters), 1))
}

// batchSpec names some patients of a cohort: those with index in [From, To).
type batchSpec struct {
	From int `json:"from"`
	To   int `json:"to"`
	Size int `json:"size"` // patients that one search names
	// Parameters are the search parameters that name the patients; what any
	// of them finds is wanted.
	Parameters []string `json:"parameters,omitempty"`
}

// associatedSpec is the Spec of the associated unit.
type associatedSpec struct {
	// Follow are the types that are exported where exported resources refer to them.
	Follow []string `json:"follow,omitempty"`
	// Provenance exports that of what is exported; with Latest only the newest
	// of each resource.
	Provenance bool `json:"provenance,omitempty"`
	Latest     bool `json:"latest,omitempty"`
	// Listed and Cohort are those of planSpec.
	Listed bool   `json:"listed,omitempty"`
	Cohort string `json:"cohort,omitempty"`
}

// planSpec is the Spec of a plan unit other than the root, which has none.
type planSpec struct {
	Types []string `json:"types,omitempty"`
	// Listed says that the export is of certain patients; Cohort is the
	// storage key of their list (empty if there are none), Patients their number.
	Listed   bool   `json:"listed,omitempty"`
	Cohort   string `json:"cohort,omitempty"`
	Patients int    `json:"patients,omitempty"`
	// Joined says that the patients joined a group after _since: what is older is
	// read of them.
	Joined bool `json:"joined,omitempty"`
	// Follow is that of readSpec.
	Follow []string `json:"follow,omitempty"`
	// Cut goes on cutting a window that another plan unit left too large.
	Cut *cutSpec `json:"cut,omitempty"`
}

// cutSpec is a window that is still too large for one slice.
type cutSpec struct {
	Name   string     `json:"name"` // begins the ids of its units
	Read   readSpec   `json:"read"`
	Window windowSpec `json:"window"`
}

// planSummary is what a plan unit leaves for finish.
type planSummary struct {
	Types []plannedType `json:"types,omitempty"`
	// Searched and Refused count the types that the upstream would and would
	// not search; Refusal is what was said of one of the latter.
	Searched int    `json:"searched,omitempty"`
	Refused  int    `json:"refused,omitempty"`
	Refusal  string `json:"refusal,omitempty"`
}

// plannedType is what the plan found of one type.
type plannedType struct {
	Type    string   `json:"type"`
	Counted int64    `json:"counted"` // in [since, until); -1 where no count is usable
	Read    readSpec `json:"read"`
	// Recount says that one count of the whole type can be compared with what
	// the windows proved, because the windows were cut from it.
	Recount bool `json:"recount,omitempty"`
	// Empty says that the plan found nothing of it.
	Empty bool `json:"empty,omitempty"`
}

// readSummary is what a slice leaves for later stages.
type readSummary struct {
	Type     string `json:"type"`
	Counted  int64  `json:"counted"`  // the count that was last compared; -1 if none
	Read     int64  `json:"read"`     // distinct ids seen that passed type and time
	Exported int64  `json:"exported"` // lines written
	// Seen is the number of distinct ids that were in a window in any pass.
	// Read is of the last one, and counts what several alternatives find again.
	Seen      int64 `json:"seen,omitempty"`
	Late      int64 `json:"late,omitempty"`      // of Read, those that changed while their page was on the way
	Unmatched int64 `json:"unmatched,omitempty"` // lines that the filters, as they are understood here, do not find
	Proven    bool  `json:"proven"`
	// References is the storage key of what the exported resources refer to,
	// and Stray the number of references that it could not take.
	References string `json:"references,omitempty"`
	Stray      int64  `json:"stray,omitempty"`
}

// add counts one more window. counted is -1 if no count could prove it; then
// there is none for the whole either.
func (s *readSummary) add(counted, read int64) {
	if s.Read += read; counted < 0 || s.Counted < 0 {
		s.Counted = -1
		return
	}
	s.Counted += counted
}

// encode returns v as JSON. It is for our own types, which always encode.
func encode(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("export: encoding %T: %v", v, err)) // a bug in this package
	}
	return b
}

// decodeSpec reads the Spec of a unit.
func decodeSpec[T any](u jobs.Unit) (T, error) {
	var spec T
	if err := json.Unmarshal(u.Spec, &spec); err != nil {
		return spec, fmt.Errorf("export: unit %s: spec: %w", u.ID, err)
	}
	return spec, nil
}
