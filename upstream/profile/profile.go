package profile

import (
	"maps"
	"slices"
	"time"
)

// A Profile is what is known of one kind of server. Profiles are shared: not to
// be changed. The zero Profile knows nothing.
type Profile struct {
	// Name is how a configuration names it; Title is for people.
	Name, Title string
	// Match says which servers it is for: those that any entry fits. None: it
	// is only used when it is named.
	Match []Match
	// Settle is how late the server may show what it has stamped. Nil: unknown.
	Settle *time.Duration

	// PageMax is the most resources that the server puts on a page. Zero:
	// unknown.
	PageMax int
	// ChainMax is how many resources the next links of one search lead to at
	// most. Zero: unknown.
	ChainMax int
	// LinkLife is how long a next link can be followed. Zero: unknown.
	LinkLife time.Duration
	// URLMax is the longest address in bytes that the server, or what stands
	// before it, takes. Zero: unknown.
	URLMax int

	LastUpdated   Support  // windows on _lastUpdated
	Sort          Support  // _sort=_lastUpdated and -_lastUpdated
	Direct        Support  // Cache-Control: no-store, max-results=N; where it Works a probe must show it all the same
	Post          Support  // POST [type]/_search with a form
	History       Support  // [type]/_history?_since
	SystemHistory Support  // _history?_since
	Strict        Support  // Prefer: handling=strict; it is not sent where it is Refused
	Counts        Counting // how to ask for a count that can be trusted

	// Patients says what searches must say of patients.
	Patients Patients
	// Types are rules for single types, by their names.
	Types map[string]Type
	// Skip are the probes that would hurt the server, or mislead us.
	Skip []Probe
	// Notes are sentences for an operator.
	Notes []string
}

// A Match is a set of conditions, all of which must hold. A condition holds if
// its words stand in the text, whatever their case; an empty one always does.
type Match struct {
	Software       string // in CapabilityStatement.software.name
	Publisher      string // in CapabilityStatement.publisher
	Implementation string // in CapabilityStatement.implementation.description
	URL            string // in the address: this one part of it, whatever stands around it
}

// Support says what a server does with something that it is asked for.
type Support int

// The zero Support is Unknown.
const (
	Unknown Support = iota // not known, or not asked
	Works                  // it does what the specification says
	Ignored                // it answers, but not to what was asked
	Refused                // it does not do it, or says no
)

// supports are the words of a profile and of a table.
var supports = [...]string{Unknown: "unknown", Works: "works", Ignored: "ignored", Refused: "refused"}

// String returns a word for a table.
func (s Support) String() string {
	if s < 0 || int(s) >= len(supports) {
		return supports[Unknown]
	}
	return supports[s]
}

// Counting is how a count that can be trusted is asked for.
type Counting int

// The zero Counting is CountUnknown.
const (
	CountUnknown  Counting = iota
	CountSummary           // _summary=count
	CountTotal             // _total=accurate&_count=0
	CountLastPage          // not at all; but the total on a search's last page is exact, as at Google
	CountNever             // no count can be trusted
)

var countings = [...]string{
	CountUnknown: "unknown", CountSummary: "summary", CountTotal: "total", CountLastPage: "last-page", CountNever: "none",
}

// String returns the word of a profile.
func (c Counting) String() string {
	if c < 0 || int(c) >= len(countings) {
		return countings[CountUnknown]
	}
	return countings[c]
}

// Patients says what searches must say of patients. The zero value: nothing.
type Patients struct {
	// Required says that types cannot be searched as a whole: each search must
	// name a patient, unless Types says otherwise.
	Required bool
	// PerSearch is how many patients one search may name. Zero: as many as fit.
	PerSearch int
	// Parameter is the search parameter that names a patient, where types have
	// it. Empty: those of the compartment definition.
	Parameter string
	// Listing says whether the type Patient can be searched as a whole, so that
	// an export of all patients can find them. Unknown: it is tried.
	Listing Support
	// Group is the id of a Group whose members are all patients there are, for
	// exports that name none. Empty: there is none.
	Group string
}

// Scope says which searches of a type a server answers.
type Scope int

// The zero Scope is ScopeUnknown.
const (
	ScopeUnknown Scope = iota // as Patients.Required says
	ScopeWhole                // of the whole type
	ScopePatient              // those that name patients
	ScopeID                   // those that name ids
	ScopeNone                 // none that finds all of it
)

var scopes = [...]string{ScopeUnknown: "unknown", ScopeWhole: "whole", ScopePatient: "patient", ScopeID: "id", ScopeNone: "none"}

// String returns the word of a profile.
func (s Scope) String() string {
	if s < 0 || int(s) >= len(scopes) {
		return scopes[ScopeUnknown]
	}
	return scopes[s]
}

// A Type is a rule for one resource type. The zero Type: no rule.
type Type struct {
	Search Scope
	// Why is a sentence on why Search is ScopeID or ScopeNone. It may be empty.
	Why string
	// With are encoded queries of which each search must hold one, such as
	// "category=laboratory". What any of them finds is wanted. None: no need.
	With []string
	// Exhaustive says that every resource of the type is found by one of With.
	Exhaustive bool
	// PageMax is Profile.PageMax of this type. Zero: as there.
	PageMax int
}

// Probe is one of the questions that package upstream asks.
type Probe string

// The probes that a profile can forbid.
const (
	ProbeData        Probe = "data" // what all others build upon: searches of whole types
	ProbePage        Probe = "page"
	ProbeLastUpdated Probe = "last-updated"
	ProbeCounts      Probe = "counts"
	ProbeSort        Probe = "sort"
	ProbeDirect      Probe = "direct"
	ProbePost        Probe = "post"
	ProbeHistory     Probe = "history"
)

// probes are all of them.
var probes = [...]Probe{
	ProbeData, ProbePage, ProbeLastUpdated, ProbeCounts, ProbeSort, ProbeDirect, ProbePost, ProbeHistory,
}

// Forbids reports whether a probe must not be made.
func (p *Profile) Forbids(probe Probe) bool { return p != nil && slices.Contains(p.Skip, probe) }

// Ruled are the types with a rule, sorted.
func (p *Profile) Ruled() []string { return slices.Sorted(maps.Keys(p.Types)) }
