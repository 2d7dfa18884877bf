package fhir

import (
	"bytes"
	"time"
)

// A Member is one member of a Group.
type Member struct {
	// Type and ID say whom entity.reference names. Both are "" if it names no
	// resource by type and id: nobody can then tell who is meant, and an export
	// that left the member out would be short.
	Type, ID string
	// Absolute is entity.reference if that is an http or https address, which may
	// lead to another server; else "".
	Absolute string
	Inactive bool
	// Start is the first moment of the membership, End the first moment after
	// it, in UTC; zero: open. A period that ends on a day includes that day.
	Start, End time.Time
}

// ReadGroup reads the members of a Group in their order, and whether the Group
// is active; one that does not say is. The error is a *BodyError.
func ReadGroup(b []byte) (members []Member, active bool, err error) {
	if b, err = checkDocument(b, "a Group", ErrNotResource); err != nil {
		return nil, false, err
	}
	active = true
	var typ []byte
	c := cursor{b: b}
	c.object("a Group")
	for name, ok := c.member(); ok; name, ok = c.member() {
		switch string(name) {
		case "resourceType":
			typ = c.optionalText("resourceType")
		case "active":
			active = string(c.value()) != "false"
		case "member":
			if !c.open('[') {
				c.fail("member is no array")
			}
			for c.element() {
				members = append(members, c.groupMember())
			}
		default:
			c.value()
		}
	}
	switch {
	case string(typ) != "Group" && c.problem == "":
		return nil, false, &BodyError{Kind: ErrNotResource, Want: "a Group", Got: describeType(string(typ))}
	case c.problem != "":
		return nil, false, &BodyError{Kind: ErrMalformed, Want: "a Group", Offset: int64(c.at), Problem: c.problem}
	}
	return members, active, nil
}

func (c *cursor) groupMember() Member {
	var m Member
	c.object("a member")
	for name, ok := c.member(); ok; name, ok = c.member() {
		switch string(name) {
		case "entity":
			e := cursor{b: c.value()}
			e.references("", func(ref []byte) bool {
				m.Type, m.ID, _ = ParseReference(string(ref))
				if bytes.Contains(ref, []byte("://")) {
					m.Absolute = string(ref)
				}
				return false
			})
		case "inactive":
			m.Inactive = string(c.value()) == "true"
		case "period":
			c.period(&m)
		default:
			c.value()
		}
	}
	return m
}

func (c *cursor) period(m *Member) {
	c.object("period of a member")
	for name, ok := c.member(); ok; name, ok = c.member() {
		which := string(name)
		if which != "start" && which != "end" {
			c.value()
			continue
		}
		s := c.optionalText("period of a member")
		if len(s) == 0 {
			continue
		}
		start, end, err := parseRange(string(s))
		switch {
		case err != nil:
			c.fail("the period of a member is no date")
		case which == "start":
			m.Start = start
		default:
			m.End = end
		}
	}
}
