// Package soak breaks exports at each of their steps, and exports servers that
// are written to, again and again. It runs everything in one process: the fake
// FHIR server, the engine with its workers, a job store, a storage.
//
//	points.go       where a fault strikes: the n-th request, storage or store operation
//	server.go       the FHIR server that it strikes
//	parts.go        the storage and the job store that it strikes
//	house_test.go   all of it, and workers that can be killed and are started again
//	points_test.go  every step × {kill, cut, stall, garbage, ...}
//	fire_test.go    exports under 50 writes a second, compared with the truth
//
// The oracle is always the same: an export ends; it is exactly what the server
// held at its transaction time, or its error file says what it is not, or it
// failed with a reason. It is never silently short.
//
// In `make test` each runs in a small form. `make soak` runs them at length:
//
//	SPILLWAY_SOAK       how long, such as 30m; each test takes a half
//	SPILLWAY_TEST_SEED  what is chosen; without it a new one, which is printed
package soak
