package fhir

import (
	"errors"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

func TestSubset(t *testing.T) {
	const tag = `{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue","code":"SUBSETTED"}`
	tests := []struct {
		name, typ, in string
		elements      []string
		want          string
	}{
		{
			name: "what was named, and its extensions", typ: "Patient", elements: []string{"birthDate", "nothing"},
			in:   `{"resourceType":"Patient","id":"a","meta":{"versionId":"1"},"name":[{"family":"Doe"}],"birthDate":"1970","_birthDate":{"id":"x"},"_name":[]}`,
			want: `{"resourceType":"Patient","id":"a","meta":{"versionId":"1","tag":[` + tag + `]},"birthDate":"1970","_birthDate":{"id":"x"}}`,
		},
		{
			name: "mandatory elements, byte for byte", typ: "Observation", elements: []string{"issued"},
			in:   `{"resourceType":"Observation", "status" : "final" ,"code":{"x":1.10},"valueQuantity":{"value":1.0},"issued":"i","id":"a"}`,
			want: `{"resourceType":"Observation","status" : "final","code":{"x":1.10},"issued":"i","id":"a","meta":{"tag":[` + tag + `]}}`,
		},
		{
			name: "a choice by its name", typ: "Observation", elements: []string{"value"},
			in:   `{"resourceType":"Observation","valueQuantity":{"value":1.0},"_valueQuantity":{},"values":1,"effectiveDateTime":"x"}`,
			want: `{"resourceType":"Observation","valueQuantity":{"value":1.0},"_valueQuantity":{},"meta":{"tag":[` + tag + `]}}`,
		},
		{
			name: "a choice with [x], and one with its type", typ: "Observation", elements: []string{"value[x]", "effectiveDateTime"},
			in:   `{"resourceType":"Observation","valueString":"v","effectiveDateTime":"x","effectivePeriod":{}}`,
			want: `{"resourceType":"Observation","valueString":"v","effectiveDateTime":"x","meta":{"tag":[` + tag + `]}}`,
		},
		{
			name: "a mandatory choice", typ: "MedicationRequest",
			in:   `{"resourceType":"MedicationRequest","medicationReference":{"reference":"Medication/1"},"subject":{},"status":"active","intent":"order","note":[]}`,
			want: `{"resourceType":"MedicationRequest","medicationReference":{"reference":"Medication/1"},"subject":{},"status":"active","intent":"order","meta":{"tag":[` + tag + `]}}`,
		},
		{
			name: "a name that begins like another is another", typ: "Patient", elements: []string{"contact"},
			in:   `{"resourceType":"Patient","contactPoint":1,"contact":2}`,
			want: `{"resourceType":"Patient","contact":2,"meta":{"tag":[` + tag + `]}}`,
		},
		{
			name: "tags stay", typ: "Patient",
			in:   `{"resourceType":"Patient","meta":{"tag":[ {"code":"a"} ] , "versionId":"1"}}`,
			want: `{"resourceType":"Patient","meta":{"tag":[ {"code":"a"} ,` + tag + `] , "versionId":"1"}}`,
		},
		{
			name: "the tag stands once", typ: "Patient",
			in:   `{"resourceType":"Patient","meta":{"tag":[{"code":"SUBSETTED","system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue"},{"code":"a"}]}}`,
			want: `{"resourceType":"Patient","meta":{"tag":[{"code":"SUBSETTED","system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue"},{"code":"a"}]}}`,
		},
		{name: "an empty meta", typ: "Patient", in: `{"meta":{}}`, want: `{"meta":{"tag":[` + tag + `]}}`},
		{name: "no tags", typ: "Patient", in: `{"meta":{"tag":[]}}`, want: `{"meta":{"tag":[` + tag + `]}}`},
		{name: "an empty resource", typ: "Patient", in: `{}`, want: `{"meta":{"tag":[` + tag + `]}}`},
		{name: "a type of the server's own", typ: "Own", in: `{"resourceType":"Own","a":1,"b":2}`, elements: []string{"b"}, want: `{"resourceType":"Own","b":2,"meta":{"tag":[` + tag + `]}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Subset([]byte("before"), []byte(tt.in), tt.typ, tt.elements)
			if err != nil || string(got) != "before"+tt.want {
				t.Errorf("got  %s, %v\nwant %s", got, err, tt.want)
			}
		})
	}
}

func TestSubsetRefuses(t *testing.T) {
	for _, in := range []string{``, `[]`, `{"meta":[]}`, `{"meta":{"tag":{}}}`, `{"meta":{"tag":["x"]}}`, `{"meta":{"tag":[`, `{"a":1`} {
		got, err := Subset([]byte("x"), []byte(in), "Patient", nil)
		if !errors.Is(err, ErrMalformed) || string(got) != "x" {
			t.Errorf("%s: got %q, %v", in, got, err)
		}
	}
}

func FuzzSubset(f *testing.F) {
	f.Add([]byte(observation(1)), "Observation", "value,issued")
	f.Add([]byte(`{"meta":{"tag":[{"code":"SUBSETTED"}]},"m\u0065ta2":[],"a":{}}`), "Patient", "a")
	f.Add([]byte("{ \"meta\" : { } , \"id\":\"x\"\t}"), "Group", "")
	f.Fuzz(func(t *testing.T, in []byte, typ, elements string) {
		v := jsontext.Value(in)
		if !v.IsValid() || v.Kind() != '{' {
			_, _ = Subset(nil, in, typ, nil) // must not panic
			return
		}
		names := strings.Split(elements, ",")
		got, err := Subset(nil, in, typ, names)
		if err != nil {
			return // a meta of another shape
		}
		if !jsontext.Value(got).IsValid() {
			t.Fatalf("Subset of %q is not valid JSON: %q", in, got)
		}
		if strings.Count(string(got), "SUBSETTED") == 0 && !strings.Contains(string(in), `\u`) {
			t.Fatalf("no tag: %q", got)
		}
		before, after := rootMembers(t, in), rootMembers(t, got)
		for name, value := range after {
			if name != "meta" && before[name] != value {
				t.Fatalf("member %q was %q and is %q", name, before[name], value)
			}
		}
		for name, value := range before {
			if (name == "id" || name == "resourceType" || strings.TrimPrefix(name, "_") == names[0]) && name != "meta" && after[name] != value {
				t.Fatalf("member %q was %q and is %q", name, value, after[name])
			}
		}
		again, err := Subset(nil, got, typ, names)
		if err != nil || string(again) != string(got) {
			t.Fatalf("once more: %q, %v, was %q", again, err, got)
		}
	})
}

// rootMembers reads the members of an object with jsontext, which Subset does
// not use.
func rootMembers(t *testing.T, b []byte) map[string]string {
	t.Helper()
	all := map[string]string{}
	d := jsontext.NewDecoder(strings.NewReader(string(b)))
	if _, err := d.ReadToken(); err != nil {
		t.Fatal(err)
	}
	for d.PeekKind() == '"' {
		name, err := d.ReadToken()
		if err != nil {
			t.Fatal(err)
		}
		key := name.String()
		value, err := d.ReadValue()
		if err != nil {
			t.Fatal(err)
		}
		all[key] = string(value)
	}
	return all
}
