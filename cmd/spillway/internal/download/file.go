package download

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"spillway/jobs"
	"spillway/upstream/fhir"
)

// A fileCheck is the check of one file.
type fileCheck struct {
	*verifier
	file    File
	name    string // on disk
	checker fhir.LineChecker
	scratch []byte

	typ    string // that of the file: as stated, or that of its first line
	lines  int64
	listed int64 // deletions, or issues of severity error
}

// nameOnDisk returns the name under which a file of the manifest is there, "" if
// it is not. A client may have added or taken away what says that it is compressed.
func nameOnDisk(dir, name string) string {
	for _, n := range []string{name, name + ".gz", strings.TrimSuffix(name, ".gz")} {
		if at, err := os.Stat(filepath.Join(dir, n)); err == nil && at.Mode().IsRegular() {
			return n
		}
	}
	return ""
}

// run reads the file. The error says that it could not be finished.
func (c *fileCheck) run(ctx context.Context) error {
	r, closer, err := open(c.dir, c.name, &c.stored)
	if err != nil {
		return c.broken(err)
	}
	defer closer.Close()
	h := &hasher{segments: c.file.segments, differs: func(n int, offset, line int64) {
		c.found.add(WrongHash, c.name, line, "from here, segment %d of %d (%d bytes from %d) is not what the manifest says",
			n+1, len(c.file.segments), c.file.segments[n].Size, offset)
	}}
	err = eachLine(r, h.write, func(line []byte) error {
		c.lines++
		c.line(line)
		if c.lines%1024 == 0 {
			return context.Cause(ctx)
		}
		return nil
	})
	whole := err == nil
	if err != nil {
		if err := c.broken(err); err != nil {
			return err
		}
	}
	if whole && c.file.size >= 0 && h.size != c.file.size {
		c.found.add(WrongSize, c.name, 0, "it has %d bytes%s, the manifest says %d", h.size, c.inflated(), c.file.size)
	}
	if whole && c.file.Count >= 0 && c.lines != c.file.Count {
		c.found.add(WrongCount, c.name, 0, "it has %d lines, the manifest says %d", c.lines, c.file.Count)
	}
	c.account(h.size)
	return nil
}

// broken reports what is wrong with a file that could not be read to its end. An
// error that is not the file's fault is returned.
func (c *fileCheck) broken(err error) error {
	var system *os.PathError
	switch {
	case errors.Is(err, errPacked), errors.Is(err, errLongLine):
		c.found.add(Damaged, c.name, 0, "after %d lines: %v", c.lines, err)
	case errors.As(err, &system):
		c.found.add(Missing, c.name, 0, "it cannot be read: %v", system.Err)
	default:
		return err
	}
	return nil
}

// inflated says that sizes are not those on disk, where they are not.
func (c *fileCheck) inflated() string {
	if strings.HasSuffix(c.name, ".gz") {
		return " uncompressed"
	}
	return ""
}

// line checks one line.
func (c *fileCheck) line(line []byte) {
	typ, id, err := c.checker.Check(line)
	if err != nil {
		c.found.add(BadLine, c.name, c.lines, "%s", lineText(line, err))
		return
	}
	if c.typ == "" {
		c.typ = string(typ)
	}
	if string(typ) != c.typ {
		c.found.add(BadType, c.name, c.lines, "a resource of type %s in a file of type %s", safeName(typ), safeName([]byte(c.typ)))
		return
	}
	switch c.file.Kind {
	case jobs.KindOutput:
		if !fhir.ValidID(string(id)) {
			c.found.add(BadID, c.name, c.lines, "a %s without a valid id", safeName(typ))
			return
		}
		var d uint64
		d, c.scratch = c.output.digest(c.scratch, typ, id)
		c.output.add(d)
	case jobs.KindDeleted:
		if err := fhir.ReadDeletions(line, func(typ, id string) {
			var d uint64
			d, c.scratch = c.deleted.digest(c.scratch, []byte(typ), []byte(id))
			c.deleted.add(d)
			c.listed++
		}); err != nil {
			c.found.add(BadLine, c.name, c.lines, "%v", err)
		}
	case jobs.KindOutcome:
		if _, err := fhir.ReadOutcome(line); err != nil {
			c.found.add(BadLine, c.name, c.lines, "%v", err)
			return
		}
		c.listed += errorsIn(line)
	}
}

// lineText says what is wrong with a line.
func lineText(line []byte, err error) string {
	if len(strings.TrimSpace(string(line[:min(len(line), 64)]))) == 0 && len(line) <= 64 {
		return "an empty line"
	}
	return "no resource: " + err.Error()
}

// safeName is a type as it may be told: one that is none may be anything.
func safeName(typ []byte) string {
	if fhir.KnownType(string(typ)) {
		return string(typ)
	}
	return "unknown"
}
