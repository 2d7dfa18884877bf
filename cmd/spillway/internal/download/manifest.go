package download

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"spillway/jobs"
	"spillway/upstream/fhir"
)

// ManifestName is the file that a directory must have.
const ManifestName = "manifest.json"

// maxManifest is the greatest size of a manifest that is read. One of 10,000
// files of a hundred segments each has 100 MB.
const maxManifest = 256 << 20

// ErrNoManifest says that the directory has no manifest.json, so nothing is finished there.
var ErrNoManifest = errors.New("there is no " + ManifestName)

// A Manifest is what a finished export says of itself. Members that are not
// here may be there, and are not looked at.
type Manifest struct {
	// TransactionTime is the instant up to which it is complete.
	TransactionTime time.Time
	// Request is the address of the kick-off.
	Request *url.URL
	Files   []File // in the order of output, deleted, error
	// Evidence is nil if the manifest has none, and not if there was nothing to
	// count.
	Evidence []jobs.Evidence
}

// A File is one entry of a manifest.
type File struct {
	Name  string        // last path segment of its URL
	Kind  jobs.FileKind // which array it stands in
	Type  string        // as stated; "" if it is not
	Count int64         // -1: not stated

	// What the extension says, uncompressed; size -1: nothing.
	size     int64
	segments []segment
}

// A segment is a part of a file.
type segment struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// The wire form of a manifest.
type wireManifest struct {
	TransactionTime string         `json:"transactionTime"`
	Request         string         `json:"request"`
	Output          []wireItem     `json:"output"`
	Deleted         []wireItem     `json:"deleted"`
	Error           []wireItem     `json:"error"`
	Extension       jsontext.Value `json:"extension"`
}

type wireItem struct {
	Type  string `json:"type"`
	URL   string `json:"url"`
	Count *int64 `json:"count"`
}

type wireExtension struct {
	Evidence []jobs.Evidence `json:"evidence"`
	Files    []struct {
		Name     string    `json:"name"`
		Size     *int64    `json:"size"`
		Segments []segment `json:"segments"`
	} `json:"files"`
}

// Read reads the manifest of a directory. ErrNoManifest if it has none; other
// errors say what is wrong with it.
func Read(dir string) (*Manifest, error) {
	f, err := os.Open(filepath.Join(dir, ManifestName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNoManifest
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxManifest {
		return nil, fmt.Errorf("%s is larger than %d bytes", ManifestName, maxManifest)
	}
	return parse(b)
}

// parse reads a manifest. It is strict where a mistake could hide something:
// names of members come once and in their exact case.
func parse(b []byte) (*Manifest, error) {
	var w wireManifest
	if err := json.Unmarshal(b, &w); err != nil {
		return nil, fmt.Errorf("%s is no manifest: %w", ManifestName, wording(err))
	}
	var m Manifest
	var err error
	if m.TransactionTime, err = fhir.ParseInstant(w.TransactionTime); err != nil {
		return nil, fmt.Errorf("%s: transactionTime is no instant", ManifestName)
	}
	if m.Request, err = url.Parse(w.Request); err != nil {
		return nil, fmt.Errorf("%s: request is no URL", ManifestName)
	}
	if w.Output == nil {
		return nil, fmt.Errorf("%s has no list of output", ManifestName)
	}
	for _, list := range []struct {
		kind  jobs.FileKind
		items []wireItem
	}{{jobs.KindOutput, w.Output}, {jobs.KindDeleted, w.Deleted}, {jobs.KindOutcome, w.Error}} {
		for i, item := range list.items {
			f, err := item.file(list.kind)
			if err != nil {
				return nil, fmt.Errorf("%s: %s[%d]: %w", ManifestName, arrayOf(list.kind), i, err)
			}
			m.Files = append(m.Files, f)
		}
	}
	return &m, m.extend(w.Extension)
}

// wording is an error of the parser without what it quotes.
func wording(err error) error {
	var syntax *jsontext.SyntacticError
	var semantic *json.SemanticError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("not valid JSON at byte %d", syntax.ByteOffset)
	case errors.As(err, &semantic):
		return fmt.Errorf("a value of a wrong kind at %s", semantic.JSONPointer)
	}
	return errors.New("not valid JSON")
}

// arrayOf is the member of the manifest that lists files of a kind.
func arrayOf(k jobs.FileKind) string {
	if k == jobs.KindOutcome {
		return "error"
	}
	return string(k)
}

func (w wireItem) file(kind jobs.FileKind) (File, error) {
	f := File{Kind: kind, Type: w.Type, Count: -1, size: -1}
	u, err := url.Parse(w.URL)
	if err != nil {
		return f, errors.New("url is no URL")
	}
	f.Name = path.Base(u.Path)
	switch {
	case u.Path == "" || f.Name == "." || f.Name == ".." || f.Name == "/" || strings.ContainsAny(f.Name, "/\\\x00"):
		return f, errors.New("url does not end in the name of a file")
	case f.Name == ManifestName:
		return f, errors.New("url ends in the manifest's own name")
	}
	if w.Count != nil {
		if f.Count = *w.Count; f.Count < 0 {
			return f, errors.New("count is negative")
		}
	}
	return f, nil
}

// extend adds what the extension says. One of another shape is somebody else's.
func (m *Manifest) extend(raw jsontext.Value) error {
	if raw.Kind() != '{' {
		return nil
	}
	var e wireExtension
	if err := json.Unmarshal(raw, &e); err != nil {
		return fmt.Errorf("%s: extension: %w", ManifestName, wording(err))
	}
	m.Evidence = e.Evidence
	for _, said := range e.Files {
		if said.Size == nil {
			continue
		}
		var sum int64
		for _, s := range said.Segments {
			if sum += s.Size; s.Size <= 0 || sum > *said.Size {
				return fmt.Errorf("%s: extension: the segments of %q do not fit its size", ManifestName, said.Name)
			}
		}
		if len(said.Segments) > 0 && sum != *said.Size {
			return fmt.Errorf("%s: extension: the segments of %q do not make up its size", ManifestName, said.Name)
		}
		found := false
		for i := range m.Files {
			if f := &m.Files[i]; plainName(f.Name) == plainName(said.Name) {
				found, f.size, f.segments = true, *said.Size, said.Segments
			}
		}
		if !found {
			return fmt.Errorf("%s: extension: it describes %q, which no list names", ManifestName, said.Name)
		}
	}
	return nil
}

// plainName is the name of a file without what says that it is compressed.
func plainName(name string) string { return strings.TrimSuffix(name, ".gz") }
