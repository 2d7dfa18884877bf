package audit

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// A BrokenError says where a record is not what was written.
type BrokenError struct {
	Line    int64 // of the file, from 1
	Problem string
}

// Error tells both.
func (e *BrokenError) Error() string {
	return fmt.Sprintf("audit: line %d: %s", e.Line, e.Problem)
}

// A Verifier checks the files of one record, in the order in which they were
// written.
type Verifier struct {
	// Key is the one that the record was written with; nil: none.
	Key []byte

	// What was seen so far.
	Events      int64
	First       int64     // sequence number of the first event; above 1: older files are missing
	From, Until time.Time // of the first and the last event
	Process     string    // that wrote the last event
	Head        string    // hash of the last line
	last        int64
}

// Verify checks one file. It returns a *BrokenError at the first line that is
// not as it was written, or an error of r.
func (v *Verifier) Verify(r io.Reader) error {
	lines := bufio.NewReaderSize(r, maxLine)
	for number := int64(1); ; number++ {
		b, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return &BrokenError{number, "it is longer than any that is written"}
		case err == io.EOF && len(b) == 0:
			return nil
		case err == io.EOF:
			return &BrokenError{number, "it has no end"}
		case err != nil:
			return fmt.Errorf("audit: %w", err)
		}
		if problem := v.next(b[:len(b)-1]); problem != "" {
			return &BrokenError{number, problem}
		}
	}
}

func (v *Verifier) next(b []byte) (problem string) {
	read, err := readLine(b, v.Key)
	switch {
	case err != nil:
		return err.Error()
	case v.Events > 0 && read.Sequence != v.last+1:
		return fmt.Sprintf("event %d follows event %d", read.Sequence, v.last)
	case v.Events > 0 && read.Previous != v.Head:
		return "it was not written after the line before it"
	case read.Sequence == 1 && read.Previous != origin:
		return "the first event follows another one"
	}
	if v.Events == 0 {
		v.First, v.From = read.Sequence, read.Time
	}
	v.Events++
	v.Process = read.Process
	v.last, v.Head, v.Until = read.Sequence, read.hash, read.Time
	return ""
}

// A readBack is what the chain needs of a line.
type readBack struct {
	Sequence int64     `json:"seq"`
	Previous string    `json:"prev"`
	Time     time.Time `json:"time"`
	Process  string    `json:"process"`
	hash     string
}

const hashLength = len(`,"hash":""}`) + 2*sha256.Size

// readLine checks a line against its own hash, before it reads anything in it.
func readLine(b, key []byte) (readBack, error) {
	if len(b) <= hashLength {
		return readBack{}, errors.New("it is no event")
	}
	body := append(bytes.Clone(b[:len(b)-hashLength]), '}')
	hash := string(b[len(b)-2-2*sha256.Size : len(b)-2])
	if _, err := hex.DecodeString(hash); err != nil || !bytes.Equal(seal(body, hash), b) {
		return readBack{}, errors.New("it does not end in a hash")
	}
	if !hmac.Equal([]byte(hashOf(body, key)), []byte(hash)) {
		return readBack{}, errors.New("it was changed, or written with another key")
	}
	read := readBack{hash: hash}
	if json.Unmarshal(body, &read) != nil || read.Sequence < 1 {
		return readBack{}, errors.New("it is no event")
	}
	return read, nil
}
