package jobs

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
)

// RecordVersion is the version of the stored form of a Job. A store leaves
// records of a greater version alone: it neither claims, fails nor removes them.
// Version 2 has Authorization: a worker that does not know it would hand out too
// much.
const RecordVersion = 2

// An ID names one export. It is 128 random bits in lower-case base32 (26
// characters), so it cannot be guessed.
type ID string

const idLength = 26

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewID returns a fresh ID from the operating system's random source.
func NewID() ID {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand aborts the process instead
	return ID(idEncoding.EncodeToString(b[:]))
}

// ParseID returns s as an ID if it has the form of one, and false otherwise.
// Call it before any lookup with a string from outside.
func ParseID(s string) (ID, bool) {
	if len(s) != idLength {
		return "", false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return "", false
		}
	}
	return ID(s), true
}

// Level is where an export was kicked off.
// Source: Bulk Data Access IG, Export, "Endpoints".
type Level string

// The three levels of an export.
const (
	LevelSystem  Level = "system"  // [base]/$export
	LevelPatient Level = "patient" // [base]/Patient/$export
	LevelGroup   Level = "group"   // [base]/Group/[id]/$export
)

// A Request is a kick-off, understood: parsed once at the edge, never again.
// The zero value asks for everything at no level; Level must be set.
// Source: Bulk Data Access IG, Export, "Query Parameters".
type Request struct {
	Level   Level  `json:"level"`
	GroupID string `json:"groupId,omitempty"` // set at LevelGroup only

	OutputFormat string    `json:"outputFormat,omitempty"` // as asked; always NDJSON
	Types        []string  `json:"types,omitempty"`        // empty: all the upstream has at this level
	Since        time.Time `json:"since,omitzero"`         // zero: from the beginning; inclusive
	Until        time.Time `json:"until,omitzero"`         // zero: up to the transaction time; inclusive

	TypeFilters           []TypeFilter `json:"typeFilters,omitempty"`           // several for one type are alternatives (OR)
	Elements              []Element    `json:"elements,omitempty"`              // empty: whole resources
	Patients              []string     `json:"patients,omitempty"`              // ids without "Patient/"; empty: all of the level
	IncludeAssociatedData []string     `json:"includeAssociatedData,omitempty"` // LatestProvenanceResources, RelevantProvenanceResources

	// Lenient says that the client sent Prefer: handling=lenient.
	Lenient bool `json:"lenient,omitempty"`
	// Notes are what the client must be told in the outcome file, such as
	// parameters that lenient handling ignored.
	Notes []Note `json:"notes,omitempty"`
	// Continues is the transactionTime of an earlier export whose changes since
	// then are asked for. Zero: the request does not say that there is one.
	Continues time.Time `json:"continues,omitzero"`
	// URL is the kick-off address, shown as "request" in the manifest.
	URL string `json:"url"`
}

// The values of includeAssociatedData that are understood.
// Source: Bulk Data Access IG, ValueSet include-associated-data.
const (
	LatestProvenance   = "LatestProvenanceResources"
	RelevantProvenance = "RelevantProvenanceResources"
)

// A TypeFilter restricts one type to what a FHIR search finds. Query is
// re-encoded from parsed parameters and can be sent upstream as it is.
type TypeFilter struct {
	Type  string `json:"type"`
	Query string `json:"query"`
}

// An Element is one root element of _elements. An empty Type means every type.
type Element struct {
	Type string `json:"type,omitempty"`
	Name string `json:"name"`
}

// Severity is a FHIR issue severity.
type Severity string

// The severities a Note may have. Only SeverityError says that something of
// what was asked for is missing.
const (
	SeverityError       Severity = "error"
	SeverityWarning     Severity = "warning"
	SeverityInformation Severity = "information"
)

// A Note becomes one OperationOutcome line of the outcome file. Text must hold
// no patient data beyond resource ids: the file is guarded like the data, logs
// are not, so a Note is never logged.
type Note struct {
	Severity Severity `json:"severity"`
	Code     string   `json:"code"` // a FHIR issue type, such as "not-supported"
	Text     string   `json:"text"`
}

// State is where a job stands. Expiry is a time, not a state.
type State string

// The states of a job: Queued → Running → Completed | Failed | Canceled.
// Queued may also become Failed or Canceled. The last three are final.
const (
	Queued    State = "queued"
	Running   State = "running"
	Completed State = "completed"
	Failed    State = "failed"
	Canceled  State = "canceled"
)

// Ended reports whether s is final.
func (s State) Ended() bool { return s == Completed || s == Failed || s == Canceled }

// A Job is one export.
type Job struct {
	Version int     `json:"version"` // RecordVersion of its writer
	ID      ID      `json:"id"`
	Owner   string  `json:"owner"` // the client, as package auth names owners; empty where the gateway does not authenticate
	Request Request `json:"request"`
	// Authorization is what the job may read, fixed at its kick-off, in the words
	// of auth/scope. Without it nothing may be read.
	Authorization json.RawMessage `json:"authorization,omitempty"`
	State         State           `json:"state"`

	CreatedAt time.Time `json:"createdAt"`
	StartedAt time.Time `json:"startedAt,omitzero"` // first claim of one of its units
	EndedAt   time.Time `json:"endedAt,omitzero"`
	// ExpiresAt is when an ended job and its bytes may be removed. Zero
	// while the job runs.
	ExpiresAt time.Time `json:"expiresAt,omitzero"`

	// TransactionTime is the instant, on the upstream's clock, up to which the
	// export is complete. Set by the plan; zero before it.
	// Source: Bulk Data Access IG, "Response - Output Manifest".
	TransactionTime time.Time `json:"transactionTime,omitzero"`

	Progress Progress `json:"progress"`

	// Failure says why a Failed job failed, in words meant for the client.
	Failure string `json:"failure,omitempty"`
	// Files is what a Completed job leaves, in manifest order.
	Files []File `json:"files,omitempty"`
	// Evidence says, per type, what the upstream counted and what was exported.
	Evidence []Evidence `json:"evidence,omitempty"`
}

// Clone returns a deep copy. Stores hand out clones, so that no memory is shared.
func (j *Job) Clone() *Job {
	c := *j
	r := &c.Request
	r.Types, r.TypeFilters = slices.Clone(r.Types), slices.Clone(r.TypeFilters)
	r.Elements, r.Patients = slices.Clone(r.Elements), slices.Clone(r.Patients)
	r.IncludeAssociatedData, r.Notes = slices.Clone(r.IncludeAssociatedData), slices.Clone(r.Notes)
	c.Authorization = slices.Clone(c.Authorization)
	c.Progress.Types = maps.Clone(c.Progress.Types)
	c.Evidence = slices.Clone(c.Evidence)
	c.Files = slices.Clone(c.Files)
	for i := range c.Files {
		c.Files[i].Segments = slices.Clone(c.Files[i].Segments)
	}
	return &c
}

// New returns a queued job for a request, created now, with its first unit.
func New(r Request, owner string, now time.Time) (*Job, Unit) {
	return &Job{
		Version: RecordVersion, ID: NewID(), Owner: owner, Request: r,
		State: Queued, CreatedAt: now.UTC(),
	}, Unit{ID: "plan", Kind: UnitPlan}
}

// Progress counts what is done. Units and resources are counted when their
// unit completes, so the numbers never go down.
type Progress struct {
	UnitsDone  int64 `json:"unitsDone"`
	UnitsTotal int64 `json:"unitsTotal"` // known so far; grows when the plan completes
	// Types counts resources by type. Nil before the plan has completed.
	Types map[string]TypeProgress `json:"types,omitempty"`
}

// TypeProgress counts the resources of one type.
type TypeProgress struct {
	Expected int64 `json:"expected"` // sum of the Weights of its units; an estimate
	Done     int64 `json:"done"`     // lines in committed output segments
	Bytes    int64 `json:"bytes"`    // uncompressed, of the same
}

// Done returns the number of resources written so far, over all types.
func (p Progress) Done() (resources, bytes int64) {
	for _, t := range p.Types {
		resources += t.Done
		bytes += t.Bytes
	}
	return resources, bytes
}

// Expected returns the number of resources that the plan counted.
func (p Progress) Expected() (n int64) {
	for _, t := range p.Types {
		n += t.Expected
	}
	return n
}

// Evidence is what can be said of one type's completeness.
type Evidence struct {
	Type     string `json:"type"`
	Counted  int64  `json:"counted"`  // by the upstream, in [since, transactionTime]; -1: it gave no usable count
	Exported int64  `json:"exported"` // distinct resources read that passed every check
	// Late are those of Exported that the upstream made visible only after
	// their window had been read.
	Late int64 `json:"late,omitempty"`
	// Tail are those of Exported that changed after the transaction time before
	// they could be read, and were fetched as of that time.
	Tail int64 `json:"tail,omitempty"`
	// Newer are those of Tail that could only be had in a newer version.
	Newer int64 `json:"newer,omitempty"`
	// Deleted is the number of deletions listed.
	Deleted int64 `json:"deleted,omitempty"`
	// Proven says that in every window the distinct ids read equalled the count.
	Proven bool `json:"proven"`
}

// FileKind says which array of the manifest a file belongs to.
type FileKind string

// The kinds of file a job leaves.
// Source: Bulk Data Access IG, "Response - Output Manifest": output, deleted, error.
const (
	KindOutput  FileKind = "output"
	KindDeleted FileKind = "deleted"
	KindOutcome FileKind = "outcome" // "error" in STU 1 to 3
)

// A File is one entry of the manifest: segments of one type, in order. It has
// keys, never URLs; only the gateway knows its public address.
type File struct {
	Name     string    `json:"name"` // such as "1.Patient.ndjson"; unique in the job
	Kind     FileKind  `json:"kind"`
	Type     string    `json:"type"`  // resource type of its lines; OperationOutcome for KindOutcome
	Count    int64     `json:"count"` // lines
	Size     int64     `json:"size"`  // bytes, uncompressed
	Segments []Segment `json:"segments"`
	// Composed is the storage key of one object that holds the whole file, for
	// clients that fetch it without the gateway. Empty: there is none.
	Composed string `json:"composed,omitempty"`
}

// Encoding says how the bytes of a segment are stored.
type Encoding string

// The encodings of segments. All segments of a job have the same.
const (
	EncodingGzip     Encoding = "gzip"     // one gzip member, as GzipWriter writes it
	EncodingIdentity Encoding = "identity" // plain NDJSON
)

// A Segment is an immutable object in storage: whole lines of NDJSON.
type Segment struct {
	Key        string   `json:"key"` // storage key
	Kind       FileKind `json:"kind"`
	Type       string   `json:"type"`
	Encoding   Encoding `json:"encoding"`
	Count      int64    `json:"count"`      // lines, at least 1
	Size       int64    `json:"size"`       // bytes, uncompressed
	StoredSize int64    `json:"storedSize"` // bytes as stored
	SHA256     string   `json:"sha256"`     // of the stored bytes, lower-case hex
	// CRC32 is that of the uncompressed bytes, at EncodingGzip only.
	CRC32 uint32 `json:"crc32,omitempty"`
	// PlainSHA256 is as SHA256, of the uncompressed bytes, at EncodingGzip only.
	// Segments that earlier versions wrote lack it.
	PlainSHA256 string `json:"plainSha256,omitempty"`
}

// LinesSHA256 returns the SHA-256 of the uncompressed bytes in lower-case hex,
// or "" if it is not known.
func (s Segment) LinesSHA256() string {
	if s.Encoding == EncodingGzip {
		return s.PlainSHA256
	}
	return s.SHA256
}

// Digest stands for what files hold, uncompressed: the SHA-256 of the only
// segment, or else that of the hashes of all segments in order, in hexadecimal
// with a line feed after each. "" if one of them is not known.
func Digest(files ...File) string {
	var all []string
	for _, f := range files {
		for _, s := range f.Segments {
			if s.LinesSHA256() == "" {
				return ""
			}
			all = append(all, s.LinesSHA256())
		}
	}
	switch len(all) {
	case 0:
		return ""
	case 1:
		return all[0]
	}
	sum := sha256.Sum256([]byte(strings.Join(all, "\n") + "\n"))
	return hex.EncodeToString(sum[:])
}

// KeyPrefix is the prefix of every storage key of a job, ending in a slash.
func (id ID) KeyPrefix() string { return string(id) + "/" }

// IDOfKey returns the job to which a storage key belongs, and false if the key
// is not of the form that KeyPrefix begins.
func IDOfKey(key string) (ID, bool) {
	head, _, found := strings.Cut(key, "/")
	if !found {
		return "", false
	}
	return ParseID(head)
}
