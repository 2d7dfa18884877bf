package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"spillway/auth/keypair"
	"spillway/cmd/spillway/internal/config"
)

// serveBounded runs a listener with a handler and limits.
func serveBounded(t *testing.T, secure *tls.Config, limits config.ServerLimits, handler http.HandlerFunc) *listener {
	t.Helper()
	l, err := listen("127.0.0.1:0", secure)
	if err != nil {
		t.Fatal(err)
	}
	l.serve(handler, limits, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx, 10*time.Second) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the listener ended with %v", err)
		}
	})
	return l
}

func limitsWith(change func(*config.ServerLimits)) config.ServerLimits {
	l := adminLimits()
	change(&l)
	return l
}

// TestStalledClients: a client that takes nothing of its answer, or sends
// nothing of its body, is cut off; one that is slow is not.
func TestStalledClients(t *testing.T) {
	cert, key, pool := certificate(t)
	pair, err := keypair.Open(cert, key, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	impatient := limitsWith(func(l *config.ServerLimits) { l.Stall = time.Second })
	for name, secure := range map[string]*tls.Config{
		"HTTP1": nil,
		"HTTP2": {GetCertificate: pair.ForServer, NextProtos: []string{"h2"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cut, read := make(chan error, 1), make(chan error, 1)
			l := serveBounded(t, secure, impatient, func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/stalled":
					_, err := w.Write(make([]byte, 64<<20)) // more than all buffers hold
					cut <- err
				case "/slow":
					_, _ = w.Write(make([]byte, 4<<20))
				case "/body":
					_, err := io.ReadAll(r.Body)
					read <- err
				case "/late":
					_, _ = io.Copy(io.Discard, r.Body)
					time.Sleep(2 * impatient.Stall) // no deadline is left behind
					if r.Context().Err() == nil {
						_, _ = io.WriteString(w, "late")
					}
				}
			})
			transport := &http.Transport{}
			base := "http://" + l.Addr().String()
			if secure == nil {
				transport.DialContext = smallBuffers // HTTP/2 has a window of its own
			} else {
				transport.TLSClientConfig, transport.ForceAttemptHTTP2 = &tls.Config{RootCAs: pool}, true
				base = "https://" + l.Addr().String()
			}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport}

			stalled, err := client.Get(base + "/stalled")
			if err != nil {
				t.Fatal(err)
			}
			if err := <-cut; err == nil {
				t.Error("an answer that nobody takes is written to its end")
			}
			_ = stalled.Body.Close()

			slow, err := client.Get(base + "/slow")
			if err != nil {
				t.Fatal(err)
			}
			began, n, piece := time.Now(), 0, make([]byte, 256<<10)
			for {
				m, err := io.ReadFull(slow.Body, piece)
				n += m
				if err != nil {
					if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) || n != 4<<20 {
						t.Errorf("a slow client got %d bytes, %v", n, err)
					}
					break
				}
				time.Sleep(impatient.Stall / 8)
			}
			if took := time.Since(began); took < impatient.Stall {
				t.Errorf("it was not slow: %v", took)
			}
			_ = slow.Body.Close()

			half, write := io.Pipe()
			go func() { _, _ = write.Write([]byte("half")) }()
			answer, err := client.Post(base+"/body", "text/plain", half)
			if err == nil {
				_ = answer.Body.Close()
			}
			if err := <-read; err == nil {
				t.Error("half a body was read to its end")
			}
			_ = write.Close()

			late, err := client.Post(base+"/late", "text/plain", strings.NewReader("all of it"))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(late.Body)
			if err != nil || string(body) != "late" {
				t.Errorf("an answer that takes longer than a stalled client may: %q, %v", body, err)
			}
			_ = late.Body.Close()
		})
	}
}

// smallBuffers connects so that little is on the way.
func smallBuffers(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	if err == nil {
		err = c.(*net.TCPConn).SetReadBuffer(16 << 10)
	}
	return c, err
}

// TestConnectionCap: more connections than are allowed wait, and are served.
func TestConnectionCap(t *testing.T) {
	l := serveBounded(t, nil, limitsWith(func(l *config.ServerLimits) { l.Connections = 1 }), func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "here")
	})
	ask := func(c net.Conn) (string, error) {
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
			return "", err
		}
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return "", err
		}
		defer answer.Body.Close()
		b, err := io.ReadAll(answer.Body)
		return string(b), err
	}
	first, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ask(first); got != "here" || err != nil {
		t.Fatalf("the first: %q, %v", got, err)
	}
	second, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	answered := make(chan string, 1)
	go func() {
		got, err := ask(second)
		if err != nil {
			got = err.Error()
		}
		answered <- got
	}()
	select {
	case got := <-answered:
		t.Errorf("the second was served beside the first: %q", got)
	case <-time.After(200 * time.Millisecond):
	}
	_ = first.Close()
	if got := <-answered; got != "here" {
		t.Errorf("the second: %q", got)
	}
}

// TestBodyLimit: what goes through is as large as the operator allows.
func TestBodyLimit(t *testing.T) {
	up := &asked{}
	upstream := httptest.NewServer(up)
	defer upstream.Close()
	r := start(t, gatewayConfig(t, upstream.URL+"/fhir", config.Flag{Name: "x", Key: "server.limits.body_bytes", Value: "1KiB"}), halves{web: true})
	for size, want := range map[int]int{1 << 10: http.StatusOK, 1<<10 + 1: http.StatusRequestEntityTooLarge, 1 << 20: http.StatusRequestEntityTooLarge} {
		answer, err := r.client.Post("http://"+r.public.Addr().String()+"/fhir/Patient", "application/fhir+json", strings.NewReader(strings.Repeat("a", size)))
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%d bytes: %s", size, answer.Status)
		}
	}
}

// TestUnwantedRequests: what makes a proxy something else than a proxy of one
// server is refused, and the upstream sees nothing of it.
func TestUnwantedRequests(t *testing.T) {
	up := &asked{}
	upstream := httptest.NewServer(up)
	defer upstream.Close()
	r := start(t, gatewayConfig(t, upstream.URL+"/fhir"), halves{web: true})
	for _, test := range []struct {
		name, request string
		want          int
		arrives       bool
	}{
		{"Trace", "TRACE /fhir/Patient/1 HTTP/1.1\r\nHost: h\r\n\r\n", http.StatusMethodNotAllowed, false},
		{"Connect", "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n", http.StatusBadRequest, false},
		{"ConnectPath", "CONNECT /fhir/Patient HTTP/1.1\r\nHost: h\r\n\r\n", http.StatusMethodNotAllowed, false},
		{"ForeignAuthority", "GET http://169.254.169.254/fhir/Patient/1 HTTP/1.1\r\nHost: h\r\n\r\n", http.StatusBadRequest, false},
		{"ForeignKickOff", "POST http://evil.example.org/fhir/Patient/$export HTTP/1.1\r\nHost: evil.example.org\r\nContent-Length: 0\r\n\r\n", http.StatusBadRequest, false},
		{"OwnAuthority", "GET http://" + r.publicURL.Host + "/fhir/Patient/1 HTTP/1.1\r\nHost: h\r\n\r\n", http.StatusOK, true},
		{"WebSocket", "GET /fhir/Patient/1 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", http.StatusNotImplemented, false},
		{"H2C", "GET /fhir/Patient/1 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n", http.StatusOK, true},
		{"Asterisk", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", http.StatusOK, false},
		{"LargeHeader", "GET /fhir/Patient/1 HTTP/1.1\r\nHost: h\r\nX-A: " + strings.Repeat("a", 64<<10) + "\r\n\r\n", http.StatusRequestHeaderFieldsTooLarge, false},
		{"ManyHeaders", "GET /fhir/Patient/1 HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("X-A: aaaaaaaa\r\n", 4000) + "\r\n", http.StatusRequestHeaderFieldsTooLarge, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			up.below("")
			c, err := net.Dial("tcp", r.public.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = io.WriteString(c, test.request) }() // an answer may come before all is sent
			answer, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = answer.Body.Close()
			if answer.StatusCode != test.want || (len(up.below("/fhir/Patient/")) > 0) != test.arrives {
				t.Errorf("%s", answer.Status)
			}
		})
	}
}

// TestSlowHeaders: connections that never get to the end of their headers are
// closed, and those who ask meanwhile are served.
func TestSlowHeaders(t *testing.T) {
	l := serveBounded(t, nil, limitsWith(func(l *config.ServerLimits) { l.ReadHeader, l.Connections = time.Second, 60 }), func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "here")
	})
	closed := make(chan struct{}, 50)
	for range cap(closed) {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		go func() {
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\nX-")
			for { // one byte at a time, for ever
				if _, err := io.WriteString(c, "a"); err != nil {
					closed <- struct{}{}
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		}()
	}
	for range 20 {
		answer, err := http.Get("http://" + l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Errorf("%s", answer.Status)
		}
	}
	for range cap(closed) {
		select {
		case <-closed:
		case <-time.After(30 * time.Second):
			t.Fatal("headers may take for ever")
		}
	}
}
