package main

import (
	"fmt"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

// TestSender: whom a request is from is said by proxies that are trusted, and by
// nobody else.
func TestSender(t *testing.T) {
	trusted := prefixes{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
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
		{"Version6", "[fd00::1]:1", "2001:db8::1", "2001:db8::1"},
		{"Mapped", "[::ffff:10.0.0.1]:1", "203.0.113.9", "203.0.113.9"},
		{"NoPeer", "@", "203.0.113.9", "invalid IP"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", nil)
			r.RemoteAddr = test.peer
			if test.chain != "" {
				r.Header["X-Forwarded-For"] = strings.Split(test.chain, "|")
			}
			if got := trusted.sender(r).String(); got != test.sender {
				t.Errorf("got %s, want %s", got, test.sender)
			}
			peer, forwarded := trusted.addresses(r)
			if forwarded != "" && forwarded != test.sender || forwarded == "" && peer != test.sender && peer != "" {
				t.Errorf("recorded as %q for %q", peer, forwarded)
			}
		})
	}
}

// TestTokenLimits: who asks too often must wait, others need not, and made-up
// senders cost nothing.
func TestTokenLimits(t *testing.T) {
	l := newTokenLimits(60)
	for i := range 30 {
		if wait := l.wait("client a", 1); wait > 0 {
			t.Fatalf("request %d must wait %v", i+1, wait)
		}
	}
	if l.wait("client a", 1) == 0 {
		t.Error("nobody is stopped")
	}
	if l.wait("client b", 1) > 0 {
		t.Error("another one is stopped too")
	}
	for i := range 3 * maxSenders {
		l.wait(fmt.Sprint("address ", i), 1)
	}
	if len(l.senders) > maxSenders {
		t.Errorf("%d senders are remembered", len(l.senders))
	}
	without := newTokenLimits(0)
	for range 10_000 {
		if without.wait("client a", 1) > 0 {
			t.Fatal("there is a limit where none is wanted")
		}
	}
}

func TestRequestID(t *testing.T) {
	for id, want := range map[string]string{"": "", "7f3a-1": "7f3a-1", "a b": "", "a\x7f": "", strings.Repeat("a", 65): "", "ä": ""} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("X-Request-Id", id)
		if got := requestID(r); got != want {
			t.Errorf("%q becomes %q", id, got)
		}
	}
}
