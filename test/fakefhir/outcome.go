package fakefhir

import (
	"fmt"
	"net/http"
)

// problem is an error with the answer that the client gets.
type problem struct {
	status int
	code   string // OperationOutcome.issue.code
	text   string
	header http.Header // added to the answer; may be nil
}

func (p *problem) Error() string { return p.text }

func invalid(format string, args ...any) *problem {
	return &problem{status: http.StatusBadRequest, code: "invalid", text: fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) *problem {
	return &problem{status: http.StatusNotFound, code: "not-found", text: fmt.Sprintf(format, args...)}
}

func gone(format string, args ...any) *problem {
	return &problem{status: http.StatusGone, code: "deleted", text: fmt.Sprintf(format, args...)}
}

func outcome(severity, code, text string) []byte {
	return fmt.Appendf(nil, `{"resourceType":"OperationOutcome","issue":[{"severity":%q,"code":%q,"diagnostics":%s}]}`,
		severity, code, quote(text))
}
