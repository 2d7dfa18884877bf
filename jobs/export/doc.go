// Package export performs one unit of an export: it says how, jobs/worker says
// when.
//
//	plan        learn the upstream, fix the transaction time and the patients, divide the types  (plan.go, members.go)
//	            and in further, short plan units count each type and cut it into windows or batches  (rules.go, planwindows.go, windows.go, plancohort.go)
//	slice       read one window by pages, check every entry, prove it by counting      (slice.go, read.go, keyset.go, check.go, cohort.go)
//	tail        bring back what changed before it was read, as of the transaction      (tail.go, changes.go, exported.go, judge.go)
//	            time, and find by a closing count what became visible late or was lost (closing.go, growth.go, closecohort.go, departed.go)
//	associated  read the Provenance of exported resources, and what they refer to      (associated.go, provenance.go, referenced.go,
//	                                                                                   references.go)
//	deleted     list what was deleted since _since                                     (deleted.go)
//	finish      gather the evidence, group segments into files, compose these          (finish.go, compose.go)
//
// Planning begins at once; nothing is read before the upstream has settled. A
// resource that is changed after the transaction time leaves its window, so a
// window can only shrink: what is missing then is in the tail.
//
// What a job may read is fixed with it (allowed.go): searches are restricted to
// it, and each resource is looked at again before it is written or named.
//
// A unit whose workers fell silent is replaced by fresh, smaller ones (renew.go).
// What a unit writes are segments (segment.go): immutable objects under the
// prefix of its attempt, so that a retried unit never touches what another
// attempt wrote. What the client must be told becomes OperationOutcome lines
// (notes.go).
//
// The rule of the package: every resource that the upstream says it has is on
// one line, or a note says what is missing. Whoever changes the package keeps it.
package export
