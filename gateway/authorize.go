package gateway

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"spillway/auth"
	"spillway/auth/scope"
	"spillway/jobs"
	"spillway/upstream/fhir"
)

// caller finds out who sent a request, and counts it.
func (s *server) caller(r *http.Request, rate *throttle) (auth.Principal, error) {
	p, err := s.Auth.Authenticate(r)
	if err != nil {
		p = auth.Principal{}
	}
	if wait := rate.take(s.sender(r, p), s.now()); wait > 0 {
		return auth.Principal{}, tooOften(wait)
	}
	return p, err
}

// enabled reports whether a client may still have exports.
func (s *server) enabled(p auth.Principal) bool {
	return s.Enabled == nil || p.ClientID == "" || s.Enabled(p.ClientID)
}

// crossSite reports whether a page of another site sent a request. Where no
// token is needed, which such a page does not have, it must not start or delete
// exports in the name of whoever looks at it.
func (s *server) crossSite(r *http.Request) bool {
	if s.Auth.RequiresToken() {
		return false
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "cross-site", "same-site":
		return true
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || u.Scheme != s.PublicURL.Scheme || !sameHost(u.Host, s.site.host)
}

// authorize decides what a kick-off may read. Where the request is lenient, what
// may not be read is taken out of it and noted.
// Source: Bulk Data Access IG, Export, "_type"; SMART App Launch 2.2, Backend Services, "Scopes".
func (s *server) authorize(ctx context.Context, p auth.Principal, request *jobs.Request) (scope.Snapshot, error) {
	asked := scope.Request{
		Types: slices.Clone(request.Types), Group: request.Level == jobs.LevelGroup, Lenient: request.Lenient, Unchecked: s.Unchecked,
	}
	associated := len(request.IncludeAssociatedData) > 0
	if len(asked.Types) > 0 && associated && !slices.Contains(asked.Types, "Provenance") {
		asked.Types = append(asked.Types, "Provenance")
	}
	release := fhir.R4
	if !p.Grant.Allows("*", scope.Read|scope.Search).All {
		caps, err := s.capabilities(ctx)
		if err != nil {
			return scope.Snapshot{}, err
		}
		release = releaseOf(caps)
		offered(&asked, caps)
	}
	allowed, left, err := p.Grant.Decide(asked)
	if err != nil {
		return scope.Snapshot{}, err
	}
	if err := leaveOut(request, left, release); err != nil {
		return scope.Snapshot{}, err
	}
	for _, typ := range filteredTypes(request) {
		if _, err := allowed.Access(typ).Searches(filtersOf(request, typ)); err != nil {
			return scope.Snapshot{}, refuseParameter(paramTypeFilter, fhir.IssueTooCostly, "the filters for %s and the scopes of the access token make too many searches", typ)
		}
	}
	return allowed, s.checkGroup(ctx, p, request, allowed)
}

// offered adds what the upstream has, as far as it matters for a client that may
// not read everything.
func offered(asked *scope.Request, caps *fhir.Capabilities) {
	if caps == nil {
		asked.Supported = fhir.Types()
		return
	}
	asked.Offers = caps.Has
	for _, t := range caps.Types {
		asked.Supported = append(asked.Supported, t.Type)
	}
}

// leaveOut takes types that may not be read out of a request, and says so in its
// notes. What was not asked for by name is said as information.
func leaveOut(request *jobs.Request, left []string, release fhir.Release) error {
	named := len(request.Types) > 0
	var refused, others []string // asked for in some way, and not
	for _, typ := range left {
		switch {
		case slices.Contains(request.Types, typ),
			slices.ContainsFunc(request.TypeFilters, func(f jobs.TypeFilter) bool { return f.Type == typ }),
			typ == "Provenance" && len(request.IncludeAssociatedData) > 0:
			refused = append(refused, typ)
		case !named && (request.Level == jobs.LevelSystem || release.InPatientCompartment(typ)):
			others = append(others, typ)
		}
	}
	if len(refused) > 0 && !request.Lenient {
		return &scope.RefusedError{Types: refused}
	}
	for _, typ := range refused {
		request.Notes = append(request.Notes, jobs.Note{
			Severity: jobs.SeverityError, Code: string(fhir.IssueForbidden),
			Text: typ + " was not exported: the scopes of the access token do not allow it.",
		})
	}
	if len(others) > 0 {
		request.Notes = append(request.Notes, jobs.Note{
			Severity: jobs.SeverityInformation, Code: string(fhir.IssueForbidden),
			Text: fmt.Sprintf("%d types were not exported, since the scopes of the access token do not allow them: %s.", len(others), strings.Join(others, ", ")),
		})
	}
	request.Types = slices.DeleteFunc(request.Types, func(typ string) bool { return slices.Contains(refused, typ) })
	request.TypeFilters = slices.DeleteFunc(request.TypeFilters, func(f jobs.TypeFilter) bool { return slices.Contains(refused, f.Type) })
	if slices.Contains(refused, "Provenance") {
		request.IncludeAssociatedData = nil
	}
	return nil
}

// filteredTypes are the types of the filters of a request.
func filteredTypes(request *jobs.Request) (types []string) {
	for _, f := range request.TypeFilters {
		if !slices.Contains(types, f.Type) {
			types = append(types, f.Type)
		}
	}
	return types
}

func filtersOf(request *jobs.Request, typ string) (queries []string) {
	for _, f := range request.TypeFilters {
		if f.Type == typ {
			queries = append(queries, f.Query)
		}
	}
	return queries
}

// checkGroup refuses a Group that the client may not export in the words for one
// that does not exist. It says nothing of Groups outside the client's list:
// the upstream is not even asked.
func (s *server) checkGroup(ctx context.Context, p auth.Principal, request *jobs.Request, allowed scope.Snapshot) error {
	if request.Level != jobs.LevelGroup {
		return nil
	}
	if !p.Groups.Allows(request.GroupID) {
		return noSuchGroup()
	}
	if s.Group == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, groupTimeout)
	defer cancel()
	resource, found, err := s.Group(ctx, request.GroupID)
	switch {
	case err != nil: // the export asks again, and looks at what it may read
		s.logger.DebugContext(ctx, "the upstream does not say whether it has a Group", "error", err)
	case !found || !allowed.Group().Admits("Group", resource, allowed.Unchecked):
		return noSuchGroup()
	}
	return nil
}

// groupTimeout is how long a kick-off waits to hear whether there is the Group.
const groupTimeout = 3 * time.Second

// noSuchGroup is the answer for every Group that the client cannot export,
// whatever the reason, byte for byte the same.
func noSuchGroup() *Problem {
	return refuse(http.StatusNotFound, fhir.IssueNotFound, "There is no such Group.")
}
