package boltstore

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"spillway/jobs"
)

// A name is the name of a bucket or the key of a single value in the file. See
// the package comment.
type name string

const (
	bucketMeta    name = "meta"
	bucketJobs    name = "jobs"
	bucketQueued  name = "queued"
	bucketRunning name = "running"
	bucketEnded   name = "ended"
	bucketShared  name = "shared"
	bucketPassing name = "passing"

	keyFormat name = "format"

	keyJob            name = "job"
	keyState          name = "state"
	keyOutput         name = "output"
	bucketUnits       name = "units"
	bucketReady       name = "ready"
	bucketDelayed     name = "delayed"
	bucketLeased      name = "leased"
	bucketCheckpoints name = "checkpoints"
	bucketDone        name = "done"
)

// in returns the bucket of this name in a transaction or another bucket.
func (n name) in(parent interface {
	Bucket(key []byte) *bbolt.Bucket
}) *bbolt.Bucket {
	return parent.Bucket([]byte(n))
}

// working are the buckets that a job needs until it has ended.
var working = []name{bucketUnits, bucketReady, bucketDelayed, bucketLeased, bucketCheckpoints}

// state is what changes of a job.
type state struct {
	Version         int           `json:"version"`
	State           jobs.State    `json:"state"`
	CreatedAt       time.Time     `json:"createdAt"`
	StartedAt       time.Time     `json:"startedAt,omitzero"`
	EndedAt         time.Time     `json:"endedAt,omitzero"`
	ExpiresAt       time.Time     `json:"expiresAt,omitzero"`
	TransactionTime time.Time     `json:"transactionTime,omitzero"`
	Progress        jobs.Progress `json:"progress"`
	Failure         string        `json:"failure,omitempty"`
}

// newer reports whether a later version of the program wrote the job.
func (st *state) newer() bool { return st.Version > jobs.RecordVersion }

var errNewer = errors.New("boltstore: the job was written by a newer version of spillway, which must remove it")

// output is what the finish unit leaves.
type output struct {
	Files    []jobs.File     `json:"files,omitempty"`
	Evidence []jobs.Evidence `json:"evidence,omitempty"`
}

// unit is the record of an unfinished unit.
type unit struct {
	jobs.Unit
	Age     uint64 `json:"age"` // order of adding
	Attempt int64  `json:"attempt,omitempty"`
	Tries   int    `json:"tries,omitempty"`
	Silent  int    `json:"silent,omitempty"` // of the tries
	Worker  string `json:"worker,omitempty"` // of the latest claim
}

// job is the bucket of one job within a transaction.
type job struct {
	id jobs.ID
	b  *bbolt.Bucket
}

// lookup returns the bucket of a job, and false if there is no such job.
func lookup(tx *bbolt.Tx, id jobs.ID) (job, bool) {
	b := bucketJobs.in(tx).Bucket([]byte(id))
	return job{id, b}, b != nil
}

func (j job) state() (*state, error) {
	st := new(state)
	return st, decode(j.b.Get([]byte(keyState)), st)
}

func (j job) putState(st *state) error { return put(j.b, []byte(keyState), st) }

// load returns the whole job, or all but its files and evidence.
func (j job) load(withOutput bool) (*jobs.Job, error) {
	var whole jobs.Job
	if err := decode(j.b.Get([]byte(keyJob)), &whole); err != nil {
		return nil, err
	}
	st, err := j.state()
	if err != nil {
		return nil, err
	}
	whole.State, whole.StartedAt, whole.EndedAt, whole.ExpiresAt = st.State, st.StartedAt, st.EndedAt, st.ExpiresAt
	whole.TransactionTime, whole.Progress, whole.Failure = st.TransactionTime, st.Progress, st.Failure
	if withOutput {
		out, err := j.output()
		if err != nil {
			return nil, err
		}
		whole.Files, whole.Evidence = out.Files, out.Evidence
	}
	return &whole, nil
}

func (j job) output() (out output, err error) {
	if raw := j.b.Get([]byte(keyOutput)); raw != nil {
		err = decode(raw, &out)
	}
	return out, err
}

func (j job) unit(id string) (*unit, error) {
	u := new(unit)
	return u, decode(bucketUnits.in(j.b).Get([]byte(id)), u)
}

func (j job) putUnit(u *unit) error { return put(bucketUnits.in(j.b), []byte(u.ID), u) }

// add records a new unit and makes it claimable.
func (j job) add(u jobs.Unit, now time.Time) error {
	if !validUnitID(u.ID) {
		return fmt.Errorf("boltstore: the id of a %s unit is not made of letters, digits and '-'", u.Kind)
	}
	units := bucketUnits.in(j.b)
	if units.Get([]byte(u.ID)) != nil {
		return fmt.Errorf("boltstore: the id of a %s unit has been used in its job before", u.Kind)
	}
	age, err := units.NextSequence()
	if err != nil {
		return err
	}
	record := &unit{Unit: u, Age: age}
	if err := j.putUnit(record); err != nil {
		return err
	}
	return j.enqueue(record, u.NotBefore, now)
}

func validUnitID(id string) bool {
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return id != ""
}

// enqueue makes a unit claimable from notBefore on.
func (j job) enqueue(u *unit, notBefore, now time.Time) error {
	if notBefore.After(now) {
		return bucketDelayed.in(j.b).Put(delayedKey(u, notBefore), []byte(u.ID))
	}
	return bucketReady.in(j.b).Put(readyKey(u), []byte(u.ID))
}

// readyKey orders by stage, then heaviest, then oldest.
func readyKey(u *unit) []byte {
	k := []byte{byte(u.Kind.Stage())}
	k = binary.BigEndian.AppendUint64(k, ^(uint64(u.Weight) ^ 1<<63))
	return binary.BigEndian.AppendUint64(k, u.Age)
}

// delayedKey orders by stage, then time.
func delayedKey(u *unit, notBefore time.Time) []byte {
	k := appendTime([]byte{byte(u.Kind.Stage())}, notBefore.Add(time.Microsecond-1)) // never early
	return binary.BigEndian.AppendUint64(k, u.Age)
}

func appendTime(k []byte, t time.Time) []byte {
	return binary.BigEndian.AppendUint64(k, uint64(t.UnixMicro())^1<<63)
}

func readTime(k []byte) time.Time {
	return time.UnixMicro(int64(binary.BigEndian.Uint64(k) ^ 1<<63))
}

// timeKey is a key of queued and ended.
func timeKey(t time.Time, id jobs.ID) []byte { return append(appendTime(nil, t), id...) }

// leasedValue tells which attempt has a unit, and its stage.
func leasedValue(u *unit) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(u.Attempt)), byte(u.Kind.Stage()))
}

func readLeased(v []byte) (attempt int64, stage byte) {
	return int64(binary.BigEndian.Uint64(v)), v[8]
}

func put(b *bbolt.Bucket, key []byte, v any) error {
	raw, err := encode(v)
	if err != nil {
		return err
	}
	return b.Put(key, raw)
}

// encode is json.Marshal, but leaves '<', '>' and '&' in the raw parts alone.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("boltstore: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func decode(raw []byte, v any) error {
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("boltstore: a record in the file is damaged: %w", err)
	}
	return nil
}
