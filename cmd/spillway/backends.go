package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path"
	"strings"
	"time"

	"spillway/cmd/spillway/internal/config"
	"spillway/jobs"
	"spillway/jobs/boltstore"
	"spillway/jobs/redisstore"
	"spillway/storage/bucket"
	"spillway/storage/disk"
)

// openStore opens the job store that is configured.
func (e *engine) openStore(ctx context.Context, c *config.Config, log *slog.Logger) error {
	if e.shared {
		s, err := openRedis(ctx, c, log)
		if err != nil {
			return err
		}
		e.store, e.closers = s, append(e.closers, s.Close)
		for _, w := range s.Warnings() {
			e.warnings = append(e.warnings, config.KeyRedisURL+": "+w)
		}
		return nil
	}
	s, err := boltstore.Open(c.Store.BoltPath, limitsOf(c))
	if err != nil {
		return fmt.Errorf("cannot open the job store: %w", err)
	}
	e.store, e.closers = s, append(e.closers, s.Close)
	return nil
}

// openRedis connects, and finds out whether the store can work there.
func openRedis(ctx context.Context, c *config.Config, log *slog.Logger) (*redisstore.Store, error) {
	ctx, cancel := context.WithTimeout(ctx, openWithin)
	defer cancel()
	r := c.Store.Redis
	s, err := redisstore.Open(ctx, redisstore.Options{
		URL: r.URL, Username: r.Username, Password: r.Password, KeyPrefix: r.KeyPrefix,
		CAFile: r.CAFile, CertFile: r.CertFile, KeyFile: r.KeyFile, AllowInsecure: r.AllowInsecure, RecordKey: r.RecordKey,
		Limits: limitsOf(c), Logger: log,
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", config.KeyRedisURL, err)
	}
	return s, nil
}

// openFiles opens the storage that is configured.
func (e *engine) openFiles(ctx context.Context, c *config.Config, log *slog.Logger) error {
	if c.Storage.Bucket.URL != "" {
		s, warnings, err := openBucket(ctx, c, log)
		if err != nil {
			return err
		}
		e.files, e.links, e.closers = s, s, append(e.closers, s.Close)
		for _, w := range warnings {
			e.warnings = append(e.warnings, config.KeyBucketURL+": "+w)
		}
		return nil
	}
	minFree := c.Storage.MinFree
	if minFree == 0 {
		minFree = -1 // 0 would mean the default
	}
	o := disk.Options{MinFree: minFree, Logger: log}
	if c.Storage.Packed {
		o.Pack, o.PackSize = packOf, c.Export.FileSize
	}
	s, err := disk.Open(c.Storage.DiskPath, o)
	if err != nil {
		return fmt.Errorf("cannot open the storage: %w", err)
	}
	e.locate = s.Locate
	e.files, e.closers = s, append(e.closers, s.Close)
	return nil
}

// packOf names the pack of a segment after its type; "" for what is no segment.
func packOf(key string) string {
	if _, name, ok := strings.Cut(path.Base(key), "."); ok && strings.HasSuffix(name, ".ndjson") {
		return name
	}
	return ""
}

// openBucket opens the bucket and does in it what an export will do.
func openBucket(ctx context.Context, c *config.Config, log *slog.Logger) (*bucket.Store, []string, error) {
	ctx, cancel := context.WithTimeout(ctx, openWithin)
	defer cancel()
	s, err := bucket.Open(ctx, bucket.Options{URL: c.Storage.Bucket.URL, Logger: log})
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", config.KeyBucketURL, err)
	}
	warnings, err := s.Check(ctx)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%s: %w", config.KeyBucketURL, err), s.Close())
	}
	if c.Storage.Bucket.Presign > 0 {
		if err := s.CheckLinks(ctx); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("%s: %w", config.KeyPresign, err), s.Close())
		}
	}
	return s, warnings, nil
}

const (
	// openWithin is how long Redis may take to answer at start, and how long the
	// bucket may.
	openWithin = time.Minute
	// sharedFor is how long what processes agree on about an upstream outlives
	// the last of them.
	sharedFor = 2 * time.Hour
	// shareTries is how often a change of it is tried against those of others.
	shareTries = 8
)

// share returns a function by which the processes of one store change the value
// that they share about an upstream. See upstream.Config.
func share(store jobs.Store, base *url.URL) func(context.Context, func(old []byte, now time.Time) []byte) error {
	sum := sha256.Sum256([]byte(base.String()))
	name := "upstream." + hex.EncodeToString(sum[:8])
	return func(ctx context.Context, update func(old []byte, now time.Time) []byte) error {
		current, err := store.Load(ctx, name)
		for range shareTries {
			if err != nil {
				return err
			}
			next := update(current.Bytes, current.Now)
			if next == nil {
				return nil
			}
			var stored bool
			if current, stored, err = store.Swap(ctx, name, current.Version, next, sharedFor); stored {
				return err
			}
		}
		if err == nil {
			err = fmt.Errorf("the value that processes share was changed %d times meanwhile", shareTries)
		}
		return err
	}
}

// storeText says where jobs are kept, without a secret.
func storeText(c *config.Config) string {
	if c.Store.Redis.URL != "" {
		return config.Redacted(c.Store.Redis.URL)
	}
	return c.Store.BoltPath
}

// storageText says where files are kept, without a secret.
func storageText(c *config.Config) string {
	if c.Storage.Bucket.URL != "" {
		return config.Redacted(c.Storage.Bucket.URL)
	}
	return c.Storage.DiskPath
}
