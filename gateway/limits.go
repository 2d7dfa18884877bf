package gateway

import (
	"context"
	"hash/fnv"
	"net/http"
	"time"

	"spillway/auth"
	"spillway/jobs"
	"spillway/upstream/fhir"
)

// Limits bound what one client may ask for: by its id, or by its address where
// nobody says who it is. Rates are of each process. The zero value is far above
// what a polite client does.
type Limits struct {
	// KickOffs are requests for an export. Zero: 600 a minute, 300 at once: test suites make a hundred without a pause.
	KickOffs Rate
	// Polls are requests for the status of exports, all taken together. Zero:
	// 6000 a minute, 1000 at once.
	Polls Rate
	// Downloads are requests for files. Zero: 6000 a minute, 1000 at once.
	Downloads Rate
	// Exports is how many exports of a client may be unfinished, those that wait
	// for their turn included. Zero: 100 where clients are known by an id, and
	// any number where nobody is; negative: any number. Several processes may
	// each take one more at the same moment. How many of them are worked on at
	// once is jobs.Limits.MaxActivePerOwner.
	Exports int
}

// A Rate is how often something may be done. The zero value means a default.
type Rate struct {
	PerMinute float64 // negative: without limit
	Burst     int     // how often at once; 0: half of PerMinute, at least 1
}

const (
	defaultExports = 100
	retryExports   = 30 * time.Second
)

// limits are Limits at work.
type limits struct {
	kickOffs, polls, downloads *throttle
	perExport                  *throttle // polls of one export, by anybody
	exports                    int       // 0: the default

	// entering has one kick-off of a client at a time count and create, so that
	// two do not take the same last place. Several clients may share a door.
	entering [64]chan struct{}
}

// newLimits makes limits of their configuration. One export is polled by one
// client, which test suites do without a pause; faster is abuse.
func newLimits(c Limits) *limits {
	l := &limits{
		kickOffs:  newThrottle(c.KickOffs, Rate{PerMinute: 600, Burst: 300}),
		polls:     newThrottle(c.Polls, Rate{PerMinute: 6000, Burst: 1000}),
		downloads: newThrottle(c.Downloads, Rate{PerMinute: 6000, Burst: 1000}),
		exports:   c.Exports,
	}
	if l.polls != nil {
		l.perExport = newThrottle(Rate{PerMinute: 1200, Burst: 40}, Rate{})
	}
	for i := range l.entering {
		l.entering[i] = make(chan struct{}, 1)
	}
	return l
}

// tooOften is the answer to what is asked for more often than it may be.
func tooOften(wait time.Duration) *Problem {
	return refuse(http.StatusTooManyRequests, fhir.IssueThrottled,
		"This is asked for too often; wait as long as Retry-After says.").retryAfter(wait)
}

// create records a job unless its owner has as many unfinished ones as it may.
func (s *server) create(ctx context.Context, job *jobs.Job, first jobs.Unit) error {
	limit := s.limits.exports
	if limit == 0 && job.Owner != "" {
		limit = defaultExports
	}
	if limit <= 0 {
		return s.Jobs.Create(ctx, job, first)
	}
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(job.Owner)) // a hash takes everything
	door := s.limits.entering[hash.Sum32()%uint32(len(s.limits.entering))]
	select {
	case door <- struct{}{}:
		defer func() { <-door }()
	case <-ctx.Done():
		return ctx.Err()
	}
	all, err := s.Jobs.List(ctx)
	if err != nil {
		return err
	}
	unfinished := 0
	for _, j := range all {
		if j.Owner == job.Owner && !j.State.Ended() {
			unfinished++
		}
	}
	if unfinished >= limit {
		return refuse(http.StatusTooManyRequests, fhir.IssueThrottled,
			"There are %d exports of this client that have not ended, and no more are taken; wait for one of them, or delete it.", unfinished).retryAfter(retryExports)
	}
	return s.Jobs.Create(ctx, job, first)
}

// sender names whom a request is counted for: its client, or its address if
// that is not known.
func (s *server) sender(r *http.Request, p auth.Principal) string {
	if owner := p.Owner(); owner != "" {
		return owner
	}
	return " " + Neighbourhood(r, s.TrustedProxies) // an owner has no space
}
