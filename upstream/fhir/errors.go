package fhir

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// What a body from outside can be instead of what was expected. The readers of
// this package wrap one of these in a *BodyError; test with errors.Is.
var (
	// ErrNotBundle: the body is something else than a Bundle.
	ErrNotBundle = errors.New("not a Bundle")
	// ErrNotResource: the body is no JSON object with a resourceType.
	ErrNotResource = errors.New("not a FHIR resource")
	// ErrNotCapabilities: the body is something else than a CapabilityStatement.
	ErrNotCapabilities = errors.New("not a CapabilityStatement")
	// ErrTruncated: the body ends in the middle, or is empty.
	ErrTruncated = errors.New("truncated")
	// ErrTooLarge: a limit of ScanLimits was passed.
	ErrTooLarge = errors.New("too large")
	// ErrMalformed: the body is not valid JSON, or not what FHIR allows there.
	ErrMalformed = errors.New("malformed")
)

// A BodyError says why a body from outside cannot be used. Its text is a
// sentence without any value from the body, fit for a log.
type BodyError struct {
	// Kind is one of ErrNotBundle, ErrNotResource, ErrNotCapabilities,
	// ErrTruncated, ErrTooLarge and ErrMalformed.
	Kind error
	// Want is what was expected, such as "a Bundle".
	Want string
	// Got is what came instead, such as "an OperationOutcome" or "an HTML page";
	// set if Kind says that the body is something else.
	Got string
	// Issues are those of the OperationOutcome that came instead. Their
	// diagnostics are the sender's words and may hold patient data.
	Issues []Issue
	// Limit names what was passed ("resource bytes", "body bytes", "bytes outside
	// entries", "levels of nesting in a resource") and Max its value; set with
	// ErrTooLarge.
	Limit string
	Max   int64
	// Offset is where the body stops to make sense, in bytes from its start,
	// after decompression; set with ErrTruncated and ErrMalformed.
	Offset int64
	// Problem says what is wrong there; set with ErrMalformed.
	Problem string
}

func (e *BodyError) Error() string {
	switch e.Kind {
	case ErrTruncated:
		if e.Offset == 0 {
			return "expected " + e.Want + ", got an empty body"
		}
		return fmt.Sprintf("expected %s, but the body ends in the middle, after byte %d", e.Want, e.Offset)
	case ErrTooLarge:
		return fmt.Sprintf("expected %s, but the body passes the limit of %d %s", e.Want, e.Max, e.Limit)
	case ErrMalformed:
		return fmt.Sprintf("expected %s, but the body is malformed at byte %d: %s", e.Want, e.Offset, e.Problem)
	}
	s := "expected " + e.Want + ", got " + e.Got
	if len(e.Issues) > 0 {
		var codes []string
		for _, i := range e.Issues[:min(len(e.Issues), 3)] {
			codes = append(codes, string(i.Severity.known())+" "+string(i.Code.known()))
		}
		s += " (" + strings.Join(codes, ", ") + ")"
	}
	return s
}

// Unwrap returns Kind.
func (e *BodyError) Unwrap() error { return e.Kind }

// describeText names a body that does not begin like JSON.
func describeText(head string) string {
	s := strings.ToLower(strings.TrimLeft(head, " \t\r\n"))
	switch {
	case strings.HasPrefix(head, "\x1f\x8b"):
		return "compressed bytes that were not announced as such"
	case strings.HasPrefix(s, "<!doctype html"), strings.HasPrefix(s, "<html"):
		return "an HTML page"
	case strings.HasPrefix(s, "<"):
		return "XML or HTML"
	}
	return "text that is not JSON"
}

func describeKind(k jsontext.Kind) string {
	switch k {
	case '[':
		return "a JSON array"
	case '"':
		return "a JSON string"
	case '0':
		return "a JSON number"
	case 'n':
		return "JSON null"
	}
	return "a JSON literal"
}

// describeType names a resource by its type; a type that FHIR does not know is
// not repeated.
func describeType(typ string) string {
	switch {
	case typ == "":
		return "JSON without a resourceType"
	case !KnownType(typ):
		return "a resource of unknown type"
	case strings.ContainsRune("AEIOU", rune(typ[0])):
		return "an " + typ
	}
	return "a " + typ
}

// syntaxProblem words an error of jsontext without names from the document.
func syntaxProblem(err error) string {
	if errors.Is(err, jsontext.ErrDuplicateName) {
		return "a member name stands twice in one object"
	}
	var s *jsontext.SyntacticError
	if errors.As(err, &s) && s.Err != nil {
		return s.Err.Error()
	}
	return "not JSON"
}

// quoteName returns a member or parameter name for an error text: quoted if it
// looks like a name, and hidden if it could be anything.
func quoteName(s string) string {
	if len(s) > 64 {
		return "a name of " + strconv.Itoa(len(s)) + " bytes"
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return "an unusual name"
		}
	}
	return strconv.Quote(s)
}
