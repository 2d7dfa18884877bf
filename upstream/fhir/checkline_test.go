package fhir

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

func TestCheckLine(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, test := range []struct{ name, line, want string }{
		{"OK", `{"resourceType":"Patient","id":"1"}`, "Patient/1"},
		{"OKMembersInAnyOrder", `{"a":1.10,"id":"1","b":[{}],"resourceType":"Patient"}`, "Patient/1"},
		{"OKNoID", `{"resourceType":"OperationOutcome"}`, "OperationOutcome/"},
		{"OKWhiteSpace", "\t{ \"resourceType\" : \"Patient\" , \"id\" : \"1\" } \r", "Patient/1"},
		{"OKEscapes", `{"resourceType":"Pati\u0065nt","id":"\u0031","\u0061":1}`, "Patient/1"},
		{"OKDeep", `{"resourceType":"Patient","a":` + deep(199) + `}`, "Patient/"},
		{"ErrTooDeep", `{"resourceType":"Patient","a":` + deep(200) + `}`, "too large"},
		{"ErrEmpty", ``, "truncated"},
		{"ErrBlank", `  `, "truncated"},
		{"ErrCutOff", `{"resourceType":"Patient","id":"1"`, "truncated"},
		{"ErrTwo", `{"resourceType":"Patient","id":"1"}{"resourceType":"Patient","id":"2"}`, "malformed"},
		{"ErrComma", `{"resourceType":"Patient","id":"1",}`, "malformed"},
		{"ErrMemberTwice", `{"resourceType":"Patient","id":"1","id":"2"}`, "malformed"},
		{"ErrUTF8", "{\"resourceType\":\"Patient\",\"id\":\"1\",\"a\":\"\xff\"}", "malformed"},
		{"ErrMark", "\ufeff" + `{"resourceType":"Patient","id":"1"}`, "malformed"},
		{"ErrArray", `[{"resourceType":"Patient","id":"1"}]`, "not a FHIR resource"},
		{"ErrNoType", `{"id":"1"}`, "not a FHIR resource"},
		{"ErrIDNoString", `{"resourceType":"Patient","id":1}`, "malformed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var c LineChecker
			typ, id, err := c.Check([]byte(test.line))
			got := string(typ) + "/" + string(id)
			var body *BodyError
			if errors.As(err, &body) {
				got = body.Kind.Error()
			}
			if got != test.want {
				t.Errorf("got %s, %v; want %s", got, err, test.want)
			}
		})
	}
}

// FuzzCheckLine wants that a line passes only if jsontext, too, finds one value
// in it, and that what passes can be walked.
func FuzzCheckLine(f *testing.F) {
	f.Add([]byte(`{"resourceType":"Patient","id":"1"}`))
	f.Add([]byte(`{"resourceType":"Bundle","type":"transaction","entry":[{"request":{"method":"DELETE","url":"Patient/1"}}]}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var c LineChecker
		typ, _, err := c.Check(line)
		if err != nil {
			return
		}
		d := jsontext.NewDecoder(strings.NewReader(string(line)))
		if _, err := d.ReadValue(); err != nil {
			t.Errorf("Check takes %q, jsontext says %v", line, err)
		}
		if _, err := d.ReadValue(); !errors.Is(err, io.EOF) {
			t.Errorf("Check takes %q, but something follows: %v", line, err)
		}
		if len(typ) == 0 {
			t.Errorf("%q has no type", line)
		}
		_ = ReadDeletions(line, func(typ, id string) {
			if typ == "" || !ValidID(id) {
				t.Errorf("a deletion of %q/%q", typ, id)
			}
		})
	})
}

func TestReadDeletions(t *testing.T) {
	entry := func(method, url string) string { return `{"request":{"method":"` + method + `","url":"` + url + `"}}` }
	bundle := func(kind string, entries ...string) string {
		return `{"resourceType":"Bundle","type":"` + kind + `","entry":[` + strings.Join(entries, ",") + `]}`
	}
	for _, test := range []struct {
		name, bundle string
		want         []string // nil: an error
	}{
		{"OK", bundle("transaction", entry("DELETE", "Patient/1")), []string{"Patient/1"}},
		{"OKSeveral", bundle("transaction", entry("DELETE", "Patient/1"), entry("DELETE", "Observation/a-b.c")), []string{"Patient/1", "Observation/a-b.c"}},
		{"ErrNoTransaction", bundle("batch", entry("DELETE", "Patient/1")), nil},
		{"ErrNoEntry", bundle("transaction"), nil},
		{"ErrNoDelete", bundle("transaction", entry("PUT", "Patient/1")), nil},
		{"ErrConditional", bundle("transaction", entry("DELETE", "Patient?name=x")), nil},
		{"ErrVersion", bundle("transaction", entry("DELETE", "Patient/1/_history/1")), nil},
		{"ErrNoRequest", bundle("transaction", `{"resource":{"resourceType":"Patient","id":"1"}}`), nil},
		{"ErrEntryNoArray", `{"resourceType":"Bundle","type":"transaction","entry":{}}`, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			err := ReadDeletions([]byte(test.bundle), func(typ, id string) { got = append(got, typ+"/"+id) })
			if test.want == nil {
				if !errors.Is(err, ErrMalformed) {
					t.Errorf("got %v, %v; want an error", got, err)
				}
				return
			}
			if err != nil || !slices.Equal(got, test.want) {
				t.Errorf("got %v, %v; want %v", got, err, test.want)
			}
		})
	}
}

func BenchmarkCheckLine(b *testing.B) {
	line := []byte(`{"resourceType":"Observation","id":"observation-123456","meta":{"versionId":"1","lastUpdated":"2026-01-02T03:04:05.678Z"},` +
		`"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs","display":"Vital signs"}]}],` +
		`"code":{"coding":[{"system":"http://loinc.org","code":"8302-2","display":"Body Height"}],"text":"Body Height"},"subject":{"reference":"Patient/patient-12345"},` +
		`"encounter":{"reference":"Encounter/encounter-12345"},"effectiveDateTime":"2026-01-02T03:04:05+01:00","issued":"2026-01-02T03:04:05.678+01:00",` +
		`"valueQuantity":{"value":168.10,"unit":"cm","system":"http://unitsofmeasure.org","code":"cm"}}`)
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	var c LineChecker
	for b.Loop() {
		if _, _, err := c.Check(line); err != nil {
			b.Fatal(err)
		}
	}
}
