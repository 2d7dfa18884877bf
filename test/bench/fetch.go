package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// The fake server's bulk data: so many in every minute from this one on.
const (
	perMinute = 10_000
	bulkStart = "2024-01-03T09:00:00Z"
)

// rawBuffer is what the raw fetch reads at once, in bytes: as much as helps.
const rawBuffer = 64 << 10

// rawFetch reads the pages that an export of the fake server's bulk data reads,
// a minute at a time, and throws them away. It looks at nothing but the next
// link, so nothing that reads all pages is faster.
func rawFetch(ctx context.Context, base string, resources, concurrency int, gzip bool) (time.Duration, error) {
	first, err := time.Parse(time.RFC3339, bulkStart)
	if err != nil {
		return 0, err
	}
	client := &http.Client{Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: concurrency, ReadBufferSize: rawBuffer}}
	var pages atomic.Int64
	began := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(concurrency)
	for n := range (resources + perMinute - 1) / perMinute {
		from := first.Add(time.Duration(n) * time.Minute)
		url := fmt.Sprintf("%s/Observation?_lastUpdated=ge%s&_lastUpdated=lt%s&_count=1000", base,
			from.Format(time.RFC3339), from.Add(time.Minute).Format(time.RFC3339))
		g.Go(func() (err error) {
			for url != "" && err == nil {
				url, err = rawPage(ctx, client, url, gzip)
				pages.Add(1)
			}
			return err
		})
	}
	err = g.Wait()
	if want := int64(resources+999) / 1000; err == nil && pages.Load() != want {
		err = fmt.Errorf("raw fetch: %d pages, not %d", pages.Load(), want)
	}
	return time.Since(began), err
}

// rawPage reads one page and returns its next link, which stands before the
// entries. Only as much is inflated as it takes to see it.
func rawPage(ctx context.Context, client *http.Client, url string, zipped bool) (next string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	if zipped {
		r.Header.Set("Accept-Encoding", "gzip")
	}
	resp, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var in io.Reader = resp.Body
	if zipped {
		if in, err = gzip.NewReader(resp.Body); err != nil {
			return "", err
		}
	}
	head := make([]byte, 2<<10)
	n, err := io.ReadFull(in, head)
	if err != nil {
		return "", err
	}
	if _, after, ok := bytes.Cut(head[:n], []byte(`"relation":"next","url":`)); ok {
		if err := json.NewDecoder(bytes.NewReader(after)).Decode(&next); err != nil {
			return "", err
		}
	}
	for buffer := make([]byte, rawBuffer); err == nil; {
		_, err = resp.Body.Read(buffer)
	}
	if err == io.EOF {
		err = nil
	}
	return next, err
}
