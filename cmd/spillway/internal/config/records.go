package config

import (
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"
)

// maxRecords bounds a list of sections.
const maxRecords = 2000

// records are the sections of a key that is a list of them, such as clients. The
// section with index 2 of auth.builtin.clients is auth.builtin.clients[2].
type records struct {
	// begin makes another record and returns its keys, named below its section.
	begin func(section string) []key
	// keys are those of all records that were read.
	keys [][]key
}

// recordsOf is a key whose value is a list of sections, each read into a T.
func recordsOf[T any](name string, p *[]*T, keys func(section string, record *T) []key) key {
	r := &records{begin: func(section string) []key {
		record := new(T)
		*p = append(*p, record)
		return keys(section, record)
	}}
	return key{name: name, records: r, show: func() string { return fmt.Sprint(len(r.keys)) }}
}

// recordNodes reads a list of sections. Each is read like any other section,
// with the keys of its record.
func (l *loader) recordNodes(at Problem, k key, n *yaml.Node) {
	switch {
	case n.ShortTag() == "!!null":
		return
	case n.Kind != yaml.SequenceNode:
		l.add(at, "want a list of sections, each with a dash before it")
		return
	case len(n.Content) > maxRecords:
		l.add(at, fmt.Sprintf("has %d entries; at most %d are read", len(n.Content), maxRecords))
		return
	}
	outer := l.record
	defer func() { l.record = outer }()
	for i, item := range n.Content {
		here := Problem{Source: l.file, Line: max(item.Line, 1), Key: fmt.Sprintf("%s[%d]", k.name, i)}
		l.places[here.Key] = here
		switch refused := kindRefused(item); {
		case refused != "":
			l.add(here, refused)
		case item.Kind != yaml.MappingNode:
			l.add(here, "want a section with keys of its own, such as {id: …}")
		default:
			l.record = k.records.begin(here.Key)
			k.records.keys = append(k.records.keys, l.record)
			l.mapping(here.Key+".", item)
		}
	}
}

// everyKey returns all keys, those of records behind the list that they are in.
func (c *Config) everyKey() []key {
	var all []key
	for _, k := range c.keys {
		all = append(all, k)
		if k.records != nil {
			all = slices.Concat(all, slices.Concat(k.records.keys...))
		}
	}
	return all
}
