package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/gzip"

	"spillway/jobs"
	"spillway/upstream/fhir"
)

// issueCount is what the error files of a finished export hold.
type issueCount struct {
	errors, others int64
	file           string   // the first error file with an error
	texts          []string // of the first errors
}

// shownIssues is how many errors are told; the file has all of them.
const shownIssues = 5

// issues counts what the error files hold.
func (w workdir) issues(files []jobs.File) (issueCount, error) {
	var n issueCount
	for _, f := range files {
		if f.Kind != jobs.KindOutcome {
			continue
		}
		path := filepath.Join(w.path, fileName(f))
		before := n.errors
		if err := n.read(path, fileName(f) != f.Name); err != nil {
			return n, fmt.Errorf("reading %s: %w", path, err)
		}
		if n.errors > before && n.file == "" {
			n.file = path
		}
	}
	return n, nil
}

func (n *issueCount) read(path string, compressed bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var r io.Reader = f
	if compressed {
		z, err := gzip.NewReader(f)
		if err != nil {
			return err
		}
		defer z.Close()
		r = z
	}
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			n.line(line)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// line counts the issues of one OperationOutcome. One that cannot be read
// counts as an error: it was meant to say something.
func (n *issueCount) line(line []byte) {
	issues, err := fhir.ReadOutcome(line)
	if err != nil {
		n.errors++
		return
	}
	for _, i := range issues {
		if i.Severity != fhir.SeverityError && i.Severity != fhir.SeverityFatal {
			n.others++
			continue
		}
		if n.errors++; len(n.texts) < shownIssues {
			n.texts = append(n.texts, i.Diagnostics)
		}
	}
}

// summary tells what a finished export holds. Texts of issues are for the
// person who runs the command, never for a log: they may name resources.
func (d *display) summary(j *jobs.Job, n issueCount, took time.Duration, resumed bool) {
	resources, bytes := j.Progress.Done()
	switch d.form {
	case formRecords:
		d.log.Info("export complete", "resources", resources, "bytes", bytes, "seconds", took.Seconds(), "errors", n.errors, "notes", n.others)
		return
	case formBar, formLines:
		writeTable(d.w, "<>><", summaryRows(j, took, resumed))
	}
	if n.others > 0 && d.form != formNone {
		besides := "none of severity error"
		if n.errors > 0 {
			besides = "besides what is of severity error"
		}
		fmt.Fprintf(d.w, "%s in the error file, %s\n", plural(n.others, "note"), besides)
	}
	for _, text := range n.texts {
		fmt.Fprintf(d.w, "error: %s\n", text)
	}
	if more := n.errors - int64(len(n.texts)); more > 0 && len(n.texts) > 0 {
		fmt.Fprintf(d.w, "and %s more\n", comma(more))
	}
}

// summaryRows is the table of what was exported.
func summaryRows(j *jobs.Job, took time.Duration, resumed bool) [][]string {
	rows := [][]string{{"TYPE", "RESOURCES", "SIZE", "COUNTED BY THE UPSTREAM"}}
	proof := make(map[string]string)
	for _, e := range j.Evidence {
		switch {
		case e.Proven:
			proof[e.Type] = "the same"
		case e.Counted < 0:
			proof[e.Type] = "no usable count"
		default:
			proof[e.Type] = comma(e.Counted) + " (see the error file)"
		}
	}
	byType := make(map[string]*jobs.File)
	var order []string
	var all jobs.File
	for _, f := range j.Files {
		if f.Kind != jobs.KindOutput {
			continue
		}
		if byType[f.Type] == nil {
			byType[f.Type] = new(jobs.File)
			order = append(order, f.Type)
		}
		for _, sum := range []*jobs.File{byType[f.Type], &all} {
			sum.Count, sum.Size = sum.Count+f.Count, sum.Size+f.Size
		}
	}
	for _, typ := range order {
		rows = append(rows, []string{typ, comma(byType[typ].Count), bytesText(byType[typ].Size), proof[typ]})
	}
	last := fmt.Sprintf("in %s (%s resources/s)", seconds(took), perSecond(all.Count, took))
	if resumed {
		last = fmt.Sprintf("in %s since it was resumed", seconds(took))
	}
	return append(rows, []string{"total", comma(all.Count), bytesText(all.Size), last})
}
