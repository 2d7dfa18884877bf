// Package upstream is the FHIR server behind us: search it, read it, spare it,
// forward to it.
//
//	Client      the export's own requests: Learn, Capabilities, Count, Page, Read
//	Facts       what Learn found out by asking, because capability statements lie
//	Search      one type, its filters and a half-open window on _lastUpdated
//	RequestError  one request that failed, told in a full sentence
//	NewProxy    the pass-through for everything that is not ours
//
// Inside, a request goes through these hands:
//
//	retry       again, later, or never (retry.go)
//	governor    how many at once, and nobody before Retry-After has passed (governor.go)
//	exchange    one attempt: headers in time, no redirects, no stalled body (transport.go)
//	body        inflates, counts, and remembers why reading stopped (body.go)
//	links       where a next link may lead (links.go)
//
// The package knows neither jobs nor storage. No query, id, token or content of
// a resource appears in its errors, logs or metrics.
package upstream
