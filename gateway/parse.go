package gateway

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"spillway/jobs"
	"spillway/upstream/fhir"
)

// The names of the kick-off parameters.
// Source: Bulk Data Access IG, Export, "Query Parameters".
const (
	paramOutputFormat   = "_outputFormat"
	paramSince          = "_since"
	paramUntil          = "_until"
	paramType           = "_type"
	paramTypeFilter     = "_typeFilter"
	paramElements       = "_elements"
	paramPatient        = "patient"
	paramAssociated     = "includeAssociatedData"
	paramOrganize       = "organizeOutputBy"
	paramAllowPartial   = "allowPartialManifests"
	parametersSupported = "_outputFormat, _since, _until, _type, _typeFilter, _elements, patient and includeAssociatedData"
)

// What a kick-off may ask for at most.
const (
	maxTypes       = 300
	maxElements    = 100
	maxPatients    = 10_000
	maxTypeFilters = 100
	maxIgnored     = 100 // things that lenient handling leaves out
)

// futureSlack is how far _since may lie ahead of our clock: it is often the
// transactionTime of a former export, which is on the upstream's.
const futureSlack = time.Minute

// ParseRequest reads the parameters of a kick-off, each decoded once; nothing
// after it looks at them again. Unless lenient is set, what is not supported
// is refused; with it, that is left out and noted in Request.Notes. What is
// malformed is refused in any case. A nil caps means that types and search
// parameters are not checked against the upstream's statement. referenced are
// types outside of the Patient compartment that an export of patients can hold
// all the same. URL is left empty.
// The error is a *Problem.
func ParseRequest(level jobs.Level, groupID string, params url.Values, lenient bool, caps *fhir.Capabilities, referenced []string, now time.Time) (jobs.Request, error) {
	p := &parser{
		params: params, caps: caps, referenced: referenced, now: now,
		Request: jobs.Request{Level: level, GroupID: groupID, Lenient: lenient},
	}
	steps := []func() error{
		p.text, p.unsupported, p.outputFormat, p.period, p.types, p.typeFilters, p.elements, p.patients, p.associated,
	}
	if (level == jobs.LevelGroup) != (groupID != "") || groupID != "" && !fhir.ValidID(groupID) {
		return jobs.Request{}, refuse(http.StatusBadRequest, fhir.IssueValue, "The id of the Group is not a FHIR id.")
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return jobs.Request{}, err
		}
	}
	return p.Request, nil
}

// A parser turns parameters into its Request, step by step.
type parser struct {
	jobs.Request
	params     url.Values
	caps       *fhir.Capabilities
	referenced []string
	now        time.Time
}

// ignore refuses what is not supported, or notes that it is left out.
func (p *parser) ignore(name string, format string, args ...any) error {
	problem := refuseParameter(name, fhir.IssueNotSupported, format, args...)
	if !p.Lenient {
		return problem
	}
	if len(p.Notes) >= maxIgnored {
		return refuse(http.StatusBadRequest, fhir.IssueTooCostly, "More than %d things of this kick-off would have to be ignored; supported are %s.", maxIgnored, parametersSupported)
	}
	p.warn(problem.Issue.Diagnostics)
	return nil
}

// warn adds a line to the outcome file, once.
func (p *parser) warn(text string) {
	note := jobs.Note{Severity: jobs.SeverityWarning, Code: string(fhir.IssueNotSupported), Text: text}
	if !slices.Contains(p.Notes, note) {
		p.Notes = append(p.Notes, note)
	}
}

// text refuses characters that no parameter can have.
func (p *parser) text() error {
	for _, name := range slices.Sorted(maps.Keys(p.params)) {
		for _, s := range append([]string{name}, p.params[name]...) {
			if !isText(s) {
				return refuse(http.StatusBadRequest, fhir.IssueInvalid, "A parameter holds control characters or is not UTF-8.")
			}
		}
	}
	return nil
}

// isText reports whether s is UTF-8 without control characters.
func isText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// unsupported refuses or ignores parameters that are not implemented.
func (p *parser) unsupported() error {
	for _, name := range slices.Sorted(maps.Keys(p.params)) {
		var err error
		switch name {
		case paramOutputFormat, paramSince, paramUntil, paramType, paramTypeFilter, paramElements, paramPatient, paramAssociated:
		case paramOrganize, paramAllowPartial:
			err = p.ignore(name, "this parameter is not supported; supported are %s", parametersSupported)
		default:
			err = p.ignore(shown(name), "this parameter is unknown; supported are %s", parametersSupported)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// single returns the value of a parameter that may be given once, and whether
// it is given.
func (p *parser) single(name string) (string, bool, error) {
	values, given := p.params[name]
	switch {
	case !given || len(values) == 0:
		return "", false, nil
	case len(values) > 1:
		return "", false, refuseParameter(name, fhir.IssueInvalid, "this parameter may be given only once")
	case values[0] == "":
		return "", false, refuseParameter(name, fhir.IssueValue, "the value is empty")
	}
	return values[0], true, nil
}

// list returns the elements of a parameter that may be repeated, have commas,
// or both. An empty element is refused.
func (p *parser) list(name string, limit int) ([]string, error) {
	var elements []string
	for _, value := range p.params[name] {
		for element := range strings.SplitSeq(value, ",") {
			element = strings.TrimSpace(element)
			if element == "" {
				return nil, refuseParameter(name, fhir.IssueValue, "an element of the list is empty")
			}
			if elements = append(elements, element); len(elements) > limit {
				return nil, refuseParameter(name, fhir.IssueTooCostly, "there are more than %d elements", limit)
			}
		}
	}
	return elements, nil
}

// The names of NDJSON that clients use. A plus sign that arrived as a space
// because it was not encoded is understood.
var ndjsonNames = map[string]string{
	"application/fhir+ndjson": "application/fhir+ndjson",
	"application/fhir ndjson": "application/fhir+ndjson",
	"application/ndjson":      "application/ndjson",
	"ndjson":                  "ndjson",
}

func (p *parser) outputFormat() error {
	value, given, err := p.single(paramOutputFormat)
	if !given || err != nil {
		return err
	}
	format, ok := ndjsonNames[strings.ToLower(value)]
	if !ok {
		return refuseParameter(paramOutputFormat, fhir.IssueNotSupported, "only NDJSON is offered: application/fhir+ndjson, application/ndjson or ndjson")
	}
	p.OutputFormat = format
	return nil
}

func (p *parser) period() (err error) {
	if p.Since, err = p.instant(paramSince); err != nil {
		return err
	}
	if p.Until, err = p.instant(paramUntil); err != nil {
		return err
	}
	switch {
	case p.Since.After(p.now.Add(futureSlack)):
		return refuseParameter(paramSince, fhir.IssueValue, "the instant lies in the future")
	case !p.Until.IsZero() && p.Since.After(p.Until):
		return refuseParameter(paramSince, fhir.IssueValue, "the instant lies after _until")
	}
	return nil
}

// instant reads an instant; zero if the parameter is not given.
func (p *parser) instant(name string) (time.Time, error) {
	value, given, err := p.single(name)
	if !given || err != nil {
		return time.Time{}, err
	}
	t, err := fhir.ParseInstant(restorePlus(value))
	if err != nil {
		return time.Time{}, refuseParameter(name, fhir.IssueValue, "%v", err)
	}
	return t, nil
}

// restorePlus undoes the decoding of a plus sign that should have been sent as
// %2B, in a time with an offset: "2020-01-01T00:00:00 02:00".
func restorePlus(s string) string {
	at := len(s) - len(" 02:00")
	if at < len("2020-01-01T00:00") || s[at] != ' ' || s[at+3] != ':' || strings.Count(s, " ") != 1 || !strings.Contains(s, "T") {
		return s
	}
	return s[:at] + "+" + s[at+1:]
}

func (p *parser) types() error {
	names, err := p.list(paramType, maxTypes)
	if len(names) == 0 || err != nil {
		return err
	}
	for _, name := range names {
		if !fhir.KnownType(name) {
			return refuseParameter(paramType, fhir.IssueNotSupported, "%s is not a FHIR resource type", quoted(name))
		}
		if slices.Contains(p.Types, name) {
			continue
		}
		if !p.offers(name) {
			if err := p.ignore(paramType, "%s is not exported, since the upstream FHIR server does not offer it", name); err != nil {
				return err
			}
			continue
		}
		p.Types = append(p.Types, name)
	}
	if len(p.Types) == 0 { // an empty list would mean all types
		return refuseParameter(paramType, fhir.IssueNotSupported, "the upstream FHIR server offers none of the types asked for")
	}
	if p.Level == jobs.LevelSystem {
		return nil
	}
	outside := slices.DeleteFunc(slices.Clone(p.Types), p.release().InPatientCompartment)
	if len(outside) == len(p.Types) { // nothing would refer to anything
		return p.ignore(paramType, "none of the types asked for belongs to the patient compartment, so a %s export of them is empty; ask for them at the system level", p.Level)
	}
	for _, name := range slices.DeleteFunc(outside, func(name string) bool { return slices.Contains(p.referenced, name) }) {
		p.warn(fmt.Sprintf("%s: %s is not exported, since it does not belong to the patient compartment; ask for it at the system level", paramType, name))
	}
	return nil
}

// release is that of the upstream, which decides on what belongs to patients.
func (p *parser) release() fhir.Release { return releaseOf(p.caps) }

func releaseOf(caps *fhir.Capabilities) fhir.Release {
	if caps == nil {
		return fhir.R4
	}
	return fhir.ReleaseOf(caps.FHIRVersion)
}

// offers reports whether the upstream's statement has the type.
func (p *parser) offers(typ string) bool {
	if p.caps == nil {
		return true
	}
	_, ok := p.caps.Type(typ)
	return ok
}

func (p *parser) elements() error {
	names, err := p.list(paramElements, maxElements)
	if err != nil {
		return err
	}
	for _, name := range names {
		e := jobs.Element{Name: name}
		if typ, element, found := strings.Cut(name, "."); found {
			e = jobs.Element{Type: typ, Name: element}
		}
		if e.Type != "" && !fhir.KnownType(e.Type) || !isElementName(e.Name) || strings.HasPrefix(name, ".") {
			return refuseParameter(paramElements, fhir.IssueValue, "%s is neither a root element, such as name, nor a root element of a type, such as Patient.name", quoted(name))
		}
		if !slices.Contains(p.Elements, e) {
			p.Elements = append(p.Elements, e)
		}
	}
	return nil
}

func isElementName(s string) bool {
	for i, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

func (p *parser) patients() error {
	references, err := p.list(paramPatient, maxPatients)
	if len(references) == 0 || err != nil {
		return err
	}
	if p.Level == jobs.LevelSystem {
		return refuseParameter(paramPatient, fhir.IssueNotSupported, "this parameter is offered at Patient/$export and Group/[id]/$export only")
	}
	seen := make(map[string]bool, len(references))
	for _, reference := range references {
		id := strings.TrimPrefix(reference, "Patient/")
		if !fhir.ValidID(id) {
			return refuseParameter(paramPatient, fhir.IssueValue, "a value is not a reference to a patient of this server; write Patient/[id]")
		}
		if !seen[id] {
			seen[id] = true
			p.Patients = append(p.Patients, id)
		}
	}
	return nil
}

func (p *parser) associated() error {
	values, err := p.list(paramAssociated, maxElements)
	if err != nil {
		return err
	}
	for _, value := range values {
		switch value {
		case jobs.LatestProvenance, jobs.RelevantProvenance:
			if !slices.Contains(p.IncludeAssociatedData, value) {
				p.IncludeAssociatedData = append(p.IncludeAssociatedData, value)
			}
		default:
			if err := p.ignore(paramAssociated, "%s is not supported; supported are %s and %s", quoted(value), jobs.LatestProvenance, jobs.RelevantProvenance); err != nil {
				return err
			}
		}
	}
	return nil
}
