package download

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// object is JSON that tests change member by member.
type object = map[string]any

// A finished download: two files of Patients and one of Observations, one that
// lists deletions, one of notes. Tests change files and manifest before both
// are written.
type fixture struct {
	files    map[string][]string // lines by name
	manifest object
	evidence []object
	raw      string           // instead of manifest
	packed   bool             // files are compressed
	written  func(dir string) // after all is written
}

func patient(id string) string {
	return `{"resourceType":"Patient","id":"` + id + `","meta":{"versionId":"1"},"multipleBirthInteger":1}`
}

func observation(id string) string {
	return `{"resourceType":"Observation","id":"` + id + `","valueQuantity":{"value":1.10}}`
}

func deletion(urls ...string) string {
	var entries []string
	for _, u := range urls {
		entries = append(entries, `{"request":{"method":"DELETE","url":"`+u+`"}}`)
	}
	return `{"resourceType":"Bundle","type":"transaction","entry":[` + strings.Join(entries, ",") + `]}`
}

func issue(severity string) string {
	return `{"resourceType":"OperationOutcome","issue":[{"severity":"` + severity + `","code":"processing","diagnostics":"words"}]}`
}

func newFixture() *fixture {
	return &fixture{
		files: map[string][]string{
			"1.Patient.ndjson":          {patient("a"), patient("b"), patient("c")},
			"2.Patient.ndjson":          {patient("d")},
			"3.Observation.ndjson":      {observation("a"), observation("b")},
			"4.Bundle.ndjson":           {deletion("Patient/x"), deletion("Patient/y", "Observation/x")},
			"5.OperationOutcome.ndjson": {issue("warning")},
		},
		manifest: object{
			"transactionTime": "2026-01-02T03:04:05.000Z", "request": "https://example.org/fhir/$export", "requiresAccessToken": false,
			"output": []object{
				{"type": "Patient", "url": "1.Patient.ndjson"}, {"type": "Patient", "url": "2.Patient.ndjson"},
				{"type": "Observation", "url": "3.Observation.ndjson"},
			},
			"deleted": []object{{"type": "Bundle", "url": "4.Bundle.ndjson"}},
			"error":   []object{{"type": "OperationOutcome", "url": "5.OperationOutcome.ndjson"}},
		},
		evidence: []object{
			{"type": "Observation", "counted": 2, "exported": 2, "deleted": 1, "proven": true},
			{"type": "Patient", "counted": 2, "exported": 4, "late": 1, "tail": 1, "deleted": 2, "proven": true},
		},
	}
}

// items calls f with every entry of the manifest, and the name of its file.
func (f *fixture) items(do func(item object, name string)) {
	for _, list := range []string{"output", "deleted", "error"} {
		for _, item := range f.manifest[list].([]object) {
			url := item["url"].(string)
			url, _, _ = strings.Cut(url, "?")
			do(item, url[strings.LastIndexByte(url, '/')+1:])
		}
	}
}

func sumOf(lines []string) object {
	text := strings.Join(lines, "\n") + "\n"
	sum := sha256.Sum256([]byte(text))
	return object{"size": len(text), "sha256": hex.EncodeToString(sum[:])}
}

// state lets the manifest say what the files hold now.
func (f *fixture) state() {
	var files []object
	f.items(func(item object, name string) {
		lines := f.files[strings.TrimSuffix(name, ".gz")]
		item["count"] = len(lines)
		var segments []object
		rest := lines
		for len(rest) > 0 {
			n := min(2, len(rest))
			segments, rest = append(segments, sumOf(rest[:n])), rest[n:]
		}
		files = append(files, object{"name": strings.TrimSuffix(name, ".gz"), "size": sumOf(lines)["size"], "segments": segments})
	})
	f.manifest["extension"] = object{"evidence": f.evidence, "files": files}
}

// write writes all to a new directory.
func (f *fixture) write(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, lines := range f.files {
		text := []byte(strings.Join(lines, "\n") + "\n")
		if f.packed {
			name, text = name+".gz", pack(text)
		}
		put(name, text)
	}
	if f.raw == "" {
		b, err := json.Marshal(f.manifest)
		if err != nil {
			t.Fatal(err)
		}
		f.raw = string(b)
	}
	put(ManifestName, []byte(f.raw))
	if f.written != nil {
		f.written(dir)
	}
	return dir
}

func pack(b []byte) []byte {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(b) // into memory
	_ = z.Close()
	return packed.Bytes()
}

// edit changes a file that is written already.
func edit(name string, change func([]byte) []byte) func(dir string) {
	return func(dir string) {
		path := filepath.Join(dir, name)
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, change(b), 0o600)
		}
		if err != nil {
			panic(err)
		}
	}
}

// said is what a report says, line by line.
func said(r *Report) []string {
	var all []string
	for _, p := range r.Problems {
		all = append(all, p.String())
	}
	for _, k := range slices.Sorted(func(yield func(Kind) bool) {
		for k := range r.More {
			if !yield(k) {
				return
			}
		}
	}) {
		all = append(all, fmt.Sprintf("and %d more", r.More[k]))
	}
	for _, u := range r.Unproven {
		all = append(all, "unproven: "+u)
	}
	if r.Issues > 0 {
		all = append(all, fmt.Sprintf("issues: %d", r.Issues))
	}
	return all
}

func TestVerify(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(f *fixture) // before the manifest states what there is
		damage func(f *fixture) // after it
		want   []string
	}{
		{name: "OK"},
		{name: "OKPacked", change: func(f *fixture) { f.packed = true }},
		{name: "OKPackedNames", change: func(f *fixture) {
			f.packed = true
			f.items(func(item object, name string) { item["url"] = name + ".gz" })
		}},
		{name: "OKPackedUnderPlainNames", damage: func(f *fixture) {
			f.written = edit("1.Patient.ndjson", pack)
		}},
		{name: "OKAbsolute", change: func(f *fixture) {
			f.items(func(item object, name string) {
				item["url"] = "https://example.org/fhir/$bulk-files/abc/" + name + "?sig=x%2Fy"
			})
		}},
		{name: "OKHidden", damage: func(f *fixture) {
			f.written = func(dir string) { _ = os.Mkdir(filepath.Join(dir, ".spillway"), 0o700) }
		}},
		{name: "OKNothing", change: func(f *fixture) {
			f.files, f.evidence = nil, []object{}
			f.manifest["output"], f.manifest["deleted"], f.manifest["error"] = []object{}, []object{}, []object{}
		}},
		{name: "OKNoLastLineBreak", damage: func(f *fixture) {
			delete(f.manifest["extension"].(object), "files")
			f.written = edit("2.Patient.ndjson", func(b []byte) []byte { return b[:len(b)-1] })
		}},
		{name: "OKCompartment", change: func(f *fixture) {
			f.manifest["request"] = "https://example.org/fhir/Patient/$export"
			f.evidence[0]["counted"] = 7 // of which five are of no patient
		}},

		// Whole, but not complete.
		{name: "IncompleteNoEvidence", damage: func(f *fixture) { delete(f.manifest, "extension") },
			want: []string{"unproven: The manifest has no evidence: nothing says that the export itself is complete."}},
		{name: "IncompleteOtherExtension", damage: func(f *fixture) { f.manifest["extension"] = []object{{"url": "x"}} },
			want: []string{"unproven: The manifest has no evidence: nothing says that the export itself is complete."}},
		{name: "IncompleteIssues", change: func(f *fixture) {
			f.files["5.OperationOutcome.ndjson"] = []string{issue("error"), issue("information"), issue("fatal")}
		}, want: []string{"issues: 2"}},
		{name: "IncompleteUnproven", change: func(f *fixture) { f.evidence[0]["proven"], f.evidence[0]["counted"] = false, 3 },
			want: []string{"unproven: Observation: the server counted 3, and 2 were exported; the difference could not be explained."}},
		{name: "IncompleteUncounted", change: func(f *fixture) { f.evidence[0]["proven"], f.evidence[0]["counted"] = false, -1 },
			want: []string{"unproven: The server gave no usable count of Observation."}},
		{name: "IncompleteLess", change: func(f *fixture) { f.evidence[0]["counted"] = 3 },
			want: []string{"unproven: Observation: the server counted 3, of which 1 are not here: they changed or went before they could be read, or several filters found them."}},

		// The files are not those of the manifest.
		{name: "ErrMissing", damage: func(f *fixture) { delete(f.files, "2.Patient.ndjson") },
			want: []string{"2.Patient.ndjson: it is not there", "Patient: the evidence says that 4 were exported, and 3 lines are there"}},
		{name: "ErrDirectory", damage: func(f *fixture) {
			delete(f.files, "5.OperationOutcome.ndjson")
			f.written = func(dir string) { _ = os.Mkdir(filepath.Join(dir, "5.OperationOutcome.ndjson"), 0o700) }
		}, want: []string{"5.OperationOutcome.ndjson: it is not there", "5.OperationOutcome.ndjson: the manifest does not name it"}},
		{name: "ErrUnnamed", damage: func(f *fixture) { f.files["6.Patient.ndjson"] = []string{patient("z")} },
			want: []string{"6.Patient.ndjson: the manifest does not name it"}},
		{name: "ErrBothForms", damage: func(f *fixture) { f.files["1.Patient.ndjson.gz"] = []string{patient("a")} },
			want: []string{"1.Patient.ndjson.gz: the manifest does not name it"}},
		{name: "ErrNamedTwice", change: func(f *fixture) {
			f.manifest["output"] = append(f.manifest["output"].([]object), object{"type": "Patient", "url": "a/1.Patient.ndjson"})
		}, want: []string{"1.Patient.ndjson: the manifest names it twice"}},
		{name: "ErrCutOff", damage: func(f *fixture) {
			f.written = edit("1.Patient.ndjson", func(b []byte) []byte { return b[:len(b)-10] })
		}, want: []string{
			"1.Patient.ndjson: it has 248 bytes, the manifest says 258",
			"1.Patient.ndjson:3: no resource: expected a FHIR resource, but the body ends in the middle, after byte 76",
		}},
		{name: "ErrLineGone", damage: func(f *fixture) { f.files["3.Observation.ndjson"] = []string{observation("a")} }, want: []string{
			"3.Observation.ndjson: it has 71 bytes, the manifest says 142",
			"3.Observation.ndjson: it has 1 lines, the manifest says 2",
			"Observation: the evidence says that 2 were exported, and 1 lines are there",
		}},
		{name: "ErrOneByte", damage: func(f *fixture) { f.files["1.Patient.ndjson"][2] = patient("e") },
			want: []string{"1.Patient.ndjson:3: from here, segment 2 of 2 (86 bytes from 172) is not what the manifest says"}},
		{name: "ErrOneBytePacked", change: func(f *fixture) { f.packed = true },
			damage: func(f *fixture) { f.files["1.Patient.ndjson"][0] = patient("e") },
			want:   []string{"1.Patient.ndjson.gz:1: from here, segment 1 of 2 (172 bytes from 0) is not what the manifest says"}},
		{name: "ErrOrder", damage: func(f *fixture) { slices.Reverse(f.files["3.Observation.ndjson"]) },
			want: []string{"3.Observation.ndjson:1: from here, segment 1 of 1 (142 bytes from 0) is not what the manifest says"}},
		{name: "ErrPackedCutOff", change: func(f *fixture) { f.packed = true }, damage: func(f *fixture) {
			f.written = edit("2.Patient.ndjson.gz", func(b []byte) []byte { return b[:len(b)-4] })
		}, want: []string{"2.Patient.ndjson.gz: after 1 lines: it cannot be decompressed: unexpected EOF"}},
		{name: "ErrPackedByte", change: func(f *fixture) { f.packed = true }, damage: func(f *fixture) {
			f.written = edit("2.Patient.ndjson.gz", func(b []byte) []byte { b[len(b)-7] ^= 1; return b })
		}, want: []string{"2.Patient.ndjson.gz: after 1 lines: it cannot be decompressed: gzip: invalid checksum"}},
		{name: "ErrPackedMore", change: func(f *fixture) { f.packed = true }, damage: func(f *fixture) {
			f.written = edit("2.Patient.ndjson.gz", func(b []byte) []byte { return append(b, "more"...) })
		}, want: []string{"2.Patient.ndjson.gz: after 1 lines: it cannot be decompressed: unexpected EOF"}},

		// The lines are not what they should be.
		{name: "ErrNoJSON", change: func(f *fixture) { f.files["1.Patient.ndjson"][1] = `{"resourceType":"Patient","id":"b",}` },
			want: []string{"1.Patient.ndjson:2: no resource: expected a FHIR resource, but the body is malformed at byte 35: invalid character '}' at start of string (expecting '\"')"}},
		{name: "ErrTwoOnALine", change: func(f *fixture) { f.files["1.Patient.ndjson"][1] += patient("e") },
			want: []string{"1.Patient.ndjson:2: no resource: expected a FHIR resource, but the body is malformed at byte 86: something follows after the end"}},
		{name: "ErrEmptyLine", change: func(f *fixture) { f.files["1.Patient.ndjson"][1] = "" },
			want: []string{"1.Patient.ndjson:2: an empty line"}},
		{name: "ErrMemberTwice", change: func(f *fixture) { f.files["2.Patient.ndjson"][0] = `{"resourceType":"Patient","id":"d","id":"d"}` },
			want: []string{"2.Patient.ndjson:1: no resource: expected a FHIR resource, but the body is malformed at byte 35: a member name stands twice in one object"}},
		{name: "ErrOtherType", change: func(f *fixture) { f.files["3.Observation.ndjson"][1] = patient("e") },
			want: []string{"3.Observation.ndjson:2: a resource of type Patient in a file of type Observation"}},
		{name: "ErrOtherTypeUnstated", change: func(f *fixture) {
			delete(f.manifest["output"].([]object)[2], "type")
			f.files["3.Observation.ndjson"][1] = patient("e")
		}, want: []string{"3.Observation.ndjson:2: a resource of type Patient in a file of type Observation"}},
		{name: "ErrNoID", change: func(f *fixture) { f.files["2.Patient.ndjson"][0] = `{"resourceType":"Patient"}` },
			want: []string{"2.Patient.ndjson:1: a Patient without a valid id"}},
		{name: "ErrNoDeletion", change: func(f *fixture) { f.files["4.Bundle.ndjson"][0] = deletion("Patient?name=x") }, want: []string{
			"4.Bundle.ndjson:1: malformed: an entry names no resource by type and id",
			"the evidence says that 3 deletions are listed, and 2 are there",
		}},
		{name: "ErrTwice", change: func(f *fixture) { f.files["2.Patient.ndjson"][0] = patient("b") },
			want: []string{"2.Patient.ndjson:1: Patient/b is in the output more than once; the first is in 1.Patient.ndjson:2"}},
		{name: "ErrTwiceInOneFile", change: func(f *fixture) { f.files["1.Patient.ndjson"][2] = patient("a") },
			want: []string{"1.Patient.ndjson:3: Patient/a is in the output more than once; the first is in 1.Patient.ndjson:1"}},
		{name: "ErrBoth", change: func(f *fixture) { f.files["4.Bundle.ndjson"][1] = deletion("Patient/y", "Observation/a") },
			want: []string{"3.Observation.ndjson:1: Observation/a is in the output, and deleted in 4.Bundle.ndjson:2"}},
		{name: "ErrMany", change: func(f *fixture) {
			f.files["1.Patient.ndjson"] = []string{"1", "2", "3", "4", "5"}
			f.evidence[1]["exported"], f.evidence[1]["counted"] = 6, 4
		}, want: []string{
			"1.Patient.ndjson:1: no resource: expected a FHIR resource, got a JSON number",
			"1.Patient.ndjson:2: no resource: expected a FHIR resource, got a JSON number",
			"1.Patient.ndjson:3: no resource: expected a FHIR resource, got a JSON number",
			"and 2 more",
		}},

		// The evidence does not add up.
		{name: "ErrExported", change: func(f *fixture) { f.evidence[0]["exported"] = 1 },
			want: []string{"Observation: the evidence says that 1 were exported, and 2 lines are there", "unproven: Observation: the server counted 2, of which 1 are not here: they changed or went before they could be read, or several filters found them."}},
		{name: "ErrMoreThanCounted", change: func(f *fixture) { f.evidence[1]["counted"] = 1 },
			want: []string{"Patient: 4 were exported, but only 1 counted, with 1 late and 1 from the tail"}},
		{name: "ErrNothingSaid", change: func(f *fixture) { f.evidence = f.evidence[1:] }, want: []string{
			"the evidence says nothing of Observation, of which there are 2 lines",
			"the evidence says that 2 deletions are listed, and 3 are there",
		}},
		{name: "ErrSaidOfNothing", change: func(f *fixture) {
			f.evidence = append(f.evidence, object{"type": "Condition", "counted": 1, "exported": 1, "proven": true})
		}, want: []string{"Condition: the evidence says that 1 were exported, and none is there"}},
		{name: "ErrContradiction", change: func(f *fixture) { f.evidence[1]["newer"] = 2 },
			want: []string{"Patient: the numbers of the evidence contradict each other"}},

		// The manifest is none.
		{name: "ErrNoManifest", damage: func(f *fixture) { f.raw = "[]" },
			want: []string{"manifest.json is no manifest: a value of a wrong kind at "}},
		{name: "ErrManifestCutOff", damage: func(f *fixture) { f.raw = `{"transactionTime":` },
			want: []string{"manifest.json is no manifest: not valid JSON at byte 19"}},
		{name: "ErrManifestMemberTwice", damage: func(f *fixture) { f.raw = `{"output":[],"output":[]}` },
			want: []string{"manifest.json is no manifest: not valid JSON at byte 13"}},
		{name: "ErrNoTime", damage: func(f *fixture) { delete(f.manifest, "transactionTime") },
			want: []string{"manifest.json: transactionTime is no instant"}},
		{name: "ErrNoOutput", damage: func(f *fixture) { delete(f.manifest, "output") },
			want: []string{"manifest.json has no list of output"}},
		{name: "ErrNoName", damage: func(f *fixture) { f.manifest["output"].([]object)[1]["url"] = "https://example.org/.." },
			want: []string{"manifest.json: output[1]: url does not end in the name of a file"}},
		{name: "ErrOutside", damage: func(f *fixture) { f.manifest["output"].([]object)[1]["url"] = `a/..%2F..%5Cetc` },
			want: []string{"manifest.json: output[1]: url does not end in the name of a file"}},
		{name: "ErrItsOwnName", damage: func(f *fixture) { f.manifest["output"].([]object)[1]["url"] = "manifest.json" },
			want: []string{"manifest.json: output[1]: url ends in the manifest's own name"}},
		{name: "ErrDescribesAnother", damage: func(f *fixture) {
			f.manifest["extension"].(object)["files"].([]object)[0]["name"] = "x.ndjson"
		}, want: []string{`manifest.json: extension: it describes "x.ndjson", which no list names`}},
		{name: "ErrSegmentsTooFew", damage: func(f *fixture) {
			f.manifest["extension"].(object)["files"].([]object)[0]["segments"] = []object{{"size": 1, "sha256": "x"}}
		}, want: []string{`manifest.json: extension: the segments of "1.Patient.ndjson" do not make up its size`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture()
			if test.change != nil {
				test.change(f)
			}
			f.state()
			if test.damage != nil {
				test.damage(f)
			}
			r, err := Verify(t.Context(), f.write(t), Options{First: 3})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, said(r)); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
			if sound, complete := !strings.HasPrefix(test.name, "Err"), strings.HasPrefix(test.name, "OK"); r.Sound() != sound || r.Complete() != complete {
				t.Errorf("sound: %t, complete: %t", r.Sound(), r.Complete())
			}
		})
	}
}

func TestVerifyNothing(t *testing.T) {
	if _, err := Verify(t.Context(), t.TempDir(), Options{}); !errors.Is(err, ErrNoManifest) {
		t.Errorf("an empty directory: %v", err)
	}
}

// TestVerifyManyIDs wants each of many duplicates counted, and the first told.
func TestVerifyManyIDs(t *testing.T) {
	f := newFixture()
	const n = 20_000
	var lines []string
	for i := range n {
		lines = append(lines, patient(fmt.Sprint("p", i)))
	}
	f.files["1.Patient.ndjson"], f.files["2.Patient.ndjson"] = lines, lines[5000:15_000]
	f.evidence[1]["counted"], f.evidence[1]["exported"] = 3*n/2-2, 3*n/2
	f.state()
	progress := make(chan struct{}, 1)
	r, err := Verify(t.Context(), f.write(t), Options{First: 5, Progress: func(int64, int64) {
		select {
		case progress <- struct{}{}:
		default:
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Problems) != 5 || r.Total() != n/2 || r.Lines != 3*n/2+5 {
		t.Errorf("%d problems listed of %d, in %d lines: %v", len(r.Problems), r.Total(), r.Lines, r.Problems)
	}
	for _, p := range r.Problems {
		if p.Kind != Twice || p.File != "2.Patient.ndjson" || !strings.HasSuffix(p.Text, fmt.Sprintf("1.Patient.ndjson:%d", p.Line+5000)) {
			t.Errorf("problem: %v", p)
		}
	}
}

// TestCollideByChance wants nothing told of digests that are the same of
// different resources.
func TestCollideByChance(t *testing.T) {
	s := &search{collision: collision{twice: map[uint64]bool{1: true}, twiceCount: 1}, sites: map[uint64][]site{
		1: {{"Patient/a", "1", 1, false}, {"Patient/b", "2", 2, false}, {"Patient/a", "3", 3, true}},
	}}
	f := findings{first: 5}
	s.report(&f)
	var r Report
	f.into(&r, nil)
	if !r.Sound() {
		t.Errorf("told: %v", r.Problems)
	}
}

// FuzzManifest wants any manifest read or refused, and no file named outside
// of the directory.
func FuzzManifest(f *testing.F) {
	fix := newFixture()
	fix.state()
	b, err := json.Marshal(fix.manifest)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"transactionTime":"2026-01-02T03:04:05Z","request":"x","output":[{"url":"a%2Fb"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parse(b)
		if err != nil {
			return
		}
		for _, file := range m.Files {
			if filepath.Base(file.Name) != file.Name || file.Name == ManifestName || !filepath.IsLocal(file.Name) {
				t.Errorf("a file is named %q", file.Name)
			}
		}
		everything(m)
	})
}

// FuzzVerify wants any file judged, whatever its bytes.
func FuzzVerify(f *testing.F) {
	f.Add([]byte(patient("a") + "\n" + deletion("Patient/x") + "\n"))
	f.Add(pack([]byte(issue("error") + "\n")))
	f.Fuzz(func(t *testing.T, b []byte) {
		fix := newFixture()
		fix.state()
		dir := fix.write(t)
		for _, name := range []string{"1.Patient.ndjson", "4.Bundle.ndjson", "5.OperationOutcome.ndjson"} {
			edit(name, func([]byte) []byte { return b })(dir)
		}
		r, err := Verify(t.Context(), dir, Options{})
		if err != nil || r.Sound() {
			t.Errorf("%v, %+v", err, r)
		}
	})
}
