package jobs

import (
	"fmt"
	"time"
)

// A WaitError tells the worker to hand a unit back, blameless, and to offer it
// again at Until.
type WaitError struct{ Until time.Time }

func (e *WaitError) Error() string {
	return "jobs: unit waits until " + e.Until.UTC().Format(time.RFC3339)
}

// A UnitError says why an attempt at a unit failed, in words for the client.
// Every other error is told to the client as an internal error.
type UnitError struct {
	Reason    string // a sentence; see Failure.Reason
	Permanent bool   // another attempt cannot help
	Err       error  // the cause; may be nil
}

func (e *UnitError) Error() string {
	if e.Err == nil {
		return e.Reason
	}
	return fmt.Sprintf("%s: %v", e.Reason, e.Err)
}

func (e *UnitError) Unwrap() error { return e.Err }
