package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
)

// writeTable aligns rows into columns. align has one character a column: '<'
// for text, '>' for numbers. The error of w is of no use to a table of text.
func writeTable(w io.Writer, align string, rows [][]string) {
	widths := make([]int, len(align))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			fill := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if align[i] == '>' {
				cell = fill + cell
			} else {
				cell += fill
			}
			b.WriteString("  " + cell)
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

func comma(n int64) string { return humanize.Comma(n) }

func bytesText(n int64) string {
	return humanize.IBytes(uint64(max(n, 0)))
}

// seconds shows a duration as people say it: 0.42s, 12.3s, 3m20s, 2h5m.
func seconds(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.2fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

// perSecond is a rate; the time is never so short that it means nothing.
func perSecond(n int64, d time.Duration) string {
	return comma(int64(float64(n) / max(d.Seconds(), 0.001)))
}
