package main

import (
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
)

// newLogger writes to w. level and format are valid; see config.Log.
func newLogger(w io.Writer, level, format string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo
	}
	o := &slog.HandlerOptions{Level: l}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// oneOf checks the value of a flag with few values.
func oneOf(flag, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return usageError("%s: %q is not allowed here; want %s", flag, value, strings.Join(allowed, ", "))
}

// plural counts things: "1 file", "12 files".
func plural(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%s %ss", comma(n), thing)
}
