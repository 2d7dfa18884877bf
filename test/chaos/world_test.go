//go:build e2e

package chaos

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"spillway/test/process"
)

// options say what a world is like. The zero value is three replicas before a
// FHIR server that holds nothing.
type options struct {
	resources int
	page      time.Duration // how long each page takes the FHIR server
	pageSize  int           // 0: 100
	window    int           // 0: 2000
	replicas  int           // 0: 3
	flags     func(i int) []string
	export    string // more of the section export, such as "  retention: 1m\n"
	watched   bool   // by the load balancer
	idle      bool   // replicas are not started
	wired     bool   // Redis and bucket are behind wires
	s3        string // address of something else before the bucket
	embedded  bool   // bbolt and disk instead of Redis and bucket
	// strays means that other exports may have begun: a kick-off that Redis did
	// not answer in time may take effect when Redis goes on.
	strays bool
}

// A world is replicas and all that they need.
type world struct {
	options
	redis, bucketWire *wire // nil without options.wired
	store             *redisServer
	bucket            *bucket
	upstream          *upstreamServer
	replicas          []*replica
	front             *front
}

// A replica is one process of `spillway serve`.
type replica struct {
	*process.Program
	origin, admin string
	ready         atomic.Bool // as the load balancer saw it last
}

// newWorld starts everything and waits until all replicas are ready.
func newWorld(t testing.TB, o options) *world {
	t.Helper()
	if o.replicas == 0 {
		o.replicas = 3
	}
	if o.pageSize == 0 {
		o.pageSize = 100
	}
	if o.window == 0 {
		o.window = 2000
	}
	w := &world{options: o, upstream: newUpstream(t, o.resources, o.pageSize, o.page)}
	if !o.embedded {
		w.store, w.bucket = newRedis(t), newBucket(t)
	}
	if o.wired {
		w.redis, w.bucketWire = newWire(t, w.store.address), newWire(t, w.bucket.address)
	}
	w.front = newFront(t, o.watched)
	for i := range o.replicas {
		w.replicas = append(w.replicas, w.newReplica(t, i))
	}
	w.front.replicas = w.replicas
	if o.watched {
		ctx, stop := context.WithCancel(context.Background())
		t.Cleanup(stop)
		go w.front.watch(ctx)
	}
	if !o.idle {
		for _, r := range w.replicas {
			r.start(t)
		}
	}
	return w
}

func (w *world) newReplica(t testing.TB, i int) *replica {
	t.Helper()
	public, admin := process.FreeAddress(t), process.FreeAddress(t)
	config := filepath.Join(t.TempDir(), "spillway.yaml")
	if err := os.WriteFile(config, []byte(w.yaml(t, public, admin)), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"serve", "--config", config}
	if w.flags != nil {
		args = append(args, w.flags(i)...)
	}
	r := &replica{origin: "http://" + public, admin: "http://" + admin}
	r.Program = process.New(t, fmt.Sprintf("replica-%d", i), func() *exec.Cmd {
		cmd := process.Command(context.Background(), spillway, args...)
		cmd.Env = append(cmd.Env, "AWS_ACCESS_KEY_ID="+s3Key, "AWS_SECRET_ACCESS_KEY="+s3Secret, "AWS_EC2_METADATA_DISABLED=true",
			"AWS_CONFIG_FILE="+os.DevNull, "AWS_SHARED_CREDENTIALS_FILE="+os.DevNull)
		return cmd
	})
	t.Cleanup(func() {
		r.Kill()
		if log := r.Log(); strings.Contains(log, redisPassword) || strings.Contains(log, s3Secret) || strings.Contains(log, "_lastUpdated=") {
			t.Errorf("the log of %s holds a secret or a query", r.origin)
		}
		for _, line := range process.Lines(r.Log()) {
			if strings.Contains(line, "panic") || strings.Contains(line, "goroutine ") {
				t.Errorf("%s panicked: %s", r.origin, line)
				break
			}
		}
	})
	return r
}

func (w *world) yaml(t testing.TB, public, admin string) string {
	t.Helper()
	var y strings.Builder
	fmt.Fprintf(&y, "upstream:\n  url: %s\n  settle: 100ms\n  page_size: %d\n", w.upstream.base, w.pageSize)
	fmt.Fprintf(&y, "server:\n  listen: %s\n  admin_listen: %s\n  public_url: %s/fhir\n  drain: 1s\n  shutdown_grace: 10s\n", public, admin, w.front.url)
	fmt.Fprintf(&y, "export:\n  window: %d\n%s", w.window, w.export)
	if w.embedded {
		folder := t.TempDir()
		fmt.Fprintf(&y, "store:\n  bolt: {path: %s}\nstorage:\n  disk: {path: %s}\n", filepath.Join(folder, "jobs.db"), filepath.Join(folder, "files"))
	} else {
		store, files := w.store.address, w.bucket.address
		if w.wired {
			store, files = w.redis.address(), w.bucketWire.address()
		}
		if w.s3 != "" {
			files = w.s3
		}
		fmt.Fprintf(&y, "store:\n  redis: {url: %q}\nstorage:\n  bucket: {url: %q}\n", redisURL(store), bucketURL(files))
	}
	y.WriteString("log: {level: debug, format: json}\n")
	return y.String()
}

// start starts the process and waits until it is ready.
func (r *replica) start(t testing.TB) {
	t.Helper()
	if err := r.Await(r.well); err != nil {
		t.Fatal(err)
	}
}

// well reports whether the process says that it is ready.
func (r *replica) well() bool {
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	answer, err := ask(ctx, http.MethodGet, r.admin+"/readyz")
	return err == nil && answer.status == http.StatusOK
}

// metric returns a figure of the process, or 0 if it does not answer.
func (r *replica) metric(name string, labels ...string) float64 {
	sum, err := process.Metric(r.admin, name, labels...)
	if err != nil {
		return 0
	}
	return sum
}

// slices is how many slices the process has in hand.
func (r *replica) slices() float64 { return r.metric("spillway_units_running", `kind="slice"`) }

// remove deletes an export and checks that nothing is left of it: no byte in
// the bucket, no mention in Redis. There must be no other export.
func (w *world) remove(t testing.TB, statusURL string, within time.Duration) {
	t.Helper()
	must(t, http.StatusAccepted, http.MethodDelete, statusURL)
	if r := must(t, http.StatusNotFound, http.MethodGet, statusURL); !r.isOutcome() {
		t.Errorf("no OperationOutcome: %s", r.body)
	}
	w.mustBeEmpty(t, statusURL, within)
}

// mustBeEmpty waits until nothing is left of an export that was removed.
func (w *world) mustBeEmpty(t testing.TB, statusURL string, within time.Duration) {
	t.Helper()
	var left string
	deadline := time.Now().Add(within)
	for ; ; time.Sleep(100 * time.Millisecond) {
		files, err := w.bucket.files()
		if err != nil {
			t.Fatal(err)
		}
		if w.strays {
			files = slices.DeleteFunc(files, func(path string) bool { return !strings.Contains(path, jobID(statusURL)) })
		}
		keys, err := w.store.mentions(t.Context(), jobID(statusURL))
		if err != nil {
			t.Fatal(err)
		}
		if len(files) == 0 && len(keys) == 0 {
			return
		}
		left = fmt.Sprintf("%d files such as %s, keys %q", len(files), strings.Join(files[:min(len(files), 1)], ""), keys)
		if time.Now().After(deadline) {
			t.Fatalf("%s after its end the export still has %s", within, left)
		}
	}
}
