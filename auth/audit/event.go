package audit

import (
	"time"
)

// Kind is what happened.
type Kind string

// The kinds of events.
const (
	KindToken    Kind = "token"    // a client asked for an access token
	KindKickOff  Kind = "kickoff"  // a client asked for an export
	KindQuery    Kind = "query"    // a part of an export was read from the upstream
	KindExport   Kind = "export"   // an export ended, in whatever way
	KindManifest Kind = "manifest" // the list of files was delivered
	KindDownload Kind = "download" // a file: before its first byte, and when it ended
	KindRemoval  Kind = "removal"  // files were deleted, on demand or because they had expired
	KindAlert    Kind = "alert"    // access was denied, or something was tried that must not be
	KindChange   Kind = "change"   // configuration, clients or keys
	KindStart    Kind = "start"    // of a process
	KindStop     Kind = "stop"
	KindRecord   Kind = "audit" // of the record itself
)

// code returns the code of a kind.
// Source: DICOM PS3.16, CID 400 (DCM).
func (k Kind) code() string {
	switch k {
	case KindToken:
		return "110114" // user authentication
	case KindKickOff, KindExport, KindManifest, KindDownload:
		return "110106" // export
	case KindQuery:
		return "110112"
	case KindAlert:
		return "110113" // security alert
	case KindRecord:
		return "110101" // audit log used
	}
	return "110100" // application activity
}

// Outcome is how it ended.
type Outcome string

// The outcomes.
const (
	OutcomeDone    Outcome = "done"
	OutcomeBegun   Outcome = "begun" // its end is another event
	OutcomeRefused Outcome = "refused"
	OutcomeFailed  Outcome = "failed"
)

// An Event is one thing that happened. Kind and Outcome are required; every
// other field is left out where it is zero.
type Event struct {
	// Key, if set, names what happened, so that an event which is recorded
	// again after a crash has the same id.
	Key string `json:"-"`

	Kind    Kind    `json:"kind"`
	Outcome Outcome `json:"outcome"`
	// Reason is a word of a fixed set: why it was refused, or failed.
	Reason string `json:"reason,omitempty"`

	// Who.
	Client      string `json:"client,omitempty"` // as stated, if it was refused
	Issuer      string `json:"issuer,omitempty"`
	TokenID     string `json:"tokenId,omitempty"`     // jti of the access token
	AssertionID string `json:"assertionId,omitempty"` // jti of the client's assertion
	KeyID       string `json:"keyId,omitempty"`       // kid of that assertion
	Scope       string `json:"scope,omitempty"`       // as granted
	Purpose     string `json:"purpose,omitempty"`     // of the client, by the configuration
	Address     string `json:"address,omitempty"`     // IP, as it reached us
	Forwarded   string `json:"forwarded,omitempty"`   // IP, as a trusted proxy says
	RequestID   string `json:"requestId,omitempty"`

	// What.
	Job            string    `json:"job,omitempty"`
	Level          string    `json:"level,omitempty"`
	Group          string    `json:"group,omitempty"`
	Types          []string  `json:"types,omitempty"`
	Since          time.Time `json:"since,omitzero"`
	Until          time.Time `json:"until,omitzero"`
	Filters        int       `json:"filters,omitempty"`
	FiltersDigest  string    `json:"filtersDigest,omitempty"` // Log.Digest
	Patients       int       `json:"patients,omitempty"`
	PatientsDigest string    `json:"patientsDigest,omitempty"`
	File           string    `json:"file,omitempty"`
	Delivery       string    `json:"delivery,omitempty"` // gateway, or link: then the storage's own log says who came
	Expires        time.Time `json:"expires,omitzero"`

	// How much.
	Requests  int64         `json:"requests,omitempty"`
	Resources int64         `json:"resources,omitempty"`
	Bytes     int64         `json:"bytes,omitempty"`
	SHA256    string        `json:"sha256,omitempty"` // of what the files hold; see jobs.Digest
	Files     int           `json:"files,omitempty"`
	Duration  time.Duration `json:"durationNanoseconds,omitempty"`

	// Of the process.
	Version string `json:"version,omitempty"`
	Config  string `json:"config,omitempty"` // digest
}

// A line is an event as it is written, without its own hash.
type line struct {
	Sequence int64     `json:"seq"`
	Previous string    `json:"prev"` // hash of the line before; 64 zeros before the first
	Time     time.Time `json:"time"` // UTC
	ID       string    `json:"id"`
	Process  string    `json:"process"`
	Code     string    `json:"code"`
	Event
}
