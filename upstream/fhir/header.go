package fhir

// A Header is what identifies a resource and its version, as the server sent
// it. Members that are absent or null are "".
type Header struct {
	Type        string // resourceType
	ID          string // id
	VersionID   string // meta.versionId
	LastUpdated string // meta.lastUpdated; read it with ParseDateTime
}

// ReadHeader reads the header of a resource by a scan of its top level. Member
// names count as FHIR writes them, in exact case. The error wraps ErrMalformed:
// resource is no object, or one of the four members has the wrong kind.
func ReadHeader(resource []byte) (Header, error) {
	c := cursor{b: resource}
	var h rawHeader
	h.read(&c)
	if err := c.err(); err != nil {
		return Header{}, err
	}
	return h.header(), nil
}

// rawHeader is a Header that shares the memory of the resource.
type rawHeader struct{ typ, id, version, updated []byte }

func (h *rawHeader) header() Header {
	return Header{string(h.typ), string(h.id), string(h.version), string(h.updated)}
}

// read steps over the resource at the cursor and fills h.
func (h *rawHeader) read(c *cursor) {
	c.object("a resource")
	for name, ok := c.member(); ok; name, ok = c.member() {
		switch string(name) {
		case "resourceType":
			h.typ = c.optionalText("resourceType")
		case "id":
			h.id = c.optionalText("id")
		case "meta":
			h.readMeta(c)
		default:
			c.value()
		}
	}
}

func (h *rawHeader) readMeta(c *cursor) {
	c.object("meta")
	for name, ok := c.member(); ok; name, ok = c.member() {
		switch string(name) {
		case "versionId":
			h.version = c.optionalText("meta.versionId")
		case "lastUpdated":
			h.updated = c.optionalText("meta.lastUpdated")
		default:
			c.value()
		}
	}
}
