package bucket

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"spillway/storage"
)

const (
	// checkOutage is how long Check waits for a service that does not answer.
	checkOutage = 5 * time.Second
	// checkCredentials is how long credentials may take to be found.
	checkCredentials = 20 * time.Second
	// checkFolder is where Check writes.
	checkFolder = "spillway-check/"
)

// Check does with the bucket all that an export does: it lists, writes, reads,
// reads a range, begins an upload in parts and ends it, and deletes. The error
// says which of these failed, why, and what to do. warnings are settings that
// work but keep or show data for longer or to more people than intended.
func (s *Store) Check(ctx context.Context) (warnings []string, err error) {
	p, err := s.probe(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.Close() }()
	cctx, cancel := context.WithTimeout(ctx, checkCredentials)
	defer cancel()
	if err := p.service.credentials(cctx); err != nil {
		return nil, fmt.Errorf("bucket %s: %w", s.name, err)
	}
	folder := checkFolder + rand.Text() + "/"
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		_ = p.RemoveAll(ctx, folder) // a failure has been met before
	}()
	for _, step := range p.steps(folder, &warnings) {
		if err := step.do(ctx); err != nil {
			return nil, p.explain(ctx, step.name, err)
		}
	}
	s.blind.Store(p.blind.Load())
	ictx, cancel := context.WithTimeout(ctx, checkOutage)
	defer cancel()
	return append(warnings, p.service.inspect(ictx)...), nil
}

// probe opens the same bucket with less patience.
func (s *Store) probe(ctx context.Context) (*Store, error) {
	return Open(ctx, Options{URL: s.url, Logger: slog.New(slog.DiscardHandler), MaxOutage: min(checkOutage, s.outage)})
}

type step struct {
	name string // after "cannot"
	do   func(context.Context) error
}

func (s *Store) steps(folder string, warnings *[]string) []step {
	key, content := folder+"object", []byte("written by the start-up check of spillway\n")
	put := func(ctx context.Context) error {
		return s.put(ctx, key, &payload{bytes: content}, meta{Delivery: storage.Delivery{ContentType: mediaType}, tag: rand.Text()})
	}
	read := func(ctx context.Context, offset, length int64, want []byte) error {
		r, err := s.Open(ctx, key, offset, length)
		if err != nil {
			return err
		}
		got, err := io.ReadAll(r)
		_ = r.Close()
		if err == nil && !bytes.Equal(got, want) {
			err = errors.New("what is read is not what was written; does object storage answer at this address?")
		}
		return err
	}
	return []step{
		{"list", func(ctx context.Context) error { return first(s.List(ctx, folder)) }},
		{"write", put},
		{"write to a taken key", func(ctx context.Context) error {
			err := put(ctx)
			if err == nil || s.blind.Load() {
				*warnings = append(*warnings, "The service does not know writes on condition (If-None-Match): two writers to one key at the same moment overwrite each other.")
			}
			if errors.Is(err, storage.ErrExists) {
				return nil
			}
			return err
		}},
		{"read", func(ctx context.Context) error { return read(ctx, 0, -1, content) }},
		{"read a range", func(ctx context.Context) error { return read(ctx, 3, 7, content[3:10]) }},
		{"upload in parts", func(ctx context.Context) error {
			u, err := s.service.begin(ctx, s.prefix+folder+"parts", meta{tag: rand.Text()})
			if err != nil {
				return err
			}
			return u.abort(ctx)
		}},
		{"read without credentials", func(ctx context.Context) error {
			if s.public(ctx, key) {
				*warnings = append(*warnings, "The bucket is public: everybody can read an object whose name they know. Take public access away from it.")
			}
			return nil
		}},
		{"delete", func(ctx context.Context) error {
			if err := s.RemoveAll(ctx, folder); err != nil {
				return err
			}
			if _, err := s.Stat(ctx, key); !errors.Is(err, storage.ErrNotFound) {
				return errors.Join(err, errors.New("what was deleted is still there"))
			}
			return nil
		}},
	}
}

func first(list func(func(storage.Object, error) bool)) (err error) {
	list(func(_ storage.Object, e error) bool {
		err = e
		return false
	})
	return err
}

// public fetches an object without a signature.
func (s *Store) public(ctx context.Context, key string) bool {
	link, err := s.service.link(ctx, s.prefix+key, time.Minute)
	if err != nil {
		return false // nobody can tell where it is
	}
	bare, _, _ := strings.Cut(link, "?")
	response, err := fetch(ctx, bare)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// CheckLinks composes a small object, fetches it by a link as a client would,
// and compares what comes. The error says what to do.
func (s *Store) CheckLinks(ctx context.Context) error {
	p, err := s.probe(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	folder := checkFolder + rand.Text() + "/"
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		_ = p.RemoveAll(ctx, folder) // what stays is a few bytes
	}()
	err = p.checkLinks(ctx, folder)
	s.noCopy.Store(p.noCopy.Load())
	return err
}

func (s *Store) checkLinks(ctx context.Context, folder string) error {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = w.Write([]byte("{}\n")) // to memory
	_ = w.Close()
	head, tail := packed.Bytes()[:10], packed.Bytes()[10:]
	m := meta{Delivery: storage.Delivery{ContentType: mediaType}, tag: rand.Text()}
	if err := s.put(ctx, folder+"segment", &payload{bytes: packed.Bytes()}, m); err != nil {
		return s.explain(ctx, "write", err)
	}
	d := storage.Delivery{ContentType: "application/fhir+ndjson", ContentEncoding: "gzip", Filename: "check.ndjson"}
	parts := []storage.Part{{Bytes: head}, {Key: folder + "segment", Offset: int64(len(head)), Length: int64(len(tail))}}
	if err := s.Compose(ctx, folder+"file", parts, d); err != nil {
		return s.explain(ctx, "compose an object", err)
	}
	link, err := s.Link(ctx, folder+"file", time.Minute, d)
	if err != nil {
		return s.explain(ctx, "sign links", err)
	}
	response, err := fetch(ctx, link)
	if err != nil {
		return fmt.Errorf("bucket %s: cannot fetch a link: %w; clients must reach the address of the bucket, and so must this check", s.name, bare(err))
	}
	defer func() { _ = response.Body.Close() }()
	got, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	switch {
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("bucket %s: a link was answered %s; the credentials that sign it must be allowed to read", s.name, response.Status)
	case err != nil || !bytes.Equal(got, packed.Bytes()):
		return fmt.Errorf("bucket %s: a link gave other bytes than were composed", s.name)
	case response.Header.Get("Content-Type") != d.ContentType, response.Header.Get("Content-Encoding") != d.ContentEncoding:
		return fmt.Errorf("bucket %s: a link declared %q, %q instead of %q, %q", s.name, response.Header.Get("Content-Type"),
			response.Header.Get("Content-Encoding"), d.ContentType, d.ContentEncoding)
	}
	return nil
}

// fetch asks for a URL and takes what comes as it is.
func fetch(ctx context.Context, link string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, link, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept-Encoding", "gzip") // set by hand, so nothing is inflated
	c := &http.Client{Timeout: checkCredentials, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}}
	return c.Do(r)
}

// explain says what a failed step means for whoever sets the bucket up.
func (s *Store) explain(ctx context.Context, step string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f, ok := errors.AsType[*failure](err)
	if !ok {
		return fmt.Errorf("bucket %s: cannot %s: %w", s.name, step, err)
	}
	a := f.answer
	advice := s.service.advise(a, step)
	if advice == "" {
		advice = a.advice()
	}
	what := a.String()
	if text := a.sentence(); text != "" {
		what += " (" + text + ")"
	}
	if advice != "" {
		what += "; " + advice
	}
	return &checkError{sentence: fmt.Sprintf("bucket %s: cannot %s: %s", s.name, step, what), is: f}
}

// A checkError is a failure told with what to do about it.
type checkError struct {
	sentence string
	is       error
}

func (e *checkError) Error() string { return e.sentence }
func (e *checkError) Unwrap() error { return e.is }

// sentence is the service's own, where it may help.
func (a answer) sentence() string {
	const most = 240
	text, _, _ := strings.Cut(strings.TrimSpace(a.text), "\n")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return strings.TrimSuffix(text, ".")
}

// advice is what all services have in common.
func (a answer) advice() string {
	var dns *net.DNSError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	switch {
	case a.kind() == full:
		return "make space, or raise the quota"
	case a.status >= http.StatusInternalServerError:
		return "the service is in trouble; try again later"
	case a.status != 0:
		return ""
	case errors.As(a.err, &dns):
		return "there is no such host: correct the address of the service, or its region, in the URL"
	case errors.As(a.err, &authority), errors.As(a.err, &host):
		return "its certificate is not trusted: give its authority by SSL_CERT_FILE (or AWS_CA_BUNDLE), or correct the address"
	}
	return "is the address right, and may this machine reach it?"
}
