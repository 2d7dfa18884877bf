package upstream

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/iotest"

	"spillway/upstream/fhir"
)

// While an answer is looked through, another request may have its turn, and what
// is asked in it may be answered.
func TestTurnEndsWhenTheAnswerIsHere(t *testing.T) {
	c, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer(w, bundle("", "a", "b"))
	}), func(c *Config) { c.MaxConcurrency = 1 })
	looking, answered := make(chan struct{}), make(chan error)
	go func() {
		<-looking
		_, err := c.Page(t.Context(), observations, "", func(*fhir.Entry) error { return nil })
		answered <- err
	}()
	var once sync.Once
	_, err := c.Page(t.Context(), observations, "", func(*fhir.Entry) (err error) {
		once.Do(func() {
			close(looking)
			err = <-answered // for ever, if the turn lasts until this page is done with
		})
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAhead(t *testing.T) {
	text := make([]byte, 3*aheadBlock*aheadBlocks/2)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(text)
	broke := errors.New("broke off")
	for _, tt := range []struct {
		name  string
		in    io.Reader
		whole int
		err   error
	}{
		{"AllAtOnce", bytes.NewReader(text), 1, nil},
		{"InPieces", iotest.HalfReader(bytes.NewReader(text)), 1, nil},
		{"EndWithTheLastBytes", iotest.DataErrReader(bytes.NewReader(text)), 1, nil},
		{"BreaksOff", io.MultiReader(bytes.NewReader(text), iotest.ErrReader(broke)), 0, broke},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var pool sync.Pool
			a, whole := newAhead(tt.in, &pool), 0
			go a.run(func() { whole++ })
			got, err := io.ReadAll(a)
			a.close()
			if !errors.Is(err, tt.err) || !bytes.Equal(got, text) || whole != tt.whole {
				t.Errorf("%d of %d bytes, error %v, told %d times that it is whole; want all, %v, %d", len(got), len(text), err, whole, tt.err, tt.whole)
			}
		})
	}
}

// A reader that gives up leaves nothing behind that waits for it.
func TestAheadIsLeft(t *testing.T) {
	var pool sync.Pool
	a := newAhead(bytes.NewReader(make([]byte, 2*aheadBlock*aheadBlocks)), &pool)
	go a.run(func() { t.Error("nobody took the first half, so the second cannot be here") })
	if _, err := io.ReadFull(a, make([]byte, 10)); err != nil {
		t.Error(err)
	}
	a.close()
	if _, err := a.Read(make([]byte, 1)); err == nil {
		t.Error("it can be read from after the end")
	}
}
