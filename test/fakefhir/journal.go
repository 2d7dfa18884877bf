package fakefhir

import (
	"net/http"
	"sync"
	"time"
)

// keptRequests is how many requests the log holds.
const keptRequests = 100_000

// Request is one line of the request log.
type Request struct {
	Time    time.Time           `json:"time"`           // of its arrival, on the server's clock
	Method  string              `json:"method"`         // GET, POST, ...
	Path    string              `json:"path"`           // decoded
	Kind    Kind                `json:"kind"`           //
	Type    string              `json:"type,omitempty"` // resource type; of a next page that of its search
	Page    int                 `json:"page,omitempty"` // page of a search, from 1
	Query   string              `json:"query,omitempty"`
	Params  map[string][]string `json:"params,omitempty"` // of query and form, decoded
	Header  http.Header         `json:"header,omitempty"`
	Status  int                 `json:"status"`           // 0: nothing was sent (yet)
	Entries int                 `json:"entries"`          // of a page
	Faulty  bool                `json:"faulty,omitempty"` // a scripted fault acts on it
	Done    bool                `json:"done"`             // the answer has ended, which a client may see earlier
	Bytes   int64               `json:"bytes"`            // of the body, as on the wire; 0 before Done
}

// journal logs requests and counts those in flight.
type journal struct {
	mu            sync.Mutex
	lines         []*Request
	inFlight, max int
}

// Log is what has been asked so far, in the order of arrival, at most the
// last 100,000. Requests that are still being answered are in it.
func (s *Server) Log() []Request {
	s.journal.mu.Lock()
	defer s.journal.mu.Unlock()
	out := make([]Request, len(s.journal.lines))
	for i, l := range s.journal.lines {
		out[i] = *l
	}
	return out
}

// MaxInFlight is the largest number of requests that were answered at once.
func (s *Server) MaxInFlight() int {
	s.journal.mu.Lock()
	defer s.journal.mu.Unlock()
	return s.journal.max
}

// enter counts a request until the returned function is called.
func (j *journal) enter() (leave func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.inFlight++
	j.max = max(j.max, j.inFlight)
	return func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.inFlight--
	}
}

func (j *journal) begin(line Request) *Request {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.lines) >= keptRequests {
		j.lines = append(j.lines[:0:0], j.lines[keptRequests/10:]...)
	}
	j.lines = append(j.lines, &line)
	return &line
}

// note writes down what is being answered before the client can see it.
func (j *journal) note(line *Request, s *sent) {
	j.mu.Lock()
	defer j.mu.Unlock()
	line.Status, line.Entries = s.status, s.entries
}

func (j *journal) end(line *Request, s *sent) {
	j.mu.Lock()
	defer j.mu.Unlock()
	line.Bytes, line.Done = s.bytes, true
}

func (j *journal) reset() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = nil
	j.max = j.inFlight
}
