package fakefhir

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// query is a search, parsed.
type query struct {
	typ    string
	window span     // of _lastUpdated
	ids    []string // of _id; nil: all
	match  []criterion
	refs   [][]string // of each reference parameter the "Type/id" that it wants
	has    []hasClause
	sort   []sortKey

	count    int  // page size, within the limits
	only     bool // no entries wanted: _summary=count or _count=0
	total    bool // _total=accurate
	elements []string
}

// criterion says whether a resource matches one parameter.
type criterion func(*version) bool

// hasClause is _has:Type:reference:param=value: a resource matches if one
// that inner finds points to it.
type hasClause struct {
	reference *param
	inner     *query
}

// sortKey is one part of _sort; p is nil for _lastUpdated.
type sortKey struct {
	p    *param
	desc bool
}

// isCount says whether a request asks only for a number.
func isCount(params url.Values) bool {
	return params.Get("_summary") == "count" || params.Get("_count") == "0"
}

// parseQuery reads the parameters of a search for a type.
func (s *Server) parseQuery(typ string, params url.Values) (*query, error) {
	q := &query{typ: typ, window: always, only: isCount(params)}
	names := make([]string, 0, len(params))
	for n := range params {
		names = append(names, n)
	}
	slices.Sort(names) // so that of two mistakes always the same is reported
	for _, n := range names {
		for _, v := range params[n] {
			var err error
			if controlParam(n) {
				err = s.control(q, n, v)
			} else {
				err = s.criterion(q, n, v)
			}
			if err != nil {
				return nil, err
			}
		}
	}
	return q, nil
}

// control reads a parameter that says how to answer.
func (s *Server) control(q *query, name, val string) error {
	switch name {
	case "_count":
		n, err := strconv.Atoi(val)
		if err != nil || n < 0 {
			return invalid("Invalid _count: it must be a number that is not negative")
		}
		if n > 0 {
			q.count = min(n, s.o.PageMax)
		}
	case "_total":
		switch val {
		case "accurate", "none", "estimate":
			q.total = val == "accurate"
		default:
			return invalid("Invalid _total %q: use accurate, estimate or none", val)
		}
	case "_summary":
		if val != "count" && val != "false" {
			return invalid("_summary=%s is not supported", val)
		}
	case "_elements":
		q.elements = strings.Split(val, ",")
	case "_sort":
		for key := range strings.SplitSeq(val, ",") {
			key, desc := strings.CutPrefix(key, "-")
			p := findParam(q.typ, key)
			if key != "_lastUpdated" && (p == nil || p.typ != dateParam && key != "_id" || s.bulk(q.typ) && key != "_id") {
				return invalid("Unable to sort %s by %q", q.typ, key)
			}
			q.sort = append(q.sort, sortKey{p, desc})
		}
	}
	return nil
}

// criterion reads one search parameter.
func (s *Server) criterion(q *query, name, val string) error {
	if val == "" {
		return nil // as HAPI: a parameter without a value is no criterion
	}
	if rest, ok := strings.CutPrefix(name, "_has:"); ok {
		return s.hasCriterion(q, rest, val)
	}
	bare, modifier, _ := strings.Cut(name, ":")
	switch {
	case bare == "_lastUpdated" && modifier == "":
		prefix, at := datePrefix(val)
		p, err := parseSpan(at)
		if err != nil {
			return invalid("Invalid _lastUpdated: it must be a date or an instant")
		}
		w, ok := q.window.narrow(prefix, p)
		if !ok {
			return invalid("_lastUpdated does not know the comparator %q", prefix)
		}
		q.window = w
		return nil
	case bare == "_id" && modifier == "":
		ids := split(val, ',')
		if q.ids != nil {
			ids = slices.DeleteFunc(ids, func(id string) bool { return !slices.Contains(q.ids, id) })
		}
		q.ids = ids
		return nil
	}
	if s.bulk(q.typ) {
		return invalid("Bulk Observations can be searched by _id and _lastUpdated, not by %q", bare)
	}
	p := findParam(q.typ, bare)
	if p == nil {
		if s.o.Lenient || strings.HasPrefix(bare, "_") {
			return nil
		}
		return invalid("Unknown search parameter %q for resource type %q", bare, q.typ)
	}
	c, err := p.criterion(q.typ, modifier, val)
	if err != nil {
		return err
	}
	q.match = append(q.match, c)
	if p.typ == referenceParam && modifier == "" {
		if full, ok := fullReferences(val); ok {
			q.refs = append(q.refs, full)
		}
	}
	return nil
}

func (s *Server) hasCriterion(q *query, rest, val string) error {
	parts := strings.SplitN(rest, ":", 3)
	if len(parts) != 3 || strings.HasPrefix(parts[2], "_has") {
		return invalid("_has must be _has:Type:reference:parameter")
	}
	ref := findParam(parts[0], parts[1])
	if ref == nil || ref.typ != referenceParam || s.bulk(q.typ) || s.bulk(parts[0]) {
		return invalid("_has: %s has no reference parameter %q", parts[0], parts[1])
	}
	inner := &query{typ: parts[0], window: always}
	if err := s.criterion(inner, parts[2], val); err != nil {
		return err
	}
	q.has = append(q.has, hasClause{ref, inner})
	return nil
}

// criterion makes the test for one value of p, which may be a list.
func (p *param) criterion(typ, modifier, val string) (criterion, error) {
	if modifier == "missing" {
		want := val == "true"
		return func(v *version) bool { return (len(v.values(p)) == 0) == want }, nil
	}
	var test func(value) bool
	switch p.typ {
	case tokenParam:
		test = tokenTest(val)
		if modifier == "not" {
			return func(v *version) bool { return !slices.ContainsFunc(v.values(p), test) }, nil
		}
	case referenceParam:
		test = p.referenceTest(modifier, val)
		modifier = ""
	case dateParam:
		t, err := dateTest(val)
		if err != nil {
			return nil, err
		}
		test = t
	case stringParam:
		test = stringTest(modifier, val)
		if modifier == "exact" || modifier == "contains" {
			modifier = ""
		}
	case uriParam:
		wanted := split(val, ',')
		test = func(v value) bool { return slices.Contains(wanted, v.text) }
	}
	if modifier != "" {
		return nil, invalid("Parameter %q of %s does not support the modifier %q", p.name, typ, modifier)
	}
	return func(v *version) bool { return slices.ContainsFunc(v.values(p), test) }, nil
}

func tokenTest(val string) func(value) bool {
	type token struct {
		system, code string
		anySystem    bool
	}
	var wanted []token
	for _, part := range splitRaw(val, ',') {
		sides := splitRaw(part, '|')
		if len(sides) == 1 {
			wanted = append(wanted, token{code: unescape(part), anySystem: true})
		} else {
			wanted = append(wanted, token{system: unescape(sides[0]), code: unescape(sides[1])})
		}
	}
	return func(v value) bool {
		for _, t := range wanted {
			if (t.anySystem || t.system == v.system) && (t.code == v.text || t.code == "" && !t.anySystem) {
				return true
			}
		}
		return false
	}
}

// referenceTest takes "Type/id", a URL that ends so, or a bare id. A type as
// modifier stands for "Type/" before a bare id.
func (p *param) referenceTest(modifier, val string) func(value) bool {
	full, bare := map[string]bool{}, map[string]bool{}
	for _, want := range split(val, ',') {
		typ, id := splitReference(want)
		switch {
		case id != "":
			full[typ+"/"+id] = true
		case modifier != "":
			full[modifier+"/"+want] = true
		default:
			bare[want] = true
		}
	}
	return func(v value) bool {
		if full[v.text] {
			return true
		}
		return len(bare) > 0 && bare[v.text[strings.IndexByte(v.text, '/')+1:]]
	}
}

func dateTest(val string) (func(value) bool, error) {
	type date struct {
		prefix string
		at     span
	}
	var wanted []date
	for _, part := range split(val, ',') {
		prefix, at := datePrefix(part)
		p, err := parseSpan(at)
		if err != nil || !knownPrefix(prefix) {
			return nil, invalid("Invalid date parameter")
		}
		wanted = append(wanted, date{prefix, p})
	}
	return func(v value) bool {
		return slices.ContainsFunc(wanted, func(d date) bool { return v.when.compare(d.prefix, d.at) })
	}, nil
}

func stringTest(modifier, val string) func(value) bool {
	wanted := split(val, ',')
	return func(v value) bool {
		return slices.ContainsFunc(wanted, func(w string) bool {
			switch modifier {
			case "exact":
				return v.text == w
			case "contains":
				return strings.Contains(strings.ToLower(v.text), strings.ToLower(w))
			}
			return strings.HasPrefix(strings.ToLower(v.text), strings.ToLower(w))
		})
	}
}

// split cuts a parameter value at each sep that no backslash escapes, and
// takes the escapes away.
func split(s string, sep byte) []string {
	parts := splitRaw(s, sep)
	for i := range parts {
		parts[i] = unescape(parts[i])
	}
	return parts
}

func splitRaw(s string, sep byte) []string {
	var parts []string
	start := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case sep:
			parts = append(parts, s[start:i])
			start = i + 1
		}
	}
	return append(parts, s[start:])
}

func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
