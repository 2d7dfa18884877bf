package jobs

import (
	"bytes"
	"compress/gzip"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/flate"
)

// TestGzipSegmentsJoinToOneMember writes segments at every level that is used,
// joins their blocks in one frame, and reads the first member alone, as clients
// do that know of one only.
func TestGzipSegmentsJoinToOneMember(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, level := range []int{flate.HuffmanOnly, flate.BestSpeed, 5, 9} {
		for _, sizes := range [][]int{{}, {0}, {1}, {5}, {100, 0, 3}, {200_000, 1, 70_000, 300_000}} {
			var (
				f      File
				plain  []byte
				joined = bytes.NewBuffer(GzipHeader())
				w      *GzipWriter
			)
			for _, size := range sizes {
				text := make([]byte, size)
				for i := range text {
					text[i] = "abcdefgh"[random.IntN(8)]
				}
				var stored bytes.Buffer
				var err error
				if w == nil {
					w, err = NewGzipWriter(&stored, level)
				} else {
					w.Reset(&stored)
				}
				if err != nil {
					t.Fatal(err)
				}
				for part := range bytes.SplitAfterSeq(text, []byte("a")) {
					if _, err := w.Write(part); err != nil {
						t.Fatal(err)
					}
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				if got := inflate(t, stored.Bytes()); !bytes.Equal(got, text) {
					t.Fatalf("level %d: a segment of %d bytes does not come back", level, size)
				}
				s := Segment{Size: int64(size), StoredSize: int64(stored.Len()), CRC32: w.CRC32()}
				offset, length := s.Blocks()
				joined.Write(stored.Bytes()[offset : offset+length])
				f.Segments = append(f.Segments, s)
				plain = append(plain, text...)
			}
			joined.Write(f.Trailer())
			if got := inflate(t, joined.Bytes()); !bytes.Equal(got, plain) {
				t.Errorf("level %d, sizes %v: the file does not come back", level, sizes)
			}
		}
	}
}

// inflate reads exactly one member and wants nothing after it.
func inflate(t *testing.T, stored []byte) []byte {
	t.Helper()
	in := bytes.NewReader(stored)
	r, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	r.Multistream(false)
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if in.Len() > 0 {
		t.Fatalf("%d bytes after the first member", in.Len())
	}
	return plain
}

func TestCombineCRC32(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	text := make([]byte, 5000)
	for i := range text {
		text[i] = byte(random.Uint32())
	}
	for _, cut := range []int{0, 1, 7, 2500, 4999, 5000} {
		a, b := crc32.ChecksumIEEE(text[:cut]), crc32.ChecksumIEEE(text[cut:])
		if got, want := combineCRC32(a, b, int64(len(text)-cut)), crc32.ChecksumIEEE(text); got != want {
			t.Errorf("cut at %d: %08x, want %08x", cut, got, want)
		}
	}
}
