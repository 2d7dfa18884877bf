package fakefhir

import (
	"bytes"
	"strings"
)

// extraEntries are the entries that faults add in front of a page.
func (d *Do) extraEntries(typ string) []AddEntry {
	var extra []AddEntry
	if d.WrongType {
		other := `{"resourceType":"Basic","id":"wrong-type","meta":{"versionId":"1","lastUpdated":"2020-01-01T00:00:00.000Z"},"code":{"text":"not asked for"}}`
		if typ == "Basic" {
			other = strings.ReplaceAll(other, "Basic", "Medication")
		}
		extra = append(extra, AddEntry{Resource: []byte(other)})
	}
	if d.OutcomeEntry {
		extra = append(extra, AddEntry{Mode: "outcome", Resource: outcome("warning", "incomplete", "some results may be missing")})
	}
	if d.AddEntry != nil {
		extra = append(extra, *d.AddEntry)
	}
	for i := range extra {
		if extra[i].Mode == "" {
			extra[i].Mode = "match"
		}
	}
	return extra
}

// inflate makes a resource at least size bytes, by its narrative.
func inflate(resource []byte, size int) []byte {
	ms, err := members(resource)
	if err != nil {
		return resource
	}
	var b bytes.Buffer
	b.WriteString(`{"status":"generated","div":"<div xmlns=\"http://www.w3.org/1999/xhtml\">`)
	for b.Len() < size {
		b.WriteString("All work and no play makes Jack a dull boy. ")
	}
	b.WriteString(`</div>"}`)
	for i, m := range ms {
		if m.name == "text" {
			ms[i].raw = b.Bytes()
			return appendObject(nil, ms)
		}
	}
	return appendObject(nil, append(ms, member{"text", b.Bytes()}))
}

const loginPage = `<!DOCTYPE html>
<html><head><title>Sign in</title></head><body><form action="/login" method="post">
<input name="user"><input name="password" type="password"><button>Sign in</button></form></body></html>
`

// garbage is noise that is no JSON.
func garbage() []byte {
	b := make([]byte, 2048)
	x := uint32(2463534242)
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}
