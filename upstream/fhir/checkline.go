package fhir

import (
	"bytes"
	"fmt"
	"strings"
)

// A LineChecker reads lines of NDJSON that came from outside, as strictly as
// pages are read. The zero value is ready for use, by one goroutine.
type LineChecker struct{ fast strict }

// Check reads a line, without the line break at its end: exactly one resource.
// typ is its resourceType; id is empty if it has none. Both may share the line's
// memory. The error is a *BodyError.
func (c *LineChecker) Check(line []byte) (typ, id []byte, err error) {
	var e rawEntry
	c.fast.reset(line, 0)
	c.fast.resource(&e)
	if !c.fast.failed && len(bytes.TrimRight(line[c.fast.i:], " \t\r")) == 0 &&
		len(e.header.typ) > 0 && e.deep <= defaultDepth {
		return e.header.typ, e.header.id, nil
	}
	if bytes.HasPrefix(line, []byte("\ufeff")) {
		return nil, nil, &BodyError{Kind: ErrMalformed, Want: "a FHIR resource", Problem: "a byte order mark"}
	}
	room := int64(len(line)) + 1
	_, h, err := ReadResource(bytes.NewReader(line), ScanLimits{ResourceBytes: room, PageBytes: room})
	return []byte(h.Type), []byte(h.ID), err
}

// ReadDeletions calls yield with each resource that a Bundle of deletions says
// is gone: a transaction whose entries are all of them DELETE by type and id.
// The Bundle was found valid by LineChecker or ScanBundle. The error wraps
// ErrMalformed: it is another Bundle.
// Source: Bulk Data Access IG, Export, "Response - Output Manifest", deleted.
func ReadDeletions(bundle []byte, yield func(typ, id string)) error {
	c := cursor{b: bundle}
	var kind []byte
	entries := 0
	c.object("a Bundle")
	for name, ok := c.member(); ok; name, ok = c.member() {
		switch string(name) {
		case "type":
			kind = c.optionalText("type")
		case "entry":
			entries += readDeletionEntries(&c, yield)
		default:
			c.value()
		}
	}
	switch err := c.err(); {
	case err != nil:
		return err
	case string(kind) != "transaction":
		return fmt.Errorf("%w: a Bundle of deletions is no transaction", ErrMalformed)
	case entries == 0:
		return fmt.Errorf("%w: a Bundle of deletions has no entry", ErrMalformed)
	}
	return nil
}

func readDeletionEntries(c *cursor, yield func(typ, id string)) (n int) {
	if !c.open('[') {
		c.fail("entry is no array")
		return 0
	}
	for c.element() {
		var e rawEntry
		e.read(c)
		typ, id, ok := strings.Cut(string(e.url), "/")
		switch {
		case c.problem != "":
			return n
		case string(e.method) != "DELETE":
			c.fail("an entry is no DELETE")
		case !ok || !KnownType(typ) || !ValidID(id):
			c.fail("an entry names no resource by type and id")
		default:
			yield(typ, id)
			n++
		}
	}
	return n
}
