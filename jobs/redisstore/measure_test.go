package redisstore_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway/jobs"
	"spillway/jobs/redisstore"
	"spillway/test/testenv"
)

// realistic returns the units of an export of a million resources, and what
// one of them leaves.
func realistic(n int) []jobs.Unit {
	next := make([]jobs.Unit, n, n+1)
	for i := range next {
		next[i] = jobs.Unit{
			ID: fmt.Sprintf("Observation-%d", i), Kind: jobs.UnitSlice, Type: "Observation", Weight: int64(7000 + i%3000),
			Spec: []byte(fmt.Sprintf(`{"read":{"type":"Observation","sort":true,"count":1000},"windows":[{"from":"2024-01-01T00:%02d:%02d.000Z","to":"2024-02-01T00:%02d:00.000Z","counted":%d}]}`, i/60%60, i%60, i%60, 9000+i)),
		}
	}
	return append(next, jobs.Unit{ID: "finish", Kind: jobs.UnitFinish})
}

func segmentOf(l *jobs.Lease) jobs.Segment {
	return jobs.Segment{
		Key:  fmt.Sprintf("%s/%s/%d.%s.ndjson.gz", l.Job, l.Unit.ID, l.Attempt, l.Unit.Type),
		Kind: jobs.KindOutput, Type: l.Unit.Type, Encoding: jobs.EncodingGzip,
		Count: 7011, Size: 12_345_678 + l.ExpiresAt.UnixMicro()%1000, StoredSize: 1_234_567, SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte(l.ExpiresAt.String()))), CRC32: uint32(l.ExpiresAt.UnixMicro()),
	}
}

func usedMemory(t testing.TB, r *testenv.RedisServer, prefix string) (bytes int64) {
	t.Helper()
	for key := range strings.SplitSeq(r.CLI("KEYS", "{"+prefix+"}:*"), "\n") {
		if key == "" {
			continue
		}
		n, err := strconv.ParseInt(r.CLI("MEMORY", "USAGE", key, "SAMPLES", "0"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if os.Getenv("MEASURE_KEYS") != "" {
			t.Log(key, n)
		}
		bytes += n
	}
	return bytes
}

// TestCost measures what an export of a million resources costs in Redis: the
// figures are those of the package comment.
func TestCost(t *testing.T) {
	const units = 150
	r := testenv.Redis(t)
	s := open(t, redisstore.Options{URL: r.URL()})
	empty := usedMemory(t, r, "spillway")
	r.CLI("CONFIG", "RESETSTAT")
	commands := func() (total int) {
		for _, m := range regexp.MustCompile(`cmdstat_(\S+?):calls=(\d+)`).FindAllStringSubmatch(r.CLI("INFO", "commandstats"), -1) {
			n, _ := strconv.Atoi(m[2])
			if os.Getenv("MEASURE_KEYS") != "" {
				t.Log(m[1], n)
			}
			if m[1] == "evalsha" || m[1] == "eval" {
				total += n
			}
		}
		return total
	}

	j, first := jobs.New(jobs.Request{Level: jobs.LevelSystem, URL: "https://gateway.example.org/fhir/$export?_type=Observation"}, "client", time.Now())
	if err := s.Create(t.Context(), j, first); err != nil {
		t.Fatal(err)
	}
	must := func(l *jobs.Lease, r jobs.Result) {
		if err := s.Complete(t.Context(), l, r); err != nil {
			t.Fatal(err)
		}
	}
	take := func() *jobs.Lease {
		l, _, err := s.Claim(t.Context(), "worker")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	must(take(), jobs.Result{Next: realistic(units), TransactionTime: time.Now()})
	planned := usedMemory(t, r, "spillway")
	var files jobs.File
	for range units {
		l := take()
		for range 3 {
			if err := s.Renew(t.Context(), l); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Save(t.Context(), l, []byte(`{"after":"2024-01-01T00:00:00.000Z","read":5000,"segments":[]}`)); err != nil {
			t.Fatal(err)
		}
		seg := segmentOf(l)
		files.Segments = append(files.Segments, seg)
		must(l, jobs.Result{Segments: []jobs.Segment{seg}, Summary: []byte(`{"type":"Observation","counted":7011,"read":7011,"exported":7011,"proven":true}`)})
	}
	worked := usedMemory(t, r, "spillway")
	must(take(), jobs.Result{Files: []jobs.File{files}, Evidence: []jobs.Evidence{{Type: "Observation", Counted: 1_000_000, Exported: 1_000_000, Proven: true}}})
	ended := usedMemory(t, r, "spillway")
	n := commands()
	t.Logf("%d units: %d commands; %d bytes planned (%d a unit), %d worked off, %d ended (%d a unit)",
		units, n, planned-empty, (planned-empty)/units, worked-empty, ended-empty, (ended-empty)/units)
	if n > units*8 {
		t.Errorf("an export of %d units cost %d commands", units, n)
	}
	if most := max(planned, worked, ended) - empty; most > 256<<10 {
		t.Errorf("an export of a million resources took %d bytes of Redis, want a quarter of a MiB at most", most)
	}
	if err := s.Remove(t.Context(), j.ID); err != nil {
		t.Fatal(err)
	}
	if left := usedMemory(t, r, "spillway") - empty; left > 8<<10 {
		t.Errorf("%d bytes are left of a removed job", left)
	}
	for key := range strings.SplitSeq(r.CLI("KEYS", "*"), "\n") {
		if name := strings.TrimPrefix(key, "{spillway}:"); !slices.Contains([]string{"epoch", "ranked", "server", "turn", "wake"}, name) {
			t.Errorf("the key %s is left of a removed job", name)
		}
	}
}

// BenchmarkClaim claims and completes units, with 1,000 jobs waiting and a job
// of 10,000 units beside.
func BenchmarkClaim(b *testing.B) {
	for _, workers := range []int{1, 16} {
		for _, waiting := range []int{0, 1000} {
			b.Run(fmt.Sprintf("workers=%d/waiting=%d", workers, waiting), func(b *testing.B) {
				r := testenv.Redis(b, "--appendonly", "yes")
				s := open(b, redisstore.Options{URL: r.URL()})
				fill := func() {
					j, first := jobs.New(jobs.Request{Level: jobs.LevelSystem}, "client", time.Now())
					if err := s.Create(b.Context(), j, first); err != nil {
						b.Fatal(err)
					}
				}
				for range 4 {
					fill()
				}
				for range 4 {
					l, _, err := s.Claim(b.Context(), "worker")
					if err == nil {
						err = s.Complete(b.Context(), l, jobs.Result{Next: realistic(max(10_000, b.N))})
					}
					if err != nil {
						b.Fatal(err)
					}
				}
				for range waiting {
					fill()
				}
				r.CLI("CONFIG", "RESETSTAT")
				b.ResetTimer()
				var wg sync.WaitGroup
				for range workers {
					wg.Go(func() {
						for range b.N / workers {
							l, _, err := s.Claim(b.Context(), "worker")
							if errors.Is(err, jobs.ErrNoWork) {
								return
							}
							if err == nil {
								err = s.Complete(b.Context(), l, jobs.Result{Segments: []jobs.Segment{segmentOf(l)}})
							}
							if err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "units/s")
				for line := range strings.SplitSeq(r.CLI("INFO", "commandstats"), "\n") {
					if strings.Contains(line, "evalsha") {
						b.Log(line)
					}
				}
			})
		}
	}
}
