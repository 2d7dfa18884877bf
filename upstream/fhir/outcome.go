package fhir

import (
	"fmt"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// A Severity is the severity of an Issue. Source: FHIR R4, value set IssueSeverity.
type Severity string

// The severities.
const (
	SeverityFatal       Severity = "fatal"
	SeverityError       Severity = "error"
	SeverityWarning     Severity = "warning"
	SeverityInformation Severity = "information"
)

// known returns s, or "unknown" if FHIR does not define it.
func (s Severity) known() Severity {
	switch s {
	case SeverityFatal, SeverityError, SeverityWarning, SeverityInformation:
		return s
	}
	return "unknown"
}

// An IssueCode is the code of an Issue. Source: FHIR R4, value set IssueType.
type IssueCode string

// The codes.
const (
	IssueInvalid         IssueCode = "invalid"
	IssueStructure       IssueCode = "structure"
	IssueRequired        IssueCode = "required"
	IssueValue           IssueCode = "value"
	IssueInvariant       IssueCode = "invariant"
	IssueSecurity        IssueCode = "security"
	IssueLogin           IssueCode = "login"
	IssueUnknown         IssueCode = "unknown"
	IssueExpired         IssueCode = "expired"
	IssueForbidden       IssueCode = "forbidden"
	IssueSuppressed      IssueCode = "suppressed"
	IssueProcessing      IssueCode = "processing"
	IssueNotSupported    IssueCode = "not-supported"
	IssueDuplicate       IssueCode = "duplicate"
	IssueMultipleMatches IssueCode = "multiple-matches"
	IssueNotFound        IssueCode = "not-found"
	IssueDeleted         IssueCode = "deleted"
	IssueTooLong         IssueCode = "too-long"
	IssueCodeInvalid     IssueCode = "code-invalid"
	IssueExtension       IssueCode = "extension"
	IssueTooCostly       IssueCode = "too-costly"
	IssueBusinessRule    IssueCode = "business-rule"
	IssueConflict        IssueCode = "conflict"
	IssueTransient       IssueCode = "transient"
	IssueLockError       IssueCode = "lock-error"
	IssueNoStore         IssueCode = "no-store"
	IssueException       IssueCode = "exception"
	IssueTimeout         IssueCode = "timeout"
	IssueIncomplete      IssueCode = "incomplete"
	IssueThrottled       IssueCode = "throttled"
	IssueInformational   IssueCode = "informational"
)

// known returns c, or "unknown" if FHIR does not define it.
func (c IssueCode) known() IssueCode {
	switch c {
	case IssueInvalid, IssueStructure, IssueRequired, IssueValue, IssueInvariant, IssueSecurity, IssueLogin,
		IssueExpired, IssueForbidden, IssueSuppressed, IssueProcessing, IssueNotSupported, IssueDuplicate,
		IssueMultipleMatches, IssueNotFound, IssueDeleted, IssueTooLong, IssueCodeInvalid, IssueExtension,
		IssueTooCostly, IssueBusinessRule, IssueConflict, IssueTransient, IssueLockError, IssueNoStore,
		IssueException, IssueTimeout, IssueIncomplete, IssueThrottled, IssueInformational:
		return c
	}
	return IssueUnknown
}

// An Issue is one issue of an OperationOutcome.
type Issue struct {
	Severity    Severity  // "": error, when written
	Code        IssueCode // "": processing, when written
	Diagnostics string    // what a person reads; "" if none
	Expression  []string  // FHIRPath of what it is about, or the name of a parameter; may be empty
}

// Outcome returns an OperationOutcome with the issues as R4 JSON in one line
// without line break. The text of each issue stands in details and in
// diagnostics, since clients read one or the other. FHIR wants at least one
// issue: without any it says so in an informational one.
func Outcome(issues ...Issue) []byte {
	if len(issues) == 0 {
		issues = []Issue{{Severity: SeverityInformation, Code: IssueInformational, Diagnostics: "There is nothing to report."}}
	}
	b := []byte(`{"resourceType":"OperationOutcome","issue":[`)
	for i, issue := range issues {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendMember(b, `{"severity":`, string(issue.Severity), string(SeverityError))
		b = appendMember(b, `,"code":`, string(issue.Code), string(IssueProcessing))
		if text := fhirString(issue.Diagnostics); text != "" {
			b = appendMember(b, `,"details":{"text":`, text, "")
			b = appendMember(b, `},"diagnostics":`, text, "")
		}
		sep := `,"expression":[`
		for _, x := range issue.Expression {
			if x = fhirString(x); x != "" {
				b = appendMember(b, sep, x, "")
				sep = ","
			}
		}
		if sep == "," {
			b = append(b, ']')
		}
		b = append(b, '}')
	}
	return append(b, `]}`...)
}

// appendMember appends prefix and the quoted value, or otherwise if that is
// empty. Invalid UTF-8 becomes U+FFFD.
func appendMember(b []byte, prefix, value, otherwise string) []byte {
	if value == "" {
		value = otherwise
	}
	b = append(b, prefix...)
	b, _ = jsontext.AppendQuote(b, value)
	return b
}

// fhirString makes s a valid FHIR string: no control characters but line
// breaks and tabs, no white space at the ends.
func fhirString(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' && r != '\n' && r != '\r' {
			return ' '
		}
		return r
	}, s)
	return strings.TrimSpace(s)
}

// ReadOutcome reads the issues of an OperationOutcome, as tolerantly as can be:
// members of the wrong kind count as absent. Diagnostics is diagnostics, or
// else details.text, or else the display or code of details.coding; Expression
// is expression, or else location. The error wraps ErrMalformed if b is not
// JSON, and ErrNotResource if it is something else than an OperationOutcome.
func ReadOutcome(b []byte) ([]Issue, error) {
	if !jsontext.Value(b).IsValid(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) {
		return nil, fmt.Errorf("read an OperationOutcome: %w: not JSON", ErrMalformed)
	}
	c := cursor{b: b}
	var typ, issues []byte
	if c.open('{') {
		for name, ok := c.member(); ok; name, ok = c.member() {
			switch string(name) {
			case "resourceType":
				typ, _ = c.text()
			case "issue":
				issues = c.value()
			default:
				c.value()
			}
		}
	}
	if string(typ) != "OperationOutcome" {
		return nil, fmt.Errorf("read an OperationOutcome: got %s: %w", describeType(string(typ)), ErrNotResource)
	}
	ic := cursor{b: issues}
	return ic.issues(), nil
}

// issues reads the array of issues at the cursor; nil if there is none.
func (c *cursor) issues() []Issue {
	var all []Issue
	if !c.open('[') {
		return nil
	}
	for c.element() {
		if !c.open('{') {
			c.value()
			continue
		}
		all = append(all, c.issue())
	}
	return all
}

func (c *cursor) issue() Issue {
	var i Issue
	var details string
	var location []string
	for name, ok := c.member(); ok; name, ok = c.member() {
		switch string(name) {
		case "severity":
			s, _ := c.text()
			i.Severity = Severity(s)
		case "code":
			s, _ := c.text()
			i.Code = IssueCode(s)
		case "diagnostics":
			s, _ := c.text()
			i.Diagnostics = string(s)
		case "details":
			details = c.concept()
		case "expression":
			i.Expression = c.texts()
		case "location":
			location = c.texts()
		default:
			c.value()
		}
	}
	if i.Diagnostics == "" {
		i.Diagnostics = details
	}
	if i.Expression == nil {
		i.Expression = location
	}
	return i
}

// texts reads the strings of an array; nil if there is no array.
func (c *cursor) texts() []string {
	if !c.open('[') {
		c.value()
		return nil
	}
	var all []string
	for c.element() {
		if s, ok := c.text(); ok {
			all = append(all, string(s))
		}
	}
	return all
}

// concept returns the words of a CodeableConcept: its text, or else the first
// display or code.
func (c *cursor) concept() string {
	if !c.open('{') {
		c.value()
		return ""
	}
	var text, coding string
	for name, ok := c.member(); ok; name, ok = c.member() {
		switch string(name) {
		case "text":
			s, _ := c.text()
			text = string(s)
		case "coding":
			coding = c.coding()
		default:
			c.value()
		}
	}
	if text == "" {
		return coding
	}
	return text
}

// coding returns the first display of an array of Coding, or else the first code.
func (c *cursor) coding() string {
	if !c.open('[') {
		c.value()
		return ""
	}
	var display, code string
	for c.element() {
		if !c.open('{') {
			c.value()
			continue
		}
		for name, ok := c.member(); ok; name, ok = c.member() {
			s, _ := c.text()
			switch {
			case string(name) == "display" && display == "":
				display = string(s)
			case string(name) == "code" && code == "":
				code = string(s)
			}
		}
	}
	if display == "" {
		return code
	}
	return display
}
