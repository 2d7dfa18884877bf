//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// header is what every resource says of itself.
type header struct {
	Type string `json:"resourceType"`
	ID   string `json:"id"`
	Meta struct {
		VersionID   string    `json:"versionId"`
		LastUpdated time.Time `json:"lastUpdated"`
	} `json:"meta"`
}

// resource is one resource, as the server sent it but for white space.
type resource struct {
	header
	JSON []byte
}

func newResource(raw []byte) (resource, error) {
	var r resource
	if err := json.Unmarshal(raw, &r.header); err != nil {
		return r, err
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return r, err
	}
	r.JSON = compact.Bytes()
	return r, nil
}

// world is a set of resources, by type and id.
type world map[string]map[string]resource

func (w world) add(r resource) {
	if w[r.Type] == nil {
		w[r.Type] = make(map[string]resource)
	}
	w[r.Type][r.ID] = r
}

func (w world) len() (n int) {
	for _, byID := range w {
		n += len(byID)
	}
	return n
}

// where returns the resources that keep is true of.
func (w world) where(keep func(resource) bool) world {
	kept := make(world)
	for _, byID := range w {
		for _, r := range byID {
			if keep(r) {
				kept.add(r)
			}
		}
	}
	return kept
}

// of returns the resources of some types.
func (w world) of(types ...string) world {
	kept := make(world)
	for _, typ := range types {
		if w[typ] != nil {
			kept[typ] = w[typ]
		}
	}
	return kept
}

// bundle is what is read of a search result.
type bundle struct {
	Total int
	Entry []struct{ Resource json.RawMessage }
}

// crawlPage is HAPI's largest page.
const crawlPage = 1000

// crawl reads all that a server holds by its own search: every type of its
// statement, sorted by time and id, by offset. It believes the result only
// where the distinct ids of a type are as many as the server counts.
func crawl(base string) (world, error) {
	var statement struct {
		Rest []struct{ Resource []struct{ Type string } }
	}
	if err := getJSON(base+"/metadata", &statement); err != nil {
		return nil, err
	}
	held := make(world)
	for _, t := range statement.Rest[0].Resource {
		n, err := count(base, t.Type, "")
		if err != nil {
			return nil, err
		}
		for offset := 0; offset < n; offset += crawlPage {
			var page bundle
			url := fmt.Sprintf("%s/%s?_sort=_lastUpdated,_id&_count=%d&_offset=%d", base, t.Type, crawlPage, offset)
			if err := getJSON(url, &page); err != nil {
				return nil, err
			}
			for _, entry := range page.Entry {
				r, err := newResource(entry.Resource)
				if err != nil {
					return nil, err
				}
				held.add(r)
			}
		}
		if len(held[t.Type]) != n {
			return nil, fmt.Errorf("%s: crawled %d distinct ids, the server counts %d", t.Type, len(held[t.Type]), n)
		}
	}
	return held, nil
}

// count asks the server how many resources of a type match a query.
func count(base, typ, query string) (int, error) {
	var b bundle
	err := getJSON(base+"/"+typ+"?_summary=count&"+query, &b)
	return b.Total, err
}

// getJSON decodes a fresh answer, not one of HAPI's cache.
func getJSON(url string, into any) error {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Cache-Control", "no-cache")
	r.Header.Set("Accept", "application/fhir+json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s: %.500s", url, answer.Status, body)
	}
	return json.Unmarshal(body, into)
}
