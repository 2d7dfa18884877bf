package fhir

import (
	"fmt"
	"strings"
	"testing"
)

// A scan with memory that others have used reads what a scan without does.
func TestScratch(t *testing.T) {
	entry := func(id string, size int) string {
		return fmt.Sprintf(`{"resource":{"resourceType":"Patient","id":%q,"text":"%s" }}`, id, strings.Repeat("x", size))
	}
	bodies := []string{
		`{"resourceType":"Bundle","type":"searchset","entry":[` + entry("a", 10) + "," + entry("b", 3*windowBytes) + `]}`,
		`{"resourceType":"Bundle","type":"searchset"}`,
		`{"resourceType":"Bundle","type":"searchset","entry":[` + entry("c", 2*keptScratch) + `],"total":1}`,
		`{"resourceType":"Bundle","type":"searchset","entry":[` + entry("d", 1) + `,{"resource":{"resourceType":"Patient","id":"e","\u0061":1}}]}`,
		`{"resourceType":"Bundle","entry":[` + entry("f", 5) + `,{"resource"`,
	}
	scan := func(body string, scratch *Scratch) string {
		var said strings.Builder
		page, err := ScanBundle(strings.NewReader(body), ScanLimits{Scratch: scratch}, func(e *Entry) error {
			fmt.Fprintf(&said, "%s %s\n", e.Header.ID, e.Resource)
			return nil
		})
		fmt.Fprintf(&said, "%d %v", page.Entries, err)
		return said.String()
	}
	scratch := new(Scratch)
	for range 2 {
		for i, body := range bodies {
			if got, want := scan(body, scratch), scan(body, nil); got != want {
				t.Errorf("body %d: got %.200s, want %.200s", i, got, want)
			}
		}
	}
}
