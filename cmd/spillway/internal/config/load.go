package config

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Input is where a configuration comes from; later fields win over earlier ones.
type Input struct {
	// File is the path of a YAML file. Empty: none.
	File string
	// Environ is the environment as os.Environ gives it.
	Environ []string
	// Flags are keys set on the command line.
	Flags []Flag
	// URLFlag is the flag that sets upstream.url, if the command has one; a
	// missing address is reported under its name.
	URLFlag string
	// Serve asks for the checks that only matter to a listening gateway.
	Serve bool
}

// A Flag sets a key from the command line. Name, such as "--timeout", is what
// problems are reported under. A header's Value is "Name: value", or
// "Name: @file" to read the value from a file.
type Flag struct{ Name, Key, Value string }

// maxFile bounds the configuration file; nothing sensible comes near it.
const maxFile = 1 << 20

// Load returns the configuration that in describes. The error is of type
// Problems and names everything that is wrong.
func Load(in Input) (*Config, error) {
	c := defaults()
	l := newLoader(c, in)
	if in.File != "" {
		if text, err := readFile(in.File); err != nil {
			l.add(Problem{}, err.Error())
			l.unread = true
		} else {
			l.walk(in.File, text)
		}
	}
	return l.finish(in)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s is larger than 1 MiB, so it is no configuration", path)
	}
	return text, nil
}

// A loader fills a Config and collects what is wrong.
type loader struct {
	config   *Config
	file     string
	environ  map[string]string
	secret   func(path string) (string, error) // reads a secret from its file
	private  func(path string) (string, error) // the same for a private key
	public   func(path string) (string, error) // reads what is no secret
	places   map[string]Problem                // where each key was set last; Text is empty
	record   []key                             // the keys of the record that is read; nil outside of one
	problems Problems
	unread   bool // the file could not be read as a whole, so nothing is known to be missing
}

func newLoader(c *Config, in Input) *loader {
	l := &loader{
		config: c, file: in.File, environ: make(map[string]string), secret: readSecret, private: ReadPrivate, public: readPublic, places: make(map[string]Problem),
	}
	c.keys = keysOf(c)
	for _, assignment := range in.Environ {
		if name, value, ok := strings.Cut(assignment, "="); ok {
			l.environ[name] = value
		}
	}
	return l
}

// finish reads the environment and the flags, and checks the whole.
func (l *loader) finish(in Input) (*Config, error) {
	l.environment(in.Environ)
	for _, f := range in.Flags {
		l.flag(f)
	}
	if !l.unread {
		l.check(in)
	}
	if len(l.problems) > 0 {
		return nil, l.problems.sorted()
	}
	c := l.config
	if c.Export.Workers == 0 {
		// While some wait for the upstream, others look through and store what came.
		n := c.Upstream.MaxConcurrency
		c.Export.Workers = min(n+(n+3)/4, 1000)
	}
	return c, nil
}

const envPrefix = "SPILLWAY_"

// envName is the environment variable that sets a key.
func envName(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

func (l *loader) environment(environ []string) {
	for _, k := range l.config.keys {
		name := envName(k.name)
		value := l.environ[name]
		if value == "" {
			continue // as if it were not set: compose files leave such variables behind
		}
		at := Problem{Source: name, Key: k.name}
		l.places[k.name] = at
		switch {
		case k.scalar != nil:
			l.report(at, k.scalar(value))
		case k.list != nil:
			l.report(at, k.list(fields(value, ",")))
		case k.headers != nil:
			for _, line := range fields(value, "\n") {
				l.headerLine(at, k, line)
			}
		case k.json != nil:
			l.report(at, k.json([]byte(value)))
		case k.records != nil:
			l.add(at, k.name+" is a list of sections, which can only stand in the file")
		}
	}
	var names []string
	for _, assignment := range environ {
		name, _, _ := strings.Cut(assignment, "=")
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if l.meantForUs(name) {
			l.add(Problem{Source: name}, "no key has this name"+l.envSuggestion(name))
		}
	}
}

// fields splits a list and trims its items; empty ones are left out.
func fields(s, separator string) []string {
	var all []string
	for item := range strings.SplitSeq(s, separator) {
		if item = strings.TrimSpace(item); item != "" {
			all = append(all, item)
		}
	}
	return all
}

// meantForUs reports whether an unknown variable looks like a misspelt key.
// Container platforms set variables such as SPILLWAY_STORE_SERVICE_HOST for
// their own purposes; those are none.
func (l *loader) meantForUs(name string) bool {
	rest, ours := strings.CutPrefix(name, envPrefix)
	section, key, found := strings.Cut(rest, "_")
	if !ours || !found || !l.isSection(strings.ToLower(section)) {
		return false
	}
	for _, k := range l.config.keys {
		if envName(k.name) == name {
			return false
		}
	}
	return !strings.Contains(key, "SERVICE_HOST") && !strings.Contains(key, "SERVICE_PORT") &&
		key != "PORT" && !strings.HasPrefix(key, "PORT_")
}

func (l *loader) flag(f Flag) {
	at := Problem{Source: f.Name, Key: f.Key}
	k, known := l.key(f.Key)
	if !known {
		panic("config: flag for unknown key " + f.Key) // a bug of the caller
	}
	l.places[f.Key] = at
	switch {
	case k.scalar != nil:
		l.report(at, k.scalar(f.Value))
	case k.list != nil:
		l.report(at, k.list(fields(f.Value, ",")))
	case k.headers != nil:
		l.headerLine(at, k, f.Value)
	}
}

// headerLine reads "Name: value" or "Name: @file".
func (l *loader) headerLine(at Problem, k key, line string) {
	name, value, ok := strings.Cut(line, ":")
	if !ok {
		// The line may be a secret that was put in the wrong place.
		l.add(at, "want 'Name: value' or 'Name: @file'")
		return
	}
	value, isFile := strings.CutPrefix(strings.TrimSpace(value), "@")
	l.header(at, k, pair{strings.TrimSpace(name), value}, isFile)
}

// header stores one header; with isFile, its value is the path of a file.
func (l *loader) header(at Problem, k key, p pair, isFile bool) {
	if isFile {
		secret, err := l.secret(p.value)
		if err != nil {
			l.report(at, err)
			return
		}
		p.value = secret
	}
	l.report(at, k.headers([]pair{p}))
}

func (l *loader) key(name string) (key, bool) {
	for _, keys := range [][]key{l.record, l.config.keys} {
		if i := slices.IndexFunc(keys, func(k key) bool { return k.name == name }); i >= 0 {
			return keys[i], true
		}
	}
	return key{}, false
}

func (l *loader) isSection(name string) bool {
	within := func(k key) bool { return strings.HasPrefix(k.name, name+".") }
	return slices.ContainsFunc(l.record, within) || slices.ContainsFunc(l.config.keys, within)
}

func (l *loader) lookup(name string) (string, bool) {
	value, ok := l.environ[name]
	return value, ok
}

func (l *loader) add(at Problem, text string) {
	at.Text = text
	l.problems = append(l.problems, at)
}

func (l *loader) report(at Problem, err error) {
	if err != nil {
		l.add(at, err.Error())
	}
}

func (l *loader) warn(at Problem, text string) {
	at.Text = text
	l.config.Warnings = append(l.config.Warnings, at.String())
}
