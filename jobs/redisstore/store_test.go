package redisstore_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"go.uber.org/goleak"

	"spillway/jobs"
	"spillway/jobs/jobstest"
	"spillway/jobs/redisstore"
	"spillway/test/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shift is how far a store's clock is ahead of the server's.
type shift struct{ d atomic.Int64 }

func (s *shift) Advance(d time.Duration) { s.d.Add(int64(d)) }
func (s *shift) Get() time.Duration      { return time.Duration(s.d.Load()) }

// open opens a store and closes it at the end of the test.
func open(t testing.TB, o redisstore.Options) *redisstore.Store {
	t.Helper()
	s, err := redisstore.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// suite runs the contract over one Redis, with a prefix for every test; with a
// record key if there is one.
func suite(t *testing.T, url string, key []byte) {
	var mu sync.Mutex
	n := 0
	jobstest.Run(t, func(t *testing.T, l jobs.Limits) (jobs.Store, func(time.Duration)) {
		mu.Lock()
		n++
		prefix := fmt.Sprint("test-", n)
		mu.Unlock()
		clock := &shift{}
		return open(t, redisstore.Options{URL: url, KeyPrefix: prefix, Limits: l, Shift: clock.Get, RecordKey: key}), clock.Advance
	})
}

func TestStoreOnMiniredis(t *testing.T) {
	t.Parallel()
	suite(t, "redis://"+miniredis.RunT(t).Addr(), nil)
}

func TestStoreOnRedis(t *testing.T) {
	t.Parallel()
	suite(t, testenv.Redis(t).URL(), recordKey)
}

func TestStoreOnCluster(t *testing.T) {
	t.Parallel()
	suite(t, testenv.RedisCluster(t).URL(), nil)
}
