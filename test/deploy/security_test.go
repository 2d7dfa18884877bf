package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// A row of the table of tests: | T1 | what | where |
var securityRow = regexp.MustCompile(`(?m)^\| T(\d+) \| ([^|]+) \| (.+) \|$`) //nolint:gochecknoglobals // a constant

// Each of the eighty tests of the threat model has its row, and what a row names
// is there.
func TestSecurityTable(t *testing.T) {
	text, err := os.ReadFile(folder + "SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[int]bool)
	for _, row := range securityRow.FindAllStringSubmatch(string(text), -1) {
		n, _ := strconv.Atoi(row[1])
		if rows[n] {
			t.Errorf("T%d has two rows", n)
		}
		rows[n] = true
		pkg, named := "", false
		for _, word := range regexp.MustCompile("`([a-z0-9/]+)`|\\b((?:Test|Fuzz)[A-Z][A-Za-z0-9]*)").FindAllStringSubmatch(row[3], -1) {
			if word[1] != "" {
				pkg = word[1]
				continue
			}
			named = true
			if pkg == "" {
				t.Errorf("T%d: %s has no package", n, word[2])
			} else if !declares(t, pkg, word[2]) {
				t.Errorf("T%d: %s has no %s", n, pkg, word[2])
			}
		}
		if !named && !strings.Contains(row[3], " ") {
			t.Errorf("T%d: neither a test nor why there is none", n)
		}
	}
	for n := 1; n <= 80; n++ {
		if !rows[n] {
			t.Errorf("T%d has no row", n)
		}
	}
}

// declares reports whether a test of this name is in the folder.
func declares(t *testing.T, pkg, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../..", pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "func "+name+"(") {
			return true
		}
	}
	return false
}
