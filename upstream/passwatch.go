package upstream

import (
	"math"
	"net/http"
	"time"
)

const (
	passSamples  = 16              // requests on which a judgement stands, at least
	passSpan     = 2 * time.Second // over which they came, at least
	passKnown    = 20
	passWindow   = 30 * time.Second // they must be no older
	passWeight   = 1.0 / 20         // of one latency in the base, at most
	passIdle     = 10 * time.Minute // in which the base follows while no export runs
	passBusy     = time.Hour        // and while one does
	passRatio    = 2.0              // slow from there
	passRise     = 20 * time.Millisecond
	passOutlier  = 8.0              // the most that one latency counts for, against its base
	passNobody   = 30 * time.Second // how long nothing is said of a slow pass-through after nobody was exporting
	passObserved = 2 * time.Second  // after the last request of an export, it still runs
)

// A passClass is requests of the pass-through that take about as long as each
// other.
type passClass uint8

const (
	passRead   passClass = iota // one resource
	passSearch                  // has a query
	passClasses
)

// A passWatch compares the time to the first byte of the pass-through's
// requests with what it usually is. Only GET and HEAD count: how long an upload
// takes is up to the client. A judgement needs sixteen requests within half a
// minute, compared with a base of at least twenty; so in a quiet night there is
// none, and there is nobody to be spared either. Slow is twice the base (the
// geometric mean over the requests, of which each counts for eightfold at most)
// and 20 ms above it. The base follows within ten minutes, with an hour
// instead while an export runs, so that what the export does to it does not
// soon become usual. The zero passWatch is ready for use.
type passWatch struct {
	bases  [passClasses]passBase
	n      int // of the present judgement
	began  time.Time
	ratios float64 // sum of logarithms
	rise   time.Duration
}

type passBase struct {
	n    int
	mean float64 // of logarithms
	at   time.Time
}

// add takes in one request and reports whether it completes a judgement that
// the pass-through is slow.
func (w *passWatch) add(class passClass, wait time.Duration, exporting bool, now time.Time) (slow bool) {
	b := &w.bases[class]
	x := math.Log(max(wait.Seconds(), 1e-6))
	if b.n >= passKnown {
		slow = w.judge(max(min(x-b.mean, math.Log(passOutlier)), -math.Log(passOutlier)), wait-time.Duration(math.Exp(b.mean)*float64(time.Second)), now)
	}
	b.add(x, exporting, now)
	return slow
}

func (b *passBase) add(x float64, exporting bool, now time.Time) {
	within := passIdle
	if exporting {
		within = passBusy
	}
	b.n++
	weight := min(passWeight, now.Sub(b.at).Seconds()/within.Seconds())
	if b.n <= passKnown {
		weight = 1 / float64(b.n)
	}
	b.mean += (x - b.mean) * weight
	b.at = now
}

// judge takes one latency against its base into the judgement.
func (w *passWatch) judge(against float64, rise time.Duration, now time.Time) (slow bool) {
	if now.Sub(w.began) > passWindow {
		w.n, w.ratios, w.rise, w.began = 0, 0, 0, now
	}
	w.n++
	w.ratios += against
	w.rise += rise
	if w.n < passSamples || now.Sub(w.began) < passSpan {
		return false
	}
	ratio, mean := math.Exp(w.ratios/float64(w.n)), w.rise/time.Duration(w.n)
	w.n, w.ratios, w.rise, w.began = 0, 0, 0, now
	return ratio >= passRatio && mean >= passRise
}

// ObservePassThrough takes in a request of the pass-through, r, as it was sent
// to the upstream: the status that came, 0 if none, and how long it took until
// the headers were there. Where the pass-through gets slow while exports run,
// they step back. It is what ProxyConfig.Observe is for.
func (c *Client) ObservePassThrough(r *http.Request, status int, wait time.Duration) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || status >= 500 && status != http.StatusGatewayTimeout {
		return
	}
	class := passRead
	if r.URL.RawQuery != "" {
		class = passSearch
	}
	c.governor.observePass(class, wait)
}
