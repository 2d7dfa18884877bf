package fhir

import (
	"bytes"
	"io"
)

// ReadResource reads exactly one resource from r, of whatever type, and
// returns its bytes as sent, without a byte order mark and without the white
// space around it and between its tokens. The limits are those of a page. Errors are those of ScanBundle,
// with ErrNotResource for a body that is no FHIR resource; an OperationOutcome
// is one.
func ReadResource(r io.Reader, lim ScanLimits) ([]byte, Header, error) {
	b := newBody(r, lim, "a FHIR resource", ErrNotResource)
	if err := b.expectObject(); err != nil {
		return nil, Header{}, err
	}
	v, err := b.dec.ReadValue()
	if err != nil {
		return nil, Header{}, b.fail(err)
	}
	c := cursor{b: v}
	var h rawHeader
	h.read(&c)
	switch {
	case c.problem != "":
		return nil, Header{}, b.check(&c)
	case int64(len(v)) > b.lim.ResourceBytes:
		return nil, Header{}, b.m.tooLarge(false)
	case c.deepest > b.lim.Depth:
		return nil, Header{}, b.tooDeep()
	case len(h.typ) == 0:
		return nil, Header{}, &BodyError{Kind: ErrNotResource, Want: b.want, Got: describeType("")}
	}
	header := h.header()
	resource, err := AppendLine(nil, v)
	if err != nil {
		return nil, Header{}, err
	}
	resource = bytes.TrimSuffix(resource, []byte{'\n'})
	if err := b.finish(); err != nil {
		return nil, Header{}, err
	}
	return resource, header, nil
}
