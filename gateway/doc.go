// Package gateway speaks Bulk Data over HTTP and decides who answers what.
//
//	classify      every path, before any routing: ours, refused or pass-through  (classify.go)
//	kick-off      headers → parameters → jobs.Request → jobs.Store               (kickoff.go)
//	ParseRequest  the one parser of parameters; _typeFilter has its own file     (parse.go, typefilter.go)
//	authorize     who asks, and what of it may be read → the job's Authorization (authorize.go)
//	status        the job → 202, manifest, OperationOutcome or 404               (status.go, manifest.go)
//	links         URLs with which files are fetched from the storage itself      (links.go)
//	file          the segments of a file, streamed in order                      (file.go, openfile.go, ranges.go)
//	discovery     where tokens are fetched, and our keys                         (discovery.go)
//	pass-through  as it came, or as far as the sender's scopes permit            (passthrough.go)
//	limits        how often, and how many exports                                (limits.go, throttle.go)
//	audit         the events of all this                                         (audit.go)
//	metadata      the upstream's statement with ours merged in                   (metadata.go)
//	Problem       what a client is told when something is refused                (problem.go)
//	observe       metrics, access log, panics                                    (observe.go)
//
// Everything else goes to Config.Upstream as it came. That path touches neither
// the job store nor storage, so it works when they do not.
//
// The package knows no search and no work: it creates, reads and cancels jobs.
// Public addresses are built here and nowhere else, from Config.PublicURL and
// never from the request.
package gateway
