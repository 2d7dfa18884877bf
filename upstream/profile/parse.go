package profile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds a profile; the longest built-in one has 4 kB.
const maxFile = 256 << 10

// A file is a Profile as it is written.
type file struct {
	Like  string  `yaml:"like"`
	Title string  `yaml:"title"`
	Match []match `yaml:"match"`

	Settle *duration `yaml:"settle"`
	Paging struct {
		Max      int      `yaml:"max"`
		ChainMax int      `yaml:"chain_max"`
		LinkLife duration `yaml:"link_life"`
	} `yaml:"paging"`
	URLMax int `yaml:"url_max"`

	Supports struct {
		LastUpdated   Support `yaml:"last_updated"`
		Sort          Support `yaml:"sort"`
		Direct        Support `yaml:"direct"`
		Post          Support `yaml:"post"`
		History       Support `yaml:"history"`
		SystemHistory Support `yaml:"system_history"`
		Strict        Support `yaml:"strict"`
	} `yaml:"supports"`
	Counts Counting `yaml:"counts"`

	Patients struct {
		Required  bool    `yaml:"required"`
		PerSearch int     `yaml:"per_search"`
		Parameter string  `yaml:"parameter"`
		Listing   Support `yaml:"listing"`
		Group     string  `yaml:"group"`
	} `yaml:"patients"`
	Types      map[string]rule `yaml:"types"`
	SkipProbes []Probe         `yaml:"skip_probes"`
	Notes      []string        `yaml:"notes"`
}

type match struct {
	Software       string `yaml:"software"`
	Publisher      string `yaml:"publisher"`
	Implementation string `yaml:"implementation"`
	URL            string `yaml:"url"`
}

type rule struct {
	Search     Scope    `yaml:"search"`
	Why        string   `yaml:"why"`
	With       []string `yaml:"with"`
	Exhaustive bool     `yaml:"exhaustive"`
	Max        int      `yaml:"max"`
}

// Parse reads a profile. name becomes its Name, and begins the error, which
// says all that is wrong and on which lines.
func Parse(name string, text []byte) (*Profile, error) {
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d kB, so it is no profile", name, maxFile>>10)
	}
	var f file
	var root yaml.Node
	if err := decode(text, &f, &root); err != nil {
		return nil, named(name, err)
	}
	if f.Like != "" {
		base, err := builtinText(f.Like)
		if err != nil {
			return nil, named(name, fmt.Errorf("line %d: like: %w", line(&root, "like"), err))
		}
		whole := file{}
		if err := decode(base, &whole, &yaml.Node{}); err != nil {
			return nil, err // a bug in this package
		}
		whole.Match = nil // those are its own servers
		if err := decode(text, &whole, &yaml.Node{}); err != nil {
			return nil, named(name, err)
		}
		f = whole
	}
	if problems := f.check(&root); len(problems) > 0 {
		return nil, named(name, errors.New(strings.Join(problems, "; ")))
	}
	return f.profile(name), nil
}

func named(name string, err error) error { return fmt.Errorf("%s: %w", name, err) }

// decode reads one document into f, strictly, and its nodes into root.
func decode(text []byte, f *file, root *yaml.Node) (err error) {
	defer func() {
		if r := recover(); r != nil { // the decoder is not ours, and the file is of anybody
			err = fmt.Errorf("it is no YAML that can be read: %v", r)
		}
	}()
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	switch err := d.Decode(f); {
	case errors.Is(err, io.EOF):
		return errors.New("it is empty")
	case err != nil:
		return plain(err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("it holds more than one document")
	}
	return yaml.Unmarshal(text, root)
}

// plain takes the decoder's words off its errors.
func plain(err error) error {
	if typed, ok := errors.AsType[*yaml.TypeError](err); ok {
		all := make([]string, len(typed.Errors))
		for i, e := range typed.Errors {
			e = strings.NewReplacer("field ", "key ", " not found in type profile.", " is not known in ").Replace(e)
			e, _, _ = strings.Cut(e, " in struct {") // an anonymous struct's whole definition
			e, _, _ = strings.Cut(e, " not found in type struct {")
			all[i] = e
		}
		return errors.New(strings.Join(all, "; "))
	}
	return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
}

// wrong is an error at a node, of the kind that the decoder gathers.
func wrong(n *yaml.Node, format string, args ...any) error {
	return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: ", n.Line) + fmt.Sprintf(format, args...)}}
}

// word reads one of some words, the first of which is not for files.
func word[T ~int](n *yaml.Node, into *T, words []string) error {
	for i, w := range words {
		if i > 0 && n.Kind == yaml.ScalarNode && n.Value == w {
			*into = T(i)
			return nil
		}
	}
	return wrong(n, "%q is not allowed here; want %s", n.Value, strings.Join(words[1:], ", "))
}

// UnmarshalYAML reads the word of a profile.
func (s *Support) UnmarshalYAML(n *yaml.Node) error { return word(n, s, supports[:]) }

// UnmarshalYAML reads the word of a profile.
func (c *Counting) UnmarshalYAML(n *yaml.Node) error { return word(n, c, countings[:]) }

// UnmarshalYAML reads the word of a profile.
func (s *Scope) UnmarshalYAML(n *yaml.Node) error { return word(n, s, scopes[:]) }

// UnmarshalYAML reads the name of a probe.
func (p *Probe) UnmarshalYAML(n *yaml.Node) error {
	var all []string
	for _, known := range probes {
		if all = append(all, string(known)); n.Kind == yaml.ScalarNode && n.Value == string(known) {
			*p = known
			return nil
		}
	}
	return wrong(n, "%q is no probe; want %s", n.Value, strings.Join(all, ", "))
}

type duration time.Duration

func (d *duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil || n.Kind != yaml.ScalarNode || v < 0 || v > 24*time.Hour {
		return wrong(n, "%q is no duration from 0s to 24h, such as 90s", n.Value)
	}
	*d = duration(v)
	return nil
}

// profile returns f in the form that others use.
func (f *file) profile(name string) *Profile {
	p := &Profile{
		Name: name, Title: f.Title,
		PageMax: f.Paging.Max, ChainMax: f.Paging.ChainMax, LinkLife: time.Duration(f.Paging.LinkLife), URLMax: f.URLMax,
		LastUpdated: f.Supports.LastUpdated, Sort: f.Supports.Sort, Direct: f.Supports.Direct, Post: f.Supports.Post,
		History: f.Supports.History, SystemHistory: f.Supports.SystemHistory, Strict: f.Supports.Strict, Counts: f.Counts,
		Patients: Patients(f.Patients), Skip: f.SkipProbes, Notes: f.Notes,
	}
	if p.Title == "" {
		p.Title = name
	}
	for _, m := range f.Match {
		p.Match = append(p.Match, Match(m))
	}
	if f.Settle != nil {
		p.Settle = (*time.Duration)(f.Settle)
	}
	if len(f.Types) > 0 {
		p.Types = make(map[string]Type, len(f.Types))
	}
	for typ, r := range f.Types {
		p.Types[typ] = Type{Search: r.Search, Why: r.Why, With: r.With, Exhaustive: r.Exhaustive, PageMax: r.Max}
	}
	return p
}
