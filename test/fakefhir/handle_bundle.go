package fakefhir

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// bundle is a Bundle that was sent to the root.
type bundle struct {
	ResourceType string        `json:"resourceType"`
	Type         string        `json:"type"`
	Entry        []bundleEntry `json:"entry"`
}

type bundleEntry struct {
	FullURL  string          `json:"fullUrl"`
	Resource json.RawMessage `json:"resource"`
	Request  struct {
		Method      string `json:"method"`
		URL         string `json:"url"`
		IfNoneExist string `json:"ifNoneExist"`
	} `json:"request"`

	typ, id string // what it writes
	found   bool   // by ifNoneExist: it writes nothing
}

// transaction answers a transaction or batch Bundle. It can create, update and
// delete. All entries of a transaction get one timestamp, that of its
// beginning.
func (x *exchange) transaction() error {
	t := x.s.Begin()
	var b bundle
	if err := json.Unmarshal(x.body, &b); err != nil || b.ResourceType != "Bundle" {
		return invalid("The body must be a Bundle")
	}
	switch b.Type {
	case "transaction":
		replies, err := x.s.perform(t, b.Entry, func() bool { return x.wait(x.s.o.CommitDelay) })
		if err != nil {
			return err
		}
		x.sendReplies("transaction-response", replies)
	case "batch":
		var replies []string
		for i := range b.Entry {
			one, err := x.s.perform(x.s.Begin(), b.Entry[i:i+1], func() bool { return true })
			if err != nil {
				one = []string{fmt.Sprintf(`{"response":{"status":"400 Bad Request","outcome":%s}}`,
					outcome("error", "invalid", err.Error()))}
			}
			replies = append(replies, one...)
		}
		x.sendReplies("batch-response", replies)
	default:
		return invalid("Unable to process a Bundle of type %q", b.Type)
	}
	return nil
}

func (x *exchange) sendReplies(typ string, replies []string) {
	body := fmt.Appendf(nil, `{"resourceType":"Bundle","type":%q,"link":[{"relation":"self","url":%q}]`, typ, x.root)
	if len(replies) > 0 {
		body = append(body, `,"entry":[`+strings.Join(replies, ",")+`]`...)
	}
	x.sendJSON(http.StatusOK, append(body, '}'))
}

// perform writes the entries as one transaction. ready is called before the
// commit; it may wait, and false means that nobody waits for the result, who
// gets it all the same.
func (s *Server) perform(t *Tx, entries []bundleEntry, ready func() bool) ([]string, error) {
	urns := map[string]string{}
	for i := range entries {
		e := &entries[i]
		if err := s.address(e); err != nil {
			return nil, err
		}
		if e.FullURL != "" && e.id != "" {
			urns[e.FullURL] = e.typ + "/" + e.id
		}
	}
	for i := range entries {
		e := &entries[i]
		switch {
		case e.found:
		case e.Request.Method == http.MethodDelete:
			t.Delete(e.typ, e.id)
		default:
			resource, err := s.resolve(e.Resource, urns)
			if err != nil {
				return nil, err
			}
			if err := t.put(e.Request.Method, e.typ, e.id, resource); err != nil {
				return nil, invalid("%v", err)
			}
		}
	}
	ready()
	written := t.commit()
	var replies []string
	for i := range entries {
		e := &entries[i]
		if e.found {
			replies = append(replies, fmt.Sprintf(`{"response":{"status":"200 OK","location":"%s/%s"}}`, e.typ, e.id))
			continue
		}
		replies = append(replies, reply(written[0]))
		written = written[1:]
	}
	return replies, nil
}

// address says what an entry writes.
func (s *Server) address(e *bundleEntry) error {
	e.typ, e.id, _ = strings.Cut(e.Request.URL, "/")
	if typeParams[e.typ] == nil {
		return invalid("Unknown resource type %q", e.typ)
	}
	if s.bulk(e.typ) {
		return invalid("Bulk Observations cannot be written")
	}
	switch e.Request.Method {
	case http.MethodPost:
		if e.id != "" {
			return invalid("POST needs a URL without an id")
		}
		e.id = newID()
		if e.Request.IfNoneExist != "" {
			id, err := s.conditional(e.typ, e.Request.IfNoneExist)
			if err != nil {
				return err
			}
			if id != "" {
				e.id, e.found = id, true
			}
		}
	case http.MethodPut, http.MethodDelete:
		if !idPattern.MatchString(e.id) {
			return invalid("%s needs a URL with an id", e.Request.Method)
		}
	default:
		return invalid("Method %q is not supported in a Bundle", e.Request.Method)
	}
	return nil
}

// conditional is the id of the one resource that a query finds, "" if there
// is none.
func (s *Server) conditional(typ, query string) (string, error) {
	params, err := url.ParseQuery(query)
	if err != nil {
		return "", invalid("Invalid conditional reference")
	}
	q, err := s.parseQuery(typ, params)
	if err != nil {
		return "", err
	}
	found := s.search(q, 0)
	if found.len() > 1 {
		return "", &problem{status: http.StatusPreconditionFailed, code: "multiple-matches", text: "Multiple matches for a condition"}
	}
	if found.len() == 0 {
		return "", nil
	}
	return string(found.appendID(nil, 0)), nil
}

var (
	urnPattern         = regexp.MustCompile(`"urn:[^"\\]+"`)
	conditionalPattern = regexp.MustCompile(`("reference"\s*:\s*")([A-Z][A-Za-z]+)\?([^"\\]+)"`)
)

// resolve replaces urn:uuid: and conditional references in a resource.
func (s *Server) resolve(resource []byte, urns map[string]string) ([]byte, error) {
	resource = urnPattern.ReplaceAllFunc(resource, func(quoted []byte) []byte {
		if ref, ok := urns[string(bytes.Trim(quoted, `"`))]; ok {
			return []byte(strconv.Quote(ref))
		}
		return quoted
	})
	var failed error
	resource = conditionalPattern.ReplaceAllFunc(resource, func(ref []byte) []byte {
		m := conditionalPattern.FindSubmatch(ref)
		typ := string(m[2])
		id, err := s.conditional(typ, string(m[3]))
		if err == nil && id == "" {
			err = invalid("No %s matches a conditional reference", typ)
		}
		if err != nil {
			failed = err
			return ref
		}
		return fmt.Appendf(nil, `%s%s/%s"`, m[1], typ, id)
	})
	return resource, failed
}

// reply is the response entry of a write.
func reply(v *version) string {
	if v == nil || v.deleted() {
		return `{"response":{"status":"204 No Content"}}`
	}
	status := "200 OK"
	if v.num == 1 {
		status = "201 Created"
	}
	return fmt.Sprintf(`{"response":{"status":%q,"location":"%s/%s/_history/%d","etag":"W/\"%d\"","lastModified":%q}}`,
		status, v.typ, v.id, v.num, v.num, formatMilli(v.updated))
}
