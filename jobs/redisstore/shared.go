package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"spillway/jobs"
)

const (
	maxName  = 200      // characters of the name of a shared value
	maxBytes = 64 << 10 // bytes of a shared value
)

// Load returns a shared value. See jobs.Store.
func (s *Store) Load(ctx context.Context, name string) (jobs.Shared, error) {
	if err := validName(name); err != nil {
		return jobs.Shared{}, err
	}
	answer, err := s.run(ctx, s.scripts.load, true, name)
	if err != nil {
		return jobs.Shared{}, err
	}
	return sharedOf(answer), nil
}

// Swap stores a shared value. See jobs.Store. If the answer is lost it may have
// been stored or not; Load tells.
func (s *Store) Swap(ctx context.Context, name string, version int64, bytes []byte, ttl time.Duration) (jobs.Shared, bool, error) {
	if len(bytes) > maxBytes {
		return jobs.Shared{}, false, fmt.Errorf("redisstore: a shared value has %d bytes, more than %d", len(bytes), maxBytes)
	}
	if ttl < time.Millisecond {
		return jobs.Shared{}, false, errors.New("redisstore: a shared value must last a millisecond at least")
	}
	if err := validName(name); err != nil {
		return jobs.Shared{}, false, err
	}
	answer, err := s.run(ctx, s.scripts.swap, false, name, version, bytes, ttl.Microseconds())
	if err != nil {
		return jobs.Shared{}, false, err
	}
	return sharedOf(answer), answer.word() == "ok", nil
}

func sharedOf(answer reply) jobs.Shared {
	v := jobs.Shared{Now: time.UnixMicro(answer.number(1)).UTC(), Version: answer.number(2)}
	if v.Version != 0 {
		v.Bytes = []byte(answer.text(3))
	}
	return v
}

func validName(name string) error {
	other := func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._:-", c)
	}
	if name == "" || len(name) > maxName || strings.ContainsFunc(name, other) {
		return errors.New("redisstore: the name of a shared value needs 1 to 200 letters, digits, '.', '_', ':' or '-'")
	}
	return nil
}
