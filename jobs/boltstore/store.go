// Package boltstore keeps jobs in one file, for one process: jobs.Store on bbolt.
//
//	Open      takes the file, and hands back what the former process had leased
//	update    one write transaction for all callers that wait for one
//	Claim     reap expired leases -> choose a job -> its first ready unit
//	holdings  who may write and until when, in memory
//	ranked    which jobs are active, kept until one is created, started or ended
//	Idle      wakes up when a Claim may succeed again
//	Swap      small values that processes share; here they only outlive a restart
//
// # The file
//
// All integers in keys are big-endian, times are microseconds since 1970.
//
//	meta     "format" -> 1
//	queued   created, job -> nothing       jobs waiting for their first claim
//	running  job -> served                 a counter that orders the jobs by their last claim
//	ended    expires, job -> nothing       jobs to be removed, by the time from which they may be
//	shared   name -> version, expires, bytes   shared values; files of old have no such bucket until they are opened
//	passing  expires, name -> nothing      the same by the time from which they are forgotten
//	jobs     job -> bucket:
//	    "job"        the jobs.Job as it was created, never written again
//	    "state"      what changes of it: state, times, progress
//	    "output"     files and evidence, written by the finish unit
//	    units        unit -> its record; empty once the unit is done, so that its id is never used again
//	    ready        stage, descending weight, age -> unit    claimable, in order
//	    delayed      stage, not before, age -> unit           claimable later
//	    leased       unit -> attempt, stage
//	    checkpoints  unit -> checkpoint
//	    done         order of completion -> jobs.Done
//
// Every unfinished unit is in exactly one of ready, delayed and leased. When a
// job ends, all but its done units goes. Values are JSON but for counters and
// checkpoints. The "version" in "state" is jobs.RecordVersion of the writer.
//
// # Leases are in memory
//
// When a lease runs out is kept in memory only: after a restart every lease is
// void anyway, and that is what makes Renew free of disk writes. That a unit is
// leased, and to which attempt, is in the file before Claim returns.
package boltstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"spillway/jobs"
)

// format is the version of the layout above. A file with another one is refused.
const format = 1

// lockWait is how long Open waits for another process to let go of the file.
const lockWait = time.Second

var _ jobs.Store = (*Store)(nil)

// A Store is a jobs.Store in one file. Open makes one.
type Store struct {
	db     *bbolt.DB
	limits jobs.Limits
	now    func() time.Time

	queueMu sync.Mutex
	queue   []*change  // waiting for the next write transaction
	writeMu sync.Mutex // held while one is under way; guards the next two
	placed  bool       // places are known
	places  []place    // of the jobs that have not ended

	mu       sync.Mutex // guards what follows; never held during disk access
	holdings map[holder]*holding
	wakeup
}

// An Option changes how a Store is opened.
type Option func(*Store)

// WithClock makes the store read the time from now instead of time.Now.
func WithClock(now func() time.Time) Option { return func(s *Store) { s.now = now } }

// Open opens the file at path, which is made if it is missing, with the folders
// above it. The leases of the process that had it before are void: their units
// are claimable at once, with Tries one higher, and a job whose unit has come
// to jobs.MaxTries by that fails. If another process has the file, Open gives
// up after a second and says so.
func Open(path string, limits jobs.Limits, opts ...Option) (*Store, error) {
	s := &Store{
		limits:   limits.WithDefaults(),
		now:      time.Now,
		holdings: map[holder]*holding{},
		wakeup:   wakeup{generation: 1, changed: make(chan struct{})},
	}
	for _, o := range opts {
		o(s)
	}
	if err := s.open(path); err != nil {
		if s.db != nil {
			_ = s.db.Close()
		}
		return nil, fmt.Errorf("boltstore: %s: %w", path, err)
	}
	return s, nil
}

func (s *Store) open(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	var err error
	s.db, err = bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockWait,
		// Free pages are found by a scan at Open instead of being written
		// with every change: the removal of a large job leaves many.
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
	})
	if errors.Is(err, berrors.ErrTimeout) {
		return errors.New("another spillway process uses this file; stop it, or give this one a file of its own")
	}
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil { // an older file, or a strange umask
		return err
	}
	if err := syncFolder(filepath.Dir(path)); err != nil { // the file may be new
		return err
	}
	return s.db.Update(func(tx *bbolt.Tx) error {
		if err := prepare(tx); err != nil {
			return err
		}
		return s.recoverLeases(tx)
	})
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func prepare(tx *bbolt.Tx) error {
	for _, name := range []name{bucketMeta, bucketJobs, bucketQueued, bucketRunning, bucketEnded, bucketShared, bucketPassing} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return err
		}
	}
	meta := bucketMeta.in(tx)
	switch have := meta.Get([]byte(keyFormat)); {
	case have == nil:
		return meta.Put([]byte(keyFormat), binary.BigEndian.AppendUint64(nil, format))
	case len(have) != 8 || binary.BigEndian.Uint64(have) != format:
		return errors.New("the file was written by another version of spillway, which this one does not understand")
	}
	return nil
}

// Close releases the file. No other method may be running.
func (s *Store) Close() error { return s.db.Close() }

// Ping reports whether the file can be read.
func (s *Store) Ping(ctx context.Context) error {
	return s.view(ctx, func(*bbolt.Tx) error { return nil })
}

// view runs fn in a read transaction.
func (s *Store) view(ctx context.Context, fn func(*bbolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	tx, err := s.db.Begin(false)
	if err != nil {
		return unavailable(err)
	}
	defer func() { _ = tx.Rollback() }()
	return fn(tx)
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", jobs.ErrUnavailable, err) }

// A change is one caller's part in a write transaction.
type change struct {
	// do makes the change and reports whether it wrote anything. It may run
	// more than once, so it assigns results afresh each time. What the caller
	// did wrong (a lost lease, a missing job) is not do's error: do keeps it
	// in a variable and writes nothing.
	do func(*bbolt.Tx) (wrote bool, err error)
	// then runs after the transaction is on disk, before the next one begins.
	then func()

	wrote, finished bool
	err             error
}

// update makes a change durable. Callers that come while another transaction
// is being written to disk wait, and the first of them then takes all of
// theirs into one: under load, one fsync serves many. (bbolt's own Batch does
// the same by waiting for a fixed time, which would slow down a lone caller.)
func (s *Store) update(ctx context.Context, c *change) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.queueMu.Lock()
	s.queue = append(s.queue, c)
	s.queueMu.Unlock()

	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if c.finished { // somebody took it along
		return c.err
	}
	s.queueMu.Lock()
	group := s.queue
	s.queue = nil
	s.queueMu.Unlock()

	if err := s.commit(group...); err != nil {
		for _, c := range group { // each for itself, so that none suffers for another
			c.err = s.commit(c)
		}
	}
	for _, c := range group {
		c.finished = true
		if c.err == nil && c.wrote && c.then != nil {
			c.then()
		}
	}
	return c.err
}

// commit runs changes in one transaction. If none wrote anything there is
// nothing to wait for.
func (s *Store) commit(group ...*change) error {
	tx, err := s.db.Begin(true)
	if err != nil {
		return unavailable(err)
	}
	kept := false
	defer func() {
		_ = tx.Rollback()           // does nothing after Commit
		s.placed = s.placed && kept // else they may be those of what was rolled back
	}()
	wrote := false
	for _, c := range group {
		if c.wrote, err = c.do(tx); err != nil {
			return err
		}
		wrote = wrote || c.wrote
	}
	if wrote {
		if err := tx.Commit(); err != nil {
			return unavailable(err)
		}
	}
	kept = true
	return nil
}
