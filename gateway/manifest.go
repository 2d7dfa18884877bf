package gateway

import (
	"encoding/json"
	"io"

	"spillway/jobs"
	"spillway/upstream/fhir"
)

// manifest is the view of a completed job that clients get, as of STU 1 to 3.
// The arrays are always there, empty or not.
// Source: Bulk Data Access IG, Export, "Response - Output Manifest".
type manifest struct {
	TransactionTime     string         `json:"transactionTime"`
	Request             string         `json:"request"`
	RequiresAccessToken bool           `json:"requiresAccessToken"`
	Output              []manifestItem `json:"output"`
	Deleted             []manifestItem `json:"deleted"`
	Error               []manifestItem `json:"error"`
	Extension           *extension     `json:"extension,omitempty"`
}

// extension is what the manifest says beyond the standard.
// Source: Bulk Data Access IG, "Response - Output Manifest", extension: a JSON
// object of the server's own.
type extension struct {
	Evidence []jobs.Evidence `json:"evidence"` // by type, what was counted and what was exported
}

type manifestItem struct {
	Type  string `json:"type"`
	URL   string `json:"url"`
	Count int64  `json:"count"`
}

// WriteManifest writes the manifest of a completed job as JSON. fileURL gives
// the address of each file. It is the only place that chooses the JSON keys.
// The error is that of w.
func WriteManifest(w io.Writer, j *jobs.Job, fileURL func(jobs.File) string, requiresAccessToken bool) error {
	m := manifest{
		TransactionTime:     fhir.FormatInstant(j.TransactionTime),
		Request:             j.Request.URL,
		RequiresAccessToken: requiresAccessToken,
		Output:              []manifestItem{}, Deleted: []manifestItem{}, Error: []manifestItem{},
	}
	for _, f := range j.Files {
		item := manifestItem{Type: f.Type, URL: fileURL(f), Count: f.Count}
		switch f.Kind {
		case jobs.KindOutput:
			m.Output = append(m.Output, item)
		case jobs.KindDeleted:
			m.Deleted = append(m.Deleted, item)
		case jobs.KindOutcome:
			m.Error = append(m.Error, item)
		}
	}
	if len(j.Evidence) > 0 {
		m.Extension = &extension{Evidence: j.Evidence}
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(m)
}
