package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// A share is how much of the rate of the raw fetch an export reaches.
type share struct {
	answer time.Duration
	atOnce int
	gzip   bool
	ratios []float64 // sorted
}

// shares measures whole exports against the raw fetch of the same pages in the
// same round: from the start of the process to the manifest, against the bare
// requests. The upstream follows next links only, as servers other than HAPI do.
func (b *bench) shares(ctx context.Context) error {
	for _, gzip := range []bool{false, true} {
		for _, answer := range b.answers {
			s, err := b.fake(ctx, b.resources, gzip, "-latency", answer.String(), "-no-direct")
			if err != nil {
				return err
			}
			for _, n := range b.atOnce {
				ratios, err := b.ratios(ctx, s.url, n, gzip)
				if err != nil {
					s.stop()
					return err
				}
				one := share{answer, n, gzip, ratios}
				b.report.shares = append(b.report.shares, one)
				fmt.Printf("%-50s %12.2f  %s\n", "share of the raw fetch, "+one.what(), median(ratios, same), one.text())
			}
			s.stop()
		}
	}
	// HAPI's own way to read pages past its store of searches has no next links,
	// so each page begins with the timestamp that the one before ended with.
	s, err := b.fake(ctx, b.resources, false, "-latency", "50ms")
	if err != nil {
		return err
	}
	defer s.stop()
	ratios, err := b.ratios(ctx, s.url, 8, false)
	if err == nil {
		b.report.add("share of the raw fetch, answers take 50ms, 8 at once, read as HAPI", "share", "%.2f", "", ratios...)
	}
	return err
}

func same(v float64) float64 { return v }

func (b *bench) ratios(ctx context.Context, base string, atOnce int, gzip bool) ([]float64, error) {
	var ratios []float64
	for range b.rounds {
		raw, err := rawFetch(ctx, base, b.resources, atOnce, gzip)
		if err != nil {
			return nil, err
		}
		e, err := runExport(ctx, b.spillway, base, false, "--concurrency", strconv.Itoa(atOnce))
		if err != nil {
			return nil, err
		}
		if e.lines != int64(b.resources) {
			return nil, fmt.Errorf("the export has %d of %d resources", e.lines, b.resources)
		}
		ratios = append(ratios, raw.Seconds()/e.wall.Seconds())
	}
	slices.Sort(ratios)
	return ratios, nil
}

func (s share) what() string {
	wire := "plain"
	if s.gzip {
		wire = "gzip"
	}
	return fmt.Sprintf("answers take %v, %d at once, %s", s.answer, s.atOnce, wire)
}

// text is the median, and the range.
func (s share) text() string {
	return fmt.Sprintf("%.2f (%.2f to %.2f)", median(s.ratios, same), s.ratios[0], s.ratios[len(s.ratios)-1])
}

// shareTable is a line for each kind of answer, a column for each number of
// requests at once.
func (r *report) shareTable() []byte {
	var b bytes.Buffer
	b.WriteString("\n## Share of the raw fetch's rate\n\n" +
		"A whole export, from the start of the process to the finished manifest, against a raw fetch of the same pages with as many requests at once, in the same round;\n" +
		"at least 0.85 is wanted. Where an answer takes no time the upstream and Spillway compete for the same cores.\n\n| an answer takes | on the wire |")
	columns := 0
	for _, s := range r.shares {
		if s.gzip != r.shares[0].gzip || s.answer != r.shares[0].answer {
			break
		}
		fmt.Fprintf(&b, " %d at once |", s.atOnce)
		columns++
	}
	b.WriteString("\n|---|---|" + string(bytes.Repeat([]byte("---|"), columns)))
	for i, s := range r.shares {
		if i%columns == 0 {
			wire := "plain"
			if s.gzip {
				wire = "gzip"
			}
			fmt.Fprintf(&b, "\n| %v | %s |", s.answer, wire)
		}
		fmt.Fprintf(&b, " %s |", s.text())
	}
	b.WriteByte('\n')
	return b.Bytes()
}
