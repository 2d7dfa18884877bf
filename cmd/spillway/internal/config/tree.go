package config

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"go.yaml.in/yaml/v3"
)

// walk reads the YAML of one file into the keys.
func (l *loader) walk(file string, text []byte) {
	root, problem := parseYAML(text)
	if problem != nil {
		problem.Source = file
		l.problems, l.unread = append(l.problems, *problem), true
		return
	}
	if root != nil {
		l.mapping("", root)
	}
}

// parseYAML returns the root mapping of a document, or nil if it is empty.
func parseYAML(text []byte) (*yaml.Node, *Problem) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	var document, second yaml.Node
	switch err := d.Decode(&document); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, yamlProblem(err)
	}
	switch err := d.Decode(&second); {
	case err == nil:
		return nil, &Problem{Line: max(second.Line, 1), Text: "a second YAML document begins; only one is read"}
	case !errors.Is(err, io.EOF):
		return nil, yamlProblem(err)
	}
	root := document.Content[0]
	switch {
	case root.Kind == yaml.MappingNode:
		return root, nil
	case root.ShortTag() == "!!null":
		return nil, nil
	}
	return nil, &Problem{Line: max(root.Line, 1), Text: "want sections such as upstream: and server:"}
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(?s:(.*))$`)

// yamlProblem gives an error of the YAML package our form. Its text names
// lines and syntax, never values.
func yamlProblem(err error) *Problem {
	p := &Problem{Line: 1, Text: "is not valid YAML: " + err.Error()}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		p.Text = "is not valid YAML: " + m[2]
		if n, err := strconv.Atoi(m[1]); err == nil {
			p.Line = max(n, 1)
		}
	}
	return p
}

// mapping reads a section; prefix is its key with a dot behind, or "".
func (l *loader) mapping(prefix string, node *yaml.Node) {
	seen := make(map[string]bool)
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, value := node.Content[i], node.Content[i+1]
		key := prefix + name.Value
		at := Problem{Source: l.file, Line: max(name.Line, 1), Key: key}
		switch {
		case name.Kind != yaml.ScalarNode:
			at.Key = strings.TrimSuffix(prefix, ".")
			l.add(at, "a key must be plain text")
			continue
		case seen[name.Value]:
			l.add(at, "stands here a second time")
			continue
		}
		seen[name.Value] = true
		l.places[key] = at
		l.node(at, value)
	}
}

// node reads the value of one key, which is a section or has a value of its own.
func (l *loader) node(at Problem, value *yaml.Node) {
	if refused := kindRefused(value); refused != "" {
		l.add(at, refused)
		return
	}
	k, known := l.key(at.Key)
	switch {
	case known:
		l.value(at, k, value)
	case !l.isSection(at.Key):
		l.add(at, "unknown key"+l.suggestion(at.Key))
	case value.Kind == yaml.MappingNode:
		l.mapping(at.Key+".", value)
	case value.ShortTag() != "!!null":
		l.add(at, "want a section with keys of its own, not a value")
	}
}

// kindRefused says what is wrong with a node whatever its key.
func kindRefused(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return "anchors and aliases of YAML are not supported here"
	case n.Style&yaml.TaggedStyle != 0:
		return "tags of YAML are not supported here"
	}
	return ""
}

// value reads a node into the key that it belongs to.
func (l *loader) value(at Problem, k key, n *yaml.Node) {
	switch {
	case k.scalar != nil:
		text, ok := l.text(at, n)
		if !ok {
			return
		}
		if k.secret != nil && text == n.Value && k.secret(text) {
			l.warn(at, "a secret stands in the file itself; write ${NAME}, or name a file with password_file")
		}
		l.report(at, k.scalar(text))
	case k.list != nil:
		var values []string
		if n.ShortTag() == "!!null" {
			return
		}
		if n.Kind != yaml.SequenceNode {
			l.add(at, "want a list, such as [a, b]")
			return
		}
		for _, item := range n.Content {
			at.Line = max(item.Line, 1)
			text, ok := l.text(at, item)
			if !ok {
				return
			}
			values = append(values, text)
		}
		l.report(l.places[at.Key], k.list(values))
	case k.headers != nil:
		if n.ShortTag() == "!!null" {
			return
		}
		if n.Kind != yaml.MappingNode {
			l.add(at, `want headers, such as {Authorization: "Bearer ${TOKEN}"}`)
			return
		}
		l.headerNodes(at, k, n)
	case k.json != nil:
		l.jsonNode(at, k, n)
	case k.records != nil:
		l.recordNodes(at, k, n)
	}
}

// text returns a single value with its ${NAME} expanded.
func (l *loader) text(at Problem, n *yaml.Node) (string, bool) {
	switch refused := kindRefused(n); {
	case refused != "":
		l.add(at, refused)
		return "", false
	case n.ShortTag() == "!!null":
		l.add(at, "has no value")
		return "", false
	case n.Kind != yaml.ScalarNode:
		l.add(at, "want a single value")
		return "", false
	}
	text, err := expand(n.Value, l.lookup)
	l.report(at, err)
	return text, err == nil
}

// headerNodes reads the mapping of headers. A value may be text, {file: path}
// or, for a name that ends in _file, the path itself.
func (l *loader) headerNodes(at Problem, k key, n *yaml.Node) {
	seen := make(map[string]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i].Value, n.Content[i+1]
		here := Problem{Source: l.file, Line: max(n.Content[i].Line, 1), Key: at.Key + "." + name}
		name, isFile := strings.CutSuffix(name, "_file")
		if folded := strings.ToLower(name); seen[folded] {
			l.add(here, "stands here a second time")
			continue
		} else {
			seen[folded] = true
		}
		if value.Kind == yaml.MappingNode && value.Anchor == "" {
			if isFile || len(value.Content) != 2 || value.Content[0].Value != "file" {
				l.add(here, "want a value, or {file: path} to read it from a file")
				continue
			}
			value, isFile = value.Content[1], true
		}
		text, ok := l.text(here, value)
		if !ok {
			continue
		}
		if !isFile && text == value.Value && looksSecret(name) {
			l.warn(here, "a secret stands in the file itself; write ${NAME} or {file: path} instead")
		}
		l.header(here, k, pair{name, text}, isFile)
	}
}

// looksSecret reports whether a header of this name usually holds a secret.
func looksSecret(name string) bool {
	name = strings.ToLower(name)
	for _, part := range []string{"auth", "token", "key", "secret", "cookie", "password"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// jsonNode reads a JSON document: a text that holds it, or the same as YAML.
func (l *loader) jsonNode(at Problem, k key, n *yaml.Node) {
	if n.Kind == yaml.MappingNode {
		document, err := appendJSON(nil, n)
		if err == nil {
			err = k.json(document)
		}
		l.report(at, err)
		return
	}
	if text, ok := l.text(at, n); ok {
		l.report(at, k.json([]byte(text)))
	}
}

// appendJSON writes a node as JSON, with its members in their order and none
// left out.
func appendJSON(b []byte, n *yaml.Node) ([]byte, error) {
	if refused := kindRefused(n); refused != "" {
		return nil, errors.New(refused)
	}
	var err error
	switch n.Kind {
	case yaml.MappingNode, yaml.SequenceNode:
		open, end := byte('['), byte(']')
		if n.Kind == yaml.MappingNode {
			open, end = '{', '}'
		}
		b = append(b, open)
		for i, item := range n.Content {
			switch {
			case i == 0:
			case n.Kind == yaml.MappingNode && i%2 == 1:
				b = append(b, ':')
			default:
				b = append(b, ',')
			}
			if n.Kind == yaml.MappingNode && i%2 == 0 {
				b, err = jsontext.AppendQuote(b, item.Value)
			} else {
				b, err = appendJSON(b, item)
			}
			if err != nil {
				return nil, errors.New("is not UTF-8")
			}
		}
		return append(b, end), nil
	}
	if tag := n.ShortTag(); tag == "!!int" || tag == "!!bool" || tag == "!!null" {
		if v := jsontext.Value(n.Value); v.IsValid() {
			return append(b, v...), nil
		}
	}
	return jsontext.AppendQuote(b, n.Value)
}
