// Package config turns YAML, environment variables and flags into the values
// that a process is built from, and complains about everything at once.
//
//	Load      file < environment < flags → Config, or Problems
//	keys      the one table of all keys: their names, forms, bounds  (keys.go, authkeys.go)
//	tree      walks the YAML, so that every problem has its line     (tree.go)
//	records   lists of sections, such as clients                     (records.go)
//	parse...  text → value                                           (values.go)
//	check     what no single key can know                            (check.go, authcheck.go)
//
// After Load nothing is optional, unparsed or defaulted. The package opens no
// file but the configuration, and the secrets and keys that it names.
package config
