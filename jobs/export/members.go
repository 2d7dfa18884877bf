package export

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"spillway/jobs"
	"spillway/upstream"
	"spillway/upstream/fhir"
)

// maxNesting is how deep groups may hold groups.
const maxNesting = 10

// patients returns the sorted ids of the patients of the request, nil where
// its level has no list, and whether it has one.
func (a *attempt) patients(ctx context.Context, at time.Time, said *notes) ([]string, bool, error) {
	request := a.job.Request
	asked := slices.Compact(slices.Sorted(slices.Values(request.Patients)))
	if request.Level != jobs.LevelGroup {
		return asked, len(asked) > 0, nil
	}
	members, err := a.members(ctx, request.GroupID, at, said)
	if err != nil {
		return nil, false, err
	}
	var ids, strangers []string
	if len(asked) == 0 {
		return sortedIDs(members), true, nil
	}
	for _, id := range asked {
		if members[id] {
			ids = append(ids, id)
		} else {
			strangers = append(strangers, id)
		}
	}
	if len(strangers) > 0 {
		said.add(jobs.SeverityWarning, fhir.IssueNotFound,
			"patient: %d of the patients asked for are not current members of the group and were left out: %s.", len(strangers), strings.Join(strangers, ", "))
	}
	return ids, true, nil
}

// noGroup is said of a group that does not exist, and of one that may not be read.
const noGroup = "The group does not exist on the upstream; check the id in the kick-off address."

// members returns the members of a group, and of the groups it holds, at an instant.
func (a *attempt) members(ctx context.Context, group string, at time.Time, said *notes) (map[string]bool, error) {
	w := memberWalk{attempt: a, at: at, said: said, visited: make(map[string]bool), found: make(map[string]bool)}
	w.read = func(ctx context.Context, id string) ([]byte, error) { return a.c.Upstream.Read(ctx, "Group", id) }
	return w.found, w.walk(ctx, group, 0)
}

// A memberWalk goes through a group and the groups it holds.
type memberWalk struct {
	*attempt
	at      time.Time
	read    func(ctx context.Context, id string) ([]byte, error)
	said    *notes
	visited map[string]bool
	found   map[string]bool // patients
}

func (w *memberWalk) walk(ctx context.Context, group string, depth int) error {
	if w.visited[group] {
		return nil
	}
	w.visited[group] = true
	resource, err := w.read(ctx, group)
	if err != nil {
		if depth > 0 && errors.Is(err, upstream.ErrNotFound) {
			w.said.add(jobs.SeverityError, fhir.IssueNotFound, "Group: a group that is a member of the requested group does not exist on the upstream; its patients are missing.")
			return nil
		}
		if errors.Is(err, upstream.ErrNotFound) {
			return &jobs.UnitError{Permanent: true, Reason: noGroup}
		}
		return err
	}
	if !w.allowed.Group().Admits("Group", resource, w.allowed.Unchecked) {
		if depth > 0 {
			w.said.add(jobs.SeverityError, fhir.IssueForbidden, "Group: a group that is a member of the requested group may not be read with the scopes of this export; its patients are missing.")
			return nil
		}
		return &jobs.UnitError{Permanent: true, Reason: noGroup}
	}
	list, _, err := fhir.ReadGroup(resource)
	if err != nil {
		return &jobs.UnitError{Permanent: true, Err: err, Reason: "read Group: the upstream's answer is not a readable Group resource."}
	}
	others, foreign := 0, 0
	for _, m := range list {
		if m.Inactive || !m.Start.IsZero() && m.Start.After(w.at) || !m.End.IsZero() && m.End.Before(w.at) {
			continue
		}
		if m.Absolute != "" {
			if _, ours := w.c.Upstream.Relative(m.Absolute); !ours {
				foreign++ // who has the same id here is somebody else
				continue
			}
		}
		switch m.Type {
		case "Patient":
			if fhir.ValidID(m.ID) {
				w.found[m.ID] = true
			}
		case "Group":
			if depth == maxNesting {
				w.said.add(jobs.SeverityError, fhir.IssueTooCostly, "Group: groups are nested more than %d deep; what lies deeper is missing.", maxNesting)
				continue
			}
			if err := w.walk(ctx, m.ID, depth+1); err != nil {
				return err
			}
		default:
			others++
		}
	}
	if foreign > 0 {
		w.said.add(jobs.SeverityWarning, fhir.IssueNotFound,
			"Group: %d members are on other servers, by the addresses that the group has for them, and were passed over. Other addresses of this server belong into upstream.url_aliases.", foreign)
	}
	if others > 0 {
		w.said.add(jobs.SeverityInformation, fhir.IssueInformational, "Group: %d members are not patients or groups of this server and were passed over.", others)
	}
	return nil
}
