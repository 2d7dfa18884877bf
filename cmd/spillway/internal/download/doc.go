// Package download reads what a bulk export has left in a directory, and judges
// it: the manifest, and the files it names. `spillway export` makes such
// directories, and so do other clients that keep the manifest as manifest.json
// and call files as the last path segments of their URLs.
//
//	manifest.go  Read: the manifest, as a server sent it
//	issues.go    what its error files hold
//	verify.go    Verify: all checks, several files at once
//	file.go      one file: lines, types, ids, size, hashes
//	lines.go     a file as lines, inflated, with the hashes of its segments
//	ids.go       which id is there twice, by 8 bytes for each
//	compare.go   where it is, by a second reading
//	evidence.go  whether the counts of the export add up
//	report.go    what was found, and the verdict
//
// All of it comes from outside. Nothing is believed because a manifest says so,
// and nothing that is reported has more of a resource in it than type and id.
package download
