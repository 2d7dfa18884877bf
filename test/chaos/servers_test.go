//go:build e2e

package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"spillway/test/process"
	"spillway/test/testenv"
)

// find looks a server up on PATH.
func find(t testing.TB, program, need, how string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		testenv.Skip(t, need, program+" is not on PATH ("+how+")")
	}
	return path
}

// A redisServer keeps an append-only file, so that it may be killed and started
// again.
type redisServer struct {
	*process.Program
	address string
	client  *redis.Client
}

const redisPassword = "not-in-any-log"

// newRedis starts a Redis that ends with the test.
func newRedis(t testing.TB) *redisServer {
	t.Helper()
	binary := find(t, "redis-server", "redis", "apt-get install redis-server")
	address, folder := process.FreeAddress(t), t.TempDir()
	host, port, _ := net.SplitHostPort(address)
	s := &redisServer{address: address, client: redis.NewClient(&redis.Options{Addr: address, Password: redisPassword})}
	t.Cleanup(func() { _ = s.client.Close() })
	s.Program = process.New(t, "redis", func() *exec.Cmd {
		return process.Command(context.Background(), binary, "--bind", host, "--port", port, "--dir", folder, "--save", "",
			"--appendonly", "yes", "--maxmemory-policy", "noeviction", "--requirepass", redisPassword)
	})
	s.start(t)
	return s
}

func (s *redisServer) start(t testing.TB) {
	t.Helper()
	if err := s.Await(func() bool { return s.client.Ping(context.Background()).Err() == nil }); err != nil {
		t.Fatal(err)
	}
}

func redisURL(address string) string { return "redis://:" + redisPassword + "@" + address + "/0" }

// stat returns a figure of INFO.
func (s *redisServer) stat(t testing.TB, section, name string) float64 {
	t.Helper()
	text, err := s.client.Info(t.Context(), section).Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range process.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("INFO %s has no %s", section, name)
	return 0
}

// mentions returns the keys whose name or content has the text in it.
func (s *redisServer) mentions(ctx context.Context, text string) (found []string, err error) {
	scan := s.client.Scan(ctx, 0, "*", 1000).Iterator()
	for scan.Next(ctx) {
		key := scan.Val()
		content, err := s.content(ctx, key)
		if err != nil {
			return nil, err
		}
		if strings.Contains(key+" "+content, text) {
			found = append(found, key)
		}
	}
	return found, scan.Err()
}

// content returns all that a key holds, as text.
func (s *redisServer) content(ctx context.Context, key string) (string, error) {
	kind, err := s.client.Type(ctx, key).Result()
	if err != nil {
		return "", err
	}
	var content any
	switch kind {
	case "none": // it has gone in between
	case "string":
		content, err = s.client.Get(ctx, key).Result()
		if err == redis.Nil {
			err = nil
		}
	case "hash":
		content, err = s.client.HGetAll(ctx, key).Result()
	case "list":
		content, err = s.client.LRange(ctx, key, 0, -1).Result()
	case "set":
		content, err = s.client.SMembers(ctx, key).Result()
	case "zset":
		content, err = s.client.ZRange(ctx, key, 0, -1).Result()
	case "stream":
		content, err = s.client.XRange(ctx, key, "-", "+").Result()
	default:
		err = fmt.Errorf("%s is a %s", key, kind)
	}
	return fmt.Sprint(content), err
}

// A bucket is one of versitygw, which keeps objects as files.
type bucket struct {
	address string
	folder  string
}

const (
	s3Key    = "test-access-key"
	s3Secret = "test-secret-key"
)

// newBucket starts an S3 server with one empty bucket. It ends with the test.
func newBucket(t testing.TB) *bucket {
	t.Helper()
	binary := find(t, "versitygw", "s3", "go install github.com/versity/versitygw/cmd/versitygw@v1.8.0")
	b := &bucket{address: process.FreeAddress(t), folder: t.TempDir()}
	if err := os.Mkdir(filepath.Join(b.folder, "exports"), 0o700); err != nil {
		t.Fatal(err)
	}
	server := process.New(t, "versitygw", func() *exec.Cmd {
		cmd := process.Command(context.Background(), binary, "--port", b.address, "--keep-alive", "--quiet", "posix", b.folder)
		cmd.Env = append(cmd.Env, "ROOT_ACCESS_KEY="+s3Key, "ROOT_SECRET_KEY="+s3Secret)
		return cmd
	})
	if err := server.Await(func() bool { return listens(b.address) }); err != nil {
		t.Fatal(err)
	}
	return b
}

func listens(address string) bool {
	c, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

func bucketURL(address string) string {
	return "s3://exports?region=us-east-1&use_path_style=true&endpoint=http://" + address
}

// files returns all that the service keeps, unfinished uploads too.
func (b *bucket) files() (found []string, err error) {
	err = filepath.WalkDir(filepath.Join(b.folder, "exports"), func(path string, entry fs.DirEntry, err error) error {
		switch {
		case os.IsNotExist(err): // removed while we look
			return nil
		case err == nil && !entry.IsDir():
			found = append(found, path)
		}
		return err
	})
	return found, err
}

// An upstreamServer is the fake FHIR server with computed Observations.
type upstreamServer struct {
	*process.Program
	base     string // FHIR root
	pageSize int    // that exports ask for
}

// newUpstream starts a FHIR server with that many resources. Each page of that
// size takes it at least that long.
func newUpstream(t testing.TB, resources, pageSize int, page time.Duration) *upstreamServer {
	t.Helper()
	address := process.FreeAddress(t)
	u := &upstreamServer{base: "http://" + address + "/fhir", pageSize: pageSize}
	u.Program = process.New(t, "fakefhir", func() *exec.Cmd {
		return process.Command(context.Background(), fakefhir, "-bulk", strconv.Itoa(resources), "-addr", address)
	})
	if err := u.Await(func() bool { return listens(address) }); err != nil {
		t.Fatal(err)
	}
	u.slow(t, page)
	return u
}

// slow makes each page of an export take at least that long from now on.
func (u *upstreamServer) slow(t testing.TB, page time.Duration) {
	t.Helper()
	u.control(t, http.MethodDelete, nil)
	if page == 0 {
		return
	}
	for _, kind := range []string{"search", "next"} {
		u.control(t, http.MethodPost, map[string]any{
			"match": map[string]string{"kind": kind, "queryContains": fmt.Sprintf("_count=%d&", u.pageSize)}, "do": map[string]string{"delay": page.String()},
		})
	}
}

func (u *upstreamServer) control(t testing.TB, method string, fault any) {
	t.Helper()
	body, err := json.Marshal(fault)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, strings.TrimSuffix(u.base, "/fhir")+"/_control/faults", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusNoContent {
		t.Fatalf("the FHIR server's control answered %s", answer.Status)
	}
}
