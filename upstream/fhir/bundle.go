package fhir

import (
	"io"
	"slices"
	"strconv"
)

// A Page is what a Bundle says besides its entries.
type Page struct {
	Type    string // searchset, history, ...
	Total   *int64 // nil if absent or negative
	Next    string // URL of the link "next" as sent; "" if there is none
	Self    string // URL of the link "self" as sent; "" if there is none
	Entries int    // entries seen
}

// ScanBundle reads exactly one Bundle from r and calls visit for each entry in
// order, as soon as the entry is whole. Members may stand in any order, so
// entries can come before it is known that the rest is in order: what visit
// was given counts only if the error is nil. An error of visit ends the scan
// and is returned as it is. An error of r is wrapped, but io.ErrUnexpectedEOF
// is ErrTruncated. All other errors are a *BodyError; these are errors too:
// something after the Bundle, a member name twice in one object, invalid
// UTF-8, two different next links. On an error the Page holds what was read.
func ScanBundle(r io.Reader, lim ScanLimits, visit func(*Entry) error) (Page, error) {
	s := bundleScan{body: newBody(r, lim, "a Bundle", ErrNotBundle), visit: visit}
	if lim.Scratch != nil {
		s.line = lim.Scratch.line
	}
	err := s.run()
	if lim.Scratch != nil && cap(s.line) <= keptScratch {
		lim.Scratch.line = s.line
	}
	return s.page, err
}

type bundleScan struct {
	*body
	visit  func(*Entry) error
	page   Page
	typ    string   // resourceType
	issues []byte   // raw value of issue: it may be an OperationOutcome
	names  []string // of the members met
	inside int64    // bytes of the array of entries
	fast   strict
	entry  Entry
	line   []byte // the resource of entry, where white space had to go
	texts  texts
}

func (s *bundleScan) run() error {
	if err := s.begin(); err != nil {
		return err
	}
	if err := s.members(s.member); err != nil {
		return err
	}
	if s.typ != "Bundle" {
		return s.somethingElse(s.typ, s.issues)
	}
	return s.finish()
}

// member reads one member of the Bundle.
func (s *bundleScan) member(name string) (err error) {
	s.names = append(s.names, name)
	switch name {
	case "resourceType":
		s.typ, err = s.string(name)
		if err == nil && s.typ != "Bundle" && s.typ != "OperationOutcome" {
			return s.somethingElse(s.typ, nil) // no need to read the rest
		}
	case "type":
		s.page.Type, err = s.string(name)
	case "total":
		err = s.total()
	case "link":
		err = s.links()
	case "entry":
		err = s.entries()
	case "issue":
		s.issues, err = s.value()
		s.issues = slices.Clone(s.issues)
	default:
		err = s.skip()
	}
	if err == nil && s.offset()-s.inside > s.lim.ResourceBytes {
		return &BodyError{Kind: ErrTooLarge, Want: s.want, Limit: "bytes outside entries", Max: s.lim.ResourceBytes}
	}
	return err
}

func (s *bundleScan) total() error {
	v, err := s.value()
	if err != nil || string(v) == "null" {
		return err
	}
	n, err := strconv.ParseInt(string(v), 10, 64)
	if err != nil {
		return s.malformed(len(v), "total is no whole number")
	}
	if n >= 0 {
		s.page.Total = &n
	}
	return nil
}

func (s *bundleScan) links() error {
	v, err := s.value()
	if err != nil || string(v) == "null" {
		return err
	}
	c := cursor{b: v}
	if !c.open('[') {
		c.fail("link is no array")
	}
	for c.element() {
		s.link(&c)
	}
	return s.check(&c)
}

func (s *bundleScan) link(c *cursor) {
	c.object("a link")
	var relation, url []byte
	for name, ok := c.member(); ok; name, ok = c.member() {
		switch string(name) {
		case "relation":
			relation = c.optionalText("link.relation")
		case "url":
			url = c.optionalText("link.url")
		default:
			c.value()
		}
	}
	switch string(relation) {
	case "next":
		if len(url) == 0 {
			c.fail("a next link without url")
		}
		if s.page.Next != "" && s.page.Next != string(url) {
			c.fail("two different next links")
			return
		}
		s.page.Next = string(url)
	case "self":
		s.page.Self = string(url)
	}
}

// entries reads the array of entries. Only one is in memory at a time, and what
// was read ahead.
func (s *bundleScan) entries() error {
	start := s.offset()
	some, err := s.openArray("entry")
	if err != nil || !some {
		return err
	}
	if err := s.fastEntries(); err != nil {
		return err
	}
	err = s.elements(func() error {
		v, err := s.value()
		if err != nil {
			return err
		}
		s.page.Entries++
		if err := s.readEntry(v); err != nil {
			return err
		}
		return s.visit(&s.entry)
	})
	s.inside += s.offset() - start
	return err
}
