package audit

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"sync"
	"time"
)

// ErrUnavailable says that an event could not be recorded. Wrapped around the
// cause. What the event would have allowed must not happen.
var ErrUnavailable = errors.New("audit: the record cannot be written")

// A Sink takes lines. Only a Log uses it, one call at a time.
type Sink interface {
	// Last returns the last line that was taken, without its line break; nil:
	// there is none, or nobody knows.
	Last() ([]byte, error)
	// Write takes whole lines, each with its line break. When it returns nil
	// they are safe; when it returns an error none of them is there.
	Write(lines []byte) error
	Close() error
}

// Options say where a record goes. Process and at least one sink are required.
type Options struct {
	// Process names this process in its record.
	Process string
	Sinks   []Sink
	// Key makes hashes that nobody else can make. Nil: plain ones.
	Key []byte
	// Tolerant lets Record succeed when a sink fails; the failure is logged.
	Tolerant bool

	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: no log
}

// A Log records events. It is safe for concurrent use: events that come at the
// same time are written together.
type Log struct {
	o      Options
	chains []chain // used by whoever writes

	mu      sync.Mutex
	idle    chan struct{} // closed when nothing is written any more; nil: nothing is
	waiting []entry
	closed  bool
}

// A chain is one sink with the end of its chain.
type chain struct {
	sink     Sink
	sequence int64
	previous string
	broken   bool
}

// An entry is an event that waits to be written.
type entry struct {
	line line
	done chan error
}

// origin stands before the first line.
const origin = "0000000000000000000000000000000000000000000000000000000000000000"

// Open returns a log that goes on where its sinks end.
func Open(o Options) (*Log, error) {
	if o.Process == "" || len(o.Sinks) == 0 {
		return nil, errors.New("audit: Process and a sink are required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Log{o: o}
	for _, s := range o.Sinks {
		c := chain{sink: s, previous: origin}
		last, err := s.Last()
		if err != nil {
			return nil, fmt.Errorf("audit: %w", err)
		}
		if last != nil {
			read, err := readLine(last, o.Key)
			if err != nil {
				return nil, fmt.Errorf("audit: the last line of the record: %w", err)
			}
			c.sequence, c.previous = read.Sequence, read.hash
		}
		o.Logger.Info("audit record opened", "events", c.sequence, "head", c.previous)
		l.chains = append(l.chains, c)
	}
	return l, nil
}

// Digest stands for values that must not be recorded: equal lists have equal
// digests, and with a key nobody else can try values.
func (l *Log) Digest(values ...string) string {
	h := newHash(l.o.Key)
	for _, v := range values {
		_, _ = fmt.Fprintf(h, "%d:%s", len(v), v) // a hash takes all
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Record keeps an event. It returns nil when every sink has it, or (Tolerant)
// has failed and was logged; ErrUnavailable if it was not kept; or the error of
// ctx, when it may be kept or not.
func (l *Log) Record(ctx context.Context, e Event) error {
	if e.Kind == "" || e.Outcome == "" {
		return errors.New("audit: Kind and Outcome are required")
	}
	w := entry{done: make(chan error, 1), line: line{Time: l.o.Now().UTC(), ID: id(e), Process: l.o.Process, Code: e.Kind.code(), Event: e}}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return fmt.Errorf("%w: it is closed", ErrUnavailable)
	}
	l.waiting = append(l.waiting, w)
	lead := l.idle == nil
	if lead {
		l.idle = make(chan struct{})
	}
	l.mu.Unlock()
	if lead {
		go l.write() // not in this goroutine: a sink that hangs must not keep the caller beyond ctx
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// id names an event: by its key, or at random.
func id(e Event) string {
	if e.Key == "" {
		return rand.Text()
	}
	sum := sha256.Sum256([]byte(string(e.Kind) + "|" + string(e.Outcome) + "|" + e.Key))
	return hex.EncodeToString(sum[:16])
}

// write takes what waits until nothing does.
func (l *Log) write() {
	for {
		l.mu.Lock()
		batch := l.waiting
		l.waiting = nil
		if len(batch) == 0 {
			close(l.idle)
			l.idle = nil
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		err := l.writeBatch(batch)
		if err != nil && l.o.Tolerant {
			err = nil
		}
		for _, w := range batch {
			w.done <- err
		}
	}
}

func (l *Log) writeBatch(batch []entry) error {
	var failures []error
	for i := range l.chains {
		c := &l.chains[i]
		err := c.write(batch, l.o.Key)
		if err != nil {
			failures = append(failures, err)
		}
		if broken := err != nil; broken != c.broken {
			c.broken = broken
			if broken {
				l.o.Logger.Error("the audit record cannot be written", "sink", i, "error", err)
			} else {
				l.o.Logger.Info("the audit record is written again", "sink", i)
			}
		}
	}
	if len(failures) > 0 {
		return fmt.Errorf("%w: %w", ErrUnavailable, errors.Join(failures...))
	}
	return nil
}

func (c *chain) write(batch []entry, key []byte) error {
	var lines bytes.Buffer
	sequence, previous := c.sequence, c.previous
	for _, w := range batch {
		sequence++
		w.line.Sequence, w.line.Previous = sequence, previous
		b, err := json.Marshal(w.line)
		if err != nil {
			return err
		}
		previous = hashOf(b, key)
		lines.Write(seal(b, previous))
		lines.WriteByte('\n')
	}
	if err := c.sink.Write(lines.Bytes()); err != nil {
		return err
	}
	c.sequence, c.previous = sequence, previous
	return nil
}

// Close waits for what is being written, and closes the sinks.
func (l *Log) Close(ctx context.Context) error {
	l.mu.Lock()
	l.closed = true
	idle := l.idle
	l.mu.Unlock()
	if idle != nil {
		select {
		case <-idle:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var problems []error
	for _, c := range l.chains {
		l.o.Logger.Info("audit record closed", "events", c.sequence, "head", c.previous)
		problems = append(problems, c.sink.Close())
	}
	return errors.Join(problems...)
}

func newHash(key []byte) hash.Hash {
	if key == nil {
		return sha256.New()
	}
	return hmac.New(sha256.New, key)
}

func hashOf(b, key []byte) string {
	h := newHash(key)
	_, _ = h.Write(b) // a hash takes all
	return hex.EncodeToString(h.Sum(nil))
}

// seal puts a line's hash at its end, as its last member.
func seal(b []byte, hash string) []byte {
	return append(b[:len(b)-1:len(b)-1], `,"hash":"`+hash+`"}`...)
}
