package fakefhir

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// controlPath is where another process scripts faults and reads the log.
const controlPath = "/_control/"

// serveControl answers:
//
//	POST   /_control/faults   one Fault or an array of them, added
//	DELETE /_control/faults   Reset
//	GET    /_control/log      {"maxInFlight": n, "requests": [Request...]}
func (s *Server) serveControl(w http.ResponseWriter, r *http.Request) {
	switch r.Method + " " + r.URL.Path {
	case "POST /_control/faults":
		faults, err := ReadFaults(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.Script(faults...)
		w.WriteHeader(http.StatusNoContent)
	case "DELETE /_control/faults":
		s.Reset()
		w.WriteHeader(http.StatusNoContent)
	case "GET /_control/log":
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(struct { // the client is gone, which is its own affair
			MaxInFlight int       `json:"maxInFlight"`
			Requests    []Request `json:"requests"`
		}{s.MaxInFlight(), s.Log()})
	default:
		http.NotFound(w, r)
	}
}

// ReadFaults reads a Fault or an array of them as JSON. Unknown members are
// errors.
func ReadFaults(r io.Reader) ([]Fault, error) {
	raw, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read faults: %w", err)
	}
	raw = bytes.TrimSpace(raw)
	if !bytes.HasPrefix(raw, []byte("[")) {
		raw = fmt.Appendf(nil, "[%s]", raw)
	}
	var faults []Fault
	if err := strict(raw, &faults); err != nil {
		return nil, fmt.Errorf("read faults: %w", err)
	}
	return faults, nil
}

// plainDo is Do without its methods.
type plainDo Do

// jsonDo is Do with a readable delay.
type jsonDo struct {
	Delay string `json:"delay,omitempty"`
	*plainDo
}

// MarshalJSON writes durations as strings such as "1.5s".
func (d Do) MarshalJSON() ([]byte, error) {
	out := jsonDo{plainDo: (*plainDo)(&d)}
	if d.Delay != 0 {
		out.Delay = d.Delay.String()
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (d *Do) UnmarshalJSON(b []byte) error {
	in := jsonDo{plainDo: (*plainDo)(d)}
	if err := strict(b, &in); err != nil {
		return err
	}
	if in.Delay == "" {
		return nil
	}
	delay, err := time.ParseDuration(in.Delay)
	d.Delay = delay
	return err
}

func strict(b []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	return dec.Decode(into)
}
