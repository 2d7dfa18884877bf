package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// A report is a table of figures.
type report struct {
	rows     []row
	shares   []share // in the order of their table
	rssSmall float64 // peak memory of the small export, in bytes
}

// A row is one figure: the median of its values, and their range.
type row struct {
	what, unit, format, goal string
	values                   []float64 // sorted
}

// middle is the median of sorted values.
func middle(v []float64) float64 { return (v[(len(v)-1)/2] + v[len(v)/2]) / 2 }

// add adds and prints a figure; values are sorted.
func (r *report) add(what, unit, format, goal string, values ...float64) {
	one := row{what, unit, format, goal, values}
	r.rows = append(r.rows, one)
	fmt.Printf("%-50s %12s  %-20s %-16s %s\n", what, one.text(), one.between(), goal, unit)
}

func (r row) median() float64 { return middle(r.values) }
func (r row) text() string    { return fmt.Sprintf(r.format, r.median()) }
func (r row) between() string {
	if len(r.values) < 2 {
		return ""
	}
	return fmt.Sprintf(r.format+" to "+r.format, r.values[0], r.values[len(r.values)-1])
}

func (r *report) write(folder string) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# How fast Spillway is\n\nWritten by `test/bench/run`, on %s, on %s.\n\n", time.Now().UTC().Format(time.DateOnly), machine())
	b.WriteString("The upstream is the fake server as a process of its own on the same machine: Observations of 1.4 kB, pages of 1000, not compressed on the wire unless it says so.\n" +
		"So the upstream's work and Spillway's share the cores, and rates say more about both together than about Spillway; its CPU is its own.\n" +
		"The raw fetch reads the same pages and throws them away. Medians; the range beside them.\n\n![rates and CPU](plot.svg)\n\n")
	b.WriteString("HAPI is HAPI FHIR JPA 8.8 with H2, -Xmx2g and else the JVM's own settings, on the same two cores, with the 38,970 Synthea resources of 17 types.\n" +
		"Exports ask with two requests at once. Their settle time is 0 s; where it is the usual 5 s, these are taken off. HAPI's CPU is that until 3 s after the end.\n" +
		"The crawl reads one type after another by next links, with gzip and no-cache (HAPI repeats what it found in the minute before otherwise).\n" +
		"The pages alone are the searches of an export whose windows were known before, two at once, without counts: less than that no export takes.\n\n")
	b.WriteString("| what | median | range | unit | to reach |\n|---|---|---|---|---|\n")
	for _, one := range r.rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", one.what, one.text(), one.between(), one.unit, one.goal)
	}
	if len(r.shares) > 0 {
		b.Write(r.shareTable())
	}
	if err := os.WriteFile(filepath.Join(folder, "README.md"), b.Bytes(), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "plot.svg"), r.plot(), 0o644)
}

// machine names the processor, without what would name the host.
func machine() string {
	model := "an unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d cores of %s, %s, %s", runtime.NumCPU(), model, runtime.GOOS, runtime.Version())
}

// plot draws the medians as bars, those of one unit under one scale.
func (r *report) plot() []byte {
	const width, left, bar, gap = 760, 330, 16, 6
	var b bytes.Buffer
	y := 10
	body := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	for _, unit := range []string{"resources/s", "µs a resource", "s", "CPU s", "requests/s", "ms"} {
		greatest := 0.0
		for _, one := range r.rows {
			if one.unit == unit {
				greatest = max(greatest, one.values[len(one.values)-1])
			}
		}
		if greatest == 0 {
			continue
		}
		y += bar
		body(`<text x="10" y="%d" font-weight="bold">%s</text>`, y, unit)
		y += gap
		for _, one := range r.rows {
			if one.unit != unit {
				continue
			}
			at := func(v float64) float64 { return left + v/greatest*(width-left-90) }
			body(`<text x="%d" y="%d" text-anchor="end">%s</text>`, left-8, y+bar-4, one.what)
			body(`<rect x="%d" y="%d" width="%.1f" height="%d" fill="#37c"/>`, left, y, at(one.median())-left, bar)
			body(`<line x1="%.1f" x2="%.1f" y1="%d" y2="%[3]d" stroke="#222"/>`, at(one.values[0]), at(one.values[len(one.values)-1]), y+bar/2)
			body(`<text x="%.1f" y="%d">%s</text>`, at(one.values[len(one.values)-1])+6, y+bar-4, one.text())
			y += bar + gap
		}
	}
	head := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12"><rect width="100%%" height="100%%" fill="#fff"/>`+"\n", width, y+10)
	return append([]byte(head), append(b.Bytes(), "</svg>\n"...)...)
}
