package bucket

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"spillway/storage"
	"spillway/test/testenv"
)

// The other services are asked again too. Uploads in parts to GCS go past the
// proxy: the emulator names its own address for them.
func TestTroubleOfOtherServices(t *testing.T) {
	run := func(t *testing.T, s, direct *Store, p *proxy, size int) {
		s.silence, s.pause = 400*time.Millisecond, 20*time.Millisecond
		object := content(size)
		for name, f := range map[string]fault{
			"500":             times(2, status(http.StatusInternalServerError, "InternalError")),
			"429":             times(2, status(http.StatusTooManyRequests, "TooManyRequests")),
			"cut":             times(2, cut),
			"stalled":         times(1, stall),
			"answer of PUT":   times(1, only(http.MethodPut, onResponse(responseCut(0)))),
			"answer of POST":  times(1, only(http.MethodPost, onResponse(responseCut(0)))),
			"middle of a GET": times(2, only(http.MethodGet, onResponse(responseCut(1<<20)))),
		} {
			t.Run(name, func(t *testing.T) {
				p.set(f)
				defer p.set(nil)
				if err := write(t.Context(), s, "a/b", object); err != nil {
					t.Errorf("writing: %v", err)
				}
				whole(t, s, "a/b", object)
				whole(t, direct, "a/b", object)
				if err := s.RemoveAll(t.Context(), "a/"); err != nil {
					t.Errorf("removing: %v", err)
				}
				for o, err := range direct.List(t.Context(), "") {
					t.Errorf("%s is still there (%v)", o.Key, err)
				}
			})
		}
		t.Run("stays", func(t *testing.T) {
			s.outage = 300 * time.Millisecond
			for f, words := range map[*fault]string{
				new(status(http.StatusServiceUnavailable, "ServerBusy")): "answered 503",
				new(fault(stall)): "moved no byte",
				new(fault(cut)):   "has not answered",
			} {
				p.set(*f)
				inWords(t, write(t.Context(), s, "a/object-key", object), words)
				_, err := read(t.Context(), s, "a/object-key")
				inWords(t, err, words)
			}
			p.set(only(http.MethodPost, status(http.StatusInsufficientStorage, "")))
			p.set(func(w http.ResponseWriter, r *http.Request) bool {
				return r.Method != http.MethodGet && status(http.StatusInsufficientStorage, "")(w, r)
			})
			if err := write(t.Context(), s, "a/b", object); !errors.Is(err, storage.ErrFull) {
				t.Errorf("full: %v, want ErrFull", err)
			}
			p.set(nil)
			for o, err := range direct.List(t.Context(), "") {
				t.Errorf("%s is there (%v)", o.Key, err)
			}
		})
	}
	t.Run("Azure", func(t *testing.T) {
		b := testenv.Azure(t)
		p := newProxy(t, b.Address)
		run(t, open(t, b.At(p.address, "")), open(t, b.URL("")), p, partSize+100_000)
	})
	t.Run("GCS", func(t *testing.T) {
		b := testenv.GCS(t)
		direct := open(t, b.URL(""))
		p := newProxy(t, b.Address)
		p.rename = true
		t.Setenv("STORAGE_EMULATOR_HOST", p.address)
		run(t, open(t, b.URL("")), direct, p, partSize)
	})
}
