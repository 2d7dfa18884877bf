//go:build e2e

package chaos

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// reply is an HTTP answer, read to its end.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// plain sends and receives bytes as they are on the wire.
var plain = &http.Client{
	Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64},
	Timeout:   2 * time.Minute,
}

// ask sends one request. Headers are "Name: value". An error means that no
// whole answer came.
func ask(ctx context.Context, method, url string, headers ...string) (reply, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return reply{}, err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	answer, err := plain.Do(r)
	if err != nil {
		return reply{}, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return reply{}, fmt.Errorf("status %d, then the body: %w", answer.StatusCode, err)
	}
	return reply{status: answer.StatusCode, header: answer.Header, body: body}, nil
}

// must is ask with an answer of this status.
func must(t testing.TB, status int, method, url string, headers ...string) reply {
	t.Helper()
	r, err := ask(t.Context(), method, url, headers...)
	if err != nil {
		t.Fatal(err)
	}
	if r.status != status {
		t.Fatalf("%s: status %d, want %d: %.500s", method, r.status, status, r.body)
	}
	return r
}

// kickOffHeaders are what a kick-off needs.
var kickOffHeaders = []string{"Accept: application/fhir+json", "Prefer: respond-async"}

// kickOff starts an export through a replica or the front and returns the
// status URL.
func kickOff(t testing.TB, origin string, query ...string) string {
	t.Helper()
	r := must(t, http.StatusAccepted, http.MethodGet, origin+"/fhir/$export?"+strings.Join(query, "&"), kickOffHeaders...)
	location := r.header.Get("Content-Location")
	if _, err := url.Parse(location); err != nil || location == "" {
		t.Fatalf("Content-Location %q", location)
	}
	return location
}

// jobID is the id of the export that a status URL names.
func jobID(statusURL string) string { return statusURL[strings.LastIndexByte(statusURL, '/')+1:] }

// through is a URL of the public address, asked for at another origin.
func through(origin, address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	return origin + u.RequestURI()
}

// waitEnd polls until the export has ended, one way or another. What else than
// 200 and 202 the client puts up with is for tolerate to say; nil: nothing.
func waitEnd(ctx context.Context, statusURL string, tolerate func(reply, error) bool) (reply, error) {
	for {
		r, err := ask(ctx, http.MethodGet, statusURL)
		switch {
		case ctx.Err() != nil:
			return reply{}, fmt.Errorf("the export did not end in time: %w", context.Cause(ctx))
		case err == nil && r.status == http.StatusOK:
			return r, nil
		case err == nil && r.status == http.StatusAccepted:
		case tolerate != nil && tolerate(r, err):
		case err != nil:
			return reply{}, fmt.Errorf("a poll failed: %w", err)
		default:
			return r, fmt.Errorf("a poll was answered %d: %.500s", r.status, r.body)
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// away tolerates that nobody answers at the moment.
func away(r reply, err error) bool {
	return err != nil || r.status == http.StatusBadGateway || r.status == http.StatusServiceUnavailable
}

// finish waits until an export is complete, downloads all of it, and fails the
// test unless it is exact. It returns the manifest.
func finish(t testing.TB, statusURL string, resources int, within time.Duration, tolerate func(reply, error) bool) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	r, err := waitEnd(ctx, statusURL, tolerate)
	if err != nil {
		t.Fatal(err)
	}
	if err := exact(r.body, resources, func(url string) ([]byte, error) { return download(ctx, url, tolerate) }); err != nil {
		t.Fatalf("the export is not exact: %v", err)
	}
	return r.body
}

// download returns the bytes of a file as gzip.
func download(ctx context.Context, url string, tolerate func(reply, error) bool) ([]byte, error) {
	for {
		r, err := ask(ctx, http.MethodGet, url, "Accept-Encoding: gzip")
		switch {
		case err == nil && r.status == http.StatusOK && r.header.Get("Content-Encoding") == "gzip":
			return r.body, nil
		case ctx.Err() != nil || tolerate == nil || !tolerate(r, err):
			return nil, fmt.Errorf("a download was answered %d: %.500s (%w)", r.status, r.body, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// isOutcome reports whether the body is an OperationOutcome.
func (r reply) isOutcome() bool { return bytes.Contains(r.body, []byte(`"OperationOutcome"`)) }

// eventually polls until something is true.
func eventually(t testing.TB, within time.Duration, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", within, what)
		}
	}
}
