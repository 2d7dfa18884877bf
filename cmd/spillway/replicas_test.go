package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway/cmd/spillway/internal/config"
	"spillway/jobs"
	"spillway/test/fakefhir"
	"spillway/test/testenv"
)

// A cluster is what replicas share.
type cluster struct {
	redis  *testenv.RedisServer
	bucket *testenv.Bucket
	fhir   *fakefhir.Server
	config func(more ...config.Flag) *config.Config
}

func newCluster(t *testing.T, o fakefhir.Options, redis ...string) *cluster {
	t.Helper()
	c := &cluster{redis: testenv.Redis(t, redis...), bucket: testenv.S3(t)}
	var url string
	c.fhir, url = fake(t, o)
	c.config = func(more ...config.Flag) *config.Config {
		cfg, err := config.Load(config.Input{Serve: true, Flags: append([]config.Flag{
			{Name: "a", Key: config.KeyURL, Value: url},
			{Name: "b", Key: config.KeySettle, Value: "0s"},
			{Name: "c", Key: config.KeyListen, Value: "127.0.0.1:0"},
			{Name: "d", Key: config.KeyAdminListen, Value: "127.0.0.1:0"},
			{Name: "e", Key: config.KeyRedisURL, Value: c.redis.URL()},
			{Name: "f", Key: config.KeyBucketURL, Value: c.bucket.URL("")},
		}, more...)})
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	return c
}

func (r *running) bulk() *bulkClient {
	return &bulkClient{http: r.client, base: r.publicURL.String()}
}

// here is an address of another replica, at this one.
func (r *running) here(address string) string {
	_, path, _ := strings.Cut(address, "/$bulk-")
	return r.publicURL.String() + "/$bulk-" + path
}

// export waits for an export and returns its manifest and its resources as
// "Type/id", sorted. The files are fetched from where the manifest says.
func (r *running) export(t *testing.T, status string) (*bulkManifest, []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m, err := r.bulk().wait(ctx, status, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range m.Output {
		answer, err := http.Get(f.URL) // which inflates
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != "application/fhir+ndjson" {
			t.Fatalf("%s: %s, %v, %.200s", f.Type, answer.Status, err, body)
		}
		lines := bytes.Split(bytes.TrimSuffix(body, []byte("\n")), []byte("\n"))
		if int64(len(lines)) != f.Count {
			t.Errorf("a file of %s has %d lines, the manifest says %d", f.Type, len(lines), f.Count)
		}
		for _, line := range lines {
			var resource struct{ ResourceType, ID string }
			if err := json.Unmarshal(line, &resource); err != nil {
				t.Fatal(err)
			}
			all = append(all, resource.ResourceType+"/"+resource.ID)
		}
	}
	slices.Sort(all)
	return m, all
}

func held(s *fakefhir.Server) (all []string) {
	for _, typ := range s.Types() {
		for id := range s.All(typ) {
			all = append(all, typ+"/"+id)
		}
	}
	slices.Sort(all)
	return all
}

// TestReplicas: one process answers, two others work, and a fourth does both.
// Each of them has every export.
func TestReplicas(t *testing.T) {
	c := newCluster(t, few())
	for _, presign := range []string{"0s", "15m"} {
		t.Run(presign, func(t *testing.T) {
			flag := config.Flag{Name: "x", Key: config.KeyPresign, Value: presign}
			web := start(t, c.config(flag), halves{web: true})
			status, err := web.bulk().kickOff(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			work := start(t, c.config(flag), halves{work: true})
			if work.public != nil {
				t.Error("a process that only works listens for clients")
			}
			start(t, c.config(flag), halves{work: true})
			both := start(t, c.config(flag), halves{web: true, work: true})
			m, all := both.export(t, both.here(status))
			if want := held(c.fhir); !slices.Equal(all, want) {
				t.Errorf("%d resources, want %d", len(all), len(want))
			}
			through := strings.HasPrefix(m.Output[0].URL, both.publicURL.String())
			if through != (presign == "0s") || !strings.Contains(string(m.raw), `"requiresAccessToken": false`) {
				t.Errorf("the manifest:\n%s", m.raw)
			}
			// The other replica has the same files, also through the gateway.
			_, again := web.export(t, status)
			if !slices.Equal(all, again) {
				t.Error("another replica gives other resources")
			}
			file := strings.Replace(status, "/$bulk-status/", "/$bulk-files/", 1) + "/1." + m.Output[0].Type + ".ndjson"
			answer, err := web.client.Get(file)
			if err != nil {
				t.Fatal(err)
			}
			_ = answer.Body.Close()
			if answer.StatusCode != http.StatusOK {
				t.Errorf("through the gateway: %s", answer.Status)
			}
			c.remove(t, web, both, status)
		})
	}
}

// remove deletes an export at one replica; it is gone at the other at once, and
// its bytes soon.
func (c *cluster) remove(t *testing.T, at, other *running, status string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, status, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := at.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusAccepted {
		t.Errorf("DELETE: %s", answer.Status)
	}
	if answer, err = other.client.Get(other.here(status)); err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusNotFound {
		t.Errorf("after DELETE at another replica: %s", answer.Status)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left := 0
		for _, err := range at.engine.files.List(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			left++
		}
		_, err := at.engine.store.Get(t.Context(), jobs.ID(status[strings.LastIndexByte(status, '/')+1:]))
		if left == 0 && errors.Is(err, jobs.ErrNotFound) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d objects stay, and Get says %v", left, err)
		}
	}
}

// TestRedisStalls: routes of exports answer 503 in time, everything else goes on,
// and it all works again by itself.
func TestRedisStalls(t *testing.T) {
	c := newCluster(t, few(), "--appendonly", "yes")
	r := start(t, c.config(), halves{web: true, work: true})
	r.health(t, http.StatusOK)
	status, err := r.bulk().kickOff(t.Context(), "?_type=Patient")
	if err != nil {
		t.Fatal(err)
	}
	m, _ := r.export(t, status)
	for _, how := range []struct {
		name       string
		away, back func()
	}{
		{"Stalled", c.redis.Stop, c.redis.Continue},
		{"Killed", c.redis.Kill, c.redis.Start},
	} {
		t.Run(how.name, func(t *testing.T) {
			how.away()
			for _, request := range []struct{ method, address string }{
				{"GET", r.publicURL.String() + "/$export"}, {"GET", status}, {"GET", m.Output[0].URL}, {"HEAD", m.Output[0].URL}, {"DELETE", status},
			} {
				q, err := http.NewRequestWithContext(t.Context(), request.method, request.address, nil)
				if err != nil {
					t.Fatal(err)
				}
				q.Header.Set("Accept", "application/fhir+json")
				q.Header.Set("Prefer", "respond-async")
				began := time.Now()
				answer, err := r.client.Do(q)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(answer.Body)
				_ = answer.Body.Close()
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("%s took %v", request.method, took)
				}
				if answer.StatusCode != http.StatusServiceUnavailable || answer.Header.Get("Retry-After") == "" ||
					request.method != "HEAD" && !strings.Contains(string(body), "OperationOutcome") {
					t.Errorf("%s: %s %v %s", request.method, answer.Status, answer.Header, body)
				}
			}
			for _, path := range []string{"/fhir/Patient?_count=1", "/fhir/metadata"} {
				if code, body := r.get(t, r.public, path); code != http.StatusOK {
					t.Errorf("%s: %d %.200s", path, code, body)
				}
			}
			if h := r.health(t, http.StatusOK); h.Status != "degraded" || h.Checks["store"] == "ok" {
				t.Errorf("/readyz: %+v", h)
			}
			how.back()
			for deadline := time.Now().Add(30 * time.Second); r.health(t, http.StatusOK).Status != "ok"; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the store does not come back")
				}
			}
			next, err := r.bulk().kickOff(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			if _, all := r.export(t, next); !slices.Equal(all, held(c.fhir)) {
				t.Errorf("%d resources after it came back", len(all))
			}
		})
	}
}

// TestRedisStallsAtOnce: the same for a process that knows nothing yet of its
// upstream, which it asks for what it offers.
func TestRedisStallsAtOnce(t *testing.T) {
	c := newCluster(t, few())
	s, err := newServer(t.Context(), c.config(), halves{web: true, work: true}, io.Discard, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c.redis.Stop()
	t.Cleanup(c.redis.Continue)
	r := runServer(t, s)
	began := time.Now()
	if code, body := r.get(t, r.public, "/fhir/metadata"); code != http.StatusOK || !strings.Contains(body, "group-export") {
		t.Errorf("/metadata: %d %.300s", code, body)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("/metadata took %v", took)
	}
	began = time.Now()
	if _, err := r.bulk().kickOff(t.Context(), "?_type=Patient"); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("kick-off: %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the kick-off took %v", took)
	}
}

// TestRedisEmptied: exports of a store that lost everything are gone for clients,
// and their bytes go.
func TestRedisEmptied(t *testing.T) {
	c := newCluster(t, few())
	cfg := c.config(config.Flag{Name: "x", Key: "export.retention", Value: "1s"})
	web := start(t, cfg, halves{web: true})
	orphan := func(id jobs.ID) {
		w, err := web.engine.files.Create(t.Context(), id.KeyPrefix()+"slice-1/1.ndjson")
		if err == nil {
			_, _ = w.Write([]byte("{}\n"))
			err = w.Commit(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	unknown := jobs.NewID()
	orphan(unknown)
	status, err := web.bulk().kickOff(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	known := jobs.ID(status[strings.LastIndexByte(status, '/')+1:])
	orphan(known)
	sweep := func(age time.Duration) {
		if err := web.engine.exporter.SweepOrphans(t.Context(), func(id jobs.ID) bool {
			_, err := web.engine.store.Get(t.Context(), id)
			return !errors.Is(err, jobs.ErrNotFound)
		}, age); err != nil {
			t.Fatal(err)
		}
	}
	there := func(id jobs.ID) bool {
		for _, err := range web.engine.files.List(t.Context(), id.KeyPrefix()) {
			return err == nil
		}
		return false
	}
	sweep(time.Hour)
	if !there(unknown) || !there(known) {
		t.Error("bytes went that are not old enough")
	}
	sweep(0)
	if there(unknown) || !there(known) {
		t.Errorf("unknown bytes are there: %t, known ones: %t", there(unknown), there(known))
	}
	c.redis.CLI("flushall")
	if answer, err := web.client.Get(status); err != nil || answer.StatusCode != http.StatusNotFound {
		t.Errorf("after the store was emptied: %v, %v", answer, err)
	}
	sweep(0)
	if there(known) {
		t.Error("bytes of an export that the store forgot stay")
	}
}
