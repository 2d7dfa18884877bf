package gateway

import (
	"bytes"
	"encoding/json"
	"testing"

	"spillway/jobs"
)

// TestManifestExtension wants the evidence in the extension, and no extension
// without evidence.
func TestManifestExtension(t *testing.T) {
	job := &jobs.Job{Evidence: []jobs.Evidence{{Type: "Patient", Counted: 7, Exported: 9, Late: 1, Tail: 1, Proven: true}}}
	for _, want := range []string{`{"evidence":[{"type":"Patient","counted":7,"exported":9,"late":1,"tail":1,"proven":true}]}`, ""} {
		var b bytes.Buffer
		if err := WriteManifest(&b, job, func(jobs.File) string { return "" }, false); err != nil {
			t.Fatal(err)
		}
		var m struct{ Extension json.RawMessage }
		if err := json.Unmarshal(b.Bytes(), &m); err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if len(m.Extension) > 0 {
			if err := json.Compact(&got, m.Extension); err != nil {
				t.Fatal(err)
			}
		}
		if got.String() != want {
			t.Errorf("extension is %s, want %s", &got, want)
		}
		job.Evidence = nil
	}
}
