package upstream

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	_ "time/tzdata"

	"spillway/upstream/fhir"
)

func hours(t testing.TB, s, zone string) Hours {
	t.Helper()
	in, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	h, err := ParseHours(s, in)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHoursNext(t *testing.T) {
	for _, tt := range []struct{ hours, zone, at, next string }{
		{"", "UTC", "2026-11-25T12:00:00Z", "2026-11-25T12:00:00Z"},
		{"22:00-06:00", "UTC", "2026-11-25T12:00:00Z", "2026-11-25T22:00:00Z"},
		{"22:00-06:00", "UTC", "2026-11-25T22:00:00Z", "2026-11-25T22:00:00Z"},
		{"22:00-06:00", "UTC", "2026-11-25T05:59:59Z", "2026-11-25T05:59:59Z"},
		{"22:00-06:00", "UTC", "2026-11-25T06:00:00Z", "2026-11-25T22:00:00Z"},
		{"22:00-06:00", "Europe/Berlin", "2026-11-25T20:59:59Z", "2026-11-25T21:00:00Z"},
		{"22:00-06:00", "Europe/Berlin", "2026-07-25T19:59:59Z", "2026-07-25T20:00:00Z"},
		{"12:00-13:00,18:00-24:00", "UTC", "2026-11-25T13:00:00Z", "2026-11-25T18:00:00Z"},
		{"18:00-24:00, 12:00-13:00", "UTC", "2026-11-25T23:59:59Z", "2026-11-25T23:59:59Z"},
		{"18:00-24:00, 12:00-13:00", "UTC", "2026-11-26T00:00:00Z", "2026-11-26T12:00:00Z"},
		// The 25th is a Wednesday. Friday night ends on Saturday.
		{"Mo-Fr 20:00-06:00, Sa-Su", "UTC", "2026-11-25T12:00:00Z", "2026-11-25T20:00:00Z"},
		{"Mo-Fr 20:00-06:00, Sa-Su", "UTC", "2026-11-28T12:00:00Z", "2026-11-28T12:00:00Z"},
		{"Mo-Fr 20:00-06:00, Sa-Su", "UTC", "2026-11-30T03:00:00Z", "2026-11-30T20:00:00Z"},
		{"fri 20:00-06:00", "UTC", "2026-11-28T05:00:00Z", "2026-11-28T05:00:00Z"},
		{"fri 20:00-06:00", "UTC", "2026-11-28T06:00:00Z", "2026-12-04T20:00:00Z"},
		{"Sat-Mon", "UTC", "2026-11-24T00:00:00Z", "2026-11-28T00:00:00Z"},
		{"wednesday 10:00-11:00", "UTC", "2026-11-25T11:00:00Z", "2026-12-02T10:00:00Z"},
		// In the night of 29 March 2026 the hour from 2 to 3 is left out; on 25
		// October it comes twice.
		{"02:15-02:45", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T01:15:00Z"},
		{"01:00-04:00", "Europe/Berlin", "2026-03-29T01:59:00Z", "2026-03-29T01:59:00Z"},
		{"01:00-04:00", "Europe/Berlin", "2026-10-25T02:59:00Z", "2026-10-25T02:59:00Z"},
		{"01:00-04:00", "Europe/Berlin", "2026-10-25T03:00:00Z", "2026-10-26T00:00:00Z"},
	} {
		at, err := time.Parse(time.RFC3339, tt.at)
		if err != nil {
			t.Fatal(err)
		}
		h := hours(t, tt.hours, tt.zone)
		next := h.Next(at)
		if got := next.UTC().Format(time.RFC3339); got != tt.next {
			t.Errorf("%s (%s) at %s: next %s, want %s", tt.hours, tt.zone, tt.at, got, tt.next)
		}
		var gate hoursGate
		if closed := gate.closed(h, at); !h.IsZero() && closed != next.Sub(at) {
			t.Errorf("%s at %s: closed for %s", tt.hours, tt.at, closed)
		}
	}
}

func TestParseHoursRefuses(t *testing.T) {
	for _, s := range []string{",", "22:00", "22:00-", "22-06", "24:00-06:00", "22:00-25:00", "22:60-23:00", "06:00-06:00",
		"Xy 22:00-06:00", "Mo-Xy", "Mo- 22:00-06:00", "Mo 22:00-06:00 UTC", "22:00-06:00 Mo", "22:00-06:00,", "-", "Mo-Fr-Sa", "+1:00-02:00"} {
		if h, err := ParseHours(s, nil); err == nil {
			t.Errorf("ParseHours(%q) = %v", s, h)
		} else if !strings.Contains(err.Error(), `"`) {
			t.Errorf("ParseHours(%q): %v", s, err)
		}
	}
	if h, err := ParseHours("  Mo-Fr   22:00-06:00 ", nil); err != nil || h.String() != "Mo-Fr 22:00-06:00" || h.IsZero() {
		t.Errorf("ParseHours = %v, %v", h, err)
	}
}

// The gate remembers, and finds the same as the hours at every time, also when
// the clock is set back.
func TestHoursGate(t *testing.T) {
	h := hours(t, "Mo-Fr 20:00-06:00, Su 12:00-24:00", "Europe/Berlin")
	var gate hoursGate
	at := time.Date(2026, 10, 20, 0, 0, 0, 0, time.UTC)
	for range 3000 {
		if got, want := gate.closed(h, at), h.Next(at).Sub(at); got != want {
			t.Fatalf("at %s closed for %s, want %s", at, got, want)
		}
		if at = at.Add(7 * time.Minute); at.Minute() == 3 {
			at = at.Add(-90 * time.Minute)
		}
	}
}

func FuzzParseHours(f *testing.F) {
	f.Add("Mo-Fr 20:00-06:00, Sa-Su")
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		h, err := ParseHours(s, nil)
		if err != nil {
			return
		}
		if next := h.Next(at); next.Before(at) || next.Sub(at) > 8*24*time.Hour {
			t.Errorf("%q: next %s", s, next)
		}
		if again, err := ParseHours(h.String(), nil); err != nil || again.Next(at) != h.Next(at) {
			t.Errorf("%q: read again %v, %v", s, again, err)
		}
	})
}

func TestNothingIsSentOutsideOfTheHours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // it is midnight, a Saturday
		c, _, at := schedule(t, func(w http.ResponseWriter, r *http.Request, _ int) {
			if r.URL.Path == "/fhir/metadata" {
				answer(w, `{"resourceType":"CapabilityStatement","fhirVersion":"4.0.1"}`)
				return
			}
			answer(w, bundle("", "a"))
		}, func(c *Config) { c.Hours = hours(t, "01:00-02:00", "UTC") })
		var pause *PauseError
		if err := page(t, c); !errors.As(err, &pause) || !pause.Hours || !pause.Until.Equal(time.Now().Add(time.Hour)) {
			t.Fatalf("Page = %v", err)
		}
		if !strings.Contains(pause.Error(), "until 2000-01-01T01:00:00Z") || !strings.Contains(pause.Error(), "upstream.hours") {
			t.Error(pause)
		}
		if _, err := c.Count(t.Context(), observations); !errors.As(err, &pause) {
			t.Errorf("Count = %v", err)
		}
		if _, err := c.Read(t.Context(), "Patient", "1"); !errors.As(err, &pause) {
			t.Errorf("Read = %v", err)
		}
		if _, err := c.Page(t.Context(), observations, "http://fhir.test/fhir/Observation?page=2", func(*fhir.Entry) error { return nil }); !errors.As(err, &pause) {
			t.Errorf("Page of a next link = %v", err)
		}
		if len(at()) != 0 {
			t.Errorf("requests at %v", at())
		}
		if _, err := c.Learn(t.Context()); err != nil { // at any time
			t.Error(err)
		}
		learnt := len(at())
		time.Sleep(time.Until(pause.Until) - 10*time.Second)
		if err := page(t, c); err != nil { // so short a time is waited out
			t.Error(err)
		}
		if got := at()[learnt:]; len(got) != 1 || got[0] != 3600_000 {
			t.Errorf("requests at %v", got)
		}
		time.Sleep(59*time.Minute + 59*time.Second)
		if err := page(t, c); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if err := page(t, c); !errors.As(err, &pause) || time.Until(pause.Until) != 23*time.Hour {
			t.Errorf("Page = %v", err)
		}
	})
}
