package gateway

import (
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"spillway/auth/audit"
)

// A Throttle bounds how often something that is not the gateway's own is done by
// each of many senders, as the limits of the gateway do. The zero value bounds
// nothing.
type Throttle struct{ t *throttle }

// NewThrottle returns one for a rate, whose PerMinute must not be zero.
func NewThrottle(r Rate) Throttle { return Throttle{newThrottle(r, r)} }

// Take returns 0 if the sender may do it now, and then counts it; or else how
// long it must wait.
func (t Throttle) Take(sender string, now time.Time) time.Duration { return t.t.take(sender, now) }

// Neighbourhood names whom a request is counted for that is nobody's: its
// address, or all those that one customer of a provider has.
func Neighbourhood(r *http.Request, trusted []netip.Prefix) string {
	peer, forwarded := addresses(r, trusted)
	if forwarded.IsValid() {
		peer = forwarded
	}
	if peer.Is6() {
		if prefix, err := peer.Prefix(64); err == nil {
			return prefix.String()
		}
	}
	return peer.String()
}

// addresses returns where a request came from, and where it came from before if
// that is a proxy which is trusted to say so; not valid if it is not.
func addresses(r *http.Request, trusted []netip.Prefix) (peer, forwarded netip.Addr) {
	if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		peer = at.Addr().Unmap().WithZone("")
	}
	known := func(a netip.Addr) bool {
		return slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	if !known(peer) {
		return peer, netip.Addr{}
	}
	// Each proxy adds whom it has heard from at the end. What stands before the
	// last that is not trusted may be made up.
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		hop = strings.TrimSpace(hop)
		address, err := netip.ParseAddr(strings.Trim(hop, "[]"))
		if err != nil {
			at, err := netip.ParseAddrPort(hop)
			if err != nil {
				break
			}
			address = at.Addr()
		}
		if forwarded = address.Unmap().WithZone(""); !known(forwarded) {
			break
		}
	}
	return peer, forwarded
}

var requestIDForm = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,128}$`)

// EventOf returns an event of a request, for the record, with whatever the
// request says of itself.
func EventOf(r *http.Request, trusted []netip.Prefix, kind audit.Kind, outcome audit.Outcome) audit.Event {
	peer, forwarded := addresses(r, trusted)
	e := audit.Event{Kind: kind, Outcome: outcome, Address: peer.String()}
	if forwarded.IsValid() {
		e.Forwarded = forwarded.String()
	}
	if id := r.Header.Get("X-Request-Id"); requestIDForm.MatchString(id) {
		e.RequestID = id
	}
	return e
}
