package main

import (
	"io"
	"net/http"
	"sync"
	"time"

	"spillway/cmd/spillway/internal/config"
)

// bounded cuts requests that do not move on: a client that takes nothing of its
// answer, or sends nothing of its body, for as long as limits.Stall. One that is
// slow and moves on may take as long as it likes. Bodies are as large as
// limits.BodyBytes at most.
func bounded(next http.Handler, limits config.ServerLimits) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := &pace{ResponseWriter: w, control: http.NewResponseController(w), stall: limits.Stall}
		defer b.end()
		b.clear()
		if r.Body != nil && r.Body != http.NoBody {
			body := r.Body
			if limits.BodyBytes > 0 {
				body = http.MaxBytesReader(w, body, limits.BodyBytes)
			}
			r.Body = &pacedBody{ReadCloser: body, pace: b}
		}
		next.ServeHTTP(b, r)
	})
}

const (
	// paceChunk is how much must be taken within the time.
	paceChunk = 64 << 10
	// paceEvery is how often the deadline is moved at most.
	paceEvery = time.Second
)

// pace moves the deadlines of one request. What it does without is no loss: a
// writer that knows no deadlines is one of a test.
type pace struct {
	http.ResponseWriter
	control *http.ResponseController
	stall   time.Duration

	mu    sync.Mutex // a body may be read after the handler has returned
	ended bool
	wrote time.Time // when the deadline for writing was moved last
}

// Unwrap is for http.ResponseController.
func (b *pace) Unwrap() http.ResponseWriter { return b.ResponseWriter }

func (b *pace) clear() {
	_ = b.control.SetReadDeadline(time.Time{})
	_ = b.control.SetWriteDeadline(time.Time{})
}

// writing gives the client time to take what comes next.
func (b *pace) writing() {
	if now := time.Now(); now.Sub(b.wrote) >= paceEvery {
		b.wrote = now
		_ = b.control.SetWriteDeadline(now.Add(b.stall))
	}
}

// Write writes in pieces, each in a time of its own.
func (b *pace) Write(p []byte) (n int, err error) {
	for len(p) > paceChunk && err == nil {
		var m int
		b.writing()
		m, err = b.ResponseWriter.Write(p[:paceChunk])
		n, p = n+m, p[m:]
	}
	if err != nil {
		return n, err
	}
	b.writing()
	m, err := b.ResponseWriter.Write(p)
	return n + m, err
}

// WriteHeader implements http.ResponseWriter.
func (b *pace) WriteHeader(status int) {
	b.writing()
	b.ResponseWriter.WriteHeader(status)
}

// Flush implements http.Flusher.
func (b *pace) Flush() {
	b.writing()
	_ = b.control.Flush()
}

// end gives what is still in the buffers its time, and touches nothing later.
func (b *pace) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	_ = b.control.SetWriteDeadline(time.Now().Add(b.stall))
	_ = b.control.SetReadDeadline(time.Now().Add(b.stall)) // for the rest of a body; the next request has a time of its own
}

// reading says how long the client may take to send more.
func (b *pace) reading(by time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended {
		_ = b.control.SetReadDeadline(by)
	}
}

// A pacedBody is the body of a request whose client must move on.
type pacedBody struct {
	io.ReadCloser
	pace *pace
}

// Read implements io.Reader. The deadline is only there while somebody waits:
// left behind, it would end a long answer.
func (b *pacedBody) Read(p []byte) (int, error) {
	b.pace.reading(time.Now().Add(b.pace.stall))
	defer b.pace.reading(time.Time{})
	return b.ReadCloser.Read(p)
}
