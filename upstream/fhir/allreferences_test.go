package fhir

import (
	"slices"
	"testing"
)

func TestEachReference(t *testing.T) {
	tests := []struct {
		name, in string
		want     []string
	}{
		{"everywhere", `{"subject":{"reference":"Patient/a"},"contained":[{"practitioner":{"reference":"Practitioner/b"}}],"x":[{"valueReference":{"reference":"#c"}}]}`,
			[]string{"Patient/a", "Practitioner/b", "#c"}},
		{"with white space", "{\"a\":{\"reference\" :\n\t\"Patient/a\" , \"display\":\"x\"}}", []string{"Patient/a"}},
		{"with escapes", `{"a":{"reference":"Patient\/a\u0062"}}`, []string{"Patient/ab"}},
		{"a value of that name", `{"code":"reference","a":["reference"],"b":"reference"}`, nil},
		{"text that quotes one", `{"text":"\"reference\":\"Patient/a\"","a":{"reference":"Patient/b"}}`, []string{"Patient/b"}},
		{"members of other kinds", `{"data":[{"reference":{"reference":"Patient/a"}}],"b":{"reference":17},"c":{"reference":null},"d":{"reference":["Patient/x"]}}`, []string{"Patient/a"}},
		{"names that end alike", `{"valueReference":"Patient/a","reference_":"b","preference":"c"}`, nil},
		{"none", `{}`, nil},
		{"cut", `{"a":{"reference":"Patient/a`, nil},
		{"cut after the name", `{"a":{"reference"`, nil},
		{"a bad escape", `{"a":{"reference":"Patient\x"}}`, nil},
	}
	for _, tt := range tests {
		var got []string
		EachReference([]byte(tt.in), func(ref []byte) { got = append(got, string(ref)) })
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func FuzzEachReference(f *testing.F) {
	f.Add([]byte(`{"a":{"reference":"Patient/a"},"b":{"reference" : "x\/y"}}`))
	f.Fuzz(func(_ *testing.T, b []byte) {
		EachReference(b, func([]byte) {})
	})
}
