package boltstore

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"spillway/jobs"
)

const (
	maxName  = 200      // characters of the name of a shared value
	maxBytes = 64 << 10 // bytes of a shared value
	// forgetAtOnce is how many values that have run out one Swap removes.
	forgetAtOnce = 16
)

// Load returns a shared value. See jobs.Store.
func (s *Store) Load(ctx context.Context, name string) (found jobs.Shared, err error) {
	if err := validName(name); err != nil {
		return jobs.Shared{}, err
	}
	now := s.now()
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		found, _, err = shared(tx, name, now)
		return err
	})
	return found, err
}

// Swap stores a shared value. See jobs.Store. It is kept in the file until its
// ttl has passed, so it outlives a restart.
func (s *Store) Swap(ctx context.Context, name string, version int64, value []byte, ttl time.Duration) (now jobs.Shared, swapped bool, err error) {
	if err := validShared(name, value, ttl); err != nil {
		return jobs.Shared{}, false, err
	}
	err = s.update(ctx, &change{do: func(tx *bbolt.Tx) (wrote bool, err error) {
		swapped = false
		at := s.now()
		var ends time.Time
		if now, ends, err = shared(tx, name, at); err != nil || now.Version != version {
			return false, err
		}
		if err := forget(tx, at); err != nil {
			return false, err
		}
		b, passing := bucketShared.in(tx), bucketPassing.in(tx)
		n, err := b.NextSequence() // so no version comes twice
		if err != nil {
			return false, err
		}
		expires := at.Add(ttl)
		raw := appendTime(binary.BigEndian.AppendUint64(nil, n), expires)
		if !ends.IsZero() { // else a later forget would take the new value for the old
			if err := passing.Delete(passingKey(ends, name)); err != nil {
				return false, err
			}
		}
		swapped, now = true, jobs.Shared{Bytes: bytes.Clone(value), Version: int64(n), Now: at}
		return true, cmp.Or(
			b.Put([]byte(name), append(raw, value...)),
			passing.Put(passingKey(expires, name), nil),
		)
	}})
	if err != nil {
		return jobs.Shared{}, false, err
	}
	return now, swapped, nil
}

// shared reads a value, unless it has run out, and when it does or did (zero:
// there is none).
func shared(tx *bbolt.Tx, name string, now time.Time) (v jobs.Shared, expires time.Time, err error) {
	v.Now = now
	raw := bucketShared.in(tx).Get([]byte(name))
	if raw == nil {
		return v, expires, nil
	}
	if len(raw) < 16 {
		return v, expires, fmt.Errorf("boltstore: a record in %s is damaged", bucketShared)
	}
	if expires = readTime(raw[8:]); expires.After(now) {
		v.Version, v.Bytes = int64(binary.BigEndian.Uint64(raw)), bytes.Clone(raw[16:])
	}
	return v, expires, nil
}

// forget removes a few values that have run out.
func forget(tx *bbolt.Tx, now time.Time) error {
	b, passing := bucketShared.in(tx), bucketPassing.in(tx)
	var keys [][]byte
	c := passing.Cursor()
	for k, _ := c.First(); k != nil && len(keys) < forgetAtOnce && !readTime(k).After(now); k, _ = c.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		if err := cmp.Or(passing.Delete(k), b.Delete(k[8:])); err != nil {
			return err
		}
	}
	return nil
}

func passingKey(expires time.Time, name string) []byte {
	return append(appendTime(nil, expires), name...)
}

func validShared(name string, value []byte, ttl time.Duration) error {
	switch {
	case len(value) > maxBytes:
		return fmt.Errorf("boltstore: a shared value has %d bytes, more than %d", len(value), maxBytes)
	case ttl < time.Millisecond:
		return errors.New("boltstore: a shared value must last a millisecond at least")
	}
	return validName(name)
}

func validName(name string) error {
	ok := len(name) >= 1 && len(name) <= maxName
	for _, c := range []byte(name) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || bytes.IndexByte([]byte("._:-"), c) >= 0)
	}
	if !ok {
		return errors.New("boltstore: the name of a shared value needs 1 to 200 letters, digits, '.', '_', ':' or '-'")
	}
	return nil
}
