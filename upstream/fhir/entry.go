package fhir

// An Entry is one entry of a Bundle. It is reused: the Entry and its Resource
// are only valid until visit returns, its strings stay.
type Entry struct {
	FullURL  string        // "" if absent
	Mode     string        // search.mode: match, include, outcome; "" if absent
	Resource []byte        // JSON of the resource, without white space between tokens; nil if absent, as for deletions in a history
	Header   Header        // read from Resource
	Request  EntryRequest  // in a history: what was done
	Response EntryResponse // in a history: what came of it
}

// An EntryRequest is entry.request; members that are absent are "".
type EntryRequest struct {
	Method string // GET, PUT, POST, DELETE, ...
	URL    string // as sent, such as "Patient/1"
}

// An EntryResponse is entry.response; members that are absent are "".
type EntryResponse struct {
	Status       string // as sent, such as "204" or "204 No Content"
	LastModified string // an instant; read it with ParseDateTime
	ETag         string // as sent, such as W/"2"
}

// rawEntry is an Entry that shares the memory of the decoder.
type rawEntry struct {
	fullURL, mode              []byte
	resource                   []byte
	deep                       int
	header                     rawHeader
	method, url                []byte
	status, lastModified, etag []byte
}

// read steps over the entry at the cursor and fills e.
func (e *rawEntry) read(c *cursor) {
	c.object("an entry")
	for name, ok := c.member(); ok; name, ok = c.member() {
		if string(name) == "resource" {
			e.readResource(c)
		} else {
			e.member(string(name), c)
		}
	}
}

// member steps over the value of a member other than resource.
func (e *rawEntry) member(name string, c *cursor) {
	switch name {
	case "fullUrl":
		e.fullURL = c.optionalText("fullUrl")
	case "search":
		e.readSearch(c)
	case "request":
		e.readRequest(c)
	case "response":
		e.readResponse(c)
	default:
		c.value()
	}
}

func (e *rawEntry) readResource(c *cursor) {
	c.kind() // to the first byte
	start := c.i
	c.deepest = c.depth
	e.header.read(c)
	if c.problem == "" {
		e.resource, e.deep = c.b[start:c.i:c.i], c.deepest-c.depth
	}
}

func (e *rawEntry) readSearch(c *cursor) {
	c.object("search of an entry")
	for name, ok := c.member(); ok; name, ok = c.member() {
		if string(name) == "mode" {
			e.mode = c.optionalText("search.mode")
		} else {
			c.value()
		}
	}
}

func (e *rawEntry) readRequest(c *cursor) {
	c.object("request of an entry")
	for name, ok := c.member(); ok; name, ok = c.member() {
		switch string(name) {
		case "method":
			e.method = c.optionalText("request.method")
		case "url":
			e.url = c.optionalText("request.url")
		default:
			c.value()
		}
	}
}

func (e *rawEntry) readResponse(c *cursor) {
	c.object("response of an entry")
	for name, ok := c.member(); ok; name, ok = c.member() {
		switch string(name) {
		case "status":
			e.status = c.optionalText("response.status")
		case "lastModified":
			e.lastModified = c.optionalText("response.lastModified")
		case "etag":
			e.etag = c.optionalText("response.etag")
		default:
			c.value()
		}
	}
}

// readEntry fills s.entry from the bytes of one entry.
func (s *bundleScan) readEntry(v []byte) error {
	c := cursor{b: v}
	var e rawEntry
	e.read(&c)
	if err := s.check(&c); err != nil {
		return err
	}
	if int64(len(e.resource)) > s.lim.ResourceBytes {
		return s.m.tooLarge(false)
	}
	if e.deep > s.lim.Depth {
		return s.tooDeep()
	}
	return s.keep(&e, true)
}

// keep copies e to s.entry, without the white space in its resource if there
// may be some. The id, which callers hold on to, has a string of its own. What
// repeats from entry to entry is not copied again.
func (s *bundleScan) keep(e *rawEntry, spaced bool) (err error) {
	t := &s.entry
	t.Resource = e.resource
	if spaced && e.resource != nil {
		if s.line, err = AppendLine(s.line[:0], e.resource); err != nil {
			return err
		}
		t.Resource = s.line[:len(s.line)-1]
	}
	t.Mode = again(t.Mode, e.mode)
	t.Header.Type = again(t.Header.Type, e.header.typ)
	t.Header.ID = again(t.Header.ID, e.header.id)
	t.Request.Method = again(t.Request.Method, e.method)
	t.Response.Status = again(t.Response.Status, e.status)

	t.FullURL = s.texts.add(e.fullURL)
	t.Header.VersionID = s.texts.add(e.header.version)
	t.Header.LastUpdated = s.texts.add(e.header.updated)
	t.Request.URL = s.texts.add(e.url)
	t.Response.LastModified = s.texts.add(e.lastModified)
	t.Response.ETag = s.texts.add(e.etag)
	return nil
}

// again returns b as a string, and the former one if it is the same.
func again(former string, b []byte) string {
	if string(b) == former {
		return former
	}
	return string(b)
}
