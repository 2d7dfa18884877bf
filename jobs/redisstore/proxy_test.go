package redisstore_test

import (
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// toxic puts a toxiproxy before a server.
func toxic(t *testing.T, upstream string) *toxiproxy.Proxy {
	t.Helper()
	p := toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), "redis", "127.0.0.1:0", upstream)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

// poison adds a toxic, such as {"type":"timeout"}, until the returned function is called.
func poison(t *testing.T, p *toxiproxy.Proxy, toxic string) (cure func()) {
	t.Helper()
	added, err := p.Toxics.AddToxicJson(strings.NewReader(toxic))
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := p.Toxics.RemoveToxic(t.Context(), added.Name); err != nil {
			t.Error(err)
		}
	}
}

// A loser is a proxy that can lose one answer: the request has come through,
// but instead of the answer the connection ends.
type loser struct {
	addr string
	lose atomic.Bool // the next answer
}

func newLoser(t *testing.T, upstream string) *loser {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &loser{addr: listener.Addr().String()}
	var all sync.WaitGroup
	t.Cleanup(func() {
		_ = listener.Close()
		all.Wait()
	})
	all.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", upstream)
			if err != nil {
				_ = client.Close()
				continue
			}
			all.Go(func() { l.copy(server, client, false) })
			all.Go(func() { l.copy(client, server, true) })
		}
	})
	return l
}

// copy copies until one end is closed, and then closes both.
func (l *loser) copy(to, from net.Conn, answers bool) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil || answers && l.lose.CompareAndSwap(true, false) {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}
