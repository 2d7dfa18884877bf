package testenv

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A RedisServer is a redis-server of a test, on a port of 127.0.0.1 and with a
// folder of its own. It ends with the test.
type RedisServer struct {
	Addr string // host:port
	Dir  string // where it keeps its data and its log

	t    testing.TB
	args []string
	cmd  *exec.Cmd
}

// Redis starts a redis-server with these further arguments, such as
// "--appendonly", "yes". By default it keeps nothing on disk. It skips the test
// if there is none on PATH.
func Redis(t testing.TB, args ...string) *RedisServer {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		Skip(t, "redis", "redis-server is not on PATH (Debian: apt-get install redis-server)")
	}
	port := freePort(t)
	s := &RedisServer{Addr: net.JoinHostPort("127.0.0.1", port), Dir: t.TempDir(), t: t}
	s.args = append([]string{ // later ones count
		"--port", port, "--bind", "127.0.0.1", "--dir", s.Dir, "--logfile", filepath.Join(s.Dir, "log"),
		"--save", "", "--appendonly", "no",
	}, args...)
	t.Cleanup(s.Kill)
	s.Start()
	return s
}

// URL is where a client finds the server.
func (s *RedisServer) URL() string { return "redis://" + s.Addr }

// PID is the process id of the server; 0 while there is none.
func (s *RedisServer) PID() int {
	if s.cmd == nil {
		return 0
	}
	return s.cmd.Process.Pid
}

// Start starts the server again after Kill or Shutdown, on the same port and
// folder, and waits until it answers.
func (s *RedisServer) Start() {
	s.t.Helper()
	if s.cmd != nil {
		return
	}
	s.cmd = exec.Command("redis-server", s.args...)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("start redis-server: %v", err)
	}
	s.Await()
}

// Await waits until the server answers, and has loaded what it kept.
func (s *RedisServer) Await() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		// NOAUTH is an answer too.
		if answer := s.ask(ctx, "PING"); strings.Contains(answer, "PONG") || strings.Contains(answer, "NOAUTH") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	log, _ := os.ReadFile(filepath.Join(s.Dir, "log"))
	s.t.Fatalf("redis-server at %s does not answer:\n%s", s.Addr, log)
}

// ask sends one line and returns what comes.
func (s *RedisServer) ask(ctx context.Context, command string) string {
	c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", s.Addr)
	if err != nil {
		return ""
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	_, _ = fmt.Fprintf(c, "%s\r\n", command)
	answer := make([]byte, 512)
	n, _ := c.Read(answer)
	return string(answer[:n])
}

// Stop freezes the server (SIGSTOP): connections stay, nothing is answered.
func (s *RedisServer) Stop() { s.signal(syscall.SIGSTOP) }

// Continue ends Stop.
func (s *RedisServer) Continue() { s.signal(syscall.SIGCONT) }

// Kill ends the server at once (SIGKILL). What it had not written is lost.
func (s *RedisServer) Kill() { s.end(syscall.SIGKILL) }

// Shutdown ends the server in an orderly way (SIGTERM).
func (s *RedisServer) Shutdown() { s.end(syscall.SIGTERM) }

func (s *RedisServer) signal(sig syscall.Signal) {
	s.t.Helper()
	if s.cmd == nil {
		s.t.Fatal("redis-server does not run")
	}
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatalf("signal redis-server: %v", err)
	}
}

func (s *RedisServer) end(sig syscall.Signal) {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(sig)
	_ = s.cmd.Wait()
	s.cmd = nil
}

// CLI runs redis-cli against the server and returns what it prints. It fails
// the test if that is an error.
func (s *RedisServer) CLI(args ...string) string {
	s.t.Helper()
	host, port, _ := net.SplitHostPort(s.Addr)
	out, err := exec.Command("redis-cli", append([]string{"-h", host, "-p", port, "-e"}, args...)...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("redis-cli %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// A Cluster is a Redis Cluster of three masters.
type Cluster []*RedisServer

// URL is where a client finds the cluster.
func (c Cluster) URL() string {
	return c[0].URL() + "?addr=" + c[1].Addr + "&addr=" + c[2].Addr
}

// RedisCluster starts a cluster of three masters without replicas, each with
// these further arguments.
func RedisCluster(t testing.TB, args ...string) Cluster {
	t.Helper()
	if _, err := exec.LookPath("redis-cli"); err != nil {
		Skip(t, "redis", "redis-cli is not on PATH (Debian: apt-get install redis-tools)")
	}
	var c Cluster
	create := []string{"--cluster", "create"}
	for range 3 {
		bus := freePort(t)
		s := Redis(t, append([]string{"--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "3000"}, args...)...)
		c = append(c, s)
		create = append(create, s.Addr)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "redis-cli", append(create, "--cluster-yes")...).CombinedOutput()
	if err != nil {
		t.Fatalf("redis-cli --cluster create: %v\n%s", err, out)
	}
	for _, s := range c {
		for !bytes.Contains([]byte(s.CLI("CLUSTER", "INFO")), []byte("cluster_state:ok")) {
			if ctx.Err() != nil {
				t.Fatal("the cluster does not come up")
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return c
}

// RedisSentinel starts a Sentinel that watches a server by a name, with a
// quorum of one.
func RedisSentinel(t testing.TB, name string, of *RedisServer) *RedisServer {
	t.Helper()
	host, port, _ := net.SplitHostPort(of.Addr)
	own := freePort(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "sentinel.conf")
	conf := fmt.Sprintf("port %s\nbind 127.0.0.1\ndir %s\nlogfile %s\nsentinel monitor %s %s %s 1\nsentinel down-after-milliseconds %s 1000\nsentinel failover-timeout %s 2000\n",
		own, dir, filepath.Join(dir, "log"), name, host, port, name, name)
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &RedisServer{Addr: net.JoinHostPort("127.0.0.1", own), Dir: dir, t: t, args: []string{file, "--sentinel"}}
	t.Cleanup(s.Kill)
	s.Start()
	return s
}

// freePort returns a port of 127.0.0.1 that nobody listens on. It is below those
// that the system gives to clients: a port that a server leaves for a while must
// not become the other end of a connection.
func freePort(t testing.TB) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(12_000 + rand.IntN(20_000))
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port)); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return ""
}
