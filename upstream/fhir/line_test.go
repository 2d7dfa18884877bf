package fhir

import (
	"errors"
	"strings"
	"testing"
)

func TestAppendLine(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"compact", `{"a":1.10,"b":[12345678901234567890,-0.0e+5,null,true]}`, `{"a":1.10,"b":[12345678901234567890,-0.0e+5,null,true]}`},
		{"pretty", "{\n  \"a\" : 1.10 ,\r\n\t\"b\" : [ 1 , 2 ]\n}", `{"a":1.10,"b":[1,2]}`},
		{"white space in strings stays", `{"a b": "  c  \" d \\" , "e":" "}`, `{"a b":"  c  \" d \\","e":" "}`},
		{"escapes stay", `{"a":"\u00e9\n\/\ud83d\ude00 é <>&"}`, `{"a":"\u00e9\n\/\ud83d\ude00 é <>&"}`},
		{"line separators in strings stay", "{\"a\":\"x\u2028y\u2029z\u0085\"}", "{\"a\":\"x\u2028y\u2029z\u0085\"}"},
		{"white space around", " \n{} \n", `{}`},
		{"strings of every length", `{"":"1","12":"123","1234":"12345","123456":"1234567","12345678":"123456789","é23456789":"12345678é01234567"}`,
			`{"":"1","12":"123","1234":"12345","123456":"1234567","12345678":"123456789","é23456789":"12345678é01234567"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := AppendLine([]byte("before\n"), []byte(tt.in))
			if err != nil || string(got) != "before\n"+tt.want+"\n" {
				t.Errorf("got %q, %v\nwant %q", got, err, tt.want)
			}
		})
	}
}

func TestAppendLineRefuses(t *testing.T) {
	for _, in := range []string{
		"", " ", "[]", "null", `"a"`, `{"a":1`, `{"a":"b`, `{"a":"b}`, `{"a":"b\`, `{"a":"b\"`, `{}{}`, `{} x`,
		"{\"a\":\"line\nbreak\"}", "{\"a\":\"0123456\n789\"}", "{\"a\":\"\\\n\"}", "{\x00}", "{\"a\":\"\r\"}", "{\x0b}",
	} {
		got, err := AppendLine([]byte("x"), []byte(in))
		if !errors.Is(err, ErrMalformed) || string(got) != "x" {
			t.Errorf("%q: got %q, %v", in, got, err)
		}
	}
}

// Quotes, backslashes and control characters are found at every offset within
// the eight bytes that are looked at together, among neighbours that differ by
// one bit or by the high bit.
func TestStringScanAtEveryOffset(t *testing.T) {
	for n := range 40 {
		for _, fill := range []string{"x", "!", "#", "]", "[", " ", "\u00a2", "\u00dc", "\U0001F622"} {
			content := strings.Repeat(fill, n)
			in := `"` + content + `"`
			if end, escaped := skipString([]byte(in+`,"`), 0); end != len(in) || escaped {
				t.Fatalf("%q: got %d, %v", in, end, escaped)
			}
			if end := lineString([]byte(in+`,"`), 0); end != len(in) {
				t.Fatalf("%q: got %d", in, end)
			}
			in = `"` + content + `\"` + content + `\\"`
			if end, escaped := skipString([]byte(in+`"`), 0); end != len(in) || !escaped {
				t.Fatalf("%q: got %d, %v", in, end, escaped)
			}
			if end := lineString([]byte(in+`"`), 0); end != len(in) {
				t.Fatalf("%q: got %d", in, end)
			}
			for _, control := range []string{"\x00", "\n", "\x1f"} {
				if end := lineString([]byte(`"`+content+control+content+`"`), 0); end >= 0 {
					t.Fatalf("%q after %q was passed", control, content)
				}
			}
			if end, _ := skipString([]byte(`"`+content), 0); end >= 0 {
				t.Fatalf("%q: a string without end was passed", content)
			}
		}
	}
}

func TestReadHeader(t *testing.T) {
	tests := []struct {
		name, in string
		want     Header
		bad      bool
	}{
		{name: "first", in: `{"resourceType":"Patient","id":"a","meta":{"versionId":"2","lastUpdated":"2025-01-01T00:00:00Z"},"name":[]}`, want: Header{"Patient", "a", "2", "2025-01-01T00:00:00Z"}},
		{name: "last and pretty", in: "{\n \"name\" : [ { \"id\" : \"x\" } ] ,\n \"meta\" : { \"tag\":[{\"versionId\":\"9\"}], \"versionId\" : \"2\" } , \"id\" : \"a\" , \"resourceType\" : \"Patient\" }", want: Header{Type: "Patient", ID: "a", VersionID: "2"}},
		{name: "nothing", in: `{}`},
		{name: "null", in: `{"id":null,"resourceType":"Patient"}`, want: Header{Type: "Patient"}},
		{name: "escapes", in: `{"id":"\u002e\u002e","\u0072esourceType":"P"}`, want: Header{Type: "P", ID: ".."}},
		{name: "another case", in: `{"ID":"x","Id":"y","Meta":{"versionId":"1"},"resourcetype":"Z"}`},
		{name: "an array", in: `[]`, bad: true},
		{name: "empty", in: ``, bad: true},
		{name: "an id that is a number", in: `{"id":1}`, bad: true},
		{name: "a version that is a number", in: `{"meta":{"versionId":1}}`, bad: true},
		{name: "a time that is an object", in: `{"meta":{"lastUpdated":{}}}`, bad: true},
		{name: "cut", in: `{"id":"a"`, bad: true},
		{name: "cut in a value", in: `{"x":[1,2`, bad: true},
		{name: "no colon", in: `{"id" "a"}`, bad: true},
		{name: "no name", in: `{1:2}`, bad: true},
		{name: "a comma too much", in: `{"id":"a",}`, bad: true},
		{name: "no value", in: `{"x":}`, bad: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ReadHeader([]byte(tt.in))
			if tt.bad != errors.Is(err, ErrMalformed) || !tt.bad && err != nil || got != tt.want {
				t.Errorf("got %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}

func TestReadResource(t *testing.T) {
	limits := ScanLimits{ResourceBytes: 100, PageBytes: 200, Depth: 3}
	tests := []struct {
		name, in, want string
		kind           error
	}{
		{name: "a resource", in: "\xef\xbb\xbf \n" + `{"resourceType":"Patient","id":"a", "x":1.10}` + "\n", want: `{"resourceType":"Patient","id":"a","x":1.10}`},
		{name: "an OperationOutcome is one", in: `{"resourceType":"OperationOutcome"}`, want: `{"resourceType":"OperationOutcome"}`},
		{name: "empty", in: ``, kind: ErrTruncated},
		{name: "cut", in: `{"resourceType":"Patient"`, kind: ErrTruncated},
		{name: "HTML", in: `<html>`, kind: ErrNotResource},
		{name: "an array", in: `[]`, kind: ErrNotResource},
		{name: "no type", in: `{"id":"a"}`, kind: ErrNotResource},
		{name: "two", in: `{"resourceType":"A"}{"resourceType":"A"}`, kind: ErrMalformed},
		{name: "a member twice", in: `{"resourceType":"A","resourceType":"B"}`, kind: ErrMalformed},
		{name: "an id of the wrong kind", in: `{"resourceType":"A","id":[]}`, kind: ErrMalformed},
		{name: "too large", in: `{"resourceType":"A","x":"` + strings.Repeat("x", 100) + `"}`, kind: ErrTooLarge},
		{name: "much too large", in: `{"resourceType":"A","x":"` + strings.Repeat("x", 1000) + `"}`, kind: ErrTooLarge},
		{name: "too deep", in: `{"resourceType":"A","x":[[[]]]}`, kind: ErrTooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, h, err := ReadResource(strings.NewReader(tt.in), limits)
			if string(got) != tt.want || !errors.Is(err, tt.kind) {
				t.Errorf("got %q, %v, want %q, %v", got, err, tt.want, tt.kind)
			}
			if err == nil && h.Type == "" {
				t.Error("no type")
			}
		})
	}
}
