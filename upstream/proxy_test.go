package upstream

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"spillway/upstream/fhir"
)

// proxyBefore puts a pass-through at public before upstream, both paths, and
// returns its server.
func proxyBefore(t *testing.T, h http.Handler, upstreamPath, publicPath string, edit ...func(*ProxyConfig)) (front, back *httptest.Server) {
	t.Helper()
	back = httptest.NewServer(h)
	t.Cleanup(back.Close)
	front = httptest.NewUnstartedServer(nil)
	c := ProxyConfig{
		Upstream:  parse(t, back.URL+upstreamPath),
		PublicURL: parse(t, "http://"+front.Listener.Addr().String()+publicPath),
		Logger:    slog.New(slog.DiscardHandler),
	}
	for _, e := range edit {
		e(&c)
	}
	p := NewProxy(c)
	front.Config.Handler = p
	front.Start()
	t.Cleanup(front.Close)
	t.Cleanup(p.(*proxy).CloseIdleConnections)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return front, back
}

// talk sends raw bytes and returns the answer.
func talk(t *testing.T, s *httptest.Server, method, request string) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestProxyKeepsTargetsByteForByte(t *testing.T) {
	long := "/fhir/Patient?_id=" + strings.Repeat("a%2Cb,", 32<<10/6)
	for _, tt := range []struct{ upstream, public, target, want string }{
		{"/baseR4", "/fhir", "/fhir/Patient?name=a;b", "/baseR4/Patient?name=a;b"},
		{"/baseR4", "/fhir", "/fhir/Patient?_filter=a%3bb&x=%zz", "/baseR4/Patient?_filter=a%3bb&x=%zz"},
		{"/baseR4", "/fhir", "/fhir/Patient?a=1+2&b=1%202&a=3&a=3", "/baseR4/Patient?a=1+2&b=1%202&a=3&a=3"},
		{"/baseR4", "/fhir", `/fhir/Observation?code=http://loinc.org|1-2,"x"&y={}^`, `/baseR4/Observation?code=http://loinc.org|1-2,"x"&y={}^`},
		{"/baseR4", "/fhir", "/fhir/Binary/a%2Fb/c%2fd", "/baseR4/Binary/a%2Fb/c%2fd"},
		{"/baseR4", "/fhir", "/fhir/a|b/%7E~/$everything/%24x", "/baseR4/a|b/%7E~/$everything/%24x"},
		{"/baseR4", "/fhir", "/fhir//Patient///1//", "/baseR4//Patient///1//"},
		{"/baseR4", "/fhir", "/fhir", "/baseR4"},
		{"/baseR4", "/fhir", "/fhir?", "/baseR4?"},
		{"/baseR4", "/fhir", "/fhir/?", "/baseR4/?"},
		{"/baseR4", "/fhir", "/fhir?_getpages=1", "/baseR4?_getpages=1"},
		{"/baseR4", "/fhir", "/%66hir/Patient", "/baseR4/Patient"},
		{"/baseR4", "/fhir", "http://elsewhere/fhir/Patient?a=b", "/baseR4/Patient?a=b"},
		{"/a%20b/r4", "/x/y", "/x/y/Patient/1", "/a%20b/r4/Patient/1"},
		{"", "/fhir", "/fhir/Patient?a", "/Patient?a"},
		{"", "/fhir", "/fhir?a", "/?a"},
		{"", "/fhir", "/fhir//Patient", "//Patient"},
		{"/fhir", "", "/Patient?a", "/fhir/Patient?a"},
		{"/fhir", "", "/", "/fhir/"},
		{"", "", "/Patient?a=b;c", "/Patient?a=b;c"},
		{"", "", "//evil/x", "//evil/x"},
		{"", "", "/", "/"},
		{"/baseR4", "/fhir", long, "/baseR4" + strings.TrimPrefix(long, "/fhir")},
	} {
		name := tt.target
		if len(name) > 60 {
			name = name[:60]
		}
		t.Run(name, func(t *testing.T) {
			h, sent := record(func(w http.ResponseWriter, _ *http.Request, _ int) { answer(w, "{}") })
			front, _ := proxyBefore(t, h, tt.upstream, tt.public)
			resp, body := talk(t, front, "PUT", "PUT "+tt.target+" HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n\r\n{} \n")
			if resp.StatusCode != 200 || body != "{}" {
				t.Fatalf("answer %d %q", resp.StatusCode, body)
			}
			if got := sent(); len(got) != 1 || got[0].line != "PUT "+tt.want || got[0].body != "{} \n" {
				t.Errorf("upstream saw %q\nwant         %q", got[0].line, "PUT "+tt.want)
			}
		})
	}
}

func TestProxyRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, request string
		status        int
		issue         fhir.IssueCode
	}{
		{"Outside", "GET /other HTTP/1.1", 404, fhir.IssueNotFound},
		{"OutsideByASuffix", "GET /fhirX/Patient HTTP/1.1", 404, fhir.IssueNotFound},
		{"EncodedSlashInTheBase", "GET /fhir%2fPatient HTTP/1.1", 404, fhir.IssueNotFound},
		{"Asterisk", "OPTIONS * HTTP/1.1", 0, ""},
		{"Trace", "TRACE /fhir/Patient HTTP/1.1", 405, fhir.IssueNotSupported},
		{"Connect", "CONNECT evil:443 HTTP/1.1", 405, fhir.IssueNotSupported},
		{"DotSegments", "GET /fhir/../admin HTTP/1.1", 400, fhir.IssueInvalid},
		{"DotSegmentsInside", "GET /fhir/./Patient HTTP/1.1", 400, fhir.IssueInvalid},
		{"EncodedDots", "GET /fhir/%2e%2E/admin HTTP/1.1", 400, fhir.IssueInvalid},
		{"EncodedSlashDots", "GET /fhir/x%2f..%2fadmin HTTP/1.1", 400, fhir.IssueInvalid},
		{"Backslash", `GET /fhir/x%5c..%5cadmin HTTP/1.1`, 400, fhir.IssueInvalid},
		{"PathParameter", "GET /fhir/..;x=y/admin HTTP/1.1", 400, fhir.IssueInvalid},
		{"WebSocket", "GET /fhir/ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: WebSocket", 501, fhir.IssueNotSupported},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, sent := record(func(w http.ResponseWriter, _ *http.Request, _ int) {})
			front, _ := proxyBefore(t, h, "/baseR4", "/fhir")
			resp, body := talk(t, front, "GET", tt.request+"\r\nHost: here\r\nConnection: close\r\n\r\n")
			if len(sent()) != 0 {
				t.Errorf("upstream saw %q", sent()[0].line)
			}
			if tt.status == 0 {
				return // net/http answers by itself
			}
			issues, err := fhir.ReadOutcome([]byte(body))
			if resp.StatusCode != tt.status || err != nil || issues[0].Code != tt.issue || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/fhir+json") {
				t.Errorf("answer %d %s, %v", resp.StatusCode, body, err)
			}
		})
	}
}

func TestProxyHeaders(t *testing.T) {
	h, sent := record(func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "1")
		w.Header().Set("Keep-Alive", "timeout=5")
		w.Header().Set("ETag", `W/"3"`)
		w.Header().Set("X-Request-Id", "7")
		w.Header().Set("WWW-Authenticate", "Bearer")
		w.WriteHeader(401)
	})
	front, back := proxyBefore(t, h, "/baseR4", "/fhir")
	resp, _ := talk(t, front, "GET", strings.Join([]string{
		"GET /fhir/Patient HTTP/1.1", "Host: spoofed.example",
		"Authorization: Bearer caller", "Cookie: a=b", "Accept: application/fhir+xml", "If-None-Match: W/\"2\"", "Prefer: handling=lenient",
		"Connection: Authorization, X-Gw-User, Upgrade, HTTP2-Settings", "X-Gw-User: root", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
		"X-Forwarded-For: 1.2.3.4", "X-Forwarded-Host: evil", "x_forwarded_host: evil", "X-Forwarded-Proto: https", "X-Forwarded-Prefix: /evil", "X-Forwarded-Port: 1",
		"Forwarded: for=1.2.3.4;host=evil", "Via: 1.1 evil", "X-HTTP-Method-Override: DELETE", "X-Original-URL: /admin", "X-Rewrite-URL: /admin", "X-Real-IP: 1.2.3.4",
		"Proxy-Authorization: Basic x", "TE: gzip", "Trailer: X", "Keep-Alive: 5", "", "",
	}, "\r\n"))
	got := sent()[0].header
	want := http.Header{
		"Authorization": {"Bearer caller"}, "Cookie": {"a=b"}, "Accept": {"application/fhir+xml"}, "If-None-Match": {`W/"2"`}, "Prefer": {"handling=lenient"},
		"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {front.Listener.Addr().String()}, "X-Forwarded-Proto": {"http"},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("upstream saw %v\nwant         %v", got, want)
	}
	if host := sent()[0].host; host != back.Listener.Addr().String() {
		t.Errorf("upstream saw host %q", host)
	}
	if resp.StatusCode != 401 || resp.Header.Get("WWW-Authenticate") != "Bearer" || resp.Header.Get("ETag") != `W/"3"` || resp.Header.Get("X-Request-Id") != "7" {
		t.Errorf("answer %d %v", resp.StatusCode, resp.Header)
	}
	if resp.Header.Get("X-Hop") != "" || resp.Header.Get("Keep-Alive") != "" {
		t.Errorf("hop-by-hop headers came back: %v", resp.Header)
	}
}

// Where a request came from is believed of a trusted proxy alone, which stands
// behind it then.
func TestProxyForwardedFor(t *testing.T) {
	p := &proxy{to: testPlace(t, "http://up:8080/baseR4"), public: &url.URL{}, trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	for _, tt := range []struct{ peer, chain, want string }{
		{"192.0.2.1:1", "", "192.0.2.1"}, {"192.0.2.1:1", "203.0.113.9", "192.0.2.1"}, {"10.0.0.1:1", "", "10.0.0.1"},
		{"10.0.0.1:1", "203.0.113.9", "203.0.113.9, 10.0.0.1"}, {"10.0.0.1:1", "198.51.100.1, 203.0.113.9", "198.51.100.1, 203.0.113.9, 10.0.0.1"},
		{"[::ffff:10.0.0.1]:1", "203.0.113.9", "203.0.113.9, ::ffff:10.0.0.1"},
	} {
		in := httptest.NewRequest(http.MethodGet, "/Patient", nil)
		in.RemoteAddr = tt.peer
		in = in.WithContext(context.WithValue(in.Context(), passageKey{}, &passage{target: "/baseR4/Patient"}))
		if tt.chain != "" {
			in.Header.Set("X-Forwarded-For", tt.chain)
		}
		pr := &httputil.ProxyRequest{In: in, Out: in.Clone(in.Context())}
		p.rewrite(pr)
		if got := pr.Out.Header.Get("X-Forwarded-For"); got != tt.want {
			t.Errorf("%s after %q: %q, want %q", tt.peer, tt.chain, got, tt.want)
		}
	}
}

func TestProxyLocation(t *testing.T) {
	const public = "https://export.example/fhir"
	p := &proxy{to: testPlace(t, "http://up:8080/baseR4", "https://fhir.internal/r4"), public: parse(t, public)}
	for _, tt := range []struct{ in, want string }{
		{"http://up:8080/baseR4/Patient/1/_history/1", public + "/Patient/1/_history/1"},
		{"HTTP://UP:8080/baseR4/Patient/1", public + "/Patient/1"},
		{"http://up:8080/baseR4", public},
		{"http://up:8080/baseR4?_getpages=a;b#f", public + "?_getpages=a;b#f"},
		{"https://fhir.internal/r4/Patient/a%2Fb?x=%20+", public + "/Patient/a%2Fb?x=%20+"},
		{"//up:8080/baseR4/Patient/1", public + "/Patient/1"},
		{"/baseR4/Patient/1", "/fhir/Patient/1"},
		{"/baseR4", "/fhir"},
		{"Patient/1/_history/1", "Patient/1/_history/1"},
		{"/other/Patient/1", "/other/Patient/1"},
		{"http://up:8080/baseR4X/Patient/1", "http://up:8080/baseR4X/Patient/1"},
		{"http://up:8081/baseR4/Patient/1", "http://up:8081/baseR4/Patient/1"},
		{"https://login.example/authorize?x=1", "https://login.example/authorize?x=1"},
		{"http://u:p@up:8080/baseR4/x", "http://u:p@up:8080/baseR4/x"},
		{"urn:uuid:1", "urn:uuid:1"},
		{"%zz", "%zz"},
		{"", ""},
	} {
		if got := p.publicLocation(tt.in); got != tt.want {
			t.Errorf("publicLocation(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
	h, _ := record(func(w http.ResponseWriter, r *http.Request, _ int) {
		w.Header().Set("Location", "http://"+r.Host+"/baseR4/Patient/1/_history/1")
		w.Header().Set("Content-Location", "/baseR4/Patient/1")
		w.WriteHeader(201)
	})
	front, _ := proxyBefore(t, h, "/baseR4", "/fhir")
	resp, _ := talk(t, front, "POST", "POST /fhir/Patient HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
	if l, cl := resp.Header.Get("Location"), resp.Header.Get("Content-Location"); l != front.URL+"/fhir/Patient/1/_history/1" || cl != "/fhir/Patient/1" {
		t.Errorf("Location %q, Content-Location %q", l, cl)
	}
}

func TestProxyUpstreamAway(t *testing.T) {
	var logged bytes.Buffer
	quiet := func(c *ProxyConfig) {
		c.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
		c.Timeout = 50 * time.Millisecond
	}
	release := make(chan struct{})
	front, back := proxyBefore(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/fhir/hang/secret":
			<-release
		case "/fhir/garbage/secret":
			conn, buf, _ := http.NewResponseController(w).Hijack()
			_, _ = buf.WriteString("HTTP/1.1 secret\r\n\r\n")
			_ = buf.Flush()
			_ = conn.Close()
		case "/fhir/switch/secret":
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "secret")
			w.WriteHeader(http.StatusSwitchingProtocols)
		}
	}), "/fhir", "/fhir", quiet)
	check := func(path string, status int, code fhir.IssueCode) {
		t.Helper()
		resp, err := http.Get(front.URL + "/fhir/" + path + "?name=secret")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		issues, err := fhir.ReadOutcome(body)
		if resp.StatusCode != status || err != nil || issues[0].Code != code || bytes.Contains(body, []byte("secret")) {
			t.Errorf("%s: answer %d %s, %v", path, resp.StatusCode, body, err)
		}
		resp, err = http.Head(front.URL + "/fhir/" + path)
		if err != nil || resp.StatusCode != status {
			t.Errorf("HEAD %s: %v, %v", path, resp, err)
		}
	}
	check("hang/secret", 504, fhir.IssueTimeout)
	close(release)
	check("garbage/secret", 502, fhir.IssueTransient)
	check("switch/secret", 502, fhir.IssueTransient)
	back.Close()
	check("Patient/secret", 502, fhir.IssueTransient)
	if s := logged.String(); strings.Contains(s, "secret") || !strings.Contains(s, "connection refused") {
		t.Errorf("logged %s", s)
	}
}

// What comes from one side is at the other before more is sent.
func TestProxyStreams(t *testing.T) {
	t.Run("Down", func(t *testing.T) {
		more := make(chan string)
		front, _ := proxyBefore(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).Flush()
			for s := range more {
				_, _ = io.WriteString(w, s)
				_ = http.NewResponseController(w).Flush()
			}
		}), "/fhir", "/fhir")
		resp, err := http.Get(front.URL + "/fhir/Binary/1")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b := make([]byte, 5)
		for i := range 20 {
			s := fmt.Sprintf("%05d", i)
			more <- s
			if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != s {
				t.Fatalf("read %q, %v; want %q", b, err, s)
			}
		}
		close(more)
		if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
			t.Errorf("rest %q, %v", rest, err)
		}
	})
	t.Run("Up", func(t *testing.T) {
		arrived := make(chan string)
		front, _ := proxyBefore(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			defer close(arrived)
			b := make([]byte, 5)
			for {
				if _, err := io.ReadFull(r.Body, b); err != nil {
					return
				}
				arrived <- string(b)
			}
		}), "/fhir", "/fhir")
		in, out := io.Pipe()
		done := make(chan error, 1)
		go func() {
			resp, err := http.Post(front.URL+"/fhir/Binary", "application/octet-stream", in)
			if err == nil {
				_ = resp.Body.Close()
			}
			done <- err
		}()
		for i := range 20 {
			s := fmt.Sprintf("%05d", i)
			_, _ = io.WriteString(out, s)
			if got := <-arrived; got != s {
				t.Fatalf("upstream read %q, want %q", got, s)
			}
		}
		_ = out.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestProxyLargeBodies(t *testing.T) {
	body := make([]byte, 20<<20)
	for i := range body {
		body[i] = byte(rand.Uint32())
	}
	front, _ := proxyBefore(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		_, _ = io.Copy(h, r.Body)
		w.Header().Set("X-Sum", fmt.Sprintf("%x", h.Sum(nil)))
		w.Header().Set("Content-Encoding", "gzip") // not ours to judge
		_, _ = w.Write(body)
	}), "/fhir", "/fhir")
	req, _ := http.NewRequest("POST", front.URL+"/fhir/Binary", bytes.NewReader(body))
	req.Header.Set("Accept-Encoding", "gzip")
	req.Header.Set("Expect", "100-continue")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(got, body) || resp.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("answer of %d bytes, %v, %v", len(got), resp.Header, err)
	}
	if want := fmt.Sprintf("%x", sha256.Sum256(body)); resp.Header.Get("X-Sum") != want {
		t.Error("another body arrived than was sent")
	}
}

func TestProxyExpectContinue(t *testing.T) {
	var took string
	front, _ := proxyBefore(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.WriteHeader(401)
			return
		}
		b, _ := io.ReadAll(r.Body)
		took = string(b)
	}), "/fhir", "/fhir")
	begin := func(header string) (net.Conn, *bufio.Reader) {
		conn, err := net.Dial("tcp", front.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "POST /fhir/Patient HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n"+header+"Content-Length: 4\r\n\r\n")
		return conn, bufio.NewReader(conn)
	}
	conn, r := begin("Authorization: Bearer x\r\n")
	defer conn.Close()
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 100 {
		t.Fatalf("before the body came %v, %v", resp, err)
	}
	_, _ = io.WriteString(conn, "body")
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 200 || took != "body" {
		t.Fatalf("answer %v, %v to %q", resp, err, took)
	}
	// Who is refused at once need not send a body.
	conn, r = begin("")
	defer conn.Close()
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 401 {
		t.Errorf("answer %v, %v", resp, err)
	}
}

func TestRecorderKeepsTheUpstreamsContinue(t *testing.T) {
	w := httptest.NewRecorder()
	rec := &recorder{ResponseWriter: w}
	rec.WriteHeader(http.StatusContinue)
	rec.WriteHeader(http.StatusCreated)
	if w.Code != http.StatusCreated || rec.status != http.StatusCreated {
		t.Errorf("the client saw %d, the metrics %d", w.Code, rec.status)
	}
}

func TestProxyHead(t *testing.T) {
	front, _ := proxyBefore(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "12345")
		w.Header().Set("X-Method", r.Method)
	}), "/fhir", "/fhir")
	resp, err := http.Head(front.URL + "/fhir/Patient/1")
	if err != nil {
		t.Fatal(err)
	}
	if resp.ContentLength != 12345 || resp.Header.Get("X-Method") != "HEAD" {
		t.Errorf("answer %+v", resp)
	}
}

// An upstream that dies in the middle must not look like one that has ended.
func TestProxyCutIsVisible(t *testing.T) {
	for name, length := range map[string]string{"Chunked": "", "Counted": "1000"} {
		t.Run(name, func(t *testing.T) {
			reg := prometheus.NewRegistry()
			front, _ := proxyBefore(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if length != "" {
					w.Header().Set("Content-Length", length)
				}
				_, _ = io.WriteString(w, "half")
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}), "/fhir", "/fhir", func(c *ProxyConfig) { c.Registerer = reg })
			resp, err := http.Get(front.URL + "/fhir/Patient")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if b, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("read %q, %v; want ErrUnexpectedEOF", b, err)
			}
			front.Close() // waits for the handler
			wantMetric(t, reg, `spillway_passthrough_requests_total{class="cut",method="GET"} 1`)
		})
	}
}

func TestProxyCallerLeaves(t *testing.T) {
	reg := prometheus.NewRegistry()
	asked, left := make(chan struct{}), make(chan struct{})
	front, _ := proxyBefore(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
		close(left)
	}), "/fhir", "/fhir", func(c *ProxyConfig) { c.Registerer = reg })
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "GET", front.URL+"/fhir/Patient", nil)
	done := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		done <- err
	}()
	<-asked
	cancel()
	<-left // else the test hangs
	if err := <-done; err == nil {
		t.Error("the caller got an answer")
	}
	front.Close()
	wantMetric(t, reg, `spillway_passthrough_requests_total{class="canceled",method="GET"} 1`)
}

// A client that breaks off its own body is not the upstream's fault.
func TestProxyBrokenRequestBody(t *testing.T) {
	var logged bytes.Buffer
	front, _ := proxyBefore(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	}), "/fhir", "/fhir", func(c *ProxyConfig) { c.Logger = slog.New(slog.NewTextHandler(&logged, nil)) })
	proxy := front.Config.Handler
	limit := 0
	front.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if limit > 0 {
			r.Body = http.MaxBytesReader(w, r.Body, int64(limit))
		}
		proxy.ServeHTTP(w, r)
	})
	resp, body := talk(t, front, "POST", "POST /fhir/Patient HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n")
	if resp.StatusCode != 400 || !strings.Contains(body, "broke off") {
		t.Errorf("answer %d %s", resp.StatusCode, body)
	}
	limit = 10
	resp, body = talk(t, front, "POST", "POST /fhir/Patient HTTP/1.1\r\nHost: h\r\nContent-Length: 20\r\n\r\n"+strings.Repeat("x", 20))
	if resp.StatusCode != 413 || !strings.Contains(body, "too large") {
		t.Errorf("answer %d %s", resp.StatusCode, body)
	}
	if logged.Len() > 0 {
		t.Errorf("logged %s", &logged)
	}
}

func TestProxyTrailers(t *testing.T) {
	front, _ := proxyBefore(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, "body")
		w.Header().Set("X-Sum", "7")
	}), "/fhir", "/fhir")
	resp, err := http.Get(front.URL + "/fhir/Patient")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); string(b) != "body" || err != nil || resp.Trailer.Get("X-Sum") != "7" {
		t.Errorf("body %q, %v, trailers %v", b, err, resp.Trailer)
	}
}

func TestProxyMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	h, _ := record(func(w http.ResponseWriter, r *http.Request, _ int) {
		if r.Method == "PROPFIND" {
			w.WriteHeader(405)
		}
	})
	front, _ := proxyBefore(t, h, "/fhir", "/fhir", func(c *ProxyConfig) { c.Registerer = reg })
	for _, method := range []string{"GET", "GET", "PROPFIND", "TRACE"} {
		req, _ := http.NewRequest(method, front.URL+"/fhir/Patient/1", nil)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	front.Close()
	wantMetric(t, reg, `spillway_passthrough_requests_total{class="2xx",method="GET"} 2`,
		`spillway_passthrough_requests_total{class="4xx",method="other"} 2`)
	wantMetric(t, reg, "spillway_passthrough_in_flight 0")
	// A second one on the same registry shares the metrics.
	NewProxy(ProxyConfig{Upstream: parse(t, "http://x"), Registerer: reg})
}

func TestProxyConfiguration(t *testing.T) {
	for name, c := range map[string]ProxyConfig{
		"NoUpstream": {},
		"BadPublic":  {Upstream: parse(t, "http://x/fhir"), PublicURL: parse(t, "/fhir")},
		"BadAlias":   {Upstream: parse(t, "http://x/fhir"), Aliases: []*url.URL{parse(t, "ftp://x")}},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("NewProxy takes it")
				}
			}()
			NewProxy(c)
		})
	}
}

// Neither side takes a proxy from the environment, or adds to the encoding.
func TestTransports(t *testing.T) {
	tr := newTransport("up", nil)
	if tr.Proxy != nil || !tr.DisableCompression || tr.IdleConnTimeout >= 30*time.Second || tr.TLSClientConfig.MinVersion < 0x0303 {
		t.Errorf("transport %+v", tr)
	}
}

// wantMetric looks for lines as a scrape shows them.
func wantMetric(t *testing.T, reg *prometheus.Registry, lines ...string) {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	got := strings.Split(w.Body.String(), "\n")
	for _, l := range lines {
		if !slices.Contains(got, l) {
			t.Errorf("metrics\n%s\nlack %s", w.Body, l)
		}
	}
}
