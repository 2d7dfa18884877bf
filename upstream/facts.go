package upstream

import (
	"strings"
	"time"

	"spillway/upstream/fhir"
	"spillway/upstream/profile"
)

// Support says what the upstream does with something that it was asked for.
type Support = profile.Support

// The zero Support is Unknown: not probed, because there was nothing to probe
// it with, the probe failed or was forbidden; and the profile does not know.
const (
	Unknown = profile.Unknown
	Works   = profile.Works   // it does what the specification says
	Ignored = profile.Ignored // it answers, but not to what was asked
	Refused = profile.Refused // it does not do it, or says no
)

// CountMode is a way to ask for a count.
type CountMode int

// The zero CountMode is CountNone.
const (
	CountNone    CountMode = iota // no way works
	CountSummary                  // _summary=count
	CountTotal                    // _total=accurate&_count=0
)

// String returns the parameters that ask for the count.
func (m CountMode) String() string {
	switch m {
	case CountSummary:
		return "_summary=count"
	case CountTotal:
		return "_total=accurate&_count=0"
	}
	return "none"
}

// Facts are what Learn found out, and what the profile knows where nothing could
// be found out. They are shared: not to be changed.
type Facts struct {
	Capabilities *fhir.Capabilities
	// Profile is what is known of such servers; never nil. ProfileBy says in
	// words why it was chosen.
	Profile   *profile.Profile
	ProfileBy string
	// Supplied and Overruled are the facts that come from the profile alone, and
	// those in which the probes found otherwise, in words for an operator.
	Supplied, Overruled []string
	// ClockOffset is the upstream's clock minus ours. It is 0 if the Date header
	// can be true by our clock; else it is the largest that Date, which has whole
	// seconds, allows. So our clock plus ClockOffset is never behind the upstream's.
	ClockOffset    time.Duration
	ClockSkewKnown bool      // there was a Date header
	LastUpdated    Support   // windows on _lastUpdated
	Counts         Support   // counts that were right for the probe
	CountMode      CountMode // how to ask for them; CountNone unless Counts is Works
	LastPageTotal  bool      // though Counts is not Works, the total on the last page of a search is exact
	Sort           Support   // _sort=_lastUpdated and -_lastUpdated
	PostSearch     Support   // POST [type]/_search
	Direct         Support   // Cache-Control: no-store, max-results=N, which reads one page past the store of searches, as HAPI
	DirectSize     int       // resources on such a page; 0 unless Direct is Works
	DirectCounts   Support   // counts past the store of searches
	Skip           Support   // _offset=N on such a page that is sorted passes over N resources
	History        Support   // [type]/_history?_since
	SystemHistory  Support   // _history?_since of the whole server
	NextLinks      Support   // the next link of a page leads to the following page
	PageSize       int       // resources on a page that was asked for Config.PageSize and has a next link; else what was asked for
	ProbeType      string    // the type that was probed; "" if none of those tried has data
	Problems       []string  // sentences for an operator, without data
}

// versionProblem says what is wrong with a FHIR version, or "".
func versionProblem(version string) string {
	switch {
	case version == "":
		return "The capability statement does not say its FHIR version; R4 is assumed."
	case strings.HasPrefix(version, "4."), strings.HasPrefix(version, "5."):
		return ""
	case strings.HasPrefix(version, "0."), strings.HasPrefix(version, "1."):
		return "The upstream speaks FHIR DSTU2; R4, R4B and R5 are supported."
	case strings.HasPrefix(version, "3."):
		return "The upstream speaks FHIR STU3; R4, R4B and R5 are supported."
	}
	return "The upstream speaks a FHIR version that is not known here; R4, R4B and R5 are supported."
}

// A clockSample is one Date header and when it was asked for and received.
type clockSample struct {
	date           time.Time // whole seconds, as all Dates are
	sent, received time.Time
}

// tighter reports whether s says more precisely than t when its Date was written.
func (s clockSample) tighter(t clockSample) bool {
	return s.received.Sub(s.sent) < t.received.Sub(t.sent)
}

// offset is the upstream's clock minus ours. When the Date was written that
// clock stood in [date, date+1s), and ours in [sent, received].
func (s clockSample) offset() time.Duration {
	const slack = 50 * time.Millisecond
	least, most := s.date.Sub(s.received), s.date.Add(time.Second).Sub(s.sent)
	if least-slack <= 0 && most+slack >= 0 {
		return 0
	}
	return most
}
