package fakefhir

import "time"

// Options say what a Server holds and which server it plays. The zero value
// is an empty server below /fhir that behaves like HAPI.
type Options struct {
	// Path is the path of the FHIR root; "" is "/fhir". AtRoot serves at the
	// root of the host instead.
	Path   string
	AtRoot bool
	// URL is how the server names itself in links and Location headers, such
	// as "http://10.0.0.7:8080/fhir". "": the host of the request and Path.
	URL string

	// Like is the server that is played, one of Dialects: what its statement
	// says, its limits, what it demands of searches, how its next links look.
	// Fields below that are set win over it. "": HAPI, but for its statement.
	Like string
	// OffsetMax is the largest offset, of a server whose next links have offsets.
	OffsetMax int

	// Dataset is loaded at start. nil: nothing. It may be shared by servers.
	Dataset *Dataset
	// Bulk, if not nil, serves Observation (read only); other types come from
	// the dataset.
	Bulk *BulkObservations

	// Now is the server's clock; nil is time.Now. Offset is added to it, to
	// play a server whose clock is wrong.
	Now    func() time.Time
	Offset time.Duration

	// PageDefault is the page size without _count; 0 is 20. PageMax clamps
	// _count silently; 0 is 1000.
	PageDefault, PageMax int
	// Links is the form of next links. Alias is the root URL that LinkAlias
	// uses, such as "http://fhir.internal:8080/fhir".
	Links LinkStyle
	Alias string
	// LinksLast writes Bundle.link after Bundle.entry.
	LinksLast bool
	// Pretty indents all JSON unless _pretty=false is sent, as the HAPI
	// starter does.
	Pretty bool
	// NoGzip never compresses.
	NoGzip bool
	// Lenient ignores unknown search parameters instead of answering 400.
	// Those that begin with "_" are always ignored, as HAPI does.
	Lenient bool
	// NoPostSearch answers 404 to POST [type]/_search.
	NoPostSearch bool
	// NoDirect takes "Cache-Control: no-store, max-results=N" for a plain
	// no-cache, as servers other than HAPI do.
	NoDirect bool
	// NoHistory answers 400 to type and system _history.
	NoHistory bool
	// NoSystemHistory answers 400 to system _history only.
	NoSystemHistory bool

	// ResultCache answers a repeated search or count from the former result
	// for this long, unless Cache-Control says no-cache or no-store. HAPI
	// does so for a minute. 0: never.
	ResultCache time.Duration
	// ResultTTL is how long next links of a search live on the server's
	// clock; then they are 410. 0: until 4096 later searches have come.
	ResultTTL time.Duration
	// CommitDelay is how long a transaction Bundle stays invisible after it
	// was stamped.
	CommitDelay time.Duration
	// Latency is waited before every answer.
	Latency time.Duration
	// HistoryTimes adds response.lastModified to history entries, as the
	// standard wants and HAPI does not.
	HistoryTimes bool
}

// LinkStyle is a form of next link.
type LinkStyle int

const (
	// LinkAbsolute is "http://host/fhir?_getpages=…", as HAPI.
	LinkAbsolute LinkStyle = iota
	// LinkPath is "/fhir?_getpages=…".
	LinkPath
	// LinkRelative is "?_getpages=…", relative to the request.
	LinkRelative
	// LinkAlias is absolute under Options.Alias.
	LinkAlias
)
