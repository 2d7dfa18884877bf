package fhir

import (
	"fmt"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// A Parameter is one parameter of a Parameters resource.
type Parameter struct {
	Name string
	// Kind is the name of the member that held the value, such as "valueString".
	Kind string
	// Value is the text of a primitive, as in JSON for numbers and booleans, or
	// the code of a valueCoding; "" for a valueReference.
	Value string
	// Reference is the reference of a valueReference.
	Reference string
}

// parameterKinds are the kinds of value that ReadParameters takes, with the
// kind of JSON that each has.
var parameterKinds = map[string]jsontext.Kind{
	"valueString": '"', "valueCode": '"', "valueUri": '"', "valueUrl": '"', "valueCanonical": '"',
	"valueId": '"', "valueOid": '"', "valueUuid": '"', "valueMarkdown": '"',
	"valueInstant": '"', "valueDateTime": '"', "valueDate": '"', "valueTime": '"',
	"valueBoolean": 'b', "valueInteger": '0', "valuePositiveInt": '0', "valueUnsignedInt": '0', "valueDecimal": '0',
	"valueCoding": '{', "valueReference": '{',
}

// ReadParameters reads the parameters of a Parameters resource in their order;
// a name may come several times. It is strict: each parameter has a name and
// exactly one value of a kind that the kick-off of an export can have, no parts
// and no resource. The error is a *BodyError whose text says what is wrong and
// in which parameter, without its value.
func ReadParameters(b []byte) ([]Parameter, error) {
	const want = "a Parameters resource"
	b, err := checkDocument(b, want, ErrNotResource)
	if err != nil {
		return nil, err
	}
	c := cursor{b: b}
	c.open('{')
	var typ []byte
	var list []Parameter
	for name, ok := c.member(); ok; name, ok = c.member() {
		switch string(name) {
		case "resourceType":
			typ = c.optionalText("resourceType")
		case "parameter":
			if !c.open('[') {
				c.fail("parameter is no array")
			}
			for c.element() {
				list = append(list, c.parameter(len(list)))
			}
		default:
			c.value()
		}
	}
	switch {
	case string(typ) != "Parameters" && c.problem == "":
		return nil, &BodyError{Kind: ErrNotResource, Want: want, Got: describeType(string(typ))}
	case c.problem != "":
		return nil, &BodyError{Kind: ErrMalformed, Want: want, Offset: int64(c.at), Problem: c.problem}
	}
	return list, nil
}

// parameter reads the parameter at the cursor, the i-th, counted from 0.
func (c *cursor) parameter(i int) Parameter {
	var p Parameter
	problem := ""
	at := c.i
	c.object(fmt.Sprintf("parameter[%d]", i))
	for name, ok := c.member(); ok; name, ok = c.member() {
		member := string(name)
		kind, isValue := parameterKinds[member]
		switch {
		case member == "name":
			p.Name = string(c.optionalText("name of a parameter"))
			continue
		case isValue && p.Kind != "":
			problem = "has more than one value"
		case isValue:
			p.Kind = member
			if !c.parameterValue(&p, kind) {
				problem = "has a " + member + " of the wrong kind"
			}
			continue
		case member == "part" || member == "resource":
			problem = "has a " + member + ", which no parameter of an export has"
		case member != "id" && member != "extension" && !strings.HasPrefix(member, "_"):
			problem = "has the member " + quoteName(member) + ", which no parameter of an export has"
		}
		c.value()
	}
	switch {
	case p.Name == "":
		problem = "has no name"
	case problem == "" && p.Kind == "":
		problem = "has no value"
	}
	if problem != "" {
		if c.problem == "" {
			c.i = at
		}
		c.fail(fmt.Sprintf("parameter[%d] (%s) %s", i, quoteName(p.Name), problem))
	}
	return p
}

// parameterValue reads a value into p, and reports whether it has the kind of
// JSON that is wanted and is not empty.
func (c *cursor) parameterValue(p *Parameter, want jsontext.Kind) bool {
	switch got := jsontext.Kind(c.kind()); {
	case want == '{' && got == '{':
		c.object("")
		for name, ok := c.member(); ok; name, ok = c.member() {
			s, _ := c.text()
			switch {
			case p.Kind == "valueReference" && string(name) == "reference":
				p.Reference = string(s)
			case p.Kind == "valueCoding" && string(name) == "code":
				p.Value = string(s)
			}
		}
	case want == '"' && got == '"':
		s, _ := c.text()
		p.Value = string(s)
	case want == 'b' && (got == 't' || got == 'f'), want == '0' && (got == '-' || got >= '0' && got <= '9'):
		p.Value = string(c.value())
	default:
		c.value()
	}
	return p.Value != "" || p.Reference != ""
}
