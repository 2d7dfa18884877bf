package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// A crawledPage is what is read of a page.
type crawledPage struct {
	Link  []struct{ Relation, URL string } `json:"link"`
	Entry []struct{ Resource json.RawMessage }
}

func (p *crawledPage) next() string {
	for _, l := range p.Link {
		if l.Relation == "next" {
			return l.URL
		}
	}
	return ""
}

// readPage reads a page with gzip. control is its Cache-Control.
func readPage(ctx context.Context, url, control string) (*crawledPage, error) {
	resp, err := get(ctx, url, "Cache-Control", control) // asks for gzip and inflates it
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("reading a page: status %d", resp.StatusCode)
	}
	var page crawledPage
	return &page, json.NewDecoder(resp.Body).Decode(&page)
}

// crawlPages calls visit for every page of the types, which it reads whole by
// next links, one page after another, as a simple downloader does. It wants
// what is there now: HAPI else repeats what it found for the crawl before.
func crawlPages(ctx context.Context, base string, types []string, visit func(typ string, page *crawledPage) error) error {
	for _, t := range types {
		for url := base + "/" + t + "?_count=1000"; url != ""; {
			page, err := readPage(ctx, url, "no-cache")
			if err == nil {
				err = visit(t, page)
			}
			if err != nil {
				return fmt.Errorf("crawl of %s: %w", t, err)
			}
			url = page.next()
		}
	}
	return nil
}

// crawl returns how many resources it saw.
func crawl(ctx context.Context, base string, types []string) (n int, err error) {
	err = crawlPages(ctx, base, types, func(_ string, page *crawledPage) error { n += len(page.Entry); return nil })
	return n, err
}

// directPage is how many resources HAPI puts on a page past its store of searches.
const directPage = 1000

// pagesOf returns the searches that read each type in as few pages of that kind
// as its times allow.
func pagesOf(ctx context.Context, base string, types []string) (searches []string, err error) {
	times := make(map[string][]time.Time)
	err = crawlPages(ctx, base, types, func(typ string, page *crawledPage) error {
		for _, e := range page.Entry {
			var r struct {
				Meta struct{ LastUpdated time.Time }
			}
			if err := json.Unmarshal(e.Resource, &r); err != nil {
				return err
			}
			times[typ] = append(times[typ], r.Meta.LastUpdated)
		}
		return nil
	})
	for _, typ := range types {
		all := times[typ]
		slices.SortFunc(all, time.Time.Compare)
		at := func(bound string, i int) string {
			return "&_lastUpdated=" + bound + all[i].UTC().Format("2006-01-02T15:04:05.000Z")
		}
		from, begun := "", 0
		for i := 0; i < len(all); {
			end := i
			for end < len(all) && all[end].Equal(all[i]) {
				end++
			}
			if i > begun && end-begun >= directPage {
				searches = append(searches, typ+"?_count=1000"+from+at("lt", i))
				from, begun = at("ge", i), i
			}
			i = end
		}
		searches = append(searches, typ+"?_count=1000"+from)
	}
	return searches, err
}

// readPages reads the pages that pagesOf named, past the store of searches but
// for those that do not fit, and returns how many resources they hold.
func readPages(ctx context.Context, base string, searches []string, atOnce int) (int, error) {
	var n atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, s := range searches {
		g.Go(func() error {
			page, err := readPage(ctx, base+"/"+s, fmt.Sprintf("no-store, max-results=%d", directPage))
			if err != nil {
				return err
			}
			if n.Add(int64(len(page.Entry))); len(page.Entry) < directPage {
				return nil
			}
			n.Add(-directPage) // a millisecond with more than fits
			for url := base + "/" + s; url != ""; url = page.next() {
				if page, err = readPage(ctx, url, "no-cache"); err != nil {
					return err
				}
				n.Add(int64(len(page.Entry)))
			}
			return nil
		})
	}
	err := g.Wait()
	if err == nil && n.Load() == 0 {
		err = errors.New("the pages are empty")
	}
	return int(n.Load()), err
}
