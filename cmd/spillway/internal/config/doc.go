// Package config turns YAML, environment variables and flags into the values
// that a process is built from, and complains about everything at once.
//
//	Load      file < environment < flags → Config, or Problems
//	keys      the one table of all keys: their names, forms, bounds  (keys.go)
//	tree      walks the YAML, so that every problem has its line     (tree.go)
//	parse...  text → value                                           (values.go)
//	check     what no single key can know                            (check.go)
//
// After Load nothing is optional, unparsed or defaulted. The package opens no
// file but the configuration and the secrets that it names.
package config
