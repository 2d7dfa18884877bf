package bucket

import (
	"context"
	"errors"
	"fmt"

	"gocloud.dev/blob"
	"golang.org/x/sync/errgroup"

	"spillway/storage"
)

const (
	// removePasses is how often the bucket is listed again, because objects
	// were written meanwhile or a list was stale.
	removePasses = 10
	// removers send requests that delete a single object.
	removers = 16
)

// RemoveAll deletes every object below prefix, and ends the uploads below it
// that were not committed, where the service can list those.
func (s *Store) RemoveAll(ctx context.Context, prefix string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(prefix) == 0 || prefix[len(prefix)-1] != '/' || !storage.ValidKey(prefix[:len(prefix)-1]) {
		return fmt.Errorf("bucket: RemoveAll of something that is no folder: %w", storage.ErrBadKey)
	}
	if err := s.service.sweep(ctx, s.prefix+prefix); err != nil {
		return err
	}
	for range removePasses {
		found, err := s.removePass(ctx, s.prefix+prefix)
		if err != nil || !found {
			return err
		}
	}
	return fmt.Errorf("bucket %s: removing objects: some are still there after %d passes", s.name, removePasses)
}

// removePass deletes what a list shows, and reports whether it showed anything.
func (s *Store) removePass(ctx context.Context, prefix string) (found bool, err error) {
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(2) // one batch goes while the next page comes
	var batch []string
	for token := blob.FirstPageToken; len(token) > 0; {
		page, next, err := s.page(gctx, prefix, token)
		if err != nil {
			if gerr := group.Wait(); gerr != nil { // which may have ended the listing
				err = gerr
			}
			return false, err
		}
		for _, o := range page {
			batch = append(batch, o.Key)
		}
		if len(batch) > 0 {
			keys := batch
			batch, found = nil, true
			group.Go(func() error { return s.service.remove(gctx, keys) })
		}
		token = next
	}
	return found, group.Wait()
}

// removeEach deletes keys by a request for each.
func removeEach(ctx context.Context, keys []string, remove func(context.Context, string) error) error {
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(removers)
	for _, key := range keys {
		group.Go(func() error {
			if err := remove(gctx, key); !errors.Is(err, storage.ErrNotFound) {
				return err
			}
			return nil
		})
	}
	return group.Wait()
}
