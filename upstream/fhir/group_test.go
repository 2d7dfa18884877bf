package fhir

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReadGroup(t *testing.T) {
	day := func(y, m, d int) time.Time { return time.Date(y, time.Month(m), d, 0, 0, 0, 0, time.UTC) }
	tests := []struct {
		name, in string
		members  []Member
		active   bool
		kind     error
		text     string
	}{
		{
			name: "members of all kinds",
			in: `{"resourceType":"Group","id":"g","active":true,"type":"person","actual":true,"member":[
				{"entity":{"reference":"Patient/a"}},
				{"entity":{"reference":"http://h/fhir/Patient/b/_history/1","display":"x"},"inactive":true},
				{"inactive":false,"period":{"start":"2024-02","end":"2024-03-31"},"entity":{"reference":"Group/h"}},
				{"entity":{"reference":"Practitioner/p"},"period":{"end":"2024-01-01T10:00:00+01:00"}},
				{"entity":{"identifier":{"value":"x"}}},
				{"entity":{"reference":"urn:uuid:1"}},
				{"period":{}}]}`,
			active: true,
			members: []Member{
				{Type: "Patient", ID: "a"},
				{Type: "Patient", ID: "b", Absolute: "http://h/fhir/Patient/b/_history/1", Inactive: true},
				{Type: "Group", ID: "h", Start: day(2024, 2, 1), End: day(2024, 4, 1)},
				{Type: "Practitioner", ID: "p", End: time.Date(2024, 1, 1, 9, 0, 1, 0, time.UTC)},
				{}, {}, {},
			},
		},
		{name: "not active", in: `{"active":false,"resourceType":"Group"}`},
		{name: "one that does not say is active", in: `{"resourceType":"Group"}`, active: true},
		{name: "no members", in: `{"resourceType":"Group","member":[]}`, active: true},
		{name: "another resource", in: `{"resourceType":"List"}`, kind: ErrNotResource, text: "expected a Group, got a List"},
		{name: "an OperationOutcome", in: `{"resourceType":"OperationOutcome"}`, kind: ErrNotResource, text: "expected a Group, got an OperationOutcome"},
		{name: "HTML", in: `<html>`, kind: ErrNotResource, text: "got an HTML page"},
		{name: "cut", in: `{"resourceType":"Group","member":[`, kind: ErrTruncated},
		{name: "a member name twice", in: `{"resourceType":"Group","member":[],"member":[]}`, kind: ErrMalformed},
		{name: "members that are no array", in: `{"resourceType":"Group","member":{}}`, kind: ErrMalformed, text: "member is no array"},
		{name: "a member that is no object", in: `{"resourceType":"Group","member":["Patient/a"]}`, kind: ErrMalformed, text: "a member is no object"},
		{name: "a period that is none", in: `{"resourceType":"Group","member":[{"period":"2024"}]}`, kind: ErrMalformed, text: "period of a member is no object"},
		{name: "a period that is no date", in: `{"resourceType":"Group","member":[{"period":{"end":"soon"}}]}`, kind: ErrMalformed, text: "the period of a member is no date"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			members, active, err := ReadGroup([]byte(tt.in))
			if !errors.Is(err, tt.kind) || err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("got %v, want %s", err, tt.text)
			}
			if active != tt.active {
				t.Errorf("active is %v", active)
			}
			if d := cmp.Diff(tt.members, members); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
		})
	}
}
