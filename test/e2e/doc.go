// Package e2e tests the compiled spillway binary against a real HAPI FHIR
// server. Its tests need the build tag e2e; `make e2e` sets it.
//
//	main_test.go         builds the binary, starts HAPI, ends both
//	hapi_test.go         the HAPI server and what is written to it beforehand
//	oracle_test.go       what the server holds, by crawling its own search
//	compartment_test.go  which of it belongs to which patients
//	compare_test.go      what an export holds, compared with what it must hold
//	process_test.go      running spillway with test/process: export, serve, kill
//	client_test.go       a bulk data client over HTTP
//	proxy_test.go        a proxy before HAPI that spoils answers
//
// The other files are the tests. The environment decides what they run on:
// SPILLWAY_TEST_HAPI names a HAPI that is running and loaded (a few resources
// whose ids begin with "e2e-" are written to it); without it test/hapi/run
// starts one with the transaction Bundles of the file that
// SPILLWAY_TEST_BUNDLES names, or with generated ones.
package e2e
