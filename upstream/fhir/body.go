package fhir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// A body reads one JSON object from outside through a meter, and turns what
// goes wrong into a *BodyError.
type body struct {
	dec    *jsontext.Decoder
	before int64 // bytes of the body before the first that dec was given
	m      meter
	want   string
	not    error // the Kind of error for a body that is something else
	lim    ScanLimits
}

func newBody(r io.Reader, lim ScanLimits, want string, not error) *body {
	b := &body{want: want, not: not, lim: lim.withDefaults()}
	b.m = meter{r: r, want: want, lim: b.lim}
	b.dec = jsontext.NewDecoder(&b.m, decoding()...)
	return b
}

// decoding is how strict the decoder is. Both options are its defaults.
func decoding() []jsontext.Options {
	return []jsontext.Options{jsontext.AllowDuplicateNames(false), jsontext.AllowInvalidUTF8(false)}
}

// checkDocument returns the object that b holds, without what is around it, if
// b is one valid JSON object and nothing else. Nothing is copied.
func checkDocument(b []byte, want string, not error) ([]byte, error) {
	b = bytes.TrimPrefix(b, []byte(byteOrderMark))
	d := &body{want: want, not: not, lim: ScanLimits{}.withDefaults()}
	d.m.n = int64(len(b))
	// A decoder of a bytes.Buffer works on its bytes.
	d.dec = jsontext.NewDecoder(bytes.NewBuffer(b), decoding()...)
	if err := d.expectObject(); err != nil {
		return nil, err
	}
	v, err := d.dec.ReadValue()
	if err != nil {
		return nil, d.fail(err)
	}
	return v, d.finish()
}

// offset is where the decoder is in the body.
func (b *body) offset() int64 { return b.before + b.dec.InputOffset() }

// mark says that the value whose size is bounded begins at offset.
func (b *body) mark(offset int64) { b.m.mark = offset }

// begin reads the opening brace.
func (b *body) begin() error {
	if err := b.expectObject(); err != nil {
		return err
	}
	if _, err := b.dec.ReadToken(); err != nil {
		return b.fail(err)
	}
	return nil
}

// expectObject looks at the first byte and says what the body is if not an
// object.
func (b *body) expectObject() error {
	k := b.dec.PeekKind()
	if k == '{' {
		return nil
	}
	head := string(b.dec.UnreadBuffer())
	_, err := b.dec.ReadToken()
	switch {
	case b.m.err != nil || errors.Is(err, io.EOF):
		return b.fail(err)
	case k > 0 && k != ']' && k != '}' && err == nil:
		return &BodyError{Kind: b.not, Want: b.want, Got: describeKind(k)}
	}
	if b.m.r != nil {
		more := make([]byte, 64)
		n, _ := io.ReadFull(&b.m, more)
		head += string(more[:n])
	}
	return &BodyError{Kind: b.not, Want: b.want, Got: describeText(head)}
}

// finish checks that nothing follows the object.
func (b *body) finish() error {
	b.mark(b.offset())
	switch _, err := b.dec.ReadToken(); err {
	case io.EOF:
		return nil
	case nil:
		return b.malformed(0, "something follows after the end")
	default:
		return b.fail(err)
	}
}

// members calls f with the name of each member of the object that was entered.
// f must read the value.
func (b *body) members(f func(name string) error) error {
	for {
		b.mark(b.offset())
		t, err := b.dec.ReadToken()
		if err != nil {
			return b.fail(err)
		}
		if t.Kind() == '}' {
			return nil
		}
		if err := f(t.String()); err != nil {
			return err
		}
	}
}

// object reads an object by members. where is for the error.
func (b *body) object(where string, f func(name string) error) error {
	t, err := b.dec.ReadToken()
	if err != nil {
		return b.fail(err)
	}
	if t.Kind() != '{' {
		return b.malformed(0, where+" is no object")
	}
	return b.members(f)
}

// array calls f for each element of an array, which f must read. null counts
// as an empty array. where is for the error.
func (b *body) array(where string, f func() error) error {
	some, err := b.openArray(where)
	if err != nil || !some {
		return err
	}
	return b.elements(f)
}

// openArray enters an array. some is false for null.
func (b *body) openArray(where string) (some bool, err error) {
	t, err := b.dec.ReadToken()
	if err != nil {
		return false, b.fail(err)
	}
	if t.Kind() != '[' && t.Kind() != 'n' {
		return false, b.malformed(0, where+" is no array")
	}
	return t.Kind() == '[', nil
}

// elements calls f for each element of the array that was entered, and leaves
// the array.
func (b *body) elements(f func() error) error {
	for {
		b.mark(b.offset())
		if b.dec.PeekKind() == ']' {
			_, err := b.dec.ReadToken()
			if err != nil {
				return b.fail(err)
			}
			return nil
		}
		if err := f(); err != nil {
			return err
		}
	}
}

// value reads a whole value. It is valid until the next read.
func (b *body) value() ([]byte, error) {
	v, err := b.dec.ReadValue()
	if err != nil {
		return nil, b.fail(err)
	}
	return v, nil
}

// skip reads a value without holding it.
func (b *body) skip() error {
	if err := b.dec.SkipValue(); err != nil {
		return b.fail(err)
	}
	return nil
}

// string reads a string value. name is for the error.
func (b *body) string(name string) (string, error) {
	t, err := b.dec.ReadToken()
	if err != nil {
		return "", b.fail(err)
	}
	if t.Kind() != '"' {
		return "", b.malformed(0, name+" is no string")
	}
	return t.String(), nil
}

// malformed returns an error for a place back bytes before the end of what was
// last read.
func (b *body) malformed(back int, problem string) error {
	return &BodyError{Kind: ErrMalformed, Want: b.want, Offset: b.offset() - int64(back), Problem: problem}
}

// somethingElse is the error for a resource of a type that was not expected.
// issues is the raw array of them if it is an OperationOutcome.
func (b *body) somethingElse(typ string, issues []byte) error {
	e := &BodyError{Kind: b.not, Want: b.want, Got: describeType(typ)}
	if typ == "OperationOutcome" {
		c := cursor{b: issues}
		e.Issues = c.issues()
	}
	return e
}

// check returns an error if the walk over the value that was last read failed.
func (b *body) check(c *cursor) error {
	if c.problem == "" {
		return nil
	}
	return b.malformed(len(c.b)-c.at, c.problem)
}

func (b *body) tooDeep() error {
	return &BodyError{Kind: ErrTooLarge, Want: b.want, Limit: "levels of nesting in a resource", Max: int64(b.lim.Depth)}
}

// fail turns an error of the decoder into one for the caller.
func (b *body) fail(err error) error {
	var r *readError
	if errors.As(err, &r) {
		if large, ok := r.err.(*BodyError); ok {
			return large
		}
		if errors.Is(r.err, io.ErrUnexpectedEOF) {
			return &BodyError{Kind: ErrTruncated, Want: b.want, Offset: b.m.n}
		}
		return fmt.Errorf("read %s: %w", strings.TrimPrefix(strings.TrimPrefix(b.want, "a "), "an "), r.err)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return &BodyError{Kind: ErrTruncated, Want: b.want, Offset: b.m.n}
	}
	var s *jsontext.SyntacticError
	if !errors.As(err, &s) {
		return &BodyError{Kind: ErrMalformed, Want: b.want, Offset: b.offset(), Problem: "not JSON"}
	}
	// jsontext gives up at 10,000 levels, with an error of no type; a place
	// that deep is beyond our own limit in any case.
	if strings.Count(string(s.JSONPointer), "/") > b.lim.Depth+8 {
		return b.tooDeep()
	}
	return &BodyError{Kind: ErrMalformed, Want: b.want, Offset: b.before + s.ByteOffset, Problem: syntaxProblem(err)}
}
