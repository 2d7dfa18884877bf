package fetch

import (
	"bytes"
	"compress/gzip"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func get(t *testing.T, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAllowed(t *testing.T) {
	for _, tt := range []struct {
		address         string
		public, private bool
	}{
		{"93.184.216.34", true, true},
		{"2606:2800:220:1::1", true, true},
		{"127.0.0.1", false, true},
		{"::1", false, true},
		{"10.1.2.3", false, true},
		{"172.16.0.1", false, true},
		{"192.168.1.1", false, true},
		{"fd12::1", false, true},
		{"100.64.0.1", false, true},
		{"198.18.0.1", false, true},
		{"255.255.255.255", false, true},
		{"::ffff:127.0.0.1", false, true},
		{"::ffff:10.0.0.1", false, true},
		{"::ffff:100.64.0.1", false, true},
		{"64:ff9b::7f00:1", false, true},
		{"2002:7f00:1::", false, true},
		{"2001:0:53aa:64c::1", false, true},
		{"169.254.169.254", false, false},
		{"::ffff:169.254.169.254", false, false},
		{"fe80::1", false, false},
		{"fe80::1%eth0", false, false},
		{"fd00:ec2::254", false, false},
		{"0.0.0.0", false, false},
		{"::", false, false},
		{"224.0.0.1", false, false},
		{"ff02::1", false, false},
	} {
		a := netip.MustParseAddr(tt.address)
		if allowed(a, false) != tt.public || allowed(a, true) != tt.private {
			t.Errorf("%s: public %v, private %v", a, allowed(a, false), allowed(a, true))
		}
	}
}

// TestNamesAreCheckedWhenTheyAreResolved: localhost is a name like any other,
// and leads to this machine.
func TestNamesAreCheckedWhenTheyAreResolved(t *testing.T) {
	asked := false
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer s.Close()
	port := s.URL[strings.LastIndex(s.URL, ":"):]
	for _, host := range []string{"localhost", "127.0.0.1", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"} {
		_, err := New(Options{Plain: true}).Do(get(t, "http://"+host+port+"/secret?q=secret"), 100)
		if err == nil || asked {
			t.Errorf("%s was asked: %v", host, err)
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error tells the address: %v", err)
		}
	}
	if _, err := New(Options{Plain: true}).Do(get(t, "http://localhost"+port), 100); !errors.Is(err, ErrForbidden) {
		t.Errorf("got %v", err)
	}
	if _, err := New(Options{Plain: true, Private: true}).Do(get(t, "http://localhost"+port), 100); err != nil || !asked {
		t.Errorf("a server that the operator named: %v", err)
	}
}

func TestSchemes(t *testing.T) {
	for url, plain := range map[string]bool{
		"http://example.org": false, "file:///etc/passwd": true, "gopher://example.org": true,
		"https://user:secret@example.org": true, "https://example.org/#x": true, "https:///x": true,
	} {
		_, err := New(Options{Plain: plain}).Do(get(t, url), 100)
		if !errors.Is(err, ErrForbidden) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestAnswers(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(make([]byte, 1<<20))
	_ = z.Close()
	redirected := false
	release := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("12345")) })
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/target", http.StatusFound) })
	mux.HandleFunc("/target", func(http.ResponseWriter, *http.Request) { redirected = true })
	mux.HandleFunc("/bomb", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(bomb.Bytes())
	})
	mux.HandleFunc("/headers", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 64<<10)) })
	mux.HandleFunc("/stall", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("1"))
		_ = http.NewResponseController(w).Flush()
		<-release
	})
	s := httptest.NewServer(mux)
	defer s.Close()
	defer close(release) // first: the server waits for those who wait for it
	c := New(Options{Private: true, Plain: true, Timeout: 200 * time.Millisecond})
	if r, err := c.Do(get(t, s.URL+"/ok"), 5); err != nil || string(r.Body) != "12345" {
		t.Errorf("at the limit: %v", err)
	}
	if r, err := c.Do(get(t, s.URL+"/redirect"), 100); err != nil || r.Status != http.StatusFound || redirected {
		t.Errorf("redirect: %v, followed: %v", err, redirected)
	}
	for path, limit := range map[string]int64{"/ok": 4, "/bomb": 1 << 20, "/headers": 100, "/stall": 100} {
		start := time.Now()
		if _, err := c.Do(get(t, s.URL+path), limit); err == nil || time.Since(start) > 1500*time.Millisecond {
			t.Errorf("%s: %v after %v", path, err, time.Since(start))
		}
	}
}

// TestNoProxyFromTheEnvironment cannot be told by asking: Go reads the
// environment once.
func TestNoProxyFromTheEnvironment(t *testing.T) {
	if New(Options{}).http.Transport.(*http.Transport).Proxy != nil {
		t.Error("a proxy of the environment would be used")
	}
}
