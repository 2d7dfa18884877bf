package boltstore

import (
	"encoding/binary"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"spillway/jobs"
)

// A place is that of a job which has not ended: it is active, or it has been
// started and pauses.
type place struct {
	id     jobs.ID
	owner  string
	active bool
}

// A contender is a job that has not ended, as rank sees it.
type contender struct {
	id      jobs.ID
	owner   string
	running bool
}

// rank returns the places of jobs. all are those that run, oldest first, then
// those that are queued, oldest first. See jobs.Store.Claim.
func rank(all []contender, l jobs.Limits) (places []place) {
	var columns [][]contender // the first of every owner, the second of every owner, ...
	rows := map[string]int{}  // owner -> how many of its jobs have a column
	for _, c := range all {
		n := rows[c.owner]
		rows[c.owner]++
		if n == len(columns) {
			columns = append(columns, nil)
		}
		columns[n] = append(columns[n], c)
	}
	taken := 0
	for n, column := range columns {
		for _, c := range column {
			may := l.MaxActivePerOwner <= 0 || n < l.MaxActivePerOwner || c.owner == ""
			active := may && taken < l.MaxActive
			if active {
				taken++
			}
			if active || c.running {
				places = append(places, place{c.id, c.owner, active})
			}
		}
	}
	return places
}

// ranked returns the places of all jobs. They are kept until a job is created,
// started or ended; to find them afresh, a key and the owner of every job that
// has not ended are read. The caller has the write transaction.
func (s *Store) ranked(tx *bbolt.Tx) ([]place, error) {
	if s.placed {
		return s.places, nil
	}
	var running, queued []contender
	started := map[jobs.ID]time.Time{}
	err := bucketRunning.in(tx).ForEach(func(id, _ []byte) error {
		j, st, err := known(tx, jobs.ID(id))
		if err != nil || st.newer() {
			return err
		}
		owner, err := j.owner()
		running = append(running, contender{j.id, owner, true})
		started[j.id] = st.CreatedAt
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(running, func(a, b contender) int { return started[a.id].Compare(started[b.id]) })
	err = bucketQueued.in(tx).ForEach(func(k, _ []byte) error {
		j, st, err := known(tx, jobs.ID(k[8:]))
		if err != nil || st.newer() {
			return err
		}
		owner, err := j.owner()
		queued = append(queued, contender{id: j.id, owner: owner})
		return err
	})
	if err != nil {
		return nil, err
	}
	s.places, s.placed = rank(append(running, queued...), s.limits), true
	return s.places, nil
}

// owner reads whose job it is.
func (j job) owner() (string, error) {
	var record struct {
		Owner string `json:"owner"`
	}
	err := decode(j.b.Get([]byte(keyJob)), &record)
	return record.Owner, err
}

// served returns when a job that runs was last served, as a counter.
func served(tx *bbolt.Tx, id jobs.ID) uint64 {
	if v := bucketRunning.in(tx).Get([]byte(id)); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}
