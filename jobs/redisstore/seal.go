package redisstore

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"spillway/jobs"
)

// sealed begins a value that is a MAC and what it authenticates. Neither JSON
// nor a packed value begins so.
const sealed = 2

// MinRecordKey is the length in bytes that a record key needs.
const MinRecordKey = 32

// errForged says that a value is not one that a holder of the key wrote for
// this place.
func errForged(what string) error {
	return fmt.Errorf("redisstore: %s in Redis was changed, or written by a process that has another record key or none", what)
}

var errNoKey = errors.New("redisstore: the records in Redis are sealed, and this process has no record key")

// A seal authenticates values, so that who can write to Redis cannot change
// what an export may read, whose it is, or which bytes are its files. It cannot
// stop him from deleting, or from putting back what was there before. The zero
// value seals nothing.
type seal struct{ key []byte }

// A place is where a value belongs. A value that was moved to another is not
// accepted there.
type place struct {
	kind    string
	job     jobs.ID
	unit    string
	attempt int64
}

// The kinds of places.
const (
	placeJob        = "job"
	placeTime       = "transaction time"
	placeOutput     = "output"
	placeUnit       = "unit" // of any unit: its id is in it
	placeResult     = "result"
	placeCheckpoint = "checkpoint"
)

// close returns the value as it is kept.
func (s seal) close(at place, value []byte) []byte {
	if len(s.key) == 0 || len(value) == 0 {
		return value
	}
	return append(append([]byte{sealed}, s.mac(at, string(value))...), value...)
}

// open is the reverse. what names the value in an error.
func (s seal) open(at place, stored, what string) (string, error) {
	isSealed := stored != "" && stored[0] == sealed
	switch {
	case stored == "" || !isSealed && len(s.key) == 0:
		return stored, nil
	case len(s.key) == 0:
		return "", errNoKey
	case !isSealed || len(stored) <= 1+sha256.Size:
		return "", errForged(what)
	}
	value := stored[1+sha256.Size:]
	if !hmac.Equal([]byte(stored[1:1+sha256.Size]), s.mac(at, value)) {
		return "", errForged(what)
	}
	return value, nil
}

func (s seal) mac(at place, value string) []byte {
	h := hmac.New(sha256.New, s.key)
	for _, part := range []string{"spillway record 1", at.kind, string(at.job), at.unit} {
		_, _ = h.Write(binary.AppendUvarint(nil, uint64(len(part))))
		_, _ = h.Write([]byte(part))
	}
	_, _ = h.Write(binary.AppendVarint(nil, at.attempt))
	_, _ = h.Write([]byte(value))
	return h.Sum(nil)
}

// encode returns v as it is kept at a place.
func (s seal) encode(at place, v any) ([]byte, error) {
	raw, err := encode(v)
	if err != nil {
		return nil, err
	}
	return s.close(at, raw), nil
}

// decode reads what encode has written for the place.
func (s seal) decode(at place, stored string, v any, what string) error {
	value, err := s.open(at, stored, what)
	if err != nil {
		return err
	}
	return decode(value, v, what)
}

// checkKey refuses a key that can be guessed by its length.
func checkKey(key []byte) error {
	if len(key) > 0 && len(strings.TrimSpace(string(key))) < MinRecordKey {
		return fmt.Errorf("the record key needs %d bytes at least; make one with: openssl rand -hex 32", MinRecordKey)
	}
	return nil
}
