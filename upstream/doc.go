// Package upstream is the FHIR server behind us: search it, read it, spare it,
// forward to it.
//
//	Client        the export's own requests: Learn, Capabilities, Count, Estimate, Page, HistoryPage, Read
//	Facts         what Learn found out by asking, because capability statements lie
//	Search        one type, its filters and a half-open window on _lastUpdated
//	History       versions and deletions of one resource, one type or the server
//	RequestError  one request that failed, told in a full sentence
//	PauseError    nothing may be sent for a while; when to try again
//	Hours         when the upstream may be asked
//	NewProxy      the pass-through for everything that is not ours
//
// A request of the client goes through these hands:
//
//	retry.go      again, later, or never
//	governor.go   the turn to send: how many at once, nobody before Retry-After
//	              has passed or outside of the hours
//	pagesize.go   smaller pages where the usual one is too much
//	transport.go  one attempt: headers in time, no redirects
//	ahead.go      reads on while the answer is looked through
//	body.go       inflates, ends stalls, counts, remembers why reading stopped
//	failure.go    words for what went wrong
//	links.go      where a next link may lead
//	cell.go       what is fetched once and shared
//
// What is known of the server comes from these:
//
//	learn.go      what is asked, in which order
//	probes.go     one question each
//	supply.go     which profile counts, and what it adds (package profile)
//	facts.go      the answers
//
// The governor draws its conclusions (judge.go) from these:
//
//	gauge.go      latency that rises
//	breaker.go    an upstream that only fails
//	passwatch.go  a pass-through that gets slow
//	pool.go       the limit, and who of those that share it may use how much; pure
//	share.go      how processes come to share a pool
//
// What may pass by itself is tried again: no connection, no answer in time, a
// body that broke off, 408, 425, 429, and 5xx but 501 and 505. A request that
// fails so while the upstream answers others is given up after 6 tries. An
// upstream that answers nobody, or only 502, 503 or 504, is waited for for
// Config.MaxOutage, and asked by one request at a time; one that only ever
// throttles, for as long; one that has never answered, for 10 seconds. A pause
// of more than 15 seconds is not waited for (one of more than 5 minutes by the
// request for a following page): the request fails with a PauseError, so that
// the work can be given back. What is no FHIR or malformed is tried twice, a
// page that is too large with half as many resources, all else once.
//
// The package knows neither jobs nor storage. No query, id, token or content of
// a resource appears in its errors, logs or metrics.
package upstream
