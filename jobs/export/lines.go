package export

import (
	"bufio"
	"errors"
	"io"
)

// eachLine calls f with every line of NDJSON, of any length, without its
// newline. The bytes are valid until f returns.
func eachLine(r io.Reader, f func([]byte) error) error {
	lines := bufio.NewReaderSize(r, 64<<10)
	var long []byte
	for {
		part, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			long = append(long, part...)
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		line := part
		if len(long) > 0 {
			long = append(long, part...)
			line = long
		}
		if n := len(line); n > 0 && line[n-1] == '\n' {
			line = line[:n-1]
		}
		if len(line) > 0 {
			if err := f(line); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
		long = long[:0]
	}
}
