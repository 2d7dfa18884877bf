// Package fakefhir is a fake FHIR R4 server that behaves as HAPI does, with
// synthetic patients, a log of what was asked, and scripted faults. Tests, the
// demo and benchmarks stand Spillway in front of it.
//
//	s := fakefhir.New(fakefhir.Options{
//		Dataset: fakefhir.Generate(fakefhir.GenerateOptions{Patients: 5}),
//	})
//	srv := httptest.NewServer(s) // the FHIR root is srv.URL + "/fhir"
//	s.Script(fakefhir.Fault{
//		Match: fakefhir.Match{Type: "Observation", Kind: fakefhir.KindNext, Page: 2},
//		Times: 1,
//		Do:    fakefhir.Do{DropPage: true},
//	})
//
// # Map
//
//   - options.go, server.go: what a test sets, and the methods it calls: the
//     truth to compare with (All, Find, History, CompartmentTruth), live writes
//     (Put, Delete, Begin)
//   - fault.go, script.go, distort.go: the faults, when they act, what they add
//   - control.go: the same from another process, over HTTP
//   - journal.go: the request log
//   - exchange.go: one request, from path to answer; respond.go: its bytes
//   - handle_*.go, history.go, metadata.go: what each kind of request does
//   - query.go, dates.go, params.go, index.go, search.go: searching; params.go
//     is the table of types and search parameters
//   - result.go, page.go, elements.go: snapshots, next links, pages
//   - store.go: versions in memory; references.go: who points to whom;
//     compartment.go: who belongs to a patient
//   - dataset.go, generate*.go, vocabulary.go: the synthetic resources
//   - dialect.go, dialects.go: the servers that can be played besides, as data
//   - bulk.go: any number of Observations, computed when asked for
//   - cmd/fakefhir: all of it as a process
//
// # As HAPI
//
// A search keeps the list of ids that it found; its pages, by opaque next links
// on the root, show the current versions. Bundle.total is only there if it was
// asked for or all fits on one page. Unknown search parameters are 400, those
// that begin with "_" are ignored. Cache-Control: no-store, max-results=N gives
// one page without a next link, which passes over _offset rows. A transaction has one lastUpdated, of its
// beginning. Deletions in a history have neither a resource nor a time.
//
// Options.Like plays other servers: their statement, limits, refusals and next
// links, as far as an exporter meets them. What stands in dialects.go comes from
// their documentation and from what others saw, not from running them.
//
// # Not as HAPI
//
// No _include, chained parameters, $-operations, conditional updates, PATCH,
// referential integrity, or system-level search. An update without a change
// makes a version.
package fakefhir
