package upstream

import (
	"fmt"
	"net/url"

	"spillway/upstream/fhir"
	"spillway/upstream/profile"
)

// chooseProfile decides whose profile counts: the configured one, or that which
// the statement asks for.
func (l *learner) chooseProfile() {
	f, caps := l.f, l.f.Capabilities
	if p := l.c.cfg.Profile; p != nil {
		f.Profile, f.ProfileBy = p, "the configuration names it"
	} else {
		place := url.URL{Scheme: l.c.place.base.Scheme, Host: l.c.place.base.Host, Path: l.c.place.base.Path}
		f.Profile, f.ProfileBy = profile.Choose(profile.Statement{
			Software: caps.Software, Publisher: caps.Publisher, Implementation: caps.Implementation, URL: place.String() + "/",
		})
		if f.ProfileBy == "" {
			f.ProfileBy = "neither its statement nor its address is known"
		}
	}
	l.c.unstrict.Store(f.Profile.Strict == Refused)
}

// may reports whether the profile allows a probe.
func (l *learner) may(p profile.Probe) bool { return !l.f.Profile.Forbids(p) }

// supply puts the profile's facts where the probes could not tell, and notes
// where they found otherwise.
func (l *learner) supply() {
	f, p := l.f, l.f.Profile
	known := func(name string, fact *Support, profiled Support) {
		switch {
		case profiled == Unknown || profiled == *fact:
		case *fact == Unknown:
			*fact = profiled
			f.Supplied = append(f.Supplied, fmt.Sprintf("%s: %s", name, profiled))
		default:
			f.Overruled = append(f.Overruled, fmt.Sprintf("%s: %s, the profile says %s", name, *fact, profiled))
		}
	}
	known("_lastUpdated", &f.LastUpdated, p.LastUpdated)
	l.supplyCounts()
	known("sort", &f.Sort, p.Sort)
	known("POST search", &f.PostSearch, p.Post)
	if f.Direct != Unknown || p.Direct != Works { // how large they may be only a probe tells
		known("direct pages", &f.Direct, p.Direct)
	}
	known("history", &f.History, p.History)
	known("history of the whole server", &f.SystemHistory, p.SystemHistory)
	if p.PageMax > 0 && f.PageSize > p.PageMax && f.ProbeType != "" && l.may(profile.ProbePage) && l.seen > p.PageMax {
		f.Overruled = append(f.Overruled, fmt.Sprintf("page size: %d, the profile says %d at most", f.PageSize, p.PageMax))
	}
}

func (l *learner) supplyCounts() {
	f, p := l.f, l.f.Profile
	var counts Support
	var mode CountMode
	switch p.Counts {
	case profile.CountUnknown:
		return
	case profile.CountSummary:
		counts, mode = Works, CountSummary
	case profile.CountTotal:
		counts, mode = Works, CountTotal
	case profile.CountLastPage:
		counts = Ignored
	case profile.CountNever:
		counts = Refused
	}
	switch {
	case f.Counts == Unknown:
		f.Counts, f.CountMode, f.LastPageTotal = counts, mode, p.Counts == profile.CountLastPage
		f.Supplied = append(f.Supplied, fmt.Sprintf("counts: %s", p.Counts))
	case (f.Counts == Works) != (counts == Works) || f.Counts == Works && f.CountMode != mode:
		f.Overruled = append(f.Overruled, fmt.Sprintf("counts: %s (%s), the profile says %s", f.Counts, f.CountMode, p.Counts))
	}
}

// Rule says how a type can be searched, by the profile. Its Search is never
// unknown, and Why is never empty where Search is ScopeID or ScopeNone.
func (f *Facts) Rule(typ string) profile.Type {
	p := f.Profile
	if p == nil {
		return profile.Type{Search: profile.ScopeWhole}
	}
	r := p.Types[typ]
	switch {
	case r.Search != profile.ScopeUnknown:
	case !p.Patients.Required, typ == "Patient" && p.Patients.Listing == Works:
		r.Search = profile.ScopeWhole
	case typ == "Group": // what it has of patients is a list of all sorts of them
		r.Search = profile.ScopeID
	case fhir.ReleaseOf(f.Capabilities.FHIRVersion).InPatientCompartment(typ):
		r.Search = profile.ScopePatient
	default:
		r.Search = profile.ScopeNone
		r.Why = "this server is searched by patient, and resources of this type belong to none"
	}
	if r.Why == "" {
		r.Why = "this server answers no search that finds all of them"
	}
	return r
}

// pageBase is the _count that searches of a type send, before what was found
// to be too large.
func (c *Client) pageBase(typ string) int {
	n := c.pageCount()
	if f := c.facts.peek(); f != nil && f.Profile != nil {
		if most := f.Profile.Types[typ].PageMax; most > 0 {
			n = min(n, most)
		}
	}
	return n
}
