package fhir

import (
	"testing"
	"time"
)

func TestParseInstant(t *testing.T) {
	tests := []struct{ in, want string }{ // want "": refused
		{"2025-01-02T03:04:05Z", "2025-01-02T03:04:05Z"},
		{"2025-01-02T03:04:05.1Z", "2025-01-02T03:04:05.1Z"},
		{"2025-01-02T03:04:05.123456789Z", "2025-01-02T03:04:05.123456789Z"},
		{"2025-01-02T03:04:05.120+02:00", "2025-01-02T01:04:05.12Z"},
		{"2025-01-02T03:04:05-05:30", "2025-01-02T08:34:05Z"},
		{"2025-01-02T03:04:05+14:00", "2025-01-01T13:04:05Z"},
		{"2024-02-29T23:59:59Z", "2024-02-29T23:59:59Z"},
		{"2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"},
		{"2016-12-31T23:59:60.5+00:00", "2017-01-01T00:00:00.5Z"},
		{"0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"},
		{"9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999999999Z"},

		{"", ""},
		{"2025-01-02", ""},
		{"2025-01-02T03:04:05", ""},             // no offset
		{"2025-01-02T03:04:05 02:00", ""},       // a plus that became a space
		{"2025-01-02T03:04Z", ""},               // no seconds
		{"2025-01-02T03:04:05z", ""},            // case
		{"2025-01-02t03:04:05Z", ""},            // case
		{"2025-01-02 03:04:05Z", ""},            //
		{"2025-1-2T03:04:05Z", ""},              //
		{"2025-13-02T03:04:05Z", ""},            //
		{"2025-00-02T03:04:05Z", ""},            //
		{"2025-02-29T03:04:05Z", ""},            // no leap year
		{"2025-04-31T03:04:05Z", ""},            //
		{"2025-01-00T03:04:05Z", ""},            //
		{"2025-01-02T24:00:00Z", ""},            //
		{"2025-01-02T03:60:05Z", ""},            //
		{"2025-01-02T03:04:61Z", ""},            //
		{"2025-01-02T03:04:05.Z", ""},           //
		{"2025-01-02T03:04:05,5Z", ""},          //
		{"2025-01-02T03:04:05+15:00", ""},       //
		{"2025-01-02T03:04:05+14:01", ""},       //
		{"2025-01-02T03:04:05+02:60", ""},       //
		{"2025-01-02T03:04:05+0200", ""},        //
		{"2025-01-02T03:04:05+02", ""},          //
		{"2025-01-02T03:04:05Z ", ""},           //
		{" 2025-01-02T03:04:05Z", ""},           //
		{"2025-01-02T03:04:05ZZ", ""},           //
		{"+2025-01-02T03:04:05Z", ""},           //
		{"0000-01-01T00:00:00Z", ""},            // there is no year 0
		{"0001-01-01T00:00:00+01:00", ""},       // nor is there in UTC
		{"9999-12-31T23:59:59-01:00", ""},       // the year 10000 in UTC
		{"9999-12-31T23:59:60Z", ""},            //
		{"10000-01-01T00:00:00Z", ""},           //
		{"２０２５-01-02T03:04:05Z", ""},            // digits of another script
		{"2025-01-02T03:04:05.0123456789Z", ""}, // ten digits
	}
	for _, tt := range tests {
		got, err := ParseInstant(tt.in)
		if tt.want == "" {
			if err == nil {
				t.Errorf("%q was taken as %v", tt.in, got)
			}
			continue
		}
		if err != nil || got.Format(time.RFC3339Nano) != tt.want || got.Location() != time.UTC {
			t.Errorf("%q: got %v, %v, want %s", tt.in, got, err, tt.want)
		}
	}
}

func TestParseInstantHintsAtPlus(t *testing.T) {
	if _, err := ParseInstant("2025-01-02T03:04:05 02:00"); err == nil || err.Error() != "an instant needs Z or an offset; a + in a URL must be sent as %2B" {
		t.Errorf("got %v", err)
	}
}

func TestParseDateTimeAndRange(t *testing.T) {
	tests := []struct{ in, start, end string }{ // start "": refused
		{"2024", "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"},
		{"2024-02", "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z"},
		{"2024-12-31", "2024-12-31T00:00:00Z", "2025-01-01T00:00:00Z"},
		{"2024-02-03T04:05:06Z", "2024-02-03T04:05:06Z", "2024-02-03T04:05:07Z"},
		{"2024-02-03T04:05:06.10+01:00", "2024-02-03T03:05:06.1Z", "2024-02-03T03:05:06.11Z"},
		{"2024-02-03T04:05:06.1234567890123Z", "2024-02-03T04:05:06.123456789Z", "2024-02-03T04:05:06.12345679Z"},
		{"2024-02-03T04:05:06", "2024-02-03T04:05:06Z", "2024-02-03T04:05:07Z"},
		{"2024-02-03t04:05:06z", "2024-02-03T04:05:06Z", "2024-02-03T04:05:07Z"},
		{"2024-02-03T04:05:06+0100", "2024-02-03T03:05:06Z", "2024-02-03T03:05:07Z"},
		{"2024-02-03T04:05:06-01", "2024-02-03T05:05:06Z", "2024-02-03T05:05:07Z"},
		{"", "", ""},
		{"24", "", ""},
		{"2024-", "", ""},
		{"2024-2", "", ""},
		{"2024-02-", "", ""},
		{"2024-02-30", "", ""},
		{"2024-02T04:05:06Z", "", ""},
		{"2024-02-03T", "", ""},
		{"2024-02-03T04:05Z", "", ""},
		{"2024-02-03T04:05:06x", "", ""},
		{"2024-02-03T04:05:06+1:00", "", ""},
		{"yesterday", "", ""},
	}
	for _, tt := range tests {
		start, end, err := parseRange(tt.in)
		alone, err2 := ParseDateTime(tt.in)
		if tt.start == "" {
			if err == nil || err2 == nil {
				t.Errorf("%q was taken as %v", tt.in, start)
			}
			continue
		}
		if err != nil || err2 != nil || !alone.Equal(start) || start.Format(time.RFC3339Nano) != tt.start || end.Format(time.RFC3339Nano) != tt.end {
			t.Errorf("%q: got %v to %v, %v, want %s to %s", tt.in, start, end, err, tt.start, tt.end)
		}
	}
}

func TestFormatInstant(t *testing.T) {
	zone := time.FixedZone("", -5*3600)
	for _, tt := range []struct {
		in   time.Time
		want string
	}{
		{time.Date(2025, 1, 2, 3, 4, 5, 0, time.UTC), "2025-01-02T03:04:05.000Z"},
		{time.Date(2025, 1, 2, 3, 4, 5, 999_999_999, time.UTC), "2025-01-02T03:04:05.999Z"},
		{time.Date(2025, 1, 2, 23, 4, 5, 6_000_000, zone), "2025-01-03T04:04:05.006Z"},
	} {
		if got := FormatInstant(tt.in); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

func FuzzParseInstant(f *testing.F) {
	for _, s := range []string{"2025-01-02T03:04:05Z", "2016-12-31T23:59:60.123456789+14:00", "2024-02-29", "9999-12-31T23:59:59-01:00", "2024-02-03T04:05:06-01"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseInstant(s)
		tolerant, err2 := ParseDateTime(s)
		if err != nil {
			return
		}
		if err2 != nil || !tolerant.Equal(got) {
			t.Fatalf("%q: ParseInstant says %v, ParseDateTime %v, %v", s, got, tolerant, err2)
		}
		if want, err := time.Parse(time.RFC3339Nano, s); err == nil && !want.Equal(got) {
			t.Fatalf("%q: got %v, the standard library says %v", s, got, want)
		}
		again, err := ParseInstant(FormatInstant(got))
		if err != nil || !again.Equal(got.Truncate(time.Millisecond)) {
			t.Fatalf("%q: %s became %v, %v", s, FormatInstant(got), again, err)
		}
	})
}
