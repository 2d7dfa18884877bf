package export

import (
	"context"
	"fmt"

	"spillway/jobs"
	"spillway/upstream/fhir"
)

// notes collects what the client must be told, each sentence once.
type notes struct {
	list []jobs.Note
	seen map[jobs.Note]bool
}

func (n *notes) add(severity jobs.Severity, code fhir.IssueCode, format string, args ...any) {
	n.append(jobs.Note{Severity: severity, Code: string(code), Text: fmt.Sprintf(format, args...)})
}

func (n *notes) append(note jobs.Note) {
	if n.seen == nil {
		n.seen = make(map[jobs.Note]bool)
	}
	if !n.seen[note] {
		n.seen[note] = true
		n.list = append(n.list, note)
	}
}

// write stores the notes as one outcome segment, or nothing if there are none.
// What searches found against the scopes of the export is among them.
func (n *notes) write(ctx context.Context, a *attempt) ([]jobs.Segment, error) {
	a.allowed.tell(n)
	if len(n.list) == 0 {
		return nil, nil
	}
	w := a.newSegments(jobs.KindOutcome, "OperationOutcome")
	for _, note := range n.list {
		line := fhir.Outcome(fhir.Issue{
			Severity: fhir.Severity(note.Severity), Code: fhir.IssueCode(note.Code), Diagnostics: note.Text,
		})
		if err := w.writeLine(ctx, line); err != nil {
			w.abort()
			return nil, err
		}
	}
	return w.commit(ctx)
}
