package export

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"

	"golang.org/x/sync/errgroup"

	"spillway/jobs"
	"spillway/storage"
)

// composing is how many files are composed at once. Each takes several requests
// to the storage, most of whose time is spent waiting.
const composing = 4

// composedFiles is the checkpoint of a finish unit: the keys of the files that
// are composed already, by what they consist of.
type composedFiles map[string]string

// compose makes one object of each file, where links to files are wanted. What
// an earlier attempt has composed of the same segments is not made again.
func (a *attempt) compose(ctx context.Context, files []jobs.File) error {
	if a.c.Links == nil {
		return nil
	}
	made := make(composedFiles)
	if a.lease.Checkpoint != nil {
		if err := json.Unmarshal(a.lease.Checkpoint, &made); err != nil {
			return fmt.Errorf("export: checkpoint of %s: %w", a.lease.Unit.ID, err)
		}
	}
	before := maps.Clone(made)
	var mu sync.Mutex // of made, and of the order of checkpoints
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(composing)
	for i := range files {
		f := &files[i]
		id := contentOf(*f)
		g.Go(func() error {
			if key := before[id]; key != "" {
				switch _, err := a.c.Storage.Stat(ctx, key); {
				case err == nil:
					f.Composed = key
					return nil
				case !errors.Is(err, storage.ErrNotFound):
					return unwritten("looking for a composed file", err)
				}
			}
			// The end is the name that the file has once it is inflated. The
			// folder keeps it apart from segments of this attempt.
			key := a.prefix + "files/" + f.Name
			if err := a.c.Links.Compose(ctx, key, partsOf(*f), delivery(*f)); err != nil {
				return unwritten("composing a file", err)
			}
			f.Composed = key
			mu.Lock()
			defer mu.Unlock()
			made[id], a.kept = key, true
			b, err := json.Marshal(made)
			if err != nil {
				return err
			}
			return a.save(ctx, b)
		})
	}
	return g.Wait()
}

// contentOf names what a file consists of.
func contentOf(f jobs.File) string {
	h := sha256.New()
	for _, s := range f.Segments {
		_, _ = fmt.Fprintln(h, s.Key) // a hash takes everything
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// partsOf returns the pieces of a file: of gzip segments one member, of which the
// first segment gives the header as well.
func partsOf(f jobs.File) []storage.Part {
	parts := make([]storage.Part, 0, len(f.Segments)+1)
	for i, s := range f.Segments {
		p := storage.Part{Key: s.Key, Length: s.StoredSize}
		if s.Encoding == jobs.EncodingGzip {
			p.Offset, p.Length = s.Blocks()
			if i == 0 { // every header is the same
				p.Offset, p.Length = 0, p.Offset+p.Length
			}
		}
		parts = append(parts, p)
	}
	if f.Segments[0].Encoding == jobs.EncodingGzip {
		parts = append(parts, storage.Part{Bytes: f.Trailer()})
	}
	return parts
}

// delivery says how a composed file is declared. Package gateway says the same
// when it makes a link.
func delivery(f jobs.File) storage.Delivery {
	d := storage.Delivery{ContentType: "application/fhir+ndjson", Filename: f.Name}
	if f.Segments[0].Encoding == jobs.EncodingGzip {
		d.ContentEncoding = "gzip"
	}
	return d
}
