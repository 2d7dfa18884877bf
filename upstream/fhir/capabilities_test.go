package fhir

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func TestReadCapabilities(t *testing.T) {
	tests := []struct {
		name, in string
		want     *Capabilities
		kind     error
		text     string
	}{
		{
			name: "a statement",
			in: "\xef\xbb\xbf" + `{
				"resourceType" : "CapabilityStatement", "status":"active", "kind":"instance", "publisher":"p",
				"software":{"name":"HAPI FHIR Server","version":"8.8.0","releaseDate":"x"},
				"implementation":{"description":"d","url":"http://h/fhir"},
				"fhirVersion":"4.0.1", "format":["json"],
				"rest":[
				 {"mode":"client","resource":[{"type":"Basic"}],"searchParam":[{"name":"x","type":"token"}]},
				 {"security":{"cors":true},
				  "resource":[
				   {"type":"Patient","profile":"p","interaction":[{"code":"read"},{"code":"search-type","documentation":"d"}],"versioning":"versioned",
				    "searchInclude":["*"],"searchParam":[{"name":"_id","definition":"d","type":"token"},{"name":"birthdate","type":"date"}],
				    "operation":[{"name":"everything","definition":"d"}]},
				   {"type":"Observation","extension":[{"type":"x"}]}],
				  "interaction":[{"code":"transaction"}],
				  "operation":[{"name":"export"}],
				  "searchParam":[{"name":"_lastUpdated","type":"date"},{"name":"_tag","type":"token"}],
				  "mode":"server"},
				 {"mode":"server","resource":[{"type":"Group"}]}],
				"document":[{"mode":"producer"}]}`,
			want: &Capabilities{
				FHIRVersion: "4.0.1", Software: "HAPI FHIR Server", SoftwareVersion: "8.8.0", Publisher: "p", Implementation: "d",
				Types: []TypeCapability{
					{Type: "Patient", SearchParams: []SearchParam{{"_id", "token"}, {"birthdate", "date"}}, Interactions: []string{"read", "search-type"}, Operations: []string{"everything"}},
					{Type: "Observation"},
				},
				SystemParams: []string{"_lastUpdated", "_tag"},
			},
		},
		{name: "a bare one", in: `{"resourceType":"CapabilityStatement"}`, want: &Capabilities{}},
		{name: "no server", in: `{"resourceType":"CapabilityStatement","rest":[{"mode":"client","resource":[{"type":"Basic"}]}]}`, want: &Capabilities{}},
		{name: "another resource", in: `{"resourceType":"Conformance"}`, kind: ErrNotCapabilities, text: "expected a CapabilityStatement, got a resource of unknown type"},
		{name: "a Bundle", in: `{"resourceType":"Bundle","entry":[`, kind: ErrNotCapabilities, text: "got a Bundle"},
		{name: "an OperationOutcome", in: `{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"login"}]}`, kind: ErrNotCapabilities, text: "got an OperationOutcome (error login)"},
		{name: "HTML", in: `<!doctype html>`, kind: ErrNotCapabilities, text: "got an HTML page"},
		{name: "XML", in: `<CapabilityStatement/>`, kind: ErrNotCapabilities, text: "got XML or HTML"},
		{name: "empty", in: ``, kind: ErrTruncated},
		{name: "cut", in: `{"resourceType":"CapabilityStatement","rest":[{"resource":[{"type":"P`, kind: ErrTruncated},
		{name: "two", in: `{"resourceType":"CapabilityStatement"}{}`, kind: ErrMalformed},
		{name: "rest that is no array", in: `{"resourceType":"CapabilityStatement","rest":{}}`, kind: ErrMalformed, text: "rest is no array"},
		{name: "a rest that is no object", in: `{"resourceType":"CapabilityStatement","rest":[1]}`, kind: ErrMalformed, text: "an entry of rest is no object"},
		{name: "a type that is no string", in: `{"resourceType":"CapabilityStatement","rest":[{"resource":[{"type":1}]}]}`, kind: ErrMalformed, text: "rest.resource.type is no string"},
		{name: "interactions that are no array", in: `{"resourceType":"CapabilityStatement","rest":[{"resource":[{"interaction":{}}]}]}`, kind: ErrMalformed, text: "interaction is no array"},
		{name: "a publisher that is no string", in: `{"resourceType":"CapabilityStatement","publisher":1,"fhirVersion":"4.0.1"}`, want: &Capabilities{FHIRVersion: "4.0.1"}},
		{name: "an implementation that is no object", in: `{"resourceType":"CapabilityStatement","implementation":"x","fhirVersion":"4.0.1"}`, want: &Capabilities{FHIRVersion: "4.0.1"}},
		{name: "software that is no object", in: `{"resourceType":"CapabilityStatement","software":"x"}`, kind: ErrMalformed, text: "software is no object"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(tt.in), iotest.OneByteReader(strings.NewReader(tt.in))} {
				got, err := ReadCapabilities(r)
				if !errors.Is(err, tt.kind) || err != nil && !strings.Contains(err.Error(), tt.text) {
					t.Fatalf("got %v, want %s", err, tt.text)
				}
				if d := cmp.Diff(tt.want, got); d != "" {
					t.Errorf("-want +got\n%s", d)
				}
			}
		})
	}
}

func TestCapabilitiesAnswer(t *testing.T) {
	c := &Capabilities{
		Types:        []TypeCapability{{Type: "Patient", SearchParams: []SearchParam{{"name", "string"}}, Interactions: []string{"read"}}},
		SystemParams: []string{"_lastUpdated"},
	}
	if p, ok := c.Type("Patient"); !ok || p != &c.Types[0] {
		t.Error("Patient is not there")
	}
	if p, ok := c.Type("patient"); ok || p != nil {
		t.Error("patient is there")
	}
	for _, tt := range []struct {
		typ, name string
		has, can  bool
	}{
		{"Patient", "name", true, false}, {"Patient", "_lastUpdated", true, false}, {"Patient", "read", false, true},
		{"Group", "name", false, false}, {"Group", "_lastUpdated", true, false}, {"Group", "read", false, false},
	} {
		if c.Has(tt.typ, tt.name) != tt.has || c.Can(tt.typ, tt.name) != tt.can {
			t.Errorf("%+v: Has %v, Can %v", tt, c.Has(tt.typ, tt.name), c.Can(tt.typ, tt.name))
		}
	}
}

// largeStatement has n types, about 10 kB each.
func largeStatement(n int) string {
	var b strings.Builder
	b.WriteString(`{"resourceType":"CapabilityStatement","fhirVersion":"4.0.1","rest":[{"mode":"server","resource":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"type":"Type%d","interaction":[{"code":"read"},{"code":"search-type"}],"searchParam":[`, i)
		for j := range 50 {
			if j > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `{"name":"param-%d","definition":"http://hl7.org/fhir/SearchParameter/Type%d-param-%d","type":"token","documentation":"%s"}`, j, i, j, strings.Repeat("words ", 15))
		}
		b.WriteString(`]}`)
	}
	b.WriteString(`]}]}`)
	return b.String()
}

func TestReadCapabilitiesOfManyTypes(t *testing.T) {
	c, err := ReadCapabilities(strings.NewReader(largeStatement(146)))
	if err != nil || len(c.Types) != 146 || !c.Has("Type145", "param-49") || !c.Can("Type0", "search-type") {
		t.Errorf("got %v", err)
	}
}

func TestReadCapabilitiesWithoutEnd(t *testing.T) {
	for _, head := range []string{`{"resourceType":"CapabilityStatement","text":"`, `{"resourceType":"CapabilityStatement","rest":[{"resource":[{"type":"`} {
		r := &endless{head: head, fill: 'x'}
		if _, err := ReadCapabilities(r); !errors.Is(err, ErrTooLarge) || r.read > defaultResourceBytes+2*readAhead {
			t.Errorf("%d bytes were read, %v", r.read, err)
		}
	}
}

func BenchmarkReadCapabilities(b *testing.B) {
	s := largeStatement(146)
	b.SetBytes(int64(len(s)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadCapabilities(strings.NewReader(s)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMergeCapabilities(b *testing.B) {
	s := []byte(largeStatement(146))
	b.SetBytes(int64(len(s)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := MergeCapabilities(s, nil); err != nil {
			b.Fatal(err)
		}
	}
}
