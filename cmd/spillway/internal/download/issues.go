package download

import (
	"fmt"
	"sync/atomic"

	"spillway/jobs"
	"spillway/upstream/fhir"
)

// Errors returns how many issues of severity error or fatal the error files
// hold. A line that cannot be read counts as one: it was meant to say something.
func (m *Manifest) Errors(dir string) (n int64, err error) {
	for _, f := range m.Files {
		if f.Kind != jobs.KindOutcome {
			continue
		}
		name := nameOnDisk(dir, f.Name)
		if name == "" {
			return 0, fmt.Errorf("its error file %s is not there", f.Name)
		}
		r, closer, err := open(dir, name, new(atomic.Int64))
		if err != nil {
			return 0, fmt.Errorf("its error file %s cannot be read: %w", f.Name, err)
		}
		err = eachLine(r, func([]byte) {}, func(line []byte) error {
			n += errorsIn(line)
			return nil
		})
		_ = closer.Close() // it was only read
		if err != nil {
			return 0, fmt.Errorf("its error file %s cannot be read: %w", f.Name, err)
		}
	}
	return n, nil
}

func errorsIn(line []byte) (n int64) {
	issues, err := fhir.ReadOutcome(line)
	if err != nil {
		return 1
	}
	for _, i := range issues {
		if i.Severity == fhir.SeverityError || i.Severity == fhir.SeverityFatal {
			n++
		}
	}
	return n
}
