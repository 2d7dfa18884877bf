// Package chaos tests many spillway processes on one Redis and one S3 server,
// while processes, Redis and the bucket are killed, frozen and cut off. Its
// tests need the build tag e2e, redis-server and versitygw; `make chaos` sets
// the tag.
//
//	main_test.go      builds the binaries
//	servers_test.go   Redis, S3 and the FHIR server, as processes of their own
//	wire_test.go      a connection that can be cut, stalled and slowed down
//	world_test.go     all of them, with the replicas before them
//	front_test.go     the load balancer before the replicas
//	client_test.go    a bulk data client that is patient with what may break
//	exact_test.go     an export compared with what it must hold
//
// The other files are the tests. By hand they take more:
//
//	SPILLWAY_TEST_SEED       what happens in TestChaos; without it a new one, which is printed
//	SPILLWAY_TEST_RESOURCES  how many resources TestChaos exports (200000)
//	SPILLWAY_TEST_FREEZE     how long it freezes a process (25s)
//	SPILLWAY_TEST_SPAN       how long it goes on doing so (45s); 0: until the export has ended
//	SPILLWAY_TEST_AWAKE      how many of the three it never freezes (1)
package chaos
