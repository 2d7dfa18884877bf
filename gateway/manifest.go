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
	Extension           extension      `json:"extension"`
}

// extension is what the manifest says beyond the standard. `spillway verify`
// checks a download by it.
// Source: Bulk Data Access IG, "Response - Output Manifest", extension: a JSON
// object of the server's own.
type extension struct {
	// Evidence says by type what was counted and what was exported. It is there
	// even if there was nothing to count.
	Evidence  []jobs.Evidence `json:"evidence"`
	Files     []fileExtension `json:"files,omitempty"` // in the order of output, deleted, error
	Continues *continues      `json:"continues,omitempty"`
}

// continues names the export whose changes this one has.
type continues struct {
	TransactionTime string `json:"transactionTime"`
}

type manifestItem struct {
	Type  string `json:"type"`
	URL   string `json:"url"`
	Count int64  `json:"count"`
}

// fileExtension says what a file is, uncompressed.
type fileExtension struct {
	Name string `json:"name"` // last path segment of the file's url, without .gz
	Size int64  `json:"size"` // bytes
	// Segments are the parts of the file, in order. None has a hash of the whole
	// without being read again.
	Segments []segmentExtension `json:"segments,omitempty"`
}

type segmentExtension struct {
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// describe returns what is known of a file: all but the hashes of segments that
// an earlier version wrote.
func describe(f jobs.File) fileExtension {
	e := fileExtension{Name: f.Name, Size: f.Size}
	for _, s := range f.Segments {
		if s.LinesSHA256() == "" {
			e.Segments = nil
			break
		}
		e.Segments = append(e.Segments, segmentExtension{s.Size, s.LinesSHA256()})
	}
	return e
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
		Extension: extension{Evidence: []jobs.Evidence{}},
	}
	for _, f := range j.Files {
		item := manifestItem{Type: f.Type, URL: fileURL(f), Count: f.Count}
		m.Extension.Files = append(m.Extension.Files, describe(f))
		switch f.Kind {
		case jobs.KindOutput:
			m.Output = append(m.Output, item)
		case jobs.KindDeleted:
			m.Deleted = append(m.Deleted, item)
		case jobs.KindOutcome:
			m.Error = append(m.Error, item)
		}
	}
	m.Extension.Evidence = append(m.Extension.Evidence, j.Evidence...)
	if at := j.Request.Continues; !at.IsZero() {
		m.Extension.Continues = &continues{fhir.FormatInstant(at)}
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(m)
}
