// Command bench measures Spillway as users run it: the compiled binary, as a
// process of its own, against the fake server as another. test/bench/run builds
// all three and runs it.
//
//	main.go      what is measured, in which order, and what is printed
//	process.go   processes, their CPU and memory, and the fake server's log
//	fetch.go     the yardsticks: a raw fetch of the same pages, a crawl by next links
//	share.go     exports against the raw fetch, for upstreams of several kinds
//	hapi.go      the same data in a HAPI server
//	passthrough.go  what is passed through, beside Caddy
//	report.go    README.md and plot.svg
//
// CPU time says more than wall time where others use the machine, too.
package main
