//go:build e2e

package e2e

import (
	"context"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
)

// slowDownload is a download of which the first bytes have arrived.
type slowDownload struct {
	body io.ReadCloser
	got  []byte
	err  error
}

// newSlowDownload begins to download. Its receive buffer is small, so that the
// gateway cannot have sent everything already.
func newSlowDownload(t *testing.T, url string) *slowDownload {
	t.Helper()
	dialer := &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) }); e != nil {
			return e
		}
		return err
	}}
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := (&http.Transport{DialContext: dialer.DialContext, DisableCompression: true, DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	d := &slowDownload{body: answer.Body, got: make([]byte, 1024)}
	if _, err := io.ReadFull(d.body, d.got); err != nil {
		t.Fatal(err)
	}
	return d
}

// rest reads what is left.
func (d *slowDownload) rest() {
	defer d.body.Close()
	more, err := io.ReadAll(d.body)
	d.got, d.err = append(d.got, more...), err
}

func (d *slowDownload) content(t *testing.T) []byte {
	t.Helper()
	if d.err != nil {
		t.Errorf("the download broke off: %v", d.err)
	}
	return d.got
}
