package gateway

import (
	"context"
	"errors"
	"net/http"
	"time"

	"spillway/jobs"
	"spillway/storage"
	"spillway/upstream/fhir"
)

// linksTimeout is for all links of one manifest. Most services sign without
// being asked; some are asked for each.
const linksTimeout = 10 * time.Second

// linked reports whether clients fetch the files of an export from the storage
// itself. That is so for all of them or for none, since a manifest says once
// whether they need a token, and a request with a token breaks a link.
func (s *server) linked(job *jobs.Job) bool {
	if s.Links == nil || s.LinkTTL <= 0 {
		return false
	}
	for _, f := range job.Files {
		if f.Composed == "" {
			return false // exported before links were wanted
		}
	}
	return true
}

// links makes a fresh URL for each file of an export, by the file's name: for all
// of them, or it fails. None outlives the export.
func (s *server) links(ctx context.Context, job *jobs.Job) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, linksTimeout)
	defer cancel()
	ttl := s.LinkTTL
	if !job.ExpiresAt.IsZero() {
		ttl = min(ttl, max(job.ExpiresAt.Sub(s.now()), time.Second))
	}
	links := make(map[string]string, len(job.Files))
	for _, f := range job.Files {
		link, err := s.Links.Link(ctx, f.Composed, ttl, delivery(f))
		switch {
		case errors.Is(err, storage.ErrNotFound):
			return nil, damaged(f.Type, err)
		case err != nil:
			return nil, refuse(http.StatusServiceUnavailable, fhir.IssueTransient,
				"The links to the files of this export cannot be made at the moment; try again later.").retryAfter(retryStorage).because(err)
		}
		links[f.Name] = link
	}
	return links, nil
}

// delivery says how a composed file is declared. Package export said the same
// when it composed the file.
func delivery(f jobs.File) storage.Delivery {
	d := storage.Delivery{ContentType: ndjson, Filename: f.Name}
	if len(f.Segments) > 0 && f.Segments[0].Encoding == jobs.EncodingGzip {
		d.ContentEncoding = "gzip"
	}
	return d
}
