package redisstore

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"spillway/jobs"
)

// an answer of Redis that is an error.
type refusal string

func (r refusal) Error() string { return string(r) }
func (refusal) RedisError()     {}

func TestOutage(t *testing.T) {
	for _, err := range []error{
		io.EOF, fmt.Errorf("dial: %w", io.ErrUnexpectedEOF),
		refusal("LOADING Redis is loading the dataset in memory"),
		refusal("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."),
		refusal("READONLY You can't write against a read only replica."),
		refusal("CLUSTERDOWN Hash slot not served"), refusal("MOVED 1 127.0.0.1:1"), refusal("TRYAGAIN Multiple keys request during rehashing of slot"),
		refusal("OOM command not allowed when used memory > 'maxmemory'. script: 0, on @user_script:1."),
		refusal("ERR Error running script (call to f_0): @user_script:1: -OOM command not allowed when used memory > 'maxmemory'."), // 6.2
		refusal("MISCONF Redis is configured to save RDB snapshots"), refusal("BUSY Redis is busy running a script."),
		refusal("NOAUTH Authentication required."), refusal("NOPERM this user has no permissions"), refusal("ERR max number of clients reached"),
	} {
		if got := failure(t.Context(), err); !errors.Is(got, jobs.ErrUnavailable) || !errors.Is(got, err) {
			t.Errorf("%v becomes %v, want it wrapped in ErrUnavailable", err, got)
		}
	}
	for _, err := range []error{refusal("ERR wrong number of arguments"), refusal("WRONGTYPE Operation against a key"), refusal("ERR OOMX")} {
		if got := failure(t.Context(), err); errors.Is(got, jobs.ErrUnavailable) || !errors.Is(got, err) {
			t.Errorf("%v becomes %v, want it without ErrUnavailable", err, got)
		}
	}
}

func TestOlder(t *testing.T) {
	for version, want := range map[string]bool{"5.0.7": true, "6.0.16": true, "6.2.0": false, "6.2.14": false, "7.0.15": false, "10.1": false, "255.255.255": false} {
		if older(version, oldest) != want {
			t.Errorf("%s is older than %s: %t, want %t", version, oldest, !want, want)
		}
	}
}

func TestRemote(t *testing.T) {
	for url, want := range map[string]string{
		"redis://localhost": "", "redis://127.0.0.5:1": "", "redis://[::1]": "", "unix:///run/redis.sock": "",
		"redis://redis": "redis:6379", "redis://10.0.0.1:1": "10.0.0.1:1", "redis://localhost?addr=h2:2": "h2:2",
	} {
		a, err := parse(url)
		if err != nil || a.remote() != want {
			t.Errorf("%s is remote at %q, %v; want %q", url, a.remote(), err, want)
		}
	}
}

// TestScriptsAreDocumented keeps the promise of the package comment.
func TestScriptsAreDocumented(t *testing.T) {
	files, err := sources.ReadDir("scripts")
	if err != nil || len(files) < 14 {
		t.Fatalf("%d scripts, %v", len(files), err)
	}
	for _, f := range files {
		body, err := sources.ReadFile("scripts/" + f.Name())
		name := strings.TrimSuffix(f.Name(), ".lua")
		if err != nil || !strings.HasPrefix(string(body), "-- "+name+": ") {
			t.Errorf("%s does not begin with what it does", f.Name())
		}
		if name != "prelude" && !strings.Contains(string(body), "\n-- Returns ") {
			t.Errorf("%s does not say what it returns", f.Name())
		}
	}
}
