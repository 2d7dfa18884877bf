package fakefhir

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
)

// member is one member of a JSON object; raw is its value, byte for byte.
type member struct {
	name string
	raw  []byte
}

// members splits a JSON object. The values are slices of obj.
func members(obj []byte) ([]member, error) {
	dec := json.NewDecoder(bytes.NewReader(obj))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	var ms []member
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, err
		}
		end := int(dec.InputOffset())
		ms = append(ms, member{t.(string), obj[end-len(raw) : end : end]})
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(obj[dec.InputOffset():])) > 0 {
		return nil, errors.New("something follows the JSON object")
	}
	return ms, nil
}

// appendObject writes members back as an object.
func appendObject(dst []byte, ms []member) []byte {
	dst = append(dst, '{')
	for i, m := range ms {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, m.name)
		dst = append(dst, ':')
		dst = append(dst, m.raw...)
	}
	return append(dst, '}')
}

// lookup is the value of the first member of that name, nil if there is none.
func lookup(ms []member, name string) []byte {
	for _, m := range ms {
		if m.name == name {
			return m.raw
		}
	}
	return nil
}

// text is the value of a string member, "" if there is none.
func text(ms []member, name string) string {
	var s string
	if raw := lookup(ms, name); raw != nil {
		_ = json.Unmarshal(raw, &s) // another kind of value counts as none
	}
	return s
}

func compact(src []byte) ([]byte, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, src); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// appendString appends s as a JSON string without escaping <, > and &.
func appendString(dst []byte, s string) []byte {
	plain := true
	for i := range len(s) {
		if s[i] < 0x20 || s[i] >= 0x7f || s[i] == '"' || s[i] == '\\' {
			plain = false
			break
		}
	}
	if plain {
		dst = append(dst, '"')
		dst = append(dst, s...)
		return append(dst, '"')
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always encodes
	return append(dst, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
}

func quote(s string) string { return string(appendString(nil, s)) }

// stamp gives a resource its id and its server-set meta elements. Everything
// else stays byte for byte.
func stamp(resource []member, typ, id string, version int, updated int64) ([]byte, error) {
	meta := []member{
		{"versionId", []byte(quote(strconv.Itoa(version)))},
		{"lastUpdated", []byte(quote(formatMilli(updated)))},
	}
	if raw := lookup(resource, "meta"); raw != nil {
		sent, err := members(raw)
		if err != nil {
			return nil, err
		}
		for _, m := range sent {
			if m.name != "versionId" && m.name != "lastUpdated" {
				meta = append(meta, m)
			}
		}
	}
	out := []member{
		{"resourceType", []byte(quote(typ))},
		{"id", []byte(quote(id))},
		{"meta", appendObject(nil, meta)},
	}
	for _, m := range resource {
		if m.name != "resourceType" && m.name != "id" && m.name != "meta" {
			out = append(out, m)
		}
	}
	return appendObject(nil, out), nil
}
