// Package profile holds what is known of kinds of FHIR servers, as data: their
// limits, what they support, what they demand. Package upstream asks the server
// itself wherever it can be asked; a profile counts where asking cannot tell,
// or would hurt.
//
//	Profile            the facts; every zero value means: unknown, ask
//	Builtin            the profiles that come with Spillway   (builtin/*.yaml)
//	Choose             the one whose Match fits a statement
//	Named, Parse       one by name, or out of a file          (parse.go, check.go)
//
// A file is strict YAML: an unknown key is an error that names its line. With
// "like: NAME" it begins with a built-in profile, so that only what differs
// needs to be written. The package imports nothing of ours and asks nobody.
package profile
