package jobs

import (
	"encoding/json"
	"time"
)

// UnitKind says which step of an export a unit is.
type UnitKind string

// The kinds of unit, in the order of their stages. No unit of a later stage is
// handed out while one of an earlier stage of the same job is unfinished.
const (
	UnitPlan       UnitKind = "plan"       // learns, counts, and adds all units that follow
	UnitSlice      UnitKind = "slice"      // reads one window
	UnitTail       UnitKind = "tail"       // reads what changed while the slices were read
	UnitAssociated UnitKind = "associated" // reads what belongs to exported resources, such as Provenance
	UnitDeleted    UnitKind = "deleted"    // lists deletions
	UnitFinish     UnitKind = "finish"     // groups segments into files and ends the job
)

var stages = map[UnitKind]int{
	UnitPlan: 0, UnitSlice: 1, UnitTail: 2, UnitAssociated: 3, UnitDeleted: 4, UnitFinish: 5,
}

// Stage returns the order of a kind: lower stages are worked off first.
// An unknown kind comes last.
func (k UnitKind) Stage() int {
	if s, ok := stages[k]; ok {
		return s
	}
	return len(stages)
}

// A Unit is one small, resumable, idempotent step of a job.
type Unit struct {
	ID   string   `json:"id"` // unique in its job, for ever; letters, digits and '-'
	Kind UnitKind `json:"kind"`
	// Type is the resource type that the unit reads; empty where it reads
	// several or none. It only feeds Progress.
	Type string `json:"type,omitempty"`
	// Weight is the number of resources expected. Within a stage of a job the
	// heaviest unit is handed out first.
	Weight int64 `json:"weight,omitempty"`
	// Renewals counts how often the unit was replaced by fresh ones because
	// its workers fell silent. Only jobs/export reads and sets it.
	Renewals int `json:"renewals,omitempty"`
	// Spec is what to do, in the words of jobs/export.
	Spec json.RawMessage `json:"spec,omitempty"`
	// NotBefore is the earliest time of hand-out. Zero means at once.
	NotBefore time.Time `json:"notBefore,omitzero"`
}

// A Lease is the right to work on one unit until it expires. Every write that
// a worker makes presents it; a store refuses all but the latest attempt.
type Lease struct {
	Job  ID
	Unit Unit
	// Attempt counts the claims of this unit from 1, over its whole life. It
	// fences writes, and it is part of the storage prefix of what is written.
	Attempt int64
	// Tries counts the claims that ended by failure or by silence. 0 on the first.
	Tries int
	// Silent is how many of the Tries ended by silence.
	Silent int
	// Checkpoint is what the latest Save of any attempt stored; nil if none.
	Checkpoint json.RawMessage
	// Worker names the holder, for the operator's eyes.
	Worker string
	// ExpiresAt is when another may take the unit, on the store's clock.
	ExpiresAt time.Time
}

// A Result is what a completed unit leaves.
type Result struct {
	// Segments have been committed to storage under this attempt's prefix.
	Segments []Segment `json:"segments,omitempty"`
	// Next are units to add. Their stage must not be lower than the unit's own.
	Next []Unit `json:"next,omitempty"`
	// Summary is kept with the unit for later stages, in the words of jobs/export.
	Summary json.RawMessage `json:"summary,omitempty"`

	// TransactionTime is set by the plan only.
	TransactionTime time.Time `json:"transactionTime,omitzero"`
	// Files and Evidence are set by finish only; completing a finish unit
	// completes its job.
	Files    []File     `json:"files,omitempty"`
	Evidence []Evidence `json:"evidence,omitempty"`
}

// A Done is a completed unit with what it left.
type Done struct {
	Unit    Unit
	Attempt int64 // the attempt that completed it
	Result  Result
}
