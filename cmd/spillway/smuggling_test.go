package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// asked records the requests of an upstream: method, path and body.
type asked struct {
	sync.Mutex
	lines []string
}

func (a *asked) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // it broke off, which every server sees
	}
	a.Lock()
	a.lines = append(a.lines, fmt.Sprintf("%s %s %q", r.Method, r.URL.Path, body))
	a.Unlock()
	w.Header().Set("Content-Type", "application/fhir+json")
	_, _ = io.WriteString(w, `{"resourceType":"Bundle","type":"searchset","total":0}`)
}

// below returns what came for a path that begins so, and forgets everything.
func (a *asked) below(prefix string) []string {
	a.Lock()
	defer a.Unlock()
	var found []string
	for _, line := range a.lines {
		if _, path, _ := strings.Cut(line, " "); strings.HasPrefix(path, prefix) {
			found = append(found, line)
		}
	}
	a.lines = nil
	return found
}

// Two servers that do not agree where a request ends can be made to see a
// request that one of them has never looked at. So what is ambiguous is refused,
// and what arrives at the upstream is one request, framed anew by us.
func TestRequestsCannotBeSmuggled(t *testing.T) {
	up := &asked{}
	upstream := httptest.NewServer(up)
	defer upstream.Close()
	r := start(t, gatewayConfig(t, upstream.URL+"/fhir"), halves{web: true})

	const hidden = "GET /fhir/Secret/1 HTTP/1.1\r\nHost: h\r\n\r\n"
	chunked := func(s string) string { return fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(s), s) }
	for _, tt := range []struct {
		name, request string
		status        string   // of the first answer; "": the connection ends without one, or with 400
		upstream      []string // what it may see
	}{
		{"OK", "POST /fhir/Open/_search HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\na=b", "200", []string{`POST /fhir/Open/_search "a=b"`}},
		{"OKChunked", "POST /fhir/Open/_search HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked("a=b"), "200", []string{`POST /fhir/Open/_search "a=b"`}},
		{"OKBodyThatLooksLikeARequest", fmt.Sprintf("POST /fhir/Open/_search HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", len(hidden), hidden), "200",
			[]string{fmt.Sprintf("POST /fhir/Open/_search %q", hidden)}},
		// RFC 9112, 6.1: Transfer-Encoding wins; what follows the last chunk is the next request, for everybody.
		{"LengthBesideChunked", "POST /fhir/Open HTTP/1.1\r\nHost: h\r\nContent-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked("a=b"), "200",
			[]string{`POST /fhir/Open "a=b"`}},
		{"TwoLengths", "POST /fhir/Open HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 60\r\n\r\na=b" + hidden, "", nil},
		{"ListOfLengths", "POST /fhir/Open HTTP/1.1\r\nHost: h\r\nContent-Length: 3, 60\r\n\r\na=b" + hidden, "", nil},
		{"SignedLength", "POST /fhir/Open HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\na=b" + hidden, "", nil},
		{"TwoEncodings", "POST /fhir/Open HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n" + chunked("a=b"), "501", nil},
		{"EncodingTwice", "POST /fhir/Open HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n" + chunked("a=b"), "501", nil},
		{"EncodingWithTab", "POST /fhir/Open HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked\r\nContent-Length: 3\r\n\r\na=b", "400", nil},
		{"SpaceBeforeColon", "POST /fhir/Open HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\nContent-Length: 3\r\n\r\na=b", "", nil},
		{"FoldedHeader", "POST /fhir/Open HTTP/1.1\r\nHost: h\r\nX: a\r\n Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\na=b", "200", []string{`POST /fhir/Open "a=b"`}},
		{"ChunkSizeWithSign", "POST /fhir/Open HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\na=b\r\n0\r\n\r\n", "", nil},
		{"ChunkLongerThanItsSize", "POST /fhir/Open HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na=bGET /fhir/Secret/1\r\n0\r\n\r\n", "", nil},
		{"ChunkExtensionWithLineFeed", "POST /fhir/Open HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;x\na=b\r\n0\r\n\r\n", "", nil},
		{"HeaderInTheTrailer", "POST /fhir/Open HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n3\r\na=b\r\n0\r\nContent-Length: 60\r\n\r\n", "", nil},
		{"NulInHeader", "GET /fhir/Open HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n\r\n", "400", nil},
		{"ReturnInHeader", "GET /fhir/Open HTTP/1.1\r\nHost: h\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n", "400", nil},
		{"TwoHosts", "GET /fhir/Open HTTP/1.1\r\nHost: h\r\nHost: evil\r\n\r\n", "400", nil},
		{"NoHost", "GET /fhir/Open HTTP/1.1\r\n\r\n", "400", nil},
		{"HostWithPath", "GET /fhir/Open HTTP/1.1\r\nHost: h/evil\r\n\r\n", "400", nil},
		// The chunks are no body in this version, and no request either.
		{"OldVersionWithChunks", "POST /fhir/Open HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n" + chunked("a=b"), "200", []string{`POST /fhir/Open ""`}},
		{"NoVersion", "GET /fhir/Secret/1\r\n\r\n", "400", nil},
		{"SpaceInPath", "GET /fhir/Open HTTP/1.1 /fhir/Secret/1 HTTP/1.1\r\nHost: h\r\n\r\n", "400", nil},
		{"MethodOfTwoLines", "GET\n/fhir/Secret/1 HTTP/1.1\r\nHost: h\r\n\r\n", "400", nil},
		{"PrefaceOfHTTP2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "", nil},
		{"UpgradeToHTTP2", "GET /fhir/Open HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", "200",
			[]string{`GET /fhir/Open ""`}},
		{"Connect", "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n", "", nil},
		{"Trace", "TRACE /fhir/Open HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer canary\r\n\r\n", "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			up.below("")
			status, all := speak(t, r.public.Addr().String(), tt.request)
			if tt.status != "" && status != tt.status || tt.status == "" && status != "" && status[0] != '4' {
				t.Errorf("status %q, want %q\n%s", status, tt.status, all)
			}
			got := up.below("")
			for _, line := range got {
				if _, target, _ := strings.Cut(line, " "); strings.HasPrefix(target, "/fhir/Secret") {
					t.Errorf("a hidden request arrived: %s", line)
				}
			}
			var open []string
			for _, line := range got {
				if !strings.Contains(line, "/fhir/metadata") && !strings.Contains(line, "/fhir/End") {
					open = append(open, line)
				}
			}
			if fmt.Sprint(open) != fmt.Sprint(tt.upstream) {
				t.Errorf("the upstream saw %q, want %q", open, tt.upstream)
			}
			if strings.Contains(all, "canary") {
				t.Errorf("the credential came back: %s", all)
			}
		})
	}
}

// speak sends bytes as they are and, once they were answered, a last request on
// the same connection. It returns the first status, and all that came.
func speak(t *testing.T, address, request string) (status, all string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(conn, request)
	var seen bytes.Buffer
	in := bufio.NewReader(io.TeeReader(conn, &seen))
	if first, err := http.ReadResponse(in, nil); err == nil {
		_, _ = io.Copy(io.Discard, first.Body)
		status = strconv.Itoa(first.StatusCode)
		_, _ = io.WriteString(conn, "GET /fhir/End HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	}
	_, _ = io.Copy(io.Discard, in)
	return status, seen.String()
}
