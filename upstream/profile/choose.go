package profile

import (
	"embed"
	"fmt"
	"os"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// builtin are the files of the built-in profiles. Nothing can change them.
//
//go:embed builtin/*.yaml
var builtin embed.FS //nolint:gochecknoglobals // embedded files can be nowhere else

// Generic is the name of the built-in profile that knows nothing, which is
// chosen where no other matches.
const Generic = "generic"

// Builtin returns the built-in profiles, sorted by name.
func Builtin() []*Profile {
	var all []*Profile
	for _, name := range Names() {
		p, err := readBuiltin(name)
		if err != nil {
			panic(err) // a bug in this package, which its tests find
		}
		all = append(all, p)
	}
	return all
}

// Names returns the names of the built-in profiles, sorted.
func Names() []string {
	files, err := builtin.ReadDir("builtin")
	if err != nil {
		panic(err) // it is embedded
	}
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(f.Name(), ".yaml"))
	}
	return names
}

func readBuiltin(name string) (*Profile, error) {
	text, err := builtinText(name)
	if err != nil {
		return nil, err
	}
	return Parse(name, text)
}

func builtinText(name string) ([]byte, error) {
	if name != path.Base(name) {
		return nil, fmt.Errorf("%q is no built-in profile", name)
	}
	text, err := builtin.ReadFile("builtin/" + name + ".yaml")
	if err != nil {
		return nil, fmt.Errorf("%q is no built-in profile; these are: %s", name, strings.Join(Names(), ", "))
	}
	return text, nil
}

// Named returns the built-in profile with this name, or else that in the file
// with this path. The error says which line of a file is wrong.
func Named(name string) (*Profile, error) {
	if p, err := readBuiltin(name); err == nil {
		return p, nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("it is neither auto, nor a built-in profile (%s), nor a file that can be read: %w", strings.Join(Names(), ", "), err)
	}
	p, err := Parse(name, text)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// A Statement is what a server says of itself, and where it is. What is absent
// is "".
type Statement struct {
	Software       string // CapabilityStatement.software.name
	Publisher      string // CapabilityStatement.publisher
	Implementation string // CapabilityStatement.implementation.description
	URL            string // the FHIR base, without credentials
}

// Choose returns the built-in profile that matches, and what of it did, in
// words; or else the generic one, and "". The name of the software tells more
// than who publishes the statement, and that more than the address.
func Choose(s Statement) (p *Profile, by string) {
	var best Match
	for _, candidate := range Builtin() {
		if candidate.Name == Generic && p == nil {
			p = candidate
		}
		for _, m := range candidate.Match {
			if m.fits(s) && m.weight() > best.weight() {
				p, best = candidate, m
			}
		}
	}
	return p, best.String()
}

// weight orders matches by what they look at.
func (m Match) weight() int {
	switch {
	case m.Software != "":
		return 3
	case m.Publisher != "" || m.Implementation != "":
		return 2
	case m.URL != "":
		return 1
	}
	return 0
}

func (m Match) fits(s Statement) bool {
	return m != Match{} && holdsWords(s.Software, m.Software) && holdsWords(s.Publisher, m.Publisher) &&
		holdsWords(s.Implementation, m.Implementation) && strings.Contains(strings.ToLower(s.URL), strings.ToLower(m.URL))
}

// holdsWords reports whether words stand in a text and not within larger ones.
func holdsWords(text, words string) bool {
	text, words = strings.ToLower(text), strings.ToLower(words)
	if words == "" {
		return true
	}
	for from := 0; ; {
		i := strings.Index(text[from:], words)
		if i < 0 {
			return false
		}
		before, _ := utf8.DecodeLastRuneInString(text[:from+i])
		after, _ := utf8.DecodeRuneInString(text[from+i+len(words):])
		if !unicode.IsLetter(before) && !unicode.IsLetter(after) {
			return true
		}
		_, size := utf8.DecodeRuneInString(text[from+i:])
		from += i + size
	}
}

// String says what the server's statement holds.
func (m Match) String() string {
	var all []string
	for _, c := range [...]struct{ where, words string }{
		{"software.name", m.Software}, {"publisher", m.Publisher}, {"implementation", m.Implementation}, {"the address", m.URL},
	} {
		if c.words != "" {
			all = append(all, fmt.Sprintf("%s says %q", c.where, c.words))
		}
	}
	return strings.Join(all, ", ")
}
