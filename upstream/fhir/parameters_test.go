package fhir

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func parameters(list string) string {
	return `{"resourceType":"Parameters","parameter":[` + list + `]}`
}

func TestReadParameters(t *testing.T) {
	tests := []struct {
		name, in string
		want     []Parameter
		text     string // of the error
		kind     error
	}{
		{
			name: "a kick-off",
			in: parameters(`{"name":"_type","valueString":"Patient"},{"name":"_type","valueCode":"Observation"},
				{"valueInstant":"2025-01-01T00:00:00+01:00","name":"_since"},
				{"name":"_typeFilter","valueString":"Observation?code=a%2Cb&x=\"y\""},
				{"name":"patient","valueReference":{"type":"Patient","reference":"Patient/1"}},
				{"name":"x","valueCoding":{"system":"s","code":"c"}},{"name":"b","valueBoolean":true},{"name":"n","valueDecimal":1.10},
				{"id":"i","extension":[],"name":"u","valueUri":"http://x","_valueUri":{"id":"y"}}`),
			want: []Parameter{
				{Name: "_type", Kind: "valueString", Value: "Patient"}, {Name: "_type", Kind: "valueCode", Value: "Observation"},
				{Name: "_since", Kind: "valueInstant", Value: "2025-01-01T00:00:00+01:00"},
				{Name: "_typeFilter", Kind: "valueString", Value: `Observation?code=a%2Cb&x="y"`},
				{Name: "patient", Kind: "valueReference", Reference: "Patient/1"},
				{Name: "x", Kind: "valueCoding", Value: "c"}, {Name: "b", Kind: "valueBoolean", Value: "true"}, {Name: "n", Kind: "valueDecimal", Value: "1.10"},
				{Name: "u", Kind: "valueUri", Value: "http://x"},
			},
		},
		{name: "members in another order", in: "\xef\xbb\xbf" + ` {"parameter":[{"name":"a","valueString":"b"}],"id":"x","resourceType":"Parameters"} `, want: []Parameter{{Name: "a", Kind: "valueString", Value: "b"}}},
		{name: "no parameter", in: `{"resourceType":"Parameters"}`},
		{name: "an empty list", in: parameters(``)},

		{name: "empty", in: ``, kind: ErrTruncated, text: "expected a Parameters resource, got an empty body"},
		{name: "cut", in: `{"resourceType":"Parameters","parameter":[`, kind: ErrTruncated, text: "ends in the middle, after byte 42"},
		{name: "a form", in: `_type=Patient`, kind: ErrNotResource, text: "expected a Parameters resource, got text that is not JSON"},
		{name: "an array", in: `[]`, kind: ErrNotResource, text: "got a JSON array"},
		{name: "another resource", in: `{"resourceType":"Patient"}`, kind: ErrNotResource, text: "got a Patient"},
		{name: "no type", in: `{"parameter":[]}`, kind: ErrNotResource, text: "got JSON without a resourceType"},
		{name: "a type that is no string", in: `{"resourceType":1}`, kind: ErrMalformed, text: "resourceType is no string"},
		{name: "something after it", in: parameters(``) + `{}`, kind: ErrMalformed, text: "something follows"},
		{name: "a member twice", in: parameters(`{"name":"a","name":"b","valueString":"c"}`), kind: ErrMalformed, text: "a member name stands twice"},
		{name: "the list twice", in: `{"resourceType":"Parameters","parameter":[],"parameter":[]}`, kind: ErrMalformed, text: "a member name stands twice"},
		{name: "a list that is none", in: `{"resourceType":"Parameters","parameter":{}}`, kind: ErrMalformed, text: "parameter is no array"},
		{name: "a parameter that is none", in: parameters(`{"name":"a","valueString":"b"},"c"`), kind: ErrMalformed, text: "parameter[1] is no object"},
		{name: "no name", in: parameters(`{"valueString":"b"}`), kind: ErrMalformed, text: `parameter[0] ("") has no name`},
		{name: "a name that is no string", in: parameters(`{"name":3,"valueString":"b"}`), kind: ErrMalformed, text: "name of a parameter is no string"},
		{name: "no value", in: parameters(`{"name":"_since"}`), kind: ErrMalformed, text: `parameter[0] ("_since") has no value`},
		{name: "an extension instead of a value", in: parameters(`{"name":"_since","_valueInstant":{}}`), kind: ErrMalformed, text: `parameter[0] ("_since") has no value`},
		{name: "two values", in: parameters(`{"name":"a","valueString":"b","valueCode":"c"}`), kind: ErrMalformed, text: `parameter[0] ("a") has more than one value`},
		{name: "an empty value", in: parameters(`{"name":"a","valueString":""}`), kind: ErrMalformed, text: `parameter[0] ("a") has a valueString of the wrong kind`},
		{name: "a number as string", in: parameters(`{"name":"a","valueString":1}`), kind: ErrMalformed, text: `has a valueString of the wrong kind`},
		{name: "a string as boolean", in: parameters(`{"name":"a","valueBoolean":"true"}`), kind: ErrMalformed, text: `has a valueBoolean of the wrong kind`},
		{name: "null", in: parameters(`{"name":"a","valueString":null}`), kind: ErrMalformed, text: `has a valueString of the wrong kind`},
		{name: "a list as value", in: parameters(`{"name":"a","valueString":["b"]}`), kind: ErrMalformed, text: `has a valueString of the wrong kind`},
		{name: "a reference that names nothing", in: parameters(`{"name":"patient","valueReference":{"display":"Jane Doe"}}`), kind: ErrMalformed, text: `("patient") has a valueReference of the wrong kind`},
		{name: "a value of another type", in: parameters(`{"name":"a","valueQuantity":{"value":1}}`), kind: ErrMalformed, text: `has the member "valueQuantity", which no parameter of an export has`},
		{name: "parts", in: parameters(`{"name":"a","part":[{"name":"b","valueString":"c"}]}`), kind: ErrMalformed, text: `has a part, which no parameter of an export has`},
		{name: "a resource", in: parameters(`{"name":"a","resource":{"resourceType":"Patient"}}`), kind: ErrMalformed, text: `has a resource, which`},
		{name: "a name that could be anything", in: parameters(`{"name":"Jane Doe"}`), kind: ErrMalformed, text: `parameter[0] (an unusual name) has no value`},
		{name: "a very long name", in: parameters(`{"name":"` + strings.Repeat("x", 100) + `"}`), kind: ErrMalformed, text: `parameter[0] (a name of 100 bytes) has no value`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ReadParameters([]byte(tt.in))
			if !errors.Is(err, tt.kind) || err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("got %v, want %s", err, tt.text)
			}
			if err != nil && strings.Contains(err.Error(), "Jane") {
				t.Errorf("the error holds a value: %v", err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
		})
	}
}

func TestReadManyParameters(t *testing.T) {
	one := `{"name":"patient","valueReference":{"reference":"Patient/%d"}}`
	var all []string
	for i := range 10_000 {
		all = append(all, fmt.Sprintf(one, i))
	}
	got, err := ReadParameters([]byte(parameters(strings.Join(all, ","))))
	if err != nil || len(got) != 10_000 || got[9_999].Reference != "Patient/9999" {
		t.Errorf("got %d, %v", len(got), err)
	}
}

func FuzzReadParameters(f *testing.F) {
	f.Add([]byte(parameters(`{"name":"_type","valueString":"Patient"},{"name":"patient","valueReference":{"reference":"Patient/1"}}`)))
	f.Add([]byte(parameters(`{"name":"a","part":[{"name":"b"}]},{"valueCoding":{"code":"c"},"n\u0061me":"x"}`)))
	f.Add([]byte(`{"resourceType":"Parameters","parameter":[[],null,{"valueBoolean":true,"name":"\ud83d\ude00"}]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		list, err := ReadParameters(in)
		if err != nil {
			var b *BodyError
			if list != nil || !errors.As(err, &b) {
				t.Fatalf("got %v and %v", list, err)
			}
			return
		}
		for _, p := range list {
			if _, ok := parameterKinds[p.Kind]; !ok || p.Name == "" || (p.Value == "") == (p.Reference == "") {
				t.Fatalf("got %+v", p)
			}
		}
	})
}
