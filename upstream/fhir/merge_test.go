package fhir

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

const (
	op      = "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/"
	ourOp   = `{"name":"export","definition":"` + op + `export"}`
	ourPat  = `{"name":"export","definition":"` + op + `patient-export"},{"name":"patient-export","definition":"` + op + `patient-export"}`
	ourGrp  = `{"name":"export","definition":"` + op + `group-export"},{"name":"group-export","definition":"` + op + `group-export"}`
	ourInst = `"http://hl7.org/fhir/uv/bulkdata/CapabilityStatement/bulk-data"`
)

func TestMergeCapabilities(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{
			name: "nothing there yet",
			in:   `{"resourceType":"CapabilityStatement"}`,
			want: `{"resourceType":"CapabilityStatement","instantiates":[` + ourInst + `],"rest":[{"mode":"server","resource":[{"type":"Patient","operation":[` + ourPat + `]},{"type":"Group","operation":[` + ourGrp + `]}],"operation":[` + ourOp + `]}]}`,
		},
		{
			name: "all there, in pretty print, with numbers that must not change",
			in: `{
  "resourceType": "CapabilityStatement",
  "instantiates": [ "http://other" ],
  "x": [ 1.10, 12345678901234567890, -0.0, 1E+2, "\u00e9 \/" ],
  "rest": [ {
    "mode": "server",
    "resource": [ {
      "type": "Patient",
      "operation": [ { "name": "everything", "definition": "d" } ]
    }, {
      "type": "Basic"
    }, {
      "type": "Group",
      "operation": [ ]
    } ],
    "operation": [ { "name": "meta", "x": 1.10 } ]
  } ]
}`,
			want: `{
  "resourceType": "CapabilityStatement",
  "instantiates": [ "http://other" ,` + ourInst + `],
  "x": [ 1.10, 12345678901234567890, -0.0, 1E+2, "\u00e9 \/" ],
  "rest": [ {
    "mode": "server",
    "resource": [ {
      "type": "Patient",
      "operation": [ { "name": "everything", "definition": "d" } ,` + ourPat + `]
    }, {
      "type": "Basic"
    }, {
      "type": "Group",
      "operation": [ ` + ourGrp + `]
    } ],
    "operation": [ { "name": "meta", "x": 1.10 } ,` + ourOp + `]
  } ]
}`,
		},
		{
			name: "what the upstream has under our names is replaced",
			in: `{"resourceType":"CapabilityStatement","instantiates":[` + ourInst + `],"rest":[{"mode":"server","operation":[{"name":"export","definition":"theirs"}],` +
				`"resource":[{"type":"Group","operation":[{"definition":"theirs","name":"export"},{"name":"x"},{"name":"group-export"}]},` +
				`{"operation":[{"name":"patient-export"},{"name":"group-export"}],"type":"Patient"}]}]}`,
			want: `{"resourceType":"CapabilityStatement","instantiates":[` + ourInst + `],"rest":[{"mode":"server","operation":[` + ourOp + `],` +
				`"resource":[{"type":"Group","operation":[{"name":"x"},` + ourGrp + `]},` +
				`{"operation":[{"name":"group-export"},` + ourPat + `],"type":"Patient"}]}]}`,
		},
		{
			name: "only the first server is ours, the mode comes last",
			in:   `{"resourceType":"CapabilityStatement","instantiates":[],"rest":[{"mode":"client","resource":[{"type":"Patient"}]},{"resource":[{"type":"Patient"},{"type":"Patient"}],"mode":"server"},{"mode":"server"}]}`,
			want: `{"resourceType":"CapabilityStatement","instantiates":[` + ourInst + `],"rest":[{"mode":"client","resource":[{"type":"Patient"}]},` +
				`{"resource":[{"type":"Patient","operation":[` + ourPat + `]},{"type":"Patient"},{"type":"Group","operation":[` + ourGrp + `]}],"mode":"server","operation":[` + ourOp + `]},{"mode":"server"}]}`,
		},
		{
			name: "no server, no resources, the type of the statement last, a byte order mark before",
			in:   "\xef\xbb\xbf" + `{"instantiates":[` + ourInst + `],"rest":[{"mode":"client"}],"resourceType":"CapabilityStatement"}` + "\n",
			want: `{"instantiates":[` + ourInst + `],"rest":[{"mode":"client"},{"mode":"server","resource":[{"type":"Patient","operation":[` + ourPat + `]},{"type":"Group","operation":[` + ourGrp + `]}],"operation":[` + ourOp + `]}],"resourceType":"CapabilityStatement"}`,
		},
		{
			name: "empty lists",
			in:   `{"resourceType":"CapabilityStatement","instantiates":["a"],"rest":[{"mode":"server","resource":[],"operation":[]}]}`,
			want: `{"resourceType":"CapabilityStatement","instantiates":["a",` + ourInst + `],"rest":[{"mode":"server","resource":[{"type":"Patient","operation":[` + ourPat + `]},{"type":"Group","operation":[` + ourGrp + `]}],"operation":[` + ourOp + `]}]}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := []byte(tt.in)
			got, err := MergeCapabilities(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, string(got)); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
			if string(in) != tt.in {
				t.Error("the input was changed")
			}
			if again, err := MergeCapabilities(got, nil); err != nil || canonical(t, again) != canonical(t, got) {
				t.Errorf("merged once more: %v\n%s", err, again)
			}
		})
	}
}

func canonical(t *testing.T, b []byte) string {
	t.Helper()
	v := jsontext.Value(bytes.Clone(b))
	if err := v.Compact(); err != nil {
		t.Fatal(err)
	}
	return string(v)
}

func TestMergeCapabilitiesRefuses(t *testing.T) {
	tests := []struct {
		name, in string
		kind     error
		text     string
	}{
		{"empty", ``, ErrTruncated, "expected a CapabilityStatement, got an empty body"},
		{"HTML", `<html>`, ErrNotCapabilities, "got an HTML page"},
		{"another resource", `{"resourceType":"OperationOutcome"}`, ErrNotCapabilities, "got an OperationOutcome"},
		{"no type", `{}`, ErrNotCapabilities, "got JSON without a resourceType"},
		{"cut", `{"resourceType":"CapabilityStatement"`, ErrTruncated, ""},
		{"two", `{"resourceType":"CapabilityStatement"} {}`, ErrMalformed, "something follows"},
		{"rest twice", `{"resourceType":"CapabilityStatement","rest":[],"rest":[]}`, ErrMalformed, "a member name stands twice"},
		{"rest that is no array", `{"resourceType":"CapabilityStatement","rest":{"mode":"server"}}`, ErrMalformed, "rest is no array"},
		{"instantiates that is no array", `{"resourceType":"CapabilityStatement","instantiates":"x"}`, ErrMalformed, "instantiates is no array"},
		{"a resource that is no object", `{"resourceType":"CapabilityStatement","rest":[{"mode":"server","operation":[1]}]}`, ErrMalformed, "an operation is no object"},
		{"resources that are no array", `{"resourceType":"CapabilityStatement","rest":[{"mode":"server","resource":null}]}`, ErrMalformed, "rest.resource is no array"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := MergeCapabilities([]byte(tt.in), nil)
			if got != nil || !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %q, %v, want %s", got, err, tt.text)
			}
		})
	}
}

func FuzzMergeCapabilities(f *testing.F) {
	f.Add([]byte(`{"resourceType":"CapabilityStatement","fhirVersion":"4.0.1","x":1.10,"rest":[{"mode":"server","resource":[{"type":"Patient","interaction":[{"code":"read"}],"searchParam":[{"name":"a","type":"token"}],"operation":[{"name":"b"}]}]}]}`))
	f.Add([]byte(`{"resourceType":"CapabilityStatement","instantiates":[],"rest":[{"mode":"client"},{"operation":[{"name":"export"},{"n\u0061me":"x"}],"resource":[{"type":"Group"},{}],"mode":"server"}]}`))
	f.Add([]byte(`{ "rest" : [ ] , "resourceType" : "CapabilityStatement" }`))
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := MergeCapabilities(in, nil)
		if err != nil {
			var b *BodyError
			if got != nil || !errors.As(err, &b) {
				t.Fatalf("got %q and %v", got, err)
			}
			return
		}
		if !jsontext.Value(got).IsValid() {
			t.Fatalf("not valid JSON: %q\nfrom %q", got, in)
		}
		c, err := ReadCapabilities(bytes.NewReader(got))
		if err != nil {
			return // of a shape that only matters to a reader, such as a number as format
		}
		for typ, name := range map[string]string{"Patient": "patient-export", "Group": "group-export"} {
			tc, ok := c.Type(typ)
			if !ok || !slices.Contains(tc.Operations, "export") || !slices.Contains(tc.Operations, name) {
				t.Fatalf("%s has no export: %q", typ, got)
			}
		}
		before, after := rootMembers(t, bytes.TrimPrefix(in, []byte(byteOrderMark))), rootMembers(t, got)
		for name, value := range before {
			if name != "rest" && name != "instantiates" && after[name] != value {
				t.Fatalf("member %q was %q and is %q", name, value, after[name])
			}
		}
	})
}
