// Package jobs says what an export is, which states it passes through, what
// its units of work are and which files it leaves.
//
//	Job      one export: the Request, its State, counters, and at the end its Files
//	Unit     one resumable step of a job: plan → slice × n → associated → tail → deleted → finish
//	Lease    the right to work on one unit, with the attempt number that fences every write
//	Segment  an immutable object in storage, written by one attempt of one unit
//	File     what the manifest lists: segments of one type, in order
//	Store    the contract that jobs/boltstore (one process) and other stores keep
//
// The web half creates, reads and cancels jobs; the work half claims units and
// completes them. They meet only here. The package knows no HTTP, no FHIR
// search and no storage: a unit's Spec and Checkpoint are bytes that only
// jobs/export reads. jobs/jobstest is the contract as a test suite.
package jobs
