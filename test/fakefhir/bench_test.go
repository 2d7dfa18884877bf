package fakefhir

import (
	"fmt"
	"net/http"
	"testing"
)

func BenchmarkGenerate(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		d := Generate(GenerateOptions{Patients: 50, Seed: 1})
		b.ReportMetric(float64(d.Len()), "resources")
	}
}

// BenchmarkPages follows the next links of Observation without a network.
func BenchmarkPages(b *testing.B) {
	for name, o := range map[string]Options{
		"dataset": {Dataset: Generate(GenerateOptions{Patients: 50, Seed: 1})},
		"bulk":    {Bulk: Bulk(1_000_000)},
	} {
		for _, encoding := range []string{"identity", "gzip"} {
			b.Run(fmt.Sprintf("%s/%s", name, encoding), func(b *testing.B) {
				s := New(o)
				r, _ := http.NewRequest("GET", "http://h/fhir/Observation?_count=1000", nil)
				r.Header.Set("Accept-Encoding", encoding)
				s.ServeHTTP(&discard{}, r)
				res := s.results.order[0]
				var page []byte
				for i := range 1000 {
					page, _ = res.rows.appendResource(page, i)
				}
				b.SetBytes(int64(len(page))) // of resources, before compression
				b.ReportAllocs()
				offset := 0
				for b.Loop() {
					offset = (offset + 1000) % (res.rows.len() - 1000)
					r, _ := http.NewRequest("GET", fmt.Sprintf("http://h/fhir?_getpages=%s&_getpagesoffset=%d&_count=1000", res.id, offset), nil)
					r.Header.Set("Accept-Encoding", encoding)
					s.ServeHTTP(&discard{}, r)
				}
			})
		}
	}
}

// discard is a ResponseWriter to nowhere.
type discard struct{ h http.Header }

func (d *discard) Header() http.Header {
	if d.h == nil {
		d.h = http.Header{}
	}
	return d.h
}
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}
