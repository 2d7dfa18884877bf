package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// The measurement of what is passed through: so many connections, each of which
// asks again as soon as it has its answer of a kilobyte.
const (
	passConnections = 32
	passRound       = 3 * time.Second
	passWarm        = time.Second
	passRounds      = 7 // of each proxy, in turn; the machine does not stay the same for long
)

// passThrough compares the gateway with Caddy, a reverse proxy that is known to
// be fast and built on the same library, before one upstream that does next to
// nothing.
func (b *bench) passThrough(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "spillway-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	upstream, err := start(ctx, "", self, "-serve-kilobyte")
	if err != nil {
		return err
	}
	defer upstream.stop()
	caddy, err := startCaddy(ctx, b.caddy, dir, upstream.url)
	if err != nil {
		return err
	}
	defer caddy.stop()
	spillway, err := startGateway(ctx, b.spillway, dir, upstream.url)
	if err != nil {
		return err
	}
	defer spillway.stop()

	proxies := []*server{caddy, spillway}
	var measured [2][]passage
	for range passRounds {
		for i, p := range proxies {
			one, err := load(ctx, p, passRound)
			if err != nil {
				return err
			}
			measured[i] = append(measured[i], one)
		}
	}
	direct, err := load(ctx, upstream, passRound)
	if err != nil {
		return err
	}
	var ratio, later, cpu []float64
	for i := range passRounds {
		c, s := measured[0][i], measured[1][i]
		ratio = append(ratio, s.rate()/c.rate())
		later = append(later, 1e3*(s.p99-c.p99).Seconds())
		cpu = append(cpu, s.cpuEach()/c.cpuEach())
	}
	for _, v := range [][]float64{ratio, later, cpu} {
		slices.Sort(v)
	}
	p99 := func(p passage) float64 { return 1e3 * p.p99.Seconds() }
	r := &b.report
	r.add("the upstream of the pass-through by itself", "requests/s", "%.0f", "", direct.rate())
	r.add("pass-through by Caddy", "requests/s", "%.0f", "", spread(measured[0], passage.rate)...)
	r.add("pass-through", "requests/s", "%.0f", "", spread(measured[1], passage.rate)...)
	r.add("pass-through against Caddy's, same round", "ratio", "%.2f", "at least 0.90", ratio...)
	r.add("pass-through by Caddy, p99", "ms", "%.2f", "", spread(measured[0], p99)...)
	r.add("pass-through, p99", "ms", "%.2f", "", spread(measured[1], p99)...)
	r.add("pass-through, p99 beyond Caddy's, same round", "ms more", "%.2f", "at most 0.5", later...)
	r.add("CPU of a passed request against Caddy's, same round", "ratio", "%.2f", "", cpu...)
	return nil
}

// A passage is one round of load on one server.
type passage struct {
	requests int
	wall     time.Duration
	p99      time.Duration
	cpu      time.Duration // of the server
}

func (p passage) rate() float64    { return float64(p.requests) / p.wall.Seconds() }
func (p passage) cpuEach() float64 { return p.cpu.Seconds() / float64(p.requests) }

// load asks over all connections until the round is over. What it does itself is
// as little as can be, since it shares the cores with what is measured.
func load(ctx context.Context, s *server, round time.Duration) (passage, error) {
	at, err := url.Parse(s.url)
	if err != nil {
		return passage{}, err
	}
	ask := []byte("GET " + at.Path + "/Patient/1 HTTP/1.1\r\nHost: " + at.Host + "\r\nAccept: application/fhir+json\r\nUser-Agent: bench\r\n\r\n")
	var waits [passConnections][]time.Duration
	warm := time.Now().Add(passWarm)
	end := warm.Add(round)
	g, ctx := errgroup.WithContext(ctx)
	for i := range waits {
		g.Go(func() error {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", at.Host)
			if err != nil {
				return err
			}
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			in := bufio.NewReader(conn)
			for began := time.Now(); began.Before(end); {
				if _, err := conn.Write(ask); err != nil {
					return err
				}
				if err := readAnswer(in); err != nil {
					return err
				}
				now := time.Now()
				if began.After(warm) {
					waits[i] = append(waits[i], now.Sub(began))
				}
				began = now
			}
			return nil
		})
	}
	time.Sleep(time.Until(warm))
	cpu := s.cpu()
	err = g.Wait()
	var all []time.Duration
	for _, w := range waits {
		all = append(all, w...)
	}
	if err == nil && len(all) == 0 {
		err = errors.New("no request was answered in a whole round")
	}
	if err != nil {
		return passage{}, err
	}
	slices.Sort(all)
	return passage{requests: len(all), wall: time.Since(warm), p99: all[len(all)*99/100], cpu: s.cpu() - cpu}, nil
}

// readAnswer reads an answer of status 200 that says how long it is.
func readAnswer(in *bufio.Reader) error {
	length := -1
	for first := true; ; first = false {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
			return fmt.Errorf("pass-through: %q", line)
		}
		if len(line) == 2 {
			break
		}
		const name = "content-length:"
		if len(line) > len(name) && strings.EqualFold(string(line[:len(name)]), name) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(name):]))); err != nil {
				return err
			}
		}
	}
	if length != kilobyte {
		return fmt.Errorf("pass-through: an answer of %d bytes", length)
	}
	_, err := in.Discard(length)
	return err
}

const kilobyte = 1024

// serveKilobyte is an upstream that answers whatever it is asked at once, with
// a resource of a kilobyte. Standard output gets its base; the end of standard
// input ends it.
func serveKilobyte() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("http://%s/fhir\n", l.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = l.Close()
	}()
	resource := fmt.Appendf(nil, `{"resourceType":"Patient","id":"1","language":%q}`, strings.Repeat("x", kilobyte))
	resource = append(resource[:kilobyte-2], `"}`...)
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/fhir+json;charset=utf-8")
		h.Set("ETag", `W/"1"`)
		h.Set("Last-Modified", "Fri, 02 Jan 2026 03:04:05 GMT")
		switch { // what the gateway wants to know
		case strings.HasSuffix(r.URL.Path, "/metadata"):
			_, _ = io.WriteString(w, `{"resourceType":"CapabilityStatement","fhirVersion":"4.0.1","rest":[{"mode":"server"}]}`)
			return
		case r.URL.RawQuery != "", r.Method == http.MethodPost:
			_, _ = io.WriteString(w, `{"resourceType":"Bundle","type":"searchset","total":0}`)
			return
		}
		h.Set("Content-Length", strconv.Itoa(len(resource)))
		_, _ = w.Write(resource)
	})
	if err := (&http.Server{Handler: answer, ReadHeaderTimeout: time.Minute}).Serve(l); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// startCaddy starts Caddy before the upstream, as its documentation says and
// without what it does not need for it.
func startCaddy(ctx context.Context, program, dir, upstream string) (*server, error) {
	to, err := url.Parse(upstream)
	if err != nil {
		return nil, err
	}
	listen, err := freeAddress()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "Caddyfile")
	text := fmt.Sprintf("{\n\tadmin off\n\tauto_https off\n\tpersist_config off\n\tlog {\n\t\tlevel ERROR\n\t}\n}\nhttp://%s {\n\treverse_proxy %s\n}\n", listen, to.Host)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	s, err := startQuiet(ctx, program, "run", "--adapter", "caddyfile", "--config", config)
	if err != nil {
		return nil, err
	}
	s.url = "http://" + listen + to.Path
	return s, s.ready(ctx)
}

// startGateway starts Spillway before the upstream.
func startGateway(ctx context.Context, program, dir, upstream string) (*server, error) {
	listen, err := freeAddress()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "spillway.yaml")
	text := fmt.Sprintf("upstream: {url: %q}\nserver: {listen: %q, admin_listen: \"127.0.0.1:0\"}\nstore: {bolt: {path: %q}}\nstorage: {disk: {path: %q}}\nlog: {level: warn}\n",
		upstream, listen, filepath.Join(dir, "jobs.db"), filepath.Join(dir, "files"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	s, err := startQuiet(ctx, program, "serve", "--config", config)
	if err != nil {
		return nil, err
	}
	s.url = "http://" + listen + "/fhir"
	return s, s.ready(ctx)
}

// ready waits until a server answers, and stops it if it does not.
func (s *server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		resp, err := get(ctx, s.url+"/Patient/1")
		if err == nil {
			_ = resp.Body.Close()
			return nil
		}
		if err := pause(ctx, err); err != nil {
			s.stop()
			return err
		}
	}
}
