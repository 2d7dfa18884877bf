package export_test

import (
	"fmt"
	"testing"
	"time"

	"spillway/jobs"
	"spillway/test/fakefhir"
)

// TestTruncatedChain exports a server whose chains end after two pages, without
// an order, and whose resources were all made within a second a year ago: parts
// of a window that are made by counting get past it.
func TestTruncatedChain(t *testing.T) {
	at := time.Now().Add(-366 * 24 * time.Hour)
	w := newWorld(t, settings{window: 10_000, server: fakefhir.Options{
		NoDirect: true, Dataset: fakefhir.Generate(fakefhir.GenerateOptions{}), Now: func() time.Time { return at },
	}})
	for i := range 600 {
		at = at.Add(2 * time.Millisecond)
		_, err := w.srv.Put("Observation", fmt.Sprint("o-", i), observation(fmt.Sprint("o-", i), ""))
		must(t, err)
	}
	at = at.Add(366 * 24 * time.Hour)
	w.srv.Script(
		fakefhir.Fault{Match: fakefhir.Match{Type: "Observation"}, Do: fakefhir.Do{IgnoreParams: []string{"_sort"}}},
		fakefhir.Fault{Match: fakefhir.Match{Type: "Observation"}, Do: fakefhir.Do{EndChainEarly: 2}},
	)
	job := w.run(t, jobs.Request{Types: []string{"Observation"}})
	same(t, w.exported(t, job), only(w.truth(t), func(typ, _ string, _ []byte) bool { return typ == "Observation" }))
	if issues := w.issues(t, job); len(issues) > 0 {
		t.Errorf("issues: %q", issues)
	}
}
