//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"testing"

	"spillway/test/process"
)

// What TestMain makes and all tests share.
var (
	binary  string // the compiled spillway
	scratch string // a folder that is removed at the end
	server  hapi
)

func TestMain(m *testing.M) { os.Exit(runMain(m)) }

func runMain(m *testing.M) int {
	var err error
	if scratch, err = os.MkdirTemp("", "spillway-e2e-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	if binary, err = process.Build(scratch, "spillway/cmd/spillway"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer server.stop()
	return m.Run()
}
