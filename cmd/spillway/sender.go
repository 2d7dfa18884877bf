package main

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// prefixes are the proxies whose X-Forwarded-For is believed.
type prefixes []netip.Prefix

func (p prefixes) contain(a netip.Addr) bool {
	return slices.ContainsFunc(p, func(prefix netip.Prefix) bool { return prefix.Contains(a) })
}

// sender returns the address of whoever has sent a request, as far as it can be
// known: the last one of the chain that is none of our proxies. What stands
// before it may be made up. The zero value: it is not known.
func (p prefixes) sender(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	at := peer.Addr().Unmap().WithZone("")
	chain := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(chain) {
		if !p.contain(at) {
			break
		}
		before, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			break
		}
		at = before.Unmap().WithZone("")
	}
	return at
}

// addresses returns the peer of a request, and whom it forwards; "" if nobody.
func (p prefixes) addresses(r *http.Request) (peer, forwarded string) {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return "", ""
	}
	peer = at.Addr().Unmap().WithZone("").String()
	if s := p.sender(r).String(); s != peer {
		forwarded = s
	}
	return peer, forwarded
}

// requestID is what a request calls itself, if that is short and plain.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	if len(id) > 64 || strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return ""
	}
	return id
}

const (
	// addressShare is how much more an address may ask for than a client: many
	// clients can be behind one.
	addressShare = 10
	// maxSenders is how many senders of token requests are remembered.
	maxSenders = 10_000
)

// tokenLimits bound how often a sender may ask for a token. What was forgotten
// begins anew, so that made-up senders cost no memory.
type tokenLimits struct {
	perMinute int // 0: any number

	mu      sync.Mutex
	senders map[string]*rate.Limiter
}

func newTokenLimits(perMinute int) *tokenLimits {
	return &tokenLimits{perMinute: perMinute, senders: make(map[string]*rate.Limiter)}
}

// wait returns how long a sender must wait, or 0. share multiplies what it may.
func (l *tokenLimits) wait(sender string, share int) time.Duration {
	if l.perMinute == 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	limiter := l.senders[sender]
	if limiter == nil {
		l.forget()
		perMinute := l.perMinute * share
		limiter = rate.NewLimiter(rate.Limit(float64(perMinute)/60), max(perMinute/2, 1))
		l.senders[sender] = limiter
	}
	now := time.Now()
	reservation := limiter.ReserveN(now, 1)
	wait := reservation.DelayFrom(now)
	if wait > 0 {
		reservation.CancelAt(now)
	}
	return wait
}

// forget makes room: whoever may do as much as at first need not be remembered.
func (l *tokenLimits) forget() {
	if len(l.senders) < maxSenders {
		return
	}
	for sender, limiter := range l.senders {
		if limiter.Tokens() >= float64(limiter.Burst()) {
			delete(l.senders, sender)
		}
	}
	if len(l.senders) >= maxSenders {
		clear(l.senders)
	}
}
