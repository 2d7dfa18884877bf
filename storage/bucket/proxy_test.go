package bucket

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"
)

// A proxy stands before a service and does what a bad network or a service in
// trouble does.
type proxy struct {
	address string
	rename  bool // the service gets its own name as Host; without, that which is signed

	mu       sync.Mutex
	fault    fault
	requests int
}

// A fault decides what becomes of one request. It does nothing by returning
// false; the request then goes on to the service.
type fault func(w http.ResponseWriter, r *http.Request) bool

type ctxKey struct{}

// newProxy starts a proxy that ends with the test.
func newProxy(t *testing.T, service string) *proxy {
	p := &proxy{}
	reverse := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: service})
			if !p.rename {
				r.Out.Host = r.In.Host
			}
			r.Out.URL.RawQuery = r.In.URL.RawQuery
		},
		ModifyResponse: func(r *http.Response) error {
			if limit, ok := r.Request.Context().Value(ctxKey{}).(responseFault); ok {
				r.Body = limit(r.Body)
			}
			return nil
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ErrorLog:     discard(),
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.requests++
		f := p.fault
		p.mu.Unlock()
		if f == nil || !f(w, r) {
			reverse.ServeHTTP(w, r)
		}
	}))
	server.Config.ErrorLog = discard()
	server.Start()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	p.address = server.Listener.Addr().String()
	return p
}

// set puts a fault in place; nil ends it. It returns how many requests there
// were since the last call.
func (p *proxy) set(f fault) (requests int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	requests, p.requests = p.requests, 0
	p.fault = f
	return requests
}

// status answers instead of the service.
func status(code int, name string) fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/xml")
		w.Header().Set("X-Ms-Error-Code", name)
		w.WriteHeader(code)
		_, _ = io.WriteString(w, "<Error><Code>"+name+"</Code><Message>as the test says</Message></Error>")
		return true
	}
}

// cut breaks the connection before the service sees the request.
func cut(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }

// stall takes a request and says nothing until the client goes.
func stall(_ http.ResponseWriter, r *http.Request) bool {
	_, _ = io.Copy(io.Discard, r.Body) // so that the end of the connection is seen
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

// only applies a fault to requests of a method.
func only(method string, f fault) fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		return r.Method == method && f(w, r)
	}
}

// times applies a fault to the first n requests that it would apply to.
func times(n int, f fault) fault {
	var mu sync.Mutex
	return func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		on := n > 0
		if on {
			n--
		}
		mu.Unlock()
		return on && f(w, r)
	}
}

var errCut = errors.New("cut by the test")

// requestCut lets n bytes of a body through to the service and then breaks
// both connections.
func requestCut(n int64) fault {
	return func(_ http.ResponseWriter, r *http.Request) bool {
		r.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, n), failing{}))
		return false
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errCut }

// A responseFault changes the body of an answer.
type responseFault func(io.ReadCloser) io.ReadCloser

// onResponse passes the request on and changes the answer's body.
func onResponse(f responseFault) fault {
	return func(_ http.ResponseWriter, r *http.Request) bool {
		*r = *r.WithContext(contextWith(r.Context(), f))
		return false
	}
}

// responseCut breaks the connection after n bytes of an answer, if there are
// more; after none, it is the whole answer that is lost.
func responseCut(n int64) responseFault {
	return func(body io.ReadCloser) io.ReadCloser { return &cutBody{body, n, n == 0} }
}

type cutBody struct {
	io.ReadCloser
	left int64
	lost bool
}

func (c *cutBody) Read(b []byte) (int, error) {
	if c.lost {
		return 0, errCut
	}
	if c.left == 0 {
		if n, _ := io.ReadFull(c.ReadCloser, b[:1]); n > 0 {
			return 0, errCut
		}
		return 0, io.EOF
	}
	n, err := c.ReadCloser.Read(b[:min(c.left, int64(len(b)))])
	c.left -= int64(n)
	return n, err
}

// responsePaced delivers an answer in pieces of n bytes with pauses.
func responsePaced(n int, pause time.Duration) responseFault {
	return func(body io.ReadCloser) io.ReadCloser { return &paced{body, n, pause} }
}

type paced struct {
	io.ReadCloser
	n     int
	pause time.Duration
}

func (p *paced) Read(b []byte) (int, error) {
	time.Sleep(p.pause)
	return p.ReadCloser.Read(b[:min(len(b), p.n)])
}
