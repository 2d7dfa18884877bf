// Package testenv decides what a test does when something outside is missing:
// a Redis, an S3 server, a HAPI. On a developer's machine it skips; where
// SPILLWAY_TEST_REQUIRE lists the thing (in CI: all of them) it fails.
package testenv

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// Skip skips t because need is missing, or fails it if need is required.
// SPILLWAY_TEST_REQUIRE is a comma-separated list; "all" requires everything.
func Skip(t testing.TB, need, how string) {
	t.Helper()
	required := strings.Split(os.Getenv("SPILLWAY_TEST_REQUIRE"), ",")
	if slices.Contains(required, need) || slices.Contains(required, "all") {
		t.Fatalf("%s is required here but missing: %s", need, how)
	}
	t.Skipf("needs %s: %s", need, how)
}
