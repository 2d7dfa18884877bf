package main

import (
	"fmt"
	"slices"
	"strings"

	"spillway/cmd/spillway/internal/config"
	"spillway/upstream"
	"spillway/upstream/profile"
)

// profile tells which profile counts, why, and what came of it.
func (r *report) profile(f *upstream.Facts, cfg *config.Config) {
	p := f.Profile
	r.row("profile", "%s (%s)", p.Name, f.ProfileBy)
	for _, list := range [...]struct {
		name  string
		facts []string
	}{{"by the profile alone", f.Supplied}, {"overruled by probes", f.Overruled}} {
		for i, fact := range list.facts {
			if i > 0 {
				list.name = ""
			}
			r.row(list.name, "%s", fact)
		}
	}
	if len(p.Skip) > 0 {
		var names []string
		for _, s := range p.Skip {
			names = append(names, string(s))
		}
		r.row("probes not made", "%s", strings.Join(names, ", "))
	}
	settle, by := cfg.Upstream.Settle, "default"
	switch {
	case cfg.Upstream.SettleSet:
		by = "configured"
	case p.Settle != nil:
		settle, by = *p.Settle, "profile"
	}
	r.row("settle", "%s (%s)", settle, by)
	r.notes = append(r.notes, p.Notes...)
	r.types(f)
}

// types tells which types need more than a search of all of them.
func (r *report) types(f *upstream.Facts) {
	var byPatient, never, queried []string
	for _, t := range f.Capabilities.Types {
		rule := f.Rule(t.Type)
		switch rule.Search {
		case profile.ScopePatient:
			byPatient = append(byPatient, t.Type)
		case profile.ScopeNone, profile.ScopeID:
			never = append(never, t.Type)
		}
		if len(rule.With) > 0 && rule.Search != profile.ScopeNone && rule.Search != profile.ScopeID {
			queried = append(queried, fmt.Sprintf("%s (%s)", t.Type, strings.Join(rule.With, ", ")))
		}
	}
	if len(byPatient) > 0 {
		r.row("found by patient", "%s types", comma(int64(len(byPatient))))
		switch {
		case f.Profile.Patients.Group != "":
			r.notes = append(r.notes, "Types are found by patient only; exports that name no patients are of the members of the Group that the profile names.")
		case f.Profile.Patients.Listing == upstream.Refused:
			r.notes = append(r.notes, "Types are found by patient only, and the patients cannot be listed: export a Group or named patients (--group, --patient; Group/[id]/$export, patient=…), or name a Group of all patients in a profile (patients: {group: ID}).")
		}
	}
	if len(never) > 0 {
		slices.Sort(never)
		r.notes = append(r.notes, "These types cannot be searched as a whole there and will be named in the error file: "+strings.Join(never, ", ")+".")
	}
	for _, q := range queried {
		r.notes = append(r.notes, "Searched only with: "+q+".")
	}
}
