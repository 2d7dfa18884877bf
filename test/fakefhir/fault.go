package fakefhir

import (
	"encoding/json"
	"net/http"
	"time"
)

// Kind classifies a request.
type Kind string

// The kinds of request. KindAny (the zero value) matches all of them.
const (
	KindAny         Kind = ""
	KindMetadata    Kind = "metadata"
	KindCount       Kind = "count"       // a search with _summary=count or _count=0
	KindSearch      Kind = "search"      // the first page of a search
	KindNext        Kind = "next"        // a later page of a search
	KindRead        Kind = "read"        // read and vread
	KindHistory     Kind = "history"     // instance, type and system
	KindWrite       Kind = "write"       // create, update, delete
	KindTransaction Kind = "transaction" // transaction and batch Bundles
	KindOther       Kind = "other"       // whatever else comes, such as $export
)

// Fault is one scripted misbehaviour. All faults that match a request act on
// it; where two set the same action, the one scripted first wins.
type Fault struct {
	Match Match `json:"match"`
	// Times is how many matching requests are spoilt; 0: all of them.
	Times int `json:"times,omitempty"`
	// After lets that many matching requests through first.
	After int `json:"after,omitempty"`
	Do    Do  `json:"do"`
}

// Match selects requests. Zero fields match everything; set ones must all hold.
type Match struct {
	Method string `json:"method,omitempty"`
	// Type is the resource type; for a next page that of its search.
	Type string `json:"type,omitempty"`
	Kind Kind   `json:"kind,omitempty"`
	// QueryContains is looked for in the decoded query ("a=b&c=d", form body
	// included); for a next page also in that of its search.
	QueryContains string `json:"queryContains,omitempty"`
	// PathContains is looked for in the path, such as "/_history/".
	PathContains string `json:"pathContains,omitempty"`
	// Without are parameters of which the request has none.
	Without []string `json:"without,omitempty"`
	// Page is the page of a search, 1 for the first.
	Page int `json:"page,omitempty"`
}

// Do is what happens to a request. Several may be set; they act in the order
// of the fields. In JSON the names are in lower camel case, and durations are
// strings such as "1.5s".
type Do struct {
	// Delay is waited before anything else.
	Delay time.Duration `json:"delay,omitempty"`

	// The first of these that is set replaces the answer.

	// Hangup closes the connection without an answer. It and Cut and Stall end
	// in a panic with http.ErrAbortHandler, which net/http understands.
	Hangup bool `json:"hangup,omitempty"`
	// Status answers with this status instead.
	Status *Status `json:"status,omitempty"`
	// HTML answers 200 with a login page.
	HTML bool `json:"html,omitempty"`
	// OutcomeWith200 answers 200 with an OperationOutcome.
	OutcomeWith200 bool `json:"outcomeWith200,omitempty"`
	// Garbage answers 200, says FHIR JSON and sends noise.
	Garbage bool `json:"garbage,omitempty"`
	// GoneNext answers 410 to a next page and nothing else.
	GoneNext bool `json:"goneNext,omitempty"`

	// These change how a search is run.

	// IgnoreParams drops these search parameters, as a server that does not
	// know them. The self link still shows them.
	IgnoreParams []string `json:"ignoreParams,omitempty"`

	// These change a search page, and the total of counts.

	// LieTotal changes Bundle.total.
	LieTotal *LieTotal `json:"lieTotal,omitempty"`
	// RepeatPage serves the entries of the former page instead of those asked
	// for, which are lost. No effect on the first page.
	RepeatPage bool `json:"repeatPage,omitempty"`
	// DropPage serves the following page instead; the chain goes on from there.
	DropPage bool `json:"dropPage,omitempty"`
	// DropEntries leaves out the first n entries of the page.
	DropEntries int `json:"dropEntries,omitempty"`
	// DuplicateEntries sends the first n entries of the page twice.
	DuplicateEntries int `json:"duplicateEntries,omitempty"`
	// WrongType adds an entry of a type that was not asked for.
	WrongType bool `json:"wrongType,omitempty"`
	// OutcomeEntry adds an OperationOutcome entry, which is legal.
	OutcomeEntry bool `json:"outcomeEntry,omitempty"`
	// AddEntry adds this entry.
	AddEntry *AddEntry `json:"addEntry,omitempty"`
	// HugeEntry makes the first resource of the page at least this many bytes.
	HugeEntry int `json:"hugeEntry,omitempty"`
	// HugePage fills the page with white space to at least this many bytes.
	HugePage int64 `json:"hugePage,omitempty"`
	// LoopNext makes the page's next link point to the page itself.
	LoopNext bool `json:"loopNext,omitempty"`
	// EndChainEarly leaves out the next link from that page on (1: the first).
	EndChainEarly int `json:"endChainEarly,omitempty"`
	// Endless always gives a next link; the entries start again at the end.
	Endless bool `json:"endless,omitempty"`
	// ForeignNext puts the next link under this root URL.
	ForeignNext string `json:"foreignNext,omitempty"`

	// These change how the bytes of any answer arrive.

	// TruncatedJSON sends half of the body, as if it were all.
	TruncatedJSON bool `json:"truncatedJSON,omitempty"`
	// Cut closes the connection after so many bytes of the body.
	Cut *Cut `json:"cut,omitempty"`
	// Stall stops after so many bytes of the body, until the client goes away.
	Stall *Cut `json:"stall,omitempty"`
}

// Status is a scripted answer.
type Status struct {
	Code   int         `json:"code"`
	Header http.Header `json:"header,omitempty"`
	// Body is sent as it is; "" is an OperationOutcome.
	Body string `json:"body,omitempty"`
}

// Cut is a place in an answer's body.
type Cut struct {
	// After is the number of bytes of the body (as on the wire, so compressed
	// ones if the answer is) that are still sent.
	After int64 `json:"after"`
}

// LieTotal makes a total wrong: total*Factor + Delta, not below 0.
type LieTotal struct {
	Delta int64 `json:"delta,omitempty"`
	// Factor nil is 1. A Factor of 0 with Delta 0 says that there is nothing.
	Factor *float64 `json:"factor,omitempty"`
	// Absent leaves the total out.
	Absent bool `json:"absent,omitempty"`
}

// AddEntry is an extra entry of a page.
type AddEntry struct {
	// Mode is search.mode; "" is "match".
	Mode     string          `json:"mode,omitempty"`
	Resource json.RawMessage `json:"resource"`
}
