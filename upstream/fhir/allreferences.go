package fhir

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"
)

const referenceName = `"reference"`

// EachReference calls yield with every Reference.reference of a resource,
// wherever it stands: in extensions, identifiers and contained resources too.
// It looks for the name of the member and nothing else, so it is fast and
// expects bytes that were checked; a member name that is written with escapes is
// not found. ref is valid until yield returns.
func EachReference(resource []byte, yield func(ref []byte)) {
	for {
		i := bytes.Index(resource, []byte(referenceName))
		if i < 0 {
			return
		}
		resource = resource[i+len(referenceName):]
		c := cursor{b: resource}
		if c.kind() != ':' { // it was a value, or the end of one
			continue
		}
		c.i++
		if c.kind() != '"' {
			continue // a Reference that is called so
		}
		start := c.i
		end, escaped := skipString(resource, start)
		if end < 0 {
			return
		}
		ref := resource[start+1 : end-1]
		if escaped {
			var err error
			if ref, err = jsontext.AppendUnquote(nil, resource[start:end]); err != nil {
				return
			}
		}
		yield(ref)
		resource = resource[end:]
	}
}
