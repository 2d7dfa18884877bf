package bucket

import (
	"fmt"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"spillway/storage"
	"spillway/storage/disk"
	"spillway/test/testenv"
)

// BenchmarkWrite writes objects as an export does, one after the other, and
// says how much processor time of ours a MiB costs. The disk is there to
// compare with.
func BenchmarkWrite(b *testing.B) {
	stores := map[string]func(b *testing.B) storage.Store{
		"disk": func(b *testing.B) storage.Store {
			s, err := disk.Open(b.TempDir(), disk.Options{MinFree: -1, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = s.Close() })
			return s
		},
		"s3": func(b *testing.B) storage.Store {
			s, err := Open(b.Context(), Options{URL: testenv.S3(b).URL("")})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = s.Close() })
			return s
		},
	}
	for _, name := range []string{"disk", "s3"} {
		for _, size := range []int{10 << 10, 1 << 20, 100 << 20} {
			b.Run(fmt.Sprintf("%s/%dKiB", name, size>>10), func(b *testing.B) {
				s := stores[name](b)
				object := content(size)
				n, start := 0, processorTime(b)
				b.SetBytes(int64(size))
				for b.Loop() {
					n++
					w, err := s.Create(b.Context(), fmt.Sprintf("a/%d", n))
					if err != nil {
						b.Fatal(err)
					}
					for rest := object; len(rest) > 0; {
						piece := min(64<<10, len(rest))
						if _, err := w.Write(rest[:piece]); err != nil {
							b.Fatal(err)
						}
						rest = rest[piece:]
					}
					if err := w.Commit(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
				spent := processorTime(b) - start
				b.ReportMetric(float64(spent.Microseconds())/(float64(n)*float64(size)/(1<<20)), "cpu-µs/MiB")
				_ = s.RemoveAll(b.Context(), "a/")
			})
		}
	}
}

// processorTime of this process so far.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRead reads an object of 100 MiB.
func BenchmarkRead(b *testing.B) {
	s, err := Open(b.Context(), Options{URL: testenv.S3(b).URL("")})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	const size = 100 << 20
	if err := write(b.Context(), s, "a/b", content(size)); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	start, n := processorTime(b), 0
	for b.Loop() {
		n++
		if got, err := read(b.Context(), s, "a/b"); err != nil || len(got) != size {
			b.Fatal(len(got), err)
		}
	}
	b.ReportMetric(float64((processorTime(b)-start).Microseconds())/float64(n)/(size>>20), "cpu-µs/MiB")
}
