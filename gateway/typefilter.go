package gateway

import (
	"net/url"
	"regexp"
	"slices"
	"strings"

	"spillway/jobs"
	"spillway/upstream/fhir"
)

// What one _typeFilter may hold at most.
const (
	maxFilterParameters = 50
	maxFilterBytes      = 8 << 10
)

// A searchParameter is one name=value of a _typeFilter, decoded.
type searchParameter struct{ name, value string }

// searchName is what the name of a search parameter may look like, with its
// modifier. Chains (a dot) and modifiers that are types are not among it.
var searchName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*(:[a-z-]+)?$`)

// shapingNames are parameters that shape a result instead of restricting it,
// that reach into other resources, or that the export itself sends.
// shapingPrefixes are the same for families of names. Both in lower case.
var (
	shapingNames = []string{
		"_sort", "_count", "_elements", "_summary", "_total", "_type", "_format", "_pretty", "_list", "_query",
		"_filter", "_content", "_text", "_offset", "_cursor", "_lastupdated", "_since", "_until", "_at", "_graph",
		"_score", "_maxresults", "_outputformat",
	}
	shapingPrefixes = []string{"_include", "_revinclude", "_has", "_contained", "_getpages"}
)

// shapes reports whether no filter may use the parameter, given without modifier.
func shapes(name string) bool {
	lower := strings.ToLower(name)
	return slices.Contains(shapingNames, lower) ||
		slices.ContainsFunc(shapingPrefixes, func(prefix string) bool { return strings.HasPrefix(lower, prefix) })
}

// selectsPatients reports whether the parameter is one by which the export
// itself restricts the type to the patients that it may read.
func selectsPatients(release fhir.Release, typ, name string) bool {
	return strings.EqualFold(name, "_id") || strings.EqualFold(name, "patient") ||
		slices.ContainsFunc(release.PatientCompartment(typ), func(c fhir.CompartmentParam) bool { return strings.EqualFold(c.Name, name) })
}

// typeFilters reads all _typeFilter values. Several filters of one type are
// alternatives. A filter of which lenient handling left nothing restricts
// nothing, and so does its type.
func (p *parser) typeFilters() error {
	var open []string // types with an alternative that restricts nothing
	total := 0
	for _, value := range p.params[paramTypeFilter] {
		for _, raw := range splitFilters(value) {
			if total++; total > maxTypeFilters {
				return refuseParameter(paramTypeFilter, fhir.IssueTooCostly, "there are more than %d filters", maxTypeFilters)
			}
			typ, asked, err := parseTypeFilter(raw)
			if err != nil {
				return err
			}
			if skip, err := p.skipFilter(typ); skip || err != nil {
				if err != nil {
					return err
				}
				continue
			}
			kept, err := p.supported(typ, asked)
			if err != nil {
				return err
			}
			if len(kept) == 0 {
				open = append(open, typ)
				continue
			}
			filter := jobs.TypeFilter{Type: typ, Query: encodeSearch(kept)}
			if !slices.Contains(p.TypeFilters, filter) {
				p.TypeFilters = append(p.TypeFilters, filter)
			}
		}
	}
	p.TypeFilters = slices.DeleteFunc(p.TypeFilters, func(f jobs.TypeFilter) bool { return slices.Contains(open, f.Type) })
	return nil
}

// skipFilter reports whether a filter has no effect because its type is not
// exported, which strict handling refuses.
func (p *parser) skipFilter(typ string) (bool, error) {
	switch {
	case len(p.Types) > 0 && !slices.Contains(p.Types, typ):
		return true, p.ignore(paramTypeFilter, "the filter for %s has no effect, since _type does not include it", typ)
	case len(p.Types) > 0:
		return false, nil
	case !p.offers(typ):
		return true, p.ignore(paramTypeFilter, "the filter for %s has no effect, since the upstream FHIR server does not offer the type", typ)
	case p.Level != jobs.LevelSystem && !p.release().InPatientCompartment(typ) && !slices.Contains(p.referenced, typ):
		return true, p.ignore(paramTypeFilter, "the filter for %s has no effect, since the type does not belong to the patient compartment", typ)
	}
	return false, nil
}

// supported returns the parameters that may be sent upstream.
func (p *parser) supported(typ string, asked []searchParameter) ([]searchParameter, error) {
	var kept []searchParameter
	for _, parameter := range asked {
		base := parameter.name
		if i := strings.IndexAny(base, ":."); i >= 0 {
			base = base[:i]
		}
		var err error
		switch {
		case strings.EqualFold(base, "_lastUpdated"):
			err = p.ignore(paramTypeFilter, "_lastUpdated is not allowed in a filter; use _since and _until")
		case shapes(base):
			err = p.ignore(paramTypeFilter, "the parameter %s is not allowed in a filter", quoted(base))
		case p.Level != jobs.LevelSystem && selectsPatients(p.release(), typ, base):
			err = p.ignore(paramTypeFilter, "the parameter %s is not allowed in a filter for %s at this level; name patients with the parameter patient, in the body of a POST", quoted(base), typ)
		case !searchName.MatchString(parameter.name):
			err = p.ignore(paramTypeFilter, "the parameter %s of the filter for %s is not supported; chained parameters and modifiers that are types are not", quoted(parameter.name), typ)
		case p.caps != nil && !p.caps.Has(typ, base):
			err = p.ignore(paramTypeFilter, "the upstream FHIR server offers no search parameter %s for %s", quoted(base), typ)
		default:
			if p.isDate(typ, base) {
				parameter.value = restorePlus(parameter.value)
			}
			kept = append(kept, parameter)
		}
		if err != nil {
			return nil, err
		}
	}
	return kept, nil
}

func (p *parser) isDate(typ, name string) bool {
	if p.caps == nil {
		return false
	}
	t, ok := p.caps.Type(typ)
	return ok && slices.ContainsFunc(t.SearchParams, func(s fhir.SearchParam) bool { return s.Name == name && s.Type == "date" })
}

// splitFilters splits a value, which some clients join from several filters,
// at commas that are followed by a type and a question mark and not preceded by
// a backslash. Other commas belong to values. What would be more than
// maxTypeFilters filters stays together in one more.
func splitFilters(value string) []string {
	var filters []string
	from := 0
	for i := 0; i < len(value) && len(filters) <= maxTypeFilters; i++ {
		if value[i] == ',' && (i == 0 || value[i-1] != '\\') && beginsFilter(value[i+1:]) {
			filters = append(filters, value[from:i])
			from = i + 1
		}
	}
	return append(filters, value[from:])
}

// beginsFilter reports whether s begins with letters and a question mark.
func beginsFilter(s string) bool {
	letters := len(s) - len(strings.TrimLeft(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"))
	return letters > 0 && letters < len(s) && s[letters] == '?'
}

// parseTypeFilter reads Type?name=value&... The value of the parameter has been
// decoded once as a parameter of the kick-off; the query in it is decoded here,
// after it was split, so that no escape becomes a separator.
func parseTypeFilter(raw string) (typ string, parameters []searchParameter, err error) {
	bad := func(format string, args ...any) error {
		return refuseParameter(paramTypeFilter, fhir.IssueValue, format, args...)
	}
	typ, query, found := strings.Cut(raw, "?")
	switch {
	case !found:
		return "", nil, bad("a filter is written as a type, a question mark and search parameters, such as Observation?status=final")
	case !fhir.KnownType(typ):
		return "", nil, bad("a filter begins with %s, which is not a FHIR resource type", quoted(typ))
	case query == "":
		return "", nil, bad("the filter for %s has no search parameter", typ)
	case len(query) > maxFilterBytes:
		return "", nil, bad("the filter for %s is longer than %d bytes", typ, maxFilterBytes)
	case strings.Contains(query, ";"):
		return "", nil, bad("the filter for %s has a bare semicolon; encode it as %%3B", typ)
	case strings.Count(query, "&") >= maxFilterParameters:
		return "", nil, bad("the filter for %s has more than %d search parameters", typ, maxFilterParameters)
	}
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		var p searchParameter
		var nameErr, valueErr error
		p.name, nameErr = url.QueryUnescape(name)
		p.value, valueErr = url.QueryUnescape(value)
		switch {
		case nameErr != nil || valueErr != nil || !isText(p.name) || !isText(p.value):
			return "", nil, bad("the filter for %s has a malformed percent escape, control characters, or is not UTF-8", typ)
		case p.name == "":
			return "", nil, bad("the filter for %s has a parameter without a name", typ)
		case p.value == "":
			return "", nil, bad("the filter for %s has a parameter without a value", typ)
		}
		parameters = append(parameters, p)
	}
	return typ, parameters, nil
}

// encodeSearch writes parameters that passed supported as a query.
func encodeSearch(parameters []searchParameter) string {
	var b strings.Builder
	for i, p := range parameters {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(p.name) // searchName allows nothing that needs an escape
		b.WriteByte('=')
		b.WriteString(url.QueryEscape(p.value))
	}
	return b.String()
}
