package fhir

import (
	"errors"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

func TestOutcome(t *testing.T) {
	tests := []struct {
		name   string
		issues []Issue
		want   string
	}{
		{
			name:   "one issue",
			issues: []Issue{{Severity: SeverityError, Code: IssueNotFound, Diagnostics: "No such export."}},
			want:   `{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"not-found","details":{"text":"No such export."},"diagnostics":"No such export."}]}`,
		},
		{
			name: "several, with quotes and expressions",
			issues: []Issue{
				{Severity: SeverityWarning, Code: IssueInvalid, Diagnostics: "say \"x\"\n\u2028<&>", Expression: []string{"_type", ""}},
				{Severity: SeverityInformation, Code: IssueInformational, Expression: []string{"a", "b"}},
			},
			want: `{"resourceType":"OperationOutcome","issue":[{"severity":"warning","code":"invalid","details":{"text":"say \"x\"\n` + "\u2028" + `<&>"},"diagnostics":"say \"x\"\n` + "\u2028" + `<&>","expression":["_type"]},` +
				`{"severity":"information","code":"informational","expression":["a","b"]}]}`,
		},
		{
			name:   "what FHIR requires is filled in, what it forbids is left out",
			issues: []Issue{{Diagnostics: " \x00a\x1bb\xff "}, {Diagnostics: " \t"}},
			want:   `{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"processing","details":{"text":"a b` + "\ufffd" + `"},"diagnostics":"a b` + "\ufffd" + `"},{"severity":"error","code":"processing"}]}`,
		},
		{
			name: "no issue",
			want: `{"resourceType":"OperationOutcome","issue":[{"severity":"information","code":"informational","details":{"text":"There is nothing to report."},"diagnostics":"There is nothing to report."}]}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Outcome(tt.issues...)
			if d := cmp.Diff(tt.want, string(got)); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
			if !jsontext.Value(got).IsValid() {
				t.Error("not valid JSON")
			}
		})
	}
}

func TestReadOutcome(t *testing.T) {
	tests := []struct {
		name, in string
		want     []Issue
		kind     error
	}{
		{
			name: "as HAPI writes it",
			in: `{"resourceType": "OperationOutcome", "text": {"status": "generated", "div": "<div/>"},
				"issue": [{"severity": "error", "code": "processing", "diagnostics": "HAPI-0524: Unknown \"x\"", "expression": ["a"], "location": ["b"]}]}`,
			want: []Issue{{SeverityError, IssueProcessing, `HAPI-0524: Unknown "x"`, []string{"a"}}},
		},
		{
			name: "as others write it",
			in:   `{"issue":[{"severity":"fatal","code":"login","details":{"coding":[{"code":"c"},{"display":"d"}],"text":"words"}},{"details":{"coding":[{"code":"c"},{"display":"d","code":"e"}]},"location":["/f:x"]},{"details":{"coding":[{"code":"c"}]}}],"resourceType":"OperationOutcome"}`,
			want: []Issue{{SeverityFatal, IssueLogin, "words", nil}, {"", "", "d", []string{"/f:x"}}, {"", "", "c", nil}},
		},
		{
			name: "members of the wrong kind count as absent",
			in:   `{"resourceType":"OperationOutcome","issue":[null,1,[],{"severity":1,"code":{},"diagnostics":["x"],"details":"x","expression":"x","location":[1,"y"]},{"details":{"coding":"x","text":{}}},{"details":{"coding":[3]}}]}`,
			want: []Issue{{Expression: []string{"y"}}, {}, {}},
		},
		{name: "no issues", in: `{"resourceType":"OperationOutcome"}`},
		{name: "issues that are no array", in: `{"resourceType":"OperationOutcome","issue":{}}`},
		{name: "a member twice", in: `{"resourceType":"OperationOutcome","resourceType":"OperationOutcome"}`},
		{name: "another resource", in: `{"resourceType":"Patient","issue":[{}]}`, kind: ErrNotResource},
		{name: "an array", in: `[]`, kind: ErrNotResource},
		{name: "HTML", in: `<html>`, kind: ErrMalformed},
		{name: "empty", in: ``, kind: ErrMalformed},
		{name: "cut", in: `{"resourceType":"OperationOutcome"`, kind: ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ReadOutcome([]byte(tt.in))
			if !errors.Is(err, tt.kind) {
				t.Fatalf("got %v", err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
		})
	}
}

func TestReadOutcomeReadsOutcome(t *testing.T) {
	want := []Issue{{SeverityWarning, IssueIncomplete, "12 of 13 were read", []string{"Observation"}}, {SeverityError, IssueThrottled, "", nil}}
	got, err := ReadOutcome(Outcome(want...))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}
