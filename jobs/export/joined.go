package export

import (
	"context"
	"errors"
	"math"
	"slices"
	"strconv"
	"time"

	"spillway/jobs"
	"spillway/upstream"
	"spillway/upstream/fhir"
)

// errNoPast says that it cannot be known what a group was at an earlier time.
var errNoPast = errors.New("the upstream keeps no earlier version of a group")

// joined returns those of the patients of a group that were not its members at
// _since: by the versions that the group and those it holds had then, or else by
// the periods of membership.
// Source: Bulk Data Access IG, Export, "_since": of a patient who was added to
// the group after it, resources that are older may be returned.
func (p *planner) joined(ctx context.Context, patients []string, at time.Time) ([]string, error) {
	request := p.job.Request
	since := request.Since.Truncate(tick)
	if request.Level != jobs.LevelGroup || since.IsZero() || len(patients) == 0 {
		return nil, nil
	}
	then := memberWalk{attempt: p.attempt, at: since, said: &notes{}, visited: make(map[string]bool), found: make(map[string]bool)}
	then.read = func(ctx context.Context, id string) ([]byte, error) { return p.groupBefore(ctx, id, since) }
	err := then.walk(ctx, request.GroupID, 0)
	failed, isUnit := errors.AsType[*jobs.UnitError](err)
	switch {
	case isUnit && failed.Permanent: // it did not exist, or was another
		then.found = nil
	case errors.Is(err, errNoPast):
		if then.found, err = p.membersByPeriod(ctx, since, at); err != nil {
			return nil, err
		}
		if p.c.SinceNewMembers {
			p.said.add(jobs.SeverityWarning, fhir.IssueIncomplete,
				"Group: the upstream keeps no version of it as of _since, so only those are taken for new members whose period of membership begins after it; older data of others who joined since is missing.")
		}
	case err != nil:
		return nil, err
	}
	fresh := slices.DeleteFunc(slices.Clone(patients), func(id string) bool { return then.found[id] })
	if len(fresh) > 0 && !p.c.SinceNewMembers {
		p.said.add(jobs.SeverityInformation, fhir.IssueInformational,
			"Group: %d of its members joined after _since. What did not change since is not in this export of theirs either; an export of them without _since has it, and so have all if export.since_new_members is on.", len(fresh))
		return nil, nil
	}
	return fresh, nil
}

// membersByPeriod returns those members that were members at an earlier time if
// the group had the same list then.
func (p *planner) membersByPeriod(ctx context.Context, since, at time.Time) (map[string]bool, error) {
	then := memberWalk{attempt: p.attempt, at: since, said: &notes{}, visited: make(map[string]bool), found: make(map[string]bool)}
	then.read = func(ctx context.Context, id string) ([]byte, error) { return p.c.Upstream.Read(ctx, "Group", id) }
	return then.found, then.walk(ctx, p.job.Request.GroupID, 0)
}

// groupBefore returns the last version of a group that is older than an instant.
// Versions are looked for by halves, because those of a large group are large.
// The error wraps upstream.ErrNotFound if there was none yet.
func (a *attempt) groupBefore(ctx context.Context, id string, at time.Time) ([]byte, error) {
	resource, err := a.c.Upstream.Read(ctx, "Group", id)
	if err != nil {
		return nil, err
	}
	h, older, err := olderThan(resource, at)
	if err != nil || older {
		return resource, err
	}
	var found []byte
	first, last := int64(0), versionNumber(h.VersionID)
	for last < math.MaxInt64 && last-first > 1 {
		middle := first + (last-first)/2
		version, err := a.c.Upstream.ReadVersion(ctx, "Group", id, strconv.FormatInt(middle, 10))
		if errors.Is(err, upstream.ErrGone) || errors.Is(err, upstream.ErrNotFound) || err != nil && denied(err) {
			return a.groupListed(ctx, id, at)
		}
		if err != nil {
			return nil, err
		}
		_, older, err := olderThan(version, at)
		switch {
		case err != nil:
			return nil, err
		case older:
			first, found = middle, version
		default:
			last = middle
		}
	}
	switch {
	case last == math.MaxInt64:
		return a.groupListed(ctx, id, at)
	case found == nil:
		return nil, upstream.ErrNotFound
	}
	return found, nil
}

// groupListed is groupBefore by the history of the group.
func (a *attempt) groupListed(ctx context.Context, id string, at time.Time) ([]byte, error) {
	was, err := a.listedBefore(ctx, "Group", id, &change{}, at)
	switch {
	case err != nil:
		return nil, err
	case !was.known:
		return nil, errNoPast
	case was.deleted || was.resource == nil:
		return nil, upstream.ErrNotFound
	}
	return was.resource, nil
}

// olderThan reports whether a version is older than an instant.
func olderThan(resource []byte, at time.Time) (fhir.Header, bool, error) {
	h, err := fhir.ReadHeader(resource)
	if err != nil {
		return h, false, malformed("Group", err)
	}
	changed, err := fhir.ParseDateTime(h.LastUpdated)
	if err != nil {
		return h, false, errNoPast
	}
	return h, changed.Truncate(tick).Before(at), nil
}
