package main

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestStartErrors: what cannot be reached, or does not want us, is named with its
// key and what to do.
func TestStartErrors(t *testing.T) {
	c := newCluster(t, few(), "--requirepass", "right")
	t.Chdir(t.TempDir())
	_, url := fake(t, few())
	free := strings.TrimPrefix(c.bucket.Address, "127.0.0.1:")
	for _, test := range []struct {
		name, store, storage string
		want                 []string // what standard error says
	}{
		{"ErrNoPassword", "redis: {url: '" + c.redis.URL() + "'}", "", []string{"spillway: store.redis.url: ", "password"}},
		{"ErrPassword", "redis: {url: '" + c.redis.URL() + "', password: hidden}", "", []string{"spillway: store.redis.url: ", "password"}},
		{"ErrUnreachable", "redis: {url: 'redis://:hidden@127.0.0.1:1'}", "", []string{"spillway: store.redis.url: ", "127.0.0.1:1"}},
		{"ErrNotRedis", "redis: {url: 'redis://127.0.0.1:" + free + "'}", "", []string{"spillway: store.redis.url: "}},
		{"ErrBucketUnreachable", "", "bucket: {url: 's3://exports?region=us-east-1&use_path_style=true&endpoint=http://127.0.0.1:1'}", []string{"spillway: storage.bucket.url: "}},
		{"ErrNoBucket", "", "bucket: {url: 's3://another?region=us-east-1&use_path_style=true&endpoint=http://" + c.bucket.Address + "'}", []string{"spillway: storage.bucket.url: ", "another"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := fmt.Sprintf("upstream: {url: '%s'}\nserver: {listen: '127.0.0.1:0', admin_listen: '127.0.0.1:0'}\nstore: {%s}\nstorage: {%s}\n", url, test.store, test.storage)
			if err := os.WriteFile("spillway.yaml", []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			got := spillway(t.Context(), "serve", "--config", "spillway.yaml")
			if got.status != exitFailed || got.out != "" || strings.Contains(got.err, "hidden") || strings.Count(got.err, "\n") != 1 {
				t.Errorf("%+v", got)
			}
			for _, want := range test.want {
				if !strings.Contains(got.err, want) {
					t.Errorf("standard error lacks %q: %s", want, got.err)
				}
			}
			check := spillway(t.Context(), "check", "--config", "spillway.yaml")
			if want := strings.TrimPrefix(test.want[0], "spillway: "); check.status != exitFailed || !strings.Contains(check.err, want) || strings.Contains(check.out+check.err, "hidden") {
				t.Errorf("check: %+v", check)
			}
		})
	}
}

func TestCheckShared(t *testing.T) {
	c := newCluster(t, few())
	t.Chdir(t.TempDir())
	_, url := fake(t, few())
	text := fmt.Sprintf("upstream: {url: '%s'}\nstore: {redis: {url: '%s'}}\nstorage: {bucket: {url: '%s', presign: 15m}}\n", url, c.redis.URL(), c.bucket.URL("a/"))
	if err := os.WriteFile("spillway.yaml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got := spillway(t.Context(), "check", "--config", "spillway.yaml")
	for _, want := range []string{
		"store " + c.redis.URL() + " answers", "storage s3://exports?", "links work, each for 15m", "! store.redis.url: ", "it can work",
	} {
		if !strings.Contains(strings.Join(strings.Fields(got.out), " "), want) {
			t.Errorf("standard output lacks %q", want)
		}
	}
	if got.status != 0 || got.err != "" || t.Failed() {
		t.Errorf("%+v", got)
	}
}

// TestShare: processes that change what they share at the same time lose no
// change of each other.
func TestShare(t *testing.T) {
	cfg := gatewayConfig(t, "http://127.0.0.1:1/fhir")
	e, err := openEngine(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	const processes, changes = 4, 25
	failed := make(chan int, processes)
	for range processes {
		update := share(e.store, cfg.Upstream.URL)
		go func() {
			lost := 0
			for range changes {
				if err := update(t.Context(), func(old []byte, now time.Time) []byte {
					if now.IsZero() {
						t.Error("the store has no clock")
					}
					return append(slices.Clone(old), '.')
				}); err != nil {
					lost++
				}
			}
			failed <- lost
		}()
	}
	want := processes * changes
	for range processes {
		want -= <-failed
	}
	var got []byte
	if err := share(e.store, cfg.Upstream.URL)(t.Context(), func(old []byte, _ time.Time) []byte {
		got = old
		return nil
	}); err != nil || len(got) != want {
		t.Errorf("%d changes stand, want %d; %v", len(got), want, err)
	}
}
