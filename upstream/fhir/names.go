package fhir

import (
	"slices"
	"strings"
)

// ValidID reports whether s can be the id of a resource: 1 to 64 ASCII letters,
// digits, '-' and '.', but not "." or "..", which are no path segments.
// Source: FHIR R4, Data Types, "id".
func ValidID(s string) bool {
	if len(s) < 1 || len(s) > 64 || s == "." || s == ".." {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

// KnownType reports whether name is a concrete resource type of R4, R4B or R5,
// in exact case.
func KnownType(name string) bool {
	_, ok := definitions[name]
	return ok
}

// Types returns the concrete resource types of R4, R4B and R5, sorted.
func Types() []string {
	names := make([]string, 0, len(definitions))
	for name := range definitions {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// ParseReference splits the reference of a Reference into type and id. It
// takes Type/id and Type/id/_history/version, relative or after any http or
// https base; the version is dropped. Others are not ok: fragments, urn:uuid
// and urn:oid, conditional references, canonical addresses.
// Source: FHIR R4, References, "Literal References".
func ParseReference(ref string) (typ, id string, ok bool) {
	rest := ref
	if i := strings.LastIndex(rest, "/_history/"); i >= 0 && ValidID(rest[i+len("/_history/"):]) {
		rest = rest[:i]
	}
	slash := strings.LastIndexByte(rest, '/')
	if slash < 0 {
		return "", "", false
	}
	rest, id = rest[:slash], rest[slash+1:]
	if slash = strings.LastIndexByte(rest, '/'); slash >= 0 {
		if !strings.HasPrefix(rest, "http://") && !strings.HasPrefix(rest, "https://") || strings.ContainsAny(rest, "?#") {
			return "", "", false
		}
		rest = rest[slash+1:]
	}
	if !typeName(rest) || !ValidID(id) {
		return "", "", false
	}
	return rest, id, true
}

// typeName reports whether s is written like a resource type. Servers with
// types of their own exist, so it need not be known.
func typeName(s string) bool {
	for i, c := range []byte(s) {
		if (c < 'A' || c > 'Z') && (i == 0 || c < 'a' || c > 'z') {
			return false
		}
	}
	return s != ""
}
