package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"spillway/jobs"
	"spillway/storage"
)

// A display shows how an export goes, in the form that suits where it is
// written: a bar that moves on a terminal, a line now and then elsewhere, log
// records where those are asked for, or nothing. It is also an io.Writer, for
// what must not get into the bar's way. Safe for concurrent use.
type display struct {
	mu   sync.Mutex
	w    io.Writer
	form form
	log  *slog.Logger // with formRecords only

	bar     *progressbar.ProgressBar // with formBar only, while it is shown
	drawn   bytes.Buffer             // what bar draws, on its way to w
	shown   string                   // name of the phase
	began   time.Time                // when the phase was first shown
	base    int64                    // done at began: what an earlier run did has no rate
	written time.Time                // of the last drawing, line or record
}

type form int

const (
	formNone form = iota
	formBar
	formLines
	formRecords
)

// newDisplay chooses the form for w. format is text or json.
func newDisplay(w io.Writer, quiet bool, format string) *display {
	d := &display{w: w, form: formLines}
	file, isFile := w.(*os.File)
	switch {
	case quiet:
		d.form = formNone
	case format == "json":
		d.form, d.log = formRecords, newLogger(w, "info", "json")
	case isFile && term.IsTerminal(int(file.Fd())):
		d.form = formBar
	}
	return d
}

// Write takes what others write to the same place, such as a logger.
func (d *display) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clear()
	return d.w.Write(p)
}

// clear makes room on a line that holds the bar, which the next look draws again.
func (d *display) clear() {
	if d.bar != nil {
		_ = d.bar.Clear() // into memory
		d.flush()
	}
}

// flush shows what the bar has drawn. Where it cannot be written nothing can.
func (d *display) flush() {
	_, _ = d.w.Write(d.drawn.Bytes())
	d.drawn.Reset()
}

// close takes the bar away. The display can be used on.
func (d *display) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clear()
	d.bar, d.shown = nil, ""
}

// note says one sentence.
func (d *display) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch d.form {
	case formBar, formLines:
		d.clear()
		fmt.Fprintf(d.w, format+"\n", args...)
	case formRecords:
		d.log.Info(fmt.Sprintf(format, args...))
	}
}

// progress shows where a job stands. ready is what the storage says of itself.
func (d *display) progress(j *jobs.Job, ready error) {
	done, _ := j.Progress.Done()
	p := phase{name: "reading", done: done, total: max(j.Progress.Expected(), done), unit: " resources", count: comma}
	switch {
	case errors.Is(ready, storage.ErrFull):
		p.name = "waiting for space"
	case j.State == jobs.Queued:
		p.name, p.total = "starting", 0
	case len(j.Progress.Types) == 0:
		p.name, p.total = "planning", 0
	case done == p.total:
		p.name = "finishing"
	}
	d.show(p)
}

// A phase is what is going on, and how far it is.
type phase struct {
	name        string
	done, total int64  // total 0: unknown
	unit        string // behind the numbers, with its space
	count       func(int64) string
	text        string // instead of all numbers; "": they are shown
}

// show draws the state of a phase, if it is time to.
func (d *display) show(p phase) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	every := map[form]time.Duration{formBar: 100 * time.Millisecond, formLines: 5 * time.Second, formRecords: 5 * time.Second}[d.form]
	fresh := p.name != d.shown
	if fresh {
		d.shown, d.began, d.base = p.name, now, p.done
	}
	if d.written.IsZero() && d.form != formBar {
		d.written = now // the first line comes when there is something to tell
	}
	due := now.Sub(d.written) >= every || fresh && d.form == formBar
	if d.form == formNone || !due {
		return
	}
	d.written = now
	switch d.form {
	case formBar:
		d.draw(p, d.words(p, now, false))
	case formLines:
		fmt.Fprintln(d.w, d.words(p, now, true))
	case formRecords:
		d.log.Info("progress", "phase", p.name, "done", p.done, "expected", p.total)
	}
}

// words tell the state of a phase; a bar shows the percentage itself.
func (d *display) words(p phase, now time.Time, percent bool) string {
	switch {
	case p.text != "":
		return p.name + ", " + p.text
	case p.total == 0:
		return p.name
	}
	text := fmt.Sprintf("%s %s of %s%s", p.name, p.count(p.done), p.count(p.total), p.unit)
	if percent {
		text += fmt.Sprintf(" (%d%%)", p.done*100/p.total)
	}
	took := now.Sub(d.began)
	if fresh := p.done - d.base; fresh > 0 && took > time.Second {
		rate := float64(fresh) / took.Seconds()
		text += fmt.Sprintf(", %s/s", p.count(int64(rate)))
		if left := p.total - p.done; left > 0 {
			text += fmt.Sprintf(", %s left", (time.Duration(float64(left) / rate * float64(time.Second))).Round(time.Second))
		}
	}
	return text
}

func (d *display) draw(p phase, words string) {
	if d.bar == nil {
		d.bar = newBar(&d.drawn)
	}
	// The bar counts in parts of a thousand: totals are estimates, and a bar
	// that has once been full stays so.
	full := int64(0)
	if p.total > 0 {
		full = min(p.done*1000/p.total, 999)
	}
	_ = d.bar.Set64(full) // into memory
	d.drawn.Reset()       // it would show the former words
	d.bar.Describe(words)
	d.flush()
}

// newBar is one line on a terminal: a bar, then words.
func newBar(w io.Writer) *progressbar.ProgressBar {
	return progressbar.NewOptions64(1000,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetWidth(24),
		progressbar.OptionSetPredictTime(false),
		progressbar.OptionSetElapsedTime(false),
		progressbar.OptionShowDescriptionAtLineEnd(),
		progressbar.OptionUseANSICodes(true),
		progressbar.OptionSetTheme(progressbar.Theme{Saucer: "█", SaucerPadding: "░", BarStart: "", BarEnd: ""}),
	)
}
