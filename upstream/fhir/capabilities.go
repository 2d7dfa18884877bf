package fhir

import (
	"io"
	"slices"
)

// Capabilities is a capability statement, as far as Spillway needs it: what it
// says of the server as a whole and of the types, in the first rest entry whose
// mode is server. Strings that are absent are "".
type Capabilities struct {
	FHIRVersion               string // such as 4.0.1
	Software, SoftwareVersion string
	Publisher                 string
	Implementation            string           // implementation.description
	Types                     []TypeCapability // in statement order
	SystemParams              []string         // names of rest.searchParam, which hold for all types
}

// A TypeCapability is what a statement says of one resource type.
type TypeCapability struct {
	Type         string
	SearchParams []SearchParam
	Interactions []string // codes, such as search-type, history-type, read
	Operations   []string // names, without $
}

// A SearchParam is a search parameter as a statement lists it.
type SearchParam struct {
	Name string
	Type string // token, reference, date, ...
}

// Type returns what the statement says of the type with this name.
func (c *Capabilities) Type(name string) (*TypeCapability, bool) {
	i := slices.IndexFunc(c.Types, func(t TypeCapability) bool { return t.Type == name })
	if i < 0 {
		return nil, false
	}
	return &c.Types[i], true
}

// Has reports whether the statement lists the search parameter for the type or
// for all types. Many servers leave out parameters such as _id that they know.
func (c *Capabilities) Has(typ, param string) bool {
	if slices.Contains(c.SystemParams, param) {
		return true
	}
	t, ok := c.Type(typ)
	return ok && slices.ContainsFunc(t.SearchParams, func(p SearchParam) bool { return p.Name == param })
}

// Can reports whether the statement lists the interaction for the type.
func (c *Capabilities) Can(typ, interaction string) bool {
	t, ok := c.Type(typ)
	return ok && slices.Contains(t.Interactions, interaction)
}

// ReadCapabilities reads a CapabilityStatement of R4, R4B or R5 from r. It
// streams: one type's part is in memory at a time. It takes up to 64 MiB, and 16
// MiB for one part. Errors are those of ScanBundle, with ErrNotCapabilities for
// a body that is something else.
func ReadCapabilities(r io.Reader) (*Capabilities, error) {
	s := capabilityScan{body: newBody(r, ScanLimits{PageBytes: 64 << 20}, "a CapabilityStatement", ErrNotCapabilities)}
	if err := s.run(); err != nil {
		return nil, err
	}
	return &s.c, nil
}

type capabilityScan struct {
	*body
	c      Capabilities
	typ    string
	issues []byte // of an OperationOutcome
	found  bool   // a rest entry with mode server was read
}

func (s *capabilityScan) run() error {
	if err := s.begin(); err != nil {
		return err
	}
	err := s.members(func(name string) (err error) {
		switch name {
		case "resourceType":
			if s.typ, err = s.string(name); err == nil && s.typ != "CapabilityStatement" && s.typ != "OperationOutcome" {
				err = s.somethingElse(s.typ, nil)
			}
		case "fhirVersion":
			s.c.FHIRVersion, err = s.string(name)
		case "publisher":
			err = s.publisher()
		case "software":
			err = s.software()
		case "implementation":
			err = s.implementation()
		case "rest":
			err = s.rests()
		case "issue":
			s.issues, err = s.value()
			s.issues = slices.Clone(s.issues)
		default:
			err = s.skip()
		}
		return err
	})
	if err != nil {
		return err
	}
	if s.typ != "CapabilityStatement" {
		return s.somethingElse(s.typ, s.issues)
	}
	return s.finish()
}

func (s *capabilityScan) software() error {
	v, err := s.value()
	if err != nil {
		return err
	}
	c := cursor{b: v}
	c.object("software")
	for name, ok := c.member(); ok; name, ok = c.member() {
		switch string(name) {
		case "name":
			s.c.Software = string(c.optionalText("software.name"))
		case "version":
			s.c.SoftwareVersion = string(c.optionalText("software.version"))
		default:
			c.value()
		}
	}
	return s.check(&c)
}

// publisher is only a hint on which server it is, so one that is no string does
// no harm.
func (s *capabilityScan) publisher() error {
	v, err := s.value()
	c := cursor{b: v}
	text, _ := c.text()
	s.c.Publisher = string(text)
	return err
}

// implementation is a hint like publisher.
func (s *capabilityScan) implementation() error {
	v, err := s.value()
	c := cursor{b: v}
	c.object("implementation")
	for name, ok := c.member(); ok; name, ok = c.member() {
		if string(name) == "description" {
			s.c.Implementation = string(c.optionalText("implementation.description"))
		} else {
			c.value()
		}
	}
	return err
}

// rests keeps the first rest entry with mode server.
func (s *capabilityScan) rests() error {
	return s.array("rest", func() error {
		if s.found {
			return s.skip()
		}
		var mode string
		var types []TypeCapability
		var params []string
		err := s.object("an entry of rest", func(name string) (err error) {
			switch name {
			case "mode":
				mode, err = s.string(name)
			case "resource":
				err = s.array("rest.resource", func() error {
					t, err := s.typeCapability()
					types = append(types, t)
					return err
				})
			case "searchParam":
				params, err = s.params()
			default:
				err = s.skip()
			}
			return err
		})
		if mode == "server" {
			s.found = true
			s.c.Types, s.c.SystemParams = types, params
		}
		return err
	})
}

func (s *capabilityScan) params() ([]string, error) {
	v, err := s.value()
	if err != nil {
		return nil, err
	}
	c := cursor{b: v}
	var names []string
	for _, p := range c.searchParams() {
		names = append(names, p.Name)
	}
	return names, s.check(&c)
}

func (s *capabilityScan) typeCapability() (TypeCapability, error) {
	var t TypeCapability
	v, err := s.value()
	if err != nil {
		return t, err
	}
	c := cursor{b: v}
	c.object("an entry of rest.resource")
	for name, ok := c.member(); ok; name, ok = c.member() {
		switch string(name) {
		case "type":
			t.Type = string(c.optionalText("rest.resource.type"))
		case "interaction":
			c.eachNamed("interaction", "code", func(n, _ string) { t.Interactions = append(t.Interactions, n) })
		case "operation":
			c.eachNamed("operation", "name", func(n, _ string) { t.Operations = append(t.Operations, n) })
		case "searchParam":
			t.SearchParams = c.searchParams()
		default:
			c.value()
		}
	}
	return t, s.check(&c)
}

func (c *cursor) searchParams() []SearchParam {
	var all []SearchParam
	c.eachNamed("searchParam", "name", func(n, typ string) { all = append(all, SearchParam{Name: n, Type: typ}) })
	return all
}

// eachNamed steps over an array of objects and calls f with the member key and
// the type of each. where is for the error.
func (c *cursor) eachNamed(where, key string, f func(name, typ string)) {
	if !c.open('[') {
		c.fail(where + " is no array")
		return
	}
	for c.element() {
		c.object("an element of " + where)
		var n, typ []byte
		for name, ok := c.member(); ok; name, ok = c.member() {
			switch string(name) {
			case key:
				n = c.optionalText(where + "." + key)
			case "type":
				typ = c.optionalText(where + ".type")
			default:
				c.value()
			}
		}
		if c.problem == "" && len(n) > 0 {
			f(string(n), string(typ))
		}
	}
}
