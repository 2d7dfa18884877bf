package gateway

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"spillway/jobs"
)

// TestManifestExtension wants the evidence in the extension, be there any or
// not, what is known of the files, and the export that this one continues.
func TestManifestExtension(t *testing.T) {
	plain := jobs.Segment{Encoding: jobs.EncodingIdentity, Size: 10, SHA256: "of the lines"}
	packed := jobs.Segment{Encoding: jobs.EncodingGzip, Size: 20, SHA256: "as stored", PlainSHA256: "of the lines"}
	old := jobs.Segment{Encoding: jobs.EncodingGzip, Size: 30, SHA256: "as stored"}
	for _, test := range []struct {
		name string
		job  jobs.Job
		want string
	}{
		{"OKNothing", jobs.Job{}, `{"evidence":[]}`},
		{"OKEvidence", jobs.Job{Evidence: []jobs.Evidence{{Type: "Patient", Counted: 7, Exported: 9, Late: 1, Tail: 1, Proven: true}}},
			`{"evidence":[{"type":"Patient","counted":7,"exported":9,"late":1,"tail":1,"proven":true}]}`},
		{"OKFiles", jobs.Job{Files: []jobs.File{
			{Name: "1.Patient.ndjson", Kind: jobs.KindOutput, Size: 10, Segments: []jobs.Segment{plain}},
			{Name: "2.Bundle.ndjson", Kind: jobs.KindDeleted, Size: 40, Segments: []jobs.Segment{packed, packed}},
			{Name: "3.OperationOutcome.ndjson", Kind: jobs.KindOutcome, Size: 50, Segments: []jobs.Segment{packed, old}},
		}}, `{"evidence":[],"files":[` +
			`{"name":"1.Patient.ndjson","size":10,"segments":[{"size":10,"sha256":"of the lines"}]},` +
			`{"name":"2.Bundle.ndjson","size":40,"segments":[{"size":20,"sha256":"of the lines"},{"size":20,"sha256":"of the lines"}]},` +
			`{"name":"3.OperationOutcome.ndjson","size":50}]}`},
		{"OKContinues", jobs.Job{Request: jobs.Request{Continues: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}},
			`{"evidence":[],"continues":{"transactionTime":"2026-01-02T03:04:05.000Z"}}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var b, got bytes.Buffer
			if err := WriteManifest(&b, &test.job, func(jobs.File) string { return "" }, false); err != nil {
				t.Fatal(err)
			}
			var m struct{ Extension json.RawMessage }
			if err := json.Unmarshal(b.Bytes(), &m); err != nil {
				t.Fatal(err)
			}
			if err := json.Compact(&got, m.Extension); err != nil {
				t.Fatal(err)
			}
			if got.String() != test.want {
				t.Errorf("extension is %s, want %s", &got, test.want)
			}
		})
	}
}
