package upstream

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestGovernorPausesThoseInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGovernor(1)
		if err := g.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		sent := make(chan int)
		go func() {
			if err := g.acquire(t.Context()); err != nil {
				t.Error(err)
			}
			sent <- since(start)
			g.release(verdict{})
		}()
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.acquire(impatient); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("acquire in line = %v", err)
		}
		g.release(verdict{status: 429, kind: KindThrottled, retryAfter: 20 * time.Second})
		if err := g.acquire(impatient); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("acquire after the end = %v", err)
		}
		synctest.Wait()
		time.Sleep(5 * time.Second)
		g.slots <- struct{}{} // another answer comes, of a request sent before, and asks for more
		g.release(verdict{status: 429, kind: KindThrottled, retryAfter: 30 * time.Second})
		g.slots <- struct{}{} // and one that asks for less
		g.release(verdict{status: 503, kind: KindThrottled, retryAfter: time.Second})
		if got := <-sent; got != 36 {
			t.Errorf("sent after %d s, want 36", got)
		}
	})
}
