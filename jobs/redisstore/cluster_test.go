package redisstore_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway/jobs"
	"spillway/jobs/redisstore"
	"spillway/test/testenv"
)

// slotOwner returns the node of a cluster that has the keys of a prefix, and
// another one.
func slotOwner(t *testing.T, c testenv.Cluster, prefix string) (slot string, owner, other *testenv.RedisServer) {
	t.Helper()
	slot = c[0].CLI("CLUSTER", "KEYSLOT", "{"+prefix+"}:")
	for _, r := range c {
		if got := r.CLI("CLUSTER", "COUNTKEYSINSLOT", slot); got != "0" && owner == nil {
			owner = r
		} else {
			other = r
		}
	}
	if owner == nil {
		t.Fatal("no node has the keys")
	}
	return slot, owner, other
}

// TestClusterMovesTheSlot moves all keys to another node while they are in use.
func TestClusterMovesTheSlot(t *testing.T) {
	t.Parallel()
	c := testenv.RedisCluster(t)
	s := open(t, redisstore.Options{URL: c.URL()})
	j := planned(t, s, 3)
	l := claim(t, s)
	slot, from, to := slotOwner(t, c, "spillway")
	id := func(r *testenv.RedisServer) string { return r.CLI("CLUSTER", "MYID") }
	move := func(some string) {
		host, port, _ := strings.Cut(to.Addr, ":")
		keys := strings.Fields(from.CLI("CLUSTER", "GETKEYSINSLOT", slot, some))
		from.CLI(append([]string{"MIGRATE", host, port, "", "0", "5000", "KEYS"}, keys...)...)
	}
	to.CLI("CLUSTER", "SETSLOT", slot, "IMPORTING", id(from))
	from.CLI("CLUSTER", "SETSLOT", slot, "MIGRATING", id(to))
	for step, do := range []func(){func() {}, func() { move("5") }, func() { move("1000") }} {
		do()
		var wg sync.WaitGroup
		for name, call := range map[string]func() error{
			"Renew":    func() error { return s.Renew(t.Context(), l) },
			"Complete": func() error { return s.Complete(t.Context(), l, jobs.Result{}) },
			"Claim":    func() error { _, _, err := s.Claim(t.Context(), "worker"); return err },
		} {
			wg.Go(func() {
				if err := call(); !errors.Is(err, jobs.ErrUnavailable) {
					t.Errorf("step %d: %s while the slot is moved = %v, want ErrUnavailable", step, name, err)
				}
			})
		}
		wg.Wait()
	}
	for _, r := range c {
		r.CLI("CLUSTER", "SETSLOT", slot, "NODE", id(to))
	}
	if got, err := s.Get(t.Context(), j.ID); err != nil || got.ID != j.ID {
		t.Errorf("Get after the slot was moved = %v", err)
	}
	if d, err := s.Done(t.Context(), j.ID); err != nil || len(d) != 1 {
		t.Errorf("Done after the slot was moved = %d units, %v", len(d), err)
	}
	if err := errors.Join(s.Renew(t.Context(), l), s.Complete(t.Context(), l, jobs.Result{})); err != nil {
		t.Errorf("with the lease of before: %v", err)
	}
	if l := claim(t, s); l.Job != j.ID || l.Tries != 0 {
		t.Errorf("claimed a unit with %d tries, want the next one for the first time", l.Tries)
	}
}

func TestClusterNodeRestarts(t *testing.T) {
	c := testenv.RedisCluster(t, "--appendonly", "yes", "--appendfsync", "always")
	s := open(t, redisstore.Options{URL: c.URL()})
	planned(t, s, 3)
	l := claim(t, s)
	_, owner, other := slotOwner(t, c, "spillway")
	owner.Kill()
	wantAway(t, s, l)
	owner.Start()
	wantBack(t, s)
	if err := errors.Join(s.Renew(t.Context(), l), s.Complete(t.Context(), l, jobs.Result{})); err != nil {
		t.Errorf("with the lease of before: %v", err)
	}
	other.Stop()
	defer other.Continue()
	claim(t, s)
}

// TestSentinel has a replica take over.
func TestSentinel(t *testing.T) {
	master := testenv.Redis(t)
	host, port, _ := strings.Cut(master.Addr, ":")
	replica := testenv.Redis(t, "--replicaof", fmt.Sprint(host, " ", port), "--repl-diskless-sync-delay", "0")
	sentinel := testenv.RedisSentinel(t, "exports", master)
	s := open(t, redisstore.Options{URL: sentinel.URL() + "?master_name=exports"})
	j := planned(t, s, 2)
	l := claim(t, s)
	master.CLI("WAIT", "1", "5000")
	for began := time.Now(); !strings.Contains(sentinel.CLI("SENTINEL", "REPLICAS", "exports"), replica.Addr); {
		if time.Since(began) > 15*time.Second {
			t.Fatal("the Sentinel does not find the replica")
		}
		time.Sleep(50 * time.Millisecond)
	}
	master.Kill()
	wantAway(t, s, l)
	for began := time.Now(); ; {
		err := s.Renew(t.Context(), l)
		if err == nil {
			break
		}
		if !errors.Is(err, jobs.ErrUnavailable) || time.Since(began) > 25*time.Second {
			t.Fatalf("after the failover Renew = %v", err)
		}
	}
	wantBack(t, s)
	if got, err := s.Get(t.Context(), j.ID); err != nil || got.State != jobs.Running {
		t.Errorf("Get = %v, %v", got, err)
	}
}
