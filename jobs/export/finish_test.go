package export

import (
	"fmt"
	"strings"
	"testing"

	"spillway/jobs"
)

func TestGroupFiles(t *testing.T) {
	const mega = 1 << 20
	segment := func(key string, kind jobs.FileKind, typ string, size int64) jobs.Segment {
		return jobs.Segment{Key: key, Kind: kind, Type: typ, Size: size, StoredSize: size, Count: 1}
	}
	output := func(key string, size int64) jobs.Segment { return segment(key, jobs.KindOutput, "Patient", size) }
	for _, tt := range []struct {
		name  string
		found []jobs.Segment
		where map[string]location
		want  string
	}{
		{
			name: "InOrderUpToSize",
			found: []jobs.Segment{
				segment("o", jobs.KindOutcome, "OperationOutcome", 1), output("a", 60*mega), output("b", 60*mega), output("c", 60*mega),
				segment("d", jobs.KindDeleted, "Bundle", 1), segment("z", jobs.KindOutput, "Bundle", 1),
			},
			want: "1.Bundle.ndjson: z; 2.Patient.ndjson: a b; 3.Patient.ndjson: c; 4.Bundle.ndjson: d; 5.OperationOutcome.ndjson: o",
		},
		{
			name:  "AsTheyLie",
			found: []jobs.Segment{output("a", 60*mega), output("b", 60*mega), output("c", 60*mega), output("d", 60*mega)},
			where: map[string]location{"a": {"2", 0}, "b": {"1", 60 * mega}, "c": {"1", 0}, "d": {"2", 60 * mega}},
			want:  "1.Patient.ndjson: c b; 2.Patient.ndjson: a d",
		},
		{
			name:  "TooLittleToBeMany",
			found: []jobs.Segment{output("a", 1), output("b", 1), output("c", 1), output("d", 1)},
			where: map[string]location{"a": {"2", 0}, "b": {"1", 1}, "c": {"1", 0}, "d": {"2", 1}},
			want:  "1.Patient.ndjson: a b c d",
		},
		{
			name:  "AllAlone",
			found: []jobs.Segment{output("a", 80*mega), output("b", 80*mega), output("c", 80*mega)},
			where: map[string]location{"a": {"1", 0}, "b": {"2", 0}, "c": {"3", 0}},
			want:  "1.Patient.ndjson: a b; 2.Patient.ndjson: c",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, f := range groupFiles(tt.found, 100*mega, tt.where) {
				line := f.Name + ":"
				var size int64
				for _, s := range f.Segments {
					line += " " + s.Key
					size += s.Size
				}
				if f.Size != size || f.Count != int64(len(f.Segments)) {
					line += fmt.Sprintf(" (%d bytes, %d lines)", f.Size, f.Count)
				}
				got = append(got, line)
			}
			if got := strings.Join(got, "; "); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}
