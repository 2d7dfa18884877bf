package fakefhir

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// dialect is how a kind of server differs from HAPI, as data. The zero dialect
// is HAPI; see Options.Like.
type dialect struct {
	// What the statement says.
	software, version, publisher, description string

	pageDefault, pageMax int
	pageMaxOf            map[string]int // of single types
	// linkPath is where next links lead, below the root; {type} stands for the
	// type. token is the parameter that holds their state, with suffix behind it.
	linkPath, token, suffix string
	// numbered makes next links of the search itself with one more parameter,
	// "_page" (from 1) or "_offset", instead of a token. Each page is a search
	// of its own.
	numbered  string
	offsetMax int // of numbered links: what lies farther is refused; 0: nothing
	linkLife  time.Duration

	total     totals // on pages of a search
	estimates bool   // counts are about right

	unknown unknowns
	strict  bool     // Prefer: handling=strict refuses what is ignored otherwise
	hidden  []string // parameters that it does not know

	// needs are sets of parameters, of which a search must have all of one; by
	// type, "" for all others. None: no need.
	needs    map[string][][]string
	patients int            // that one search may name; 0: any number
	matchMax map[string]int // a search that finds more is refused
	urlMax   int            // longest request line that is taken; 0: any

	unsearchable []string // types that can only be read
	noPost       bool     // POST [type]/_search is 404
	noForms      bool     // ... is 415
	postLinks    bool     // the next links of a search by POST want POST
	noDirect     bool
	noHistory    bool
	noSystem     bool // no history of the system
	historyTimes bool

	contentType string // ""; as HAPI
	emptyFirst  bool   // a search that does not fit on one page begins with an empty one
	overlap     int    // later pages begin with so many resources of the one before
}

// totals say which pages have a Bundle.total.
type totals int

const (
	totalAsHAPI   totals = iota // where it was asked for, or all fits on one page
	totalIfAsked                // only where it was asked for
	totalNever                  //
	totalEstimate               // all, but it is right on the last page only
)

// unknowns say what becomes of a parameter that the server does not know.
type unknowns int

const (
	unknownAsHAPI  unknowns = iota // refused, unless it begins with "_"
	unknownRefused                 // all
	unknownIgnored
	unknownWarned // ignored, with an OperationOutcome among the entries
)

// Dialects are the names that Options.Like takes, sorted.
func Dialects() []string { return slices.Sorted(maps.Keys(dialects)) }

// speak fills in what the options leave to the dialect.
func (o *Options) speak() dialect {
	d, known := dialects[o.Like]
	if !known && o.Like != "" {
		panic(fmt.Sprintf("fakefhir: no dialect %q; these are: %s", o.Like, strings.Join(Dialects(), ", ")))
	}
	if o.PageMax <= 0 && d.pageMax > 0 {
		o.PageMax = d.pageMax
	}
	if o.PageDefault <= 0 && d.pageDefault > 0 {
		o.PageDefault = min(d.pageDefault, o.PageMax)
	}
	if o.ResultTTL == 0 {
		o.ResultTTL = d.linkLife
	}
	if o.OffsetMax > 0 {
		d.offsetMax = o.OffsetMax
	}
	o.NoPostSearch = o.NoPostSearch || d.noPost
	o.NoDirect = o.NoDirect || d.noDirect
	o.NoHistory = o.NoHistory || d.noHistory
	o.NoSystemHistory = o.NoSystemHistory || d.noSystem
	o.HistoryTimes = o.HistoryTimes || d.historyTimes
	return d
}

// hides says whether the dialect does not know a parameter.
func (d *dialect) hides(name string) bool { return slices.Contains(d.hidden, name) }

// screen takes out of a search what the dialect ignores, and refuses what it
// refuses. warned says that something was ignored which must be told.
func (x *exchange) screen(params url.Values) (_ url.Values, warned bool, err error) {
	d := &x.s.d
	if x.s.o.Like == "" {
		return params, false, nil
	}
	if d.urlMax > 0 && len(x.r.URL.RequestURI()) > d.urlMax {
		return nil, false, &problem{status: http.StatusRequestURITooLong, code: "too-long", text: "The address is too long"}
	}
	if x.r.Method == http.MethodPost && d.noForms {
		return nil, false, &problem{status: http.StatusUnsupportedMediaType, code: "not-supported", text: "Forms are not taken"}
	}
	if slices.Contains(d.unsearchable, x.typ) {
		return nil, false, &problem{status: http.StatusBadRequest, code: "not-supported", text: "This type cannot be searched"}
	}
	strict := d.strict && strings.Contains(x.r.Header.Get("Prefer"), "handling=strict")
	kept := maps.Clone(params)
	for _, name := range slices.Sorted(maps.Keys(params)) {
		bare, _, _ := strings.Cut(name, ":")
		known := bare == "_lastUpdated" || bare == "_has" || bare == d.numbered || controlParam(bare) || findParam(x.typ, bare) != nil
		if known && !d.hides(bare) {
			continue
		}
		refuse := strict
		switch d.unknown {
		case unknownAsHAPI:
			if strings.HasPrefix(bare, "_") && !d.hides(bare) {
				continue
			}
			refuse = true
		case unknownRefused:
			refuse = true
		case unknownWarned:
			warned = true
		}
		if refuse {
			return nil, false, invalid("Unknown search parameter %q for resource type %q", bare, x.typ)
		}
		delete(kept, name)
	}
	return kept, warned, d.demand(x.typ, kept)
}

// demand says what a search lacks.
func (d *dialect) demand(typ string, params url.Values) error {
	needs, own := d.needs[typ]
	if !own {
		needs = d.needs[""]
	}
	enough := func(set []string) bool {
		return !slices.ContainsFunc(set, func(name string) bool { return params.Get(name) == "" })
	}
	if len(needs) > 0 && !slices.ContainsFunc(needs, enough) {
		return &problem{status: http.StatusBadRequest, code: "required", text: fmt.Sprintf("A search of %s must have one of these sets of parameters: %v", typ, needs)}
	}
	named := 0
	for _, name := range []string{"patient", "subject"} {
		for _, v := range params[name] {
			named += len(split(v, ','))
		}
	}
	if typ == "Patient" {
		for _, v := range params["_id"] {
			named += len(split(v, ','))
		}
	}
	if d.patients > 0 && named > d.patients {
		return invalid("A search may name %d patients, not %d", d.patients, named)
	}
	return nil
}

// numberedOffset is where a numbered page begins.
func (x *exchange) numberedOffset(params url.Values, count int) (offset int, err error) {
	name := x.s.d.numbered
	v := params.Get(name)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		return 0, invalid("Invalid %s", name)
	}
	if name == "_page" {
		n = max(n-1, 0) * count
	}
	if most := x.s.d.offsetMax; most > 0 && n > most {
		return 0, invalid("Search offset exceeds maximum (got %d, max %d)", n, most)
	}
	return n, nil
}

// nextQuery makes the address of a following page, below the root or below that
// of another server.
func (x *exchange) nextQuery(res *result, offset, count int) string {
	d := &x.s.d
	path := strings.ReplaceAll(d.linkPath, "{type}", res.typ)
	switch {
	case d.numbered != "":
		q := url.Values{}
		maps.Copy(q, x.params)
		q.Set("_count", strconv.Itoa(count))
		n := offset
		if d.numbered == "_page" {
			n = offset/count + 1
		}
		q.Set(d.numbered, strconv.Itoa(n))
		return "/" + res.typ + "?" + q.Encode()
	case d.token != "":
		state := fmt.Sprintf("%s|%d|%d", res.id, offset, count)
		return path + "?" + d.token + "=" + base64.RawURLEncoding.EncodeToString([]byte(state)) + d.suffix
	}
	return fmt.Sprintf("?_getpages=%s&_getpagesoffset=%d&_count=%d&_bundletype=searchset", res.id, offset, count)
}

// untoken puts what a token holds where the parameters of HAPI stand.
func (x *exchange) untoken() {
	token := x.s.d.token
	if token == "" || x.params.Get(token) == "" {
		return
	}
	state, _ := base64.RawURLEncoding.DecodeString(x.params.Get(token)) // a bad one is an unknown one
	parts := append(strings.Split(string(state), "|"), "0", "0")
	x.params = url.Values{"_getpages": {"?" + parts[0]}, "_getpagesoffset": {parts[1]}, "_count": {parts[2]}}
	if len(parts[0]) > 0 {
		x.params.Set("_getpages", parts[0])
	}
}
