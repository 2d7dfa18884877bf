package fakefhir

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
)

// value is one value of a search parameter in a resource.
type value struct {
	system string // token
	text   string // token code, string, uri, or "Type/id" of a reference
	when   span   // date
}

// index holds a resource's search values by parameter.
type index map[string][]value

// values are the version's values of a parameter.
func (v *version) values(p *param) []value {
	ix := v.index.Load()
	if ix == nil {
		made := indexResource(v.typ, v.raw)
		ix = &made
		v.index.Store(ix) // two at once make the same
	}
	return (*ix)[p.name]
}

func indexResource(typ string, raw []byte) index {
	ix := index{}
	var tree map[string]any
	if json.Unmarshal(raw, &tree) != nil {
		return ix
	}
	for _, list := range [][]param{typeParams[typ], everyType} {
		for _, p := range list {
			for path := range strings.FieldsSeq(p.paths) {
				walk(tree, path, func(n any) { ix[p.name] = p.appendValues(ix[p.name], n) })
			}
		}
	}
	for _, path := range compartment[typ] {
		p := param{typ: referenceParam, target: "Patient"}
		walk(tree, path, func(n any) { ix[patientsIndex] = p.appendValues(ix[patientsIndex], n) })
	}
	return ix
}

// walk calls visit for each node under a dotted path; arrays are flattened.
func walk(node any, path string, visit func(any)) {
	switch n := node.(type) {
	case []any:
		for _, e := range n {
			walk(e, path, visit)
		}
	case map[string]any:
		if path == "" {
			visit(n)
			return
		}
		first, rest, _ := strings.Cut(path, ".")
		if child, ok := n[first]; ok {
			walk(child, rest, visit)
		}
	default:
		if path == "" && n != nil {
			visit(n)
		}
	}
}

func (p *param) appendValues(vs []value, n any) []value {
	switch p.typ {
	case tokenParam:
		return appendTokens(vs, n)
	case referenceParam:
		if m, ok := n.(map[string]any); ok {
			ref, _ := m["reference"].(string)
			typ, id := splitReference(ref)
			if id != "" && (p.target == "" || p.target == typ) {
				vs = append(vs, value{text: typ + "/" + id})
			}
		}
	case dateParam:
		if s, ok := dateValue(n); ok {
			vs = append(vs, value{when: s})
		}
	case stringParam:
		return appendStrings(vs, n)
	case uriParam:
		if s, ok := n.(string); ok {
			vs = append(vs, value{text: s})
		}
	}
	return vs
}

func appendTokens(vs []value, n any) []value {
	switch n := n.(type) {
	case string:
		return append(vs, value{text: n})
	case bool:
		return append(vs, value{text: strconv.FormatBool(n)})
	case map[string]any:
		if codings, ok := n["coding"].([]any); ok { // CodeableConcept
			for _, c := range codings {
				vs = appendTokens(vs, c)
			}
			return vs
		}
		system, _ := n["system"].(string)
		code, ok := n["code"].(string) // Coding
		if !ok {
			code, ok = n["value"].(string) // Identifier, ContactPoint
		}
		if ok {
			return append(vs, value{system: system, text: code})
		}
	}
	return vs
}

// appendStrings takes the strings of a HumanName or Address, too.
func appendStrings(vs []value, n any) []value {
	switch n := n.(type) {
	case string:
		return append(vs, value{text: n})
	case []any:
		for _, e := range n {
			vs = appendStrings(vs, e)
		}
	case map[string]any:
		for _, k := range []string{"text", "family", "given", "prefix", "suffix", "line", "city", "state", "postalCode"} {
			vs = appendStrings(vs, n[k])
		}
	}
	return vs
}

func dateValue(n any) (span, bool) {
	switch n := n.(type) {
	case string:
		s, err := parseSpan(n)
		return s, err == nil
	case map[string]any: // Period
		start, okStart := dateValue(n["start"])
		end, okEnd := dateValue(n["end"])
		if !okStart {
			start.lo = math.MinInt64
		}
		if !okEnd {
			end.hi = math.MaxInt64
		}
		return span{start.lo, end.hi}, okStart || okEnd
	}
	return span{}, false
}

// splitReference reads "Type/id", absolute or not, with or without a version.
// id is "" if it is something else.
func splitReference(ref string) (typ, id string) {
	parts := strings.Split(ref, "/")
	if n := len(parts); n >= 4 && parts[n-2] == "_history" {
		parts = parts[:n-2]
	}
	n := len(parts)
	if n < 2 || parts[n-2] == "" || parts[n-2][0] < 'A' || parts[n-2][0] > 'Z' {
		return "", ""
	}
	return parts[n-2], parts[n-1]
}
