package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/upstream/fhir"
)

// big answers searches with as many resources as are asked for, unless the
// page would be too much.
func big(sizes *[]int, tooMuch func(w http.ResponseWriter, typ string, size int) bool) http.HandlerFunc {
	var mu sync.Mutex
	return func(w http.ResponseWriter, r *http.Request) {
		size, _ := strconv.Atoi(r.URL.Query().Get("_count"))
		typ := strings.TrimPrefix(r.URL.Path, "/fhir/")
		mu.Lock()
		*sizes = append(*sizes, size)
		mu.Unlock()
		if tooMuch(w, typ, size) {
			return
		}
		answer(w, bundle("", slices.Repeat([]string{"a"}, size)...))
	}
}

func TestPageSizeShrinks(t *testing.T) {
	for _, tt := range []struct {
		name    string
		tooMuch func(w http.ResponseWriter, typ string, size int) bool
	}{
		{"TooLarge", func(http.ResponseWriter, string, int) bool { return false }}, // by PageBytes
		{"Status413", func(w http.ResponseWriter, _ string, size int) bool {
			if size > 200 {
				w.WriteHeader(413)
			}
			return size > 200
		}},
		{"Status504", func(w http.ResponseWriter, _ string, size int) bool {
			if size > 200 {
				w.WriteHeader(504)
			}
			return size > 200
		}},
		{"Timeout", func(_ http.ResponseWriter, _ string, size int) bool {
			if size > 200 {
				time.Sleep(2 * time.Minute)
			}
			return size > 200
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var sizes []int
				reg := prometheus.NewRegistry()
				c, _ := serveMemory(t, big(&sizes, tt.tooMuch), func(c *Config) {
					c.PageSize, c.Registerer, c.PageBytes = 1000, reg, 15_000
				})
				c.vital.note(200)
				if err := page(t, c); err != nil {
					t.Fatal(err)
				}
				want := []int{1000, 500, 250, 125}
				if !slices.Equal(sizes, want) {
					t.Errorf("asked for %v, want %v", sizes, want)
				}
				wantMetric(t, reg, "spillway_upstream_page_size 125")
				if got := c.pageOf("Patient"); got != 1000 {
					t.Errorf("another type is asked for %d", got)
				}
				// After some good pages more is tried again, less and less often.
				sizes = nil
				for range 100 {
					if err := page(t, c); err != nil {
						t.Fatal(err)
					}
				}
				tries := 0
				for i, size := range sizes {
					if size == 250 {
						tries++
						if i+1 < len(sizes) && sizes[i+1] != 125 {
							t.Errorf("250 was not followed by 125, but by %d", sizes[i+1])
						}
					}
				}
				if slices.Max(sizes) != 250 || tries < 2 || tries > 4 {
					t.Errorf("asked for at most %d, %d times", slices.Max(sizes), tries)
				}
			})
		})
	}
}

func TestPageSizeGrowsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sizes []int
		limit := 100
		c, _ := serveMemory(t, big(&sizes, func(w http.ResponseWriter, _ string, size int) bool {
			if size > limit {
				w.WriteHeader(413)
			}
			return size > limit
		}))
		if err := page(t, c); err != nil {
			t.Fatal(err)
		}
		limit = 1000
		sizes = nil
		for range 40 {
			if err := page(t, c); err != nil {
				t.Fatal(err)
			}
		}
		if sizes[0] != 62 || sizes[39] != 1000 || !slices.IsSorted(sizes) {
			t.Errorf("asked for %v", sizes)
		}
	})
}

func TestPageSizeGrowsAfterGoodPagesInARow(t *testing.T) {
	var p pageSizes
	good := func(n int) {
		for range n {
			p.good("Observation", 1000)
		}
	}
	size, ok := p.tooLarge("Observation", 1000, 1000)
	good(growAfter - 1)
	if again, _ := p.tooLarge("Observation", 1000, 1000); !ok || size != 500 || again != 500 { // one that was sent before
		t.Errorf("%d, then %d", size, again)
	}
	good(growAfter - 1)
	if got := p.of("Observation", 1000); got != 500 {
		t.Errorf("asks for %d after too few good pages", got)
	}
	good(1)
	if got := p.of("Observation", 1000); got != 1000 {
		t.Errorf("asks for %d after enough good pages", got)
	}
	if got := p.of("Observation", 300); got != 300 { // what Learn has found since
		t.Errorf("asks for %d, above what the upstream takes", got)
	}
}

// There is a floor, and what a smaller page cannot help is not tried.
func TestPageSizeHasAFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sizes []int
		c, _ := serveMemory(t, big(&sizes, func(w http.ResponseWriter, typ string, _ int) bool {
			w.WriteHeader(413)
			return true
		}), func(c *Config) { c.PageSize = 50 })
		wantError(t, page(t, c), KindStatus, 4, "413")
		if want := []int{50, 25, 12, 10}; !slices.Equal(sizes, want) {
			t.Errorf("asked for %v, want %v", sizes, want)
		}
		sizes = nil
		wantError(t, page(t, c), KindStatus, 1, "413")
		if !slices.Equal(sizes, []int{10}) {
			t.Errorf("asked for %v", sizes)
		}
	})
}

// A page of a next link that takes too long while others are answered may do
// so for its size; with an upstream that answers nobody it says nothing.
func TestNextPageTimesOut(t *testing.T) {
	for _, others := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c, _ := serveMemory(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Get("page") == "2" || !others {
					<-r.Context().Done()
					return
				}
				answer(w, total(1))
			}, func(c *Config) { c.MaxOutage = 10 * time.Minute })
			c.vital.note(200)
			time.Sleep(time.Second)
			stop, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() {
				for sleep(stop, time.Second) == nil {
					_, _ = c.Count(stop, observations)
				}
			})
			_, err := c.Page(t.Context(), observations, "http://fhir.test/fhir/Observation?page=2", func(*fhir.Entry) error { return nil })
			want, size := KindGone, 500
			if !others {
				want, size = KindTimeout, 1000
			}
			var f *RequestError
			if !errors.As(err, &f) || f.Kind != want || c.pageOf("Observation") != size {
				t.Errorf("others are answered %t: Page = %v; then %d are asked for", others, err, c.pageOf("Observation"))
			}
			cancel()
			wg.Wait()
		})
	}
}

// The page of a next link cannot be made smaller, so the search begins again.
func TestNextPageTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := serveMemory(t, func(w http.ResponseWriter, r *http.Request) {
			size, _ := strconv.Atoi(r.URL.Query().Get("_count"))
			next := fmt.Sprintf("Observation?page=2&_count=%d", size)
			if r.URL.Query().Get("page") == "2" {
				next = ""
				if size > 300 {
					w.WriteHeader(413)
					return
				}
			}
			answer(w, bundle(next, strconv.Itoa(size)))
		})
		var asked []string
		for next := ""; ; {
			var ids []string
			info, err := c.Page(t.Context(), observations, next, idsInto(&ids))
			var f *RequestError
			if errors.As(err, &f) && f.Kind == KindGone {
				next = ""
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			asked = append(asked, ids...)
			if next = info.Next; next == "" {
				break
			}
		}
		if got := strings.Join(asked, " "); got != "1000 500 250 250" {
			t.Errorf("read pages of %s", got)
		}
		// Where even the smallest is too much there is an end.
		for range 20 {
			c.pageTooLarge("Observation", c.pageOf("Observation"))
		}
		_, err := c.Page(t.Context(), observations, "http://fhir.test/fhir/Observation?page=2&_count=400", func(*fhir.Entry) error { return nil })
		wantError(t, err, KindStatus, 1, "413")
	})
}
