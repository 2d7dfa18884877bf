package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// Errors of a Store. Test with errors.Is.
var (
	// ErrNotFound: there is no such job, or it has been removed.
	ErrNotFound = errors.New("jobs: no such job")
	// ErrExists: a job with this id exists already.
	ErrExists = errors.New("jobs: job exists")
	// ErrNoWork: nothing can be claimed at this moment.
	ErrNoWork = errors.New("jobs: no work")
	// ErrLeaseLost: the lease expired, or another attempt holds or has
	// completed the unit. Whatever the caller did for it must not be used.
	ErrLeaseLost = errors.New("jobs: lease lost")
	// ErrEnded: the job has ended (canceled, failed, completed), so no more
	// work is wanted. Stop, and leave no bytes.
	ErrEnded = errors.New("jobs: job has ended")
	// ErrUnavailable: the store cannot be reached; try again later. Stores
	// wrap it around the cause.
	ErrUnavailable = errors.New("jobs: store unavailable")
)

// MaxTries is how often a unit may fail, or its worker fall silent, before it
// is quarantined: its job then fails with a reason.
const MaxTries = 5

// Limits are what a store must keep to. The zero value means defaults.
type Limits struct {
	// LeaseTTL is how long a worker may be silent before its unit is given to
	// another. Workers renew every quarter of it. Zero means 20s.
	LeaseTTL time.Duration
	// MaxActive is how many exports are worked on at once; more wait. Zero
	// means 4.
	MaxActive int
	// MaxActivePerOwner is how many exports of one owner are worked on at
	// once. Zero means that only MaxActive limits them. It does not bind jobs
	// without an owner, which may be anybody's.
	MaxActivePerOwner int
	// Retention is how long an ended job and its files are kept. Zero means 24h.
	Retention time.Duration
}

// WithDefaults returns l with every zero replaced by its default.
func (l Limits) WithDefaults() Limits {
	if l.LeaseTTL <= 0 {
		l.LeaseTTL = 20 * time.Second
	}
	if l.MaxActive <= 0 {
		l.MaxActive = 4
	}
	if l.Retention <= 0 {
		l.Retention = 24 * time.Hour
	}
	return l
}

// A Store keeps jobs and their units. All methods are safe for concurrent use
// by many workers, take effect wholly or not at all, and are durable when they
// return nil. A store shares no memory with its callers. Times are the store's
// own clock. Any method may also return an error that wraps ErrUnavailable.
type Store interface {
	// Create records a new job with its first unit, which is then claimable.
	// ErrExists if the id is taken.
	Create(ctx context.Context, j *Job, first Unit) error

	// Get returns the job with this id, or ErrNotFound if none exists or it
	// has been removed. Canceled and expired jobs are returned until removed.
	Get(ctx context.Context, id ID) (*Job, error)

	// List returns all jobs, oldest first, without their Files and Evidence.
	List(ctx context.Context) ([]*Job, error)

	// Done returns the completed units of a job in the order of completion,
	// or ErrNotFound. Units of a removed job are gone.
	Done(ctx context.Context, id ID) ([]Done, error)

	// Claim leases one unit to a worker, and returns it with its job.
	//
	// Only active jobs are served. Of the jobs that have not ended, each owner's
	// are put in a row: running before queued, then oldest first. Active are the
	// first Limits.MaxActive of all these rows taken side by side: the first of
	// every owner, then the second of every owner, and so on; at one place
	// running before queued, then oldest first. Those beyond
	// MaxActivePerOwner in their row are never active. So one owner's many exports
	// cannot shut out another's: a running job may pause until it is active again.
	//
	// Fair over the active jobs: that of the owner with the fewest leased units
	// comes first, then the job with the fewest, then the one served longest
	// ago. Within a job: lowest stage (no later stage while an earlier one is
	// unfinished), then heaviest, then oldest. Units before their NotBefore
	// wait. A unit whose lease expired is claimable again, with Tries one
	// higher; when that reaches MaxTries its job fails instead. The first
	// claim of a job makes it Running. ErrNoWork if nothing can be claimed.
	Claim(ctx context.Context, worker string) (*Lease, *Job, error)

	// Idle returns when a Claim may succeed again: something changed, a
	// NotBefore or a lease ran out, or at the latest after about a second, or
	// ctx ended (then ctx's error). It is cheap to call in a loop.
	Idle(ctx context.Context) error

	// Renew extends a lease by LeaseTTL from now and updates l.ExpiresAt.
	// ErrLeaseLost or ErrEnded tell the worker to stop.
	Renew(ctx context.Context, l *Lease) error

	// Save stores a checkpoint with the unit and renews the lease. The next
	// attempt finds it in Lease.Checkpoint. Errors as Renew.
	Save(ctx context.Context, l *Lease, checkpoint json.RawMessage) error

	// Complete ends a unit: records its result, adds r.Next, and counts
	// Progress (each Next of UnitSlice adds its Weight to Expected of its
	// Type; each output segment adds to Done). Completing a UnitFinish unit
	// completes the job. Errors as Renew; then nothing was recorded.
	Complete(ctx context.Context, l *Lease, r Result) error

	// Fail ends an attempt that did not succeed. The unit becomes claimable
	// after retryIn, with Tries one higher; when that reaches MaxTries, or
	// where f.Permanent is set, the job fails with f.Reason. Errors as Renew.
	Fail(ctx context.Context, l *Lease, f Failure, retryIn time.Duration) error

	// Release hands a unit back unfinished and blameless: Tries stays. It
	// becomes claimable at notBefore (zero: at once). Errors as Renew.
	Release(ctx context.Context, l *Lease, notBefore time.Time) error

	// Cancel makes a job Canceled, also one that has completed or failed; its
	// units are handed out no more and its leases are void. ErrNotFound if
	// there is no such job or it is canceled already.
	Cancel(ctx context.Context, id ID) error

	// Removable returns the jobs whose bytes may go: canceled, or ended and
	// past ExpiresAt, in either case without a lease that might still be
	// writing (a lease voided by the end of its job counts until its ExpiresAt,
	// unless its holder has let go with Complete, Fail or Release; Renew and
	// Save only tell the holder to stop, its last writes may be under way).
	Removable(ctx context.Context) ([]ID, error)

	// Remove deletes the record of a job and of its units. Call it last, after
	// the bytes. Removing what is not there is no error.
	Remove(ctx context.Context, id ID) error

	// Load returns the shared value of this name. One that was never stored,
	// or has run out, has Version 0 and no Bytes.
	Load(ctx context.Context, name string) (Shared, error)

	// Swap stores a shared value for ttl if its version is still the one given
	// (0: there is none), with a greater version, and reports whether it did.
	// Either way it returns the value that there is now. It is how processes
	// that share a store agree on small things: who may send how much to the
	// upstream, which token has been seen. name has 1 to 200 characters of
	// [A-Za-z0-9._:-]; Bytes at most 64 KiB; ttl at least a millisecond.
	Swap(ctx context.Context, name string, version int64, bytes []byte, ttl time.Duration) (now Shared, swapped bool, err error)

	// Ping reports whether the store answers, for readiness.
	Ping(ctx context.Context) error

	// Close releases what the store holds. No other method may be running.
	Close() error
}

// Shared is a small value that all processes of one store see.
type Shared struct {
	Bytes   []byte
	Version int64     // 0: there is no value; never used twice for one name while it lasts
	Now     time.Time // the store's clock when it answered
}

// A Failure says why an attempt did not succeed.
type Failure struct {
	// Reason is a sentence for the client: which request, what came, what to
	// do. No URL query, token or patient data.
	Reason string
	// Permanent means that another attempt cannot help.
	Permanent bool
}
