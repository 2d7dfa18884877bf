package export

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"spillway/upstream/fhir"
)

// references collects what the resources that a unit exports refer to, of the
// types that are exported because of that. Its text is one "Type/id" a line,
// each once; so a unit keeps as much of it in memory as it finds, which its
// window bounds, and later units read it from storage.
type references struct {
	follow []string
	local  func(address string) (rest string, ok bool)
	known  *idSet
	text   []byte
	// stray counts references that lead to another server or name no resource.
	stray int64
}

// newReferences returns nil, which collects nothing, if there is nothing to follow.
func (a *attempt) newReferences(follow []string) *references {
	if len(follow) == 0 {
		return nil
	}
	return &references{follow: follow, local: a.c.Upstream.Relative, known: newIDSet()}
}

// collect takes in what is exported of a resource: what _elements leave out
// refers to nothing.
func (r *references) collect(line []byte) {
	if r != nil {
		fhir.EachReference(line, r.add)
	}
}

// add takes in one reference. Contained resources are on the line already, and
// logical references name nothing that could be read. Of a version the current
// resource is exported, as everywhere.
// Source: FHIR R4, References, "Literal References".
func (r *references) add(ref []byte) {
	switch {
	case len(ref) == 0 || ref[0] == '#':
		return
	case bytes.HasPrefix(ref, []byte("urn:")):
		r.stray++
		return
	case bytes.HasPrefix(ref, []byte("http://")), bytes.HasPrefix(ref, []byte("https://")):
		rest, ok := r.local(string(ref))
		if !ok {
			if typ, _, parsed := fhir.ParseReference(string(ref)); parsed && slices.Contains(r.follow, typ) {
				r.stray++
			}
			return
		}
		ref = []byte(rest)
	}
	end := bytes.IndexAny(ref, "/?")
	if end < 0 || !slices.ContainsFunc(r.follow, func(typ string) bool { return string(ref[:end]) == typ }) {
		return
	}
	typ, id, ok := fhir.ParseReference(string(ref))
	if !ok {
		r.stray++
		return
	}
	if name := typ + "/" + id; r.known.add(name) {
		r.text = append(append(r.text, name...), '\n')
	}
}

// store writes what was collected and returns its key, "" if that is nothing.
func (r *references) store(ctx context.Context, a *attempt) (string, error) {
	if r == nil || len(r.text) == 0 {
		return "", nil
	}
	a.objects++
	key := fmt.Sprintf("%s%d.references", a.prefix, a.objects)
	w, err := a.c.Storage.Create(ctx, key)
	if err != nil {
		return "", unwritten("beginning a list of references", err)
	}
	defer func() { _ = w.Abort() }() // nothing after Commit
	if _, err := w.Write(r.text); err != nil {
		return "", unwritten("writing a list of references", err)
	}
	if err := w.Commit(ctx); err != nil {
		return "", unwritten("committing a list of references", err)
	}
	return key, nil
}

// strays is the number of references that lead nowhere.
func (r *references) strays() int64 {
	if r == nil {
		return 0
	}
	return r.stray
}
