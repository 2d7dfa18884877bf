package gateway

import (
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"spillway/auth/audit"
)

// TestSender: whom a request is from is said by proxies that are trusted, and by
// nobody else.
func TestSender(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, test := range []struct {
		name, peer, chain string // chain: X-Forwarded-For, header lines separated by |
		sender            string
	}{
		{"Direct", "192.0.2.1:1", "", "192.0.2.1"},
		{"Pretended", "192.0.2.1:1", "203.0.113.9", "192.0.2.1"},
		{"Forwarded", "10.0.0.1:1", "203.0.113.9", "203.0.113.9"},
		{"TwoProxies", "10.0.0.1:1", "203.0.113.9, 10.0.0.2", "203.0.113.9"},
		{"TwoLines", "10.0.0.1:1", "203.0.113.9|10.0.0.2", "203.0.113.9"},
		{"PretendedBeforeAProxy", "10.0.0.1:1", "198.51.100.1, 203.0.113.9", "203.0.113.9"},
		{"Garbage", "10.0.0.1:1", "203.0.113.9, unknown", "10.0.0.1"},
		{"NobodyBefore", "10.0.0.1:1", "", "10.0.0.1"},
		{"Version6", "[fd00::1]:1", "2001:db8::1", "2001:db8::/64"},
		{"Mapped", "[::ffff:10.0.0.1]:1", "203.0.113.9", "203.0.113.9"},
		{"NoPeer", "@", "203.0.113.9", "invalid IP"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", nil)
			r.RemoteAddr = test.peer
			if test.chain != "" {
				r.Header["X-Forwarded-For"] = strings.Split(test.chain, "|")
			}
			if got := Neighbourhood(r, trusted); got != test.sender {
				t.Errorf("got %s, want %s", got, test.sender)
			}
			e := EventOf(r, trusted, audit.KindToken, audit.OutcomeDone)
			if e.Forwarded != "" && !strings.HasPrefix(test.sender, e.Forwarded) && !strings.Contains(test.sender, "/") || e.Forwarded == "" && e.Address != test.sender {
				t.Errorf("recorded as %q for %q", e.Address, e.Forwarded)
			}
		})
	}
}

// TestThrottle: who asks too often must wait, and others need not.
func TestThrottle(t *testing.T) {
	l, now := NewThrottle(Rate{PerMinute: 60}), time.Unix(1_800_000_000, 0)
	for i := range 30 {
		if wait := l.Take("a", now); wait > 0 {
			t.Fatalf("request %d must wait %v", i+1, wait)
		}
	}
	if l.Take("a", now) != time.Second || l.Take("b", now) != 0 || l.Take("a", now.Add(time.Second)) != 0 {
		t.Error("the wrong one waits")
	}
	if (Throttle{}).Take("a", now) != 0 {
		t.Error("there is a limit where none is wanted")
	}
}

func TestRequestID(t *testing.T) {
	for id, want := range map[string]string{"": "", "7f3a-1": "7f3a-1", "a b": "", "a\x7f": "", strings.Repeat("a", 129): "", "ä": ""} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("X-Request-Id", id)
		if got := EventOf(r, nil, audit.KindToken, audit.OutcomeDone).RequestID; got != want {
			t.Errorf("%q becomes %q", id, got)
		}
	}
}
