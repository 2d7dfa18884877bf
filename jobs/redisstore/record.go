package redisstore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/flate"

	"spillway/jobs"
)

// errDamaged says that a value in Redis is not one that this package wrote.
func errDamaged(what string) error {
	return fmt.Errorf("redisstore: %s in Redis is damaged", what)
}

// packed begins a value that is deflated JSON. JSON never begins so.
const packed = 1

// encode returns v as JSON, deflated where that is shorter.
func encode(v any) ([]byte, error) {
	plain, err := toJSON(v)
	if err != nil || len(plain) < 128 {
		return plain, err
	}
	short := bytes.NewBuffer([]byte{packed})
	w, err := flate.NewWriter(short, flate.DefaultCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if short.Len() < len(plain) {
		return short.Bytes(), nil
	}
	return plain, nil
}

// toJSON is json.Marshal, but leaves '<', '>' and '&' in the raw parts alone.
func toJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("redisstore: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func decode(stored string, v any, what string) error {
	if stored != "" && stored[0] == packed {
		plain, err := io.ReadAll(flate.NewReader(strings.NewReader(stored[1:])))
		if err != nil {
			return errDamaged(what)
		}
		stored = string(plain)
	}
	if err := json.Unmarshal([]byte(stored), v); err != nil {
		return errDamaged(what)
	}
	return nil
}

// output is what the finish unit leaves.
type output struct {
	Files    []jobs.File     `json:"files,omitempty"`
	Evidence []jobs.Evidence `json:"evidence,omitempty"`
}

// outputOf reads that of a job; stored is empty before the end.
func (s seal) outputOf(id jobs.ID, stored string) (o output, err error) {
	if stored != "" {
		err = s.decode(place{kind: placeOutput, job: id}, stored, &o, "the output of a job")
	}
	return o, err
}

// The fields of a job. Those of its counts begin with a letter and ':', and
// end in the type.
const (
	fieldRecord   = "record"
	fieldState    = "state"
	fieldStarted  = "started"
	fieldEnded    = "ended"
	fieldExpires  = "expires"
	fieldTime     = "transactionTime"
	fieldFailure  = "failure"
	fieldDone     = "done"
	fieldTotal    = "total"
	countExpected = "e:"
	countDone     = "d:"
	countBytes    = "b:"
)

// fieldsOf returns the fields of a new job and their values.
func (s seal) fieldsOf(j *jobs.Job) ([]any, error) {
	record := *j
	record.Files, record.Evidence = nil, nil
	raw, err := s.encode(place{kind: placeJob, job: j.ID}, &record)
	if err != nil {
		return nil, err
	}
	fields := []any{
		fieldRecord, raw, fieldState, string(j.State),
		fieldDone, j.Progress.UnitsDone, fieldTotal, j.Progress.UnitsTotal + 1,
	}
	for typ, t := range j.Progress.Types {
		fields = append(fields, countExpected+typ, t.Expected, countDone+typ, t.Done, countBytes+typ, t.Bytes)
	}
	return fields, nil
}

// fieldsAt returns the fields in an answer, which are names and values in turn.
func fieldsAt(answer reply, i int) map[string]string {
	flat := answer.texts(i)
	fields := make(map[string]string, len(flat)/2)
	for i := 0; i+1 < len(flat); i += 2 {
		fields[flat[i]] = flat[i+1]
	}
	return fields
}

// jobOf puts a job together from its fields, without its files and evidence.
func (s seal) jobOf(id jobs.ID, fields map[string]string) (*jobs.Job, error) {
	var j jobs.Job
	if err := s.decode(place{kind: placeJob, job: id}, fields[fieldRecord], &j, "a job"); err != nil {
		return nil, err
	}
	j.State = jobs.State(fields[fieldState])
	j.Failure = fields[fieldFailure]
	j.Progress = jobs.Progress{}
	for to, field := range map[*time.Time]string{&j.StartedAt: fieldStarted, &j.EndedAt: fieldEnded, &j.ExpiresAt: fieldExpires} {
		if n := number(fields[field]); n != 0 {
			*to = time.UnixMicro(n).UTC()
		}
	}
	at, err := s.open(place{kind: placeTime, job: id}, fields[fieldTime], "the transaction time of a job")
	if err != nil {
		return nil, err
	}
	if at != "" {
		if j.TransactionTime, err = time.Parse(time.RFC3339Nano, at); err != nil {
			return nil, errDamaged("a job")
		}
	}
	j.Progress.UnitsDone, j.Progress.UnitsTotal = number(fields[fieldDone]), number(fields[fieldTotal])
	for field, value := range fields {
		if len(field) < 2 || field[1] != ':' {
			continue
		}
		if j.Progress.Types == nil {
			j.Progress.Types = map[string]jobs.TypeProgress{}
		}
		typ, n := field[2:], number(value)
		t := j.Progress.Types[typ]
		switch field[:2] {
		case countExpected:
			t.Expected = n
		case countDone:
			t.Done = n
		case countBytes:
			t.Bytes = n
		}
		j.Progress.Types[typ] = t
	}
	return &j, nil
}

func number(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}

// counts returns what a result adds to the counts of its job: fields, and how much.
func counts(r jobs.Result) []any {
	add := map[string]int64{fieldDone: 1, fieldTotal: int64(len(r.Next))}
	for _, n := range r.Next {
		if n.Kind == jobs.UnitSlice && n.Type != "" {
			add[countExpected+n.Type] += n.Weight
		}
	}
	for _, seg := range r.Segments {
		if seg.Kind == jobs.KindOutput {
			add[countDone+seg.Type] += seg.Count
			add[countBytes+seg.Type] += seg.Size
		}
	}
	args := make([]any, 0, 2*len(add))
	for field, n := range add {
		args = append(args, field, n)
	}
	return args
}

// unitArgs returns a unit of a job as the scripts take it: id, stage and
// inverted weight (which order it), not before, JSON.
func (s seal) unitArgs(id jobs.ID, u jobs.Unit) ([]any, error) {
	raw, err := toJSON(u)
	order := fmt.Sprintf("%d%016x", u.Kind.Stage(), ^(uint64(u.Weight) ^ 1<<63))
	return []any{u.ID, order, micros(u.NotBefore), s.close(place{kind: placeUnit, job: id}, raw)}, err
}

// lastMicro is the latest time that fits into the 16 digits of a delayed unit.
const lastMicro = 9_999_999_999_999_999

// micros is the first microsecond that is not before t; 0 for the zero time.
func micros(t time.Time) int64 {
	if t.IsZero() || t.Before(time.Unix(0, 0)) {
		return 0
	}
	return min(t.Add(time.Microsecond-1).UnixMicro(), lastMicro)
}

// doneOf reads a completed unit: attempt, length of the unit, unit, result.
func (s seal) doneOf(id jobs.ID, stored string) (d jobs.Done, err error) {
	attempt, rest, _ := strings.Cut(stored, " ")
	length, rest, _ := strings.Cut(rest, " ")
	n, err := strconv.Atoi(length)
	if err != nil || n < 0 || n > len(rest) {
		return d, errDamaged("a completed unit")
	}
	d.Attempt = number(attempt)
	if err := s.decode(place{kind: placeUnit, job: id}, rest[:n], &d.Unit, "a completed unit"); err != nil {
		return d, err
	}
	at := place{kind: placeResult, job: id, unit: d.Unit.ID, attempt: d.Attempt}
	return d, s.decode(at, rest[n:], &d.Result, "a completed unit")
}

func validUnitID(id string) bool {
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return id != ""
}
