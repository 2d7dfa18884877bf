package gateway

import (
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// A weighted is one element of a list header such as Accept, with its quality.
type weighted struct {
	value string // lower case, without parameters
	q     float64
}

// weightedList reads all values of a list header. Elements that cannot be read
// are left out; a malformed quality counts as 0.
func weightedList(values []string) []weighted {
	var list []weighted
	for _, line := range values {
		for element := range strings.SplitSeq(line, ",") {
			value, rest, _ := strings.Cut(element, ";")
			value = strings.ToLower(strings.TrimSpace(value))
			if value == "" {
				continue
			}
			w := weighted{value: value, q: 1}
			for parameter := range strings.SplitSeq(rest, ";") {
				name, q, found := strings.Cut(parameter, "=")
				if !found || !strings.EqualFold(strings.TrimSpace(name), "q") {
					continue
				}
				var err error
				if w.q, err = strconv.ParseFloat(strings.TrimSpace(q), 64); err != nil || !(w.q >= 0 && w.q <= 1) {
					w.q = 0
				}
			}
			list = append(list, w)
		}
	}
	return list
}

// quality returns the greatest quality that the list gives to one of the values.
func quality(list []weighted, values ...string) float64 {
	var q float64
	for _, w := range list {
		for _, value := range values {
			if w.value == value {
				q = max(q, w.q)
			}
		}
	}
	return q
}

// acceptsFHIRJSON reports whether Accept names application/fhir+json.
// Wildcards do not count.
func acceptsFHIRJSON(h http.Header) bool {
	return quality(weightedList(h.Values("Accept")), "application/fhir+json") > 0
}

// acceptsGzip reports whether a response in gzip suits the client at least as
// well as a plain one. Source: RFC 9110, 12.5.3.
func acceptsGzip(h http.Header) bool {
	list := weightedList(h.Values("Accept-Encoding"))
	named := false
	for _, w := range list {
		named = named || w.value == "gzip" || w.value == "x-gzip"
	}
	q := quality(list, "gzip", "x-gzip")
	if !named {
		q = quality(list, "*")
	}
	return q > 0 && q >= quality(list, "identity")
}

// preferences are what a client asks for in Prefer headers. The first of
// contradicting values counts. Source: RFC 7240; FHIR R4, Search, "Handling Errors".
type preferences struct {
	async   bool // respond-async
	lenient bool // handling=lenient
}

func readPreferences(h http.Header) preferences {
	var p preferences
	handling := ""
	for _, line := range h.Values("Prefer") {
		for token := range strings.FieldsFuncSeq(line, func(r rune) bool { return r == ',' || r == ';' }) {
			name, value, _ := strings.Cut(token, "=")
			value = strings.Trim(strings.TrimSpace(value), `"`)
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "respond-async":
				p.async = true
			case "handling":
				if handling == "" {
					handling = strings.ToLower(value)
				}
			}
		}
	}
	p.lenient = handling == "lenient"
	return p
}

// isJSON reports whether a Content-Type is one in which Parameters are read.
func isJSON(contentType string) bool {
	mediaType, parameters, err := mime.ParseMediaType(contentType)
	if err != nil || mediaType != "application/fhir+json" && mediaType != "application/json" {
		return false
	}
	charset := strings.ToLower(parameters["charset"])
	return charset == "" || charset == "utf-8" || charset == "utf8" || charset == "us-ascii"
}
