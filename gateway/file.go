package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"spillway/auth"
	"spillway/auth/audit"
	"spillway/jobs"
	"spillway/upstream/fhir"
)

const (
	chunkBytes   = 128 << 10
	chunkTimeout = 2 * time.Minute // for a client to take one chunk

	// firstTimeout is for the storage to give the first bytes of a file. Until
	// then a client can be told to come again.
	firstTimeout = 20 * time.Second

	ndjson = "application/fhir+ndjson"
)

// A representation is a file in one encoding: what a response has as its body.
type representation struct {
	encoding jobs.Encoding
	size     int64
	tag      string // strong entity tag, with quotes
}

// represent describes a file in an encoding that it offers.
func represent(f jobs.File, encoding jobs.Encoding) representation {
	rep := representation{encoding: encoding, size: fileSizeAs(f, encoding)}
	hash := sha256.New()
	for _, s := range f.Segments {
		_, _ = fmt.Fprintf(hash, "%s %d %d\n", s.SHA256, s.Size, s.StoredSize) // a hash takes everything
	}
	rep.tag = `"` + hex.EncodeToString(hash.Sum(nil)[:16]) + "-" + string(encoding) + `"`
	return rep
}

// file sends a file of a completed export: whole or one range, as stored or
// inflated. What is sent has the length that was announced, or the connection
// breaks. Storage keys come from the job, never from the request.
func (s *server) file(w http.ResponseWriter, r *http.Request) error {
	job, principal, err := s.exportInTime(w, r)
	if err != nil {
		return err
	}
	f, found := fileNamed(job, mux.Vars(r)["name"])
	if !found {
		return noSuchExport()
	}
	rep := represent(f, jobs.EncodingIdentity)
	if offers(f, jobs.EncodingGzip) && acceptsGzip(r.Header) {
		rep = represent(f, jobs.EncodingGzip)
	}
	if listsTag(strings.Join(r.Header.Values("If-None-Match"), ","), rep.tag) {
		guard(w.Header())
		rep.validators(w.Header())
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	part, status := span{length: rep.size}, http.StatusOK
	if asked, ok := readRange(r.Header.Get("Range"), rep.size); ok && r.Method == http.MethodGet && rep.holds(r.Header.Get("If-Range")) {
		if asked.length == 0 {
			return refuse(http.StatusRequestedRangeNotSatisfiable, fhir.IssueValue, "The range lies outside of the file.").
				with("Content-Range", fmt.Sprintf("bytes */%d", rep.size))
		}
		part, status = asked, http.StatusPartialContent
	}
	announce := func() {
		h := w.Header()
		guard(h)
		rep.validators(h)
		h.Set("Content-Type", ndjson)
		h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": f.Name}))
		h.Set("Content-Length", strconv.FormatInt(part.length, 10))
		if rep.encoding == jobs.EncodingGzip {
			h.Set("Content-Encoding", "gzip")
		}
		if status == http.StatusPartialContent {
			h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part.first, part.first+part.length-1, rep.size))
		}
		w.WriteHeader(status)
	}
	if r.Method == http.MethodHead {
		announce()
		return nil
	}
	ended, err := s.recordDownload(w, r, principal, job, f)
	if err != nil {
		return err
	}
	defer ended(part.length)
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	late := time.AfterFunc(firstTimeout, func() { cancel(errLate) })
	body, err := OpenFile(ctx, s.Storage, f, rep.encoding, part.first)
	if err == nil {
		defer func() { _ = body.Close() }() // only read from
		err = s.send(w, r, body, part.length, func() {
			late.Stop()
			announce()
		})
	}
	if err != nil && errors.Is(context.Cause(ctx), errLate) {
		return fmt.Errorf("%w: %w", ErrUnread, errLate)
	}
	return err
}

// errLate is the cause of a download's end that did not begin in time.
var errLate = fmt.Errorf("no byte came within %v", firstTimeout)

// exportInTime is export for requests that ask the store for nothing else.
func (s *server) exportInTime(w http.ResponseWriter, r *http.Request) (*jobs.Job, auth.Principal, error) {
	ctx, cancel := context.WithTimeout(r.Context(), storeTimeout)
	defer cancel()
	return s.export(ctx, w, r, s.limits.downloads)
}

// recordDownload records that a file is about to be sent, and returns what records
// how that ended, when whole is how much should have been sent.
func (s *server) recordDownload(w http.ResponseWriter, r *http.Request, p auth.Principal, job *jobs.Job, f jobs.File) (ended func(whole int64), err error) {
	event, began := s.event(r, audit.KindDownload, audit.OutcomeBegun), time.Now()
	by(&event, p)
	event.Job, event.File, event.Resources, event.Delivery = string(job.ID), f.Name, f.Count, "gateway"
	event.SHA256 = jobs.Digest(f)
	if err := s.record(r.Context(), event); err != nil {
		return nil, err
	}
	return func(whole int64) {
		event.Outcome, event.Bytes, event.Duration = audit.OutcomeFailed, bytesOf(w), time.Since(began)
		if o, ok := w.(*observed); event.Bytes == whole && (!ok || o.status/100 == 2) {
			event.Outcome = audit.OutcomeDone
		}
		s.note(r.Context(), event)
	}, nil
}

// fileNamed looks a file up among those of a completed export.
func fileNamed(job *jobs.Job, name string) (jobs.File, bool) {
	if job.State == jobs.Completed {
		for _, f := range job.Files {
			if f.Name == name {
				return f, true
			}
		}
	}
	return jobs.File{}, false
}

// holds reports whether an If-Range header is absent or names rep. Dates never
// do, since no Last-Modified is sent.
func (rep representation) holds(ifRange string) bool { return ifRange == "" || ifRange == rep.tag }

func (rep representation) validators(h http.Header) {
	h.Set("ETag", rep.tag)
	h.Set("Vary", "Accept-Encoding")
	h.Set("Accept-Ranges", "bytes")
}

// send writes length bytes of body. Until the first of them is read, an error
// can still be answered; after that it breaks the connection, which is the only
// way to say that a body is not whole. Each chunk has its own deadline, so that
// a slow client may take its time and one that hangs may not.
func (s *server) send(w http.ResponseWriter, r *http.Request, body io.Reader, length int64, announce func()) error {
	control := http.NewResponseController(w)
	chunk := make([]byte, min(chunkBytes, max(length, 1)))
	announced := false
	for left := length; left > 0; {
		n, err := io.ReadFull(body, chunk[:min(int64(len(chunk)), left)])
		if err != nil {
			if err = brokenFile(err); !announced {
				return err
			}
			if !errors.Is(err, context.Canceled) {
				s.logger.ErrorContext(r.Context(), "a download was broken off", "route", routeFile, "error", loggable(err))
			}
			panic(http.ErrAbortHandler)
		}
		if !announced {
			announce()
			announced = true
		}
		deadline(control, time.Now().Add(chunkTimeout))
		if _, err := w.Write(chunk[:n]); err != nil {
			panic(http.ErrAbortHandler) // the client has gone; nobody to tell
		}
		left -= int64(n)
	}
	if !announced { // an empty file
		announce()
	}
	_ = control.Flush()            // the last bytes go under the last deadline;
	deadline(control, time.Time{}) // later requests on the connection have their own
	return nil
}

// brokenFile names an early end of a file for what it is.
func brokenFile(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: its segments are shorter than the file", ErrDamaged)
	}
	return err
}

// deadline sets the write deadline where the connection has one.
func deadline(control *http.ResponseController, t time.Time) {
	_ = control.SetWriteDeadline(t) // recorders in tests have none
}
