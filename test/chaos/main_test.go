//go:build e2e

package chaos

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"spillway/test/process"
)

// The compiled programs, which TestMain makes.
var spillway, fakefhir string

func TestMain(m *testing.M) { os.Exit(runMain(m)) }

func runMain(m *testing.M) int {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", "5") // the tests wait much more than they compute
	}
	folder, err := os.MkdirTemp("", "spillway-chaos-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(folder) }()
	for command, binary := range map[string]*string{"spillway/cmd/spillway": &spillway, "spillway/test/fakefhir/cmd/fakefhir": &fakefhir} {
		if *binary, err = process.Build(folder, command); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return m.Run()
}
