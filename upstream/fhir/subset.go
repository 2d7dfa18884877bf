package fhir

import (
	"slices"
	"strings"
)

// subsetted is the tag that marks an incomplete resource.
// Source: FHIR R4, Search, "_elements".
const subsetted = `{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue","code":"SUBSETTED"}`

// Subset appends the resource, cut down to some of its root elements, to dst:
// resourceType, id and meta, the elements that R4 makes mandatory for the type,
// and those named, with the siblings that hold extensions (_birthDate). A
// choice is named with or without its type (value, value[x], valueQuantity).
// Names that the resource does not have are simply absent. The meta of the
// result has the SUBSETTED tag, once; all else that is kept is kept byte for
// byte. The error wraps ErrMalformed: resource is no JSON object, or its meta
// has another shape than FHIR's; dst is then returned unchanged.
func Subset(dst, resource []byte, typ string, elements []string) ([]byte, error) {
	start := len(dst)
	definition := definitions[typ]
	c := cursor{b: resource}
	c.object("a resource")
	sep := byte('{')
	tagged := false
	for name, ok := c.member(); ok; name, ok = c.member() {
		from := c.nameAt
		if !definition.keeps(string(name), elements) {
			c.value()
			continue
		}
		dst = append(dst, sep)
		sep = ','
		if string(name) != "meta" {
			c.value()
			dst = append(dst, c.b[from:c.i]...)
			continue
		}
		c.kind() // to the value
		dst = append(dst, c.b[from:c.i]...)
		dst = appendTagged(dst, &c)
		tagged = true
	}
	if err := c.err(); err != nil {
		return dst[:start], err
	}
	if !tagged {
		dst = append(dst, sep)
		dst = append(dst, `"meta":{"tag":[`+subsetted+`]}`...)
	}
	return append(dst, '}'), nil
}

// keeps reports whether Subset keeps the member with this name.
func (r rootElements) keeps(name string, elements []string) bool {
	name = strings.TrimPrefix(name, "_")
	if name == "resourceType" || name == "id" || name == "meta" ||
		slices.Contains(r.mandatory, name) || slices.Contains(elements, name) {
		return true
	}
	for _, choice := range r.choice {
		typ, ok := strings.CutPrefix(name, choice)
		if !ok || typ == "" || typ[0] < 'A' || typ[0] > 'Z' {
			continue
		}
		if slices.Contains(r.mandatory, choice) || slices.Contains(elements, choice) || slices.Contains(elements, choice+"[x]") {
			return true
		}
	}
	return false
}

// appendTagged steps over the meta at the cursor and appends it with the tag.
func appendTagged(dst []byte, c *cursor) []byte {
	start := c.i
	insert, text, present := 0, "", false
	comma := func(empty bool) string {
		if empty {
			return ""
		}
		return ","
	}
	c.object("meta")
	empty, hasTags := true, false
	for name, ok := c.member(); ok; name, ok = c.member() {
		empty = false
		if string(name) != "tag" {
			c.value()
			continue
		}
		hasTags = true
		if !c.open('[') {
			c.fail("meta.tag is no array")
			return dst
		}
		none := true
		for c.element() {
			none = false
			present = c.isSubsetted() || present
		}
		insert, text = c.i-1, comma(none)+subsetted
	}
	if c.problem != "" {
		return dst
	}
	if !hasTags {
		insert, text = c.i-1, comma(empty)+`"tag":[`+subsetted+`]`
	}
	if present {
		return append(dst, c.b[start:c.i]...)
	}
	dst = append(dst, c.b[start:insert]...)
	dst = append(dst, text...)
	return append(dst, c.b[insert:c.i]...)
}

// isSubsetted steps over a Coding and reports whether it is the SUBSETTED tag.
func (c *cursor) isSubsetted() bool {
	var system, code []byte
	c.object("a tag")
	for name, ok := c.member(); ok; name, ok = c.member() {
		s, _ := c.text()
		switch string(name) {
		case "system":
			system = s
		case "code":
			code = s
		}
	}
	return string(system) == "http://terminology.hl7.org/CodeSystem/v3-ObservationValue" && string(code) == "SUBSETTED"
}
