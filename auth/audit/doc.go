// Package audit keeps the record of who got what: a stream of its own, apart
// from the log.
//
//	Open                where the record goes, and what happens when it cannot
//	Log.Record          one Event; it is kept when this returns nil
//	OpenFile, NewStream the sinks: a file, each event synced to the disk; a stream such as standard output
//	Verifier            is a record whole, and unchanged?
//
// An event is one line of JSON. Each line holds the hash of the one before it
// and ends in its own, so that a line that was changed, added, moved or taken
// out is found. With a key the hashes are keyed, and whoever can change the
// file cannot make them right. What was cut off at the end is found only by
// comparing with a head that is known from elsewhere; so the log is told the
// head when a record is opened and closed.
//
// Each process has a record of its own. When a file is moved away, the chain
// goes on in the next one.
//
// An event has no patient data: no names, no content, no query, no token, and
// of lists of patients and filters only their length and a digest.
package audit
