// Package process runs the programs that tests are about: it builds them,
// starts them, kills them, freezes them, and starts them again. It imports
// nothing of ours.
//
//	Build    the compiled spillway, or another command of the module
//	Command  a run of it whose environment holds no setting of ours
//	Program  a process that can be ended, frozen and started again
//	Metric   what one says of itself
package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Build compiles a command of the module, such as spillway/cmd/spillway, into a
// folder and returns the path of the binary.
func Build(folder, command string) (string, error) {
	binary := filepath.Join(folder, filepath.Base(command))
	build := exec.Command("go", "build", "-tags", "disable_grpc_modules", "-o", binary, command)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return "", fmt.Errorf("building %s: %w", command, err)
	}
	return binary, nil
}

// Command prepares a run whose environment holds no setting of Spillway, and
// which ends when the test process does.
func Command(ctx context.Context, binary string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, binary, args...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "SPILLWAY_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.SysProcAttr = endWithUs()
	return cmd
}

// A Program is a process that may be ended, frozen and started again. Its
// output goes to one file, through all of its lives. Methods may be called from
// any goroutine.
type Program struct {
	name    string
	log     string // file
	command func() *exec.Cmd

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
}

// New returns a program that does not run yet. It ends with the test; if that
// failed, the end of its output is shown. command is called for each start.
func New(t testing.TB, name string, command func() *exec.Cmd) *Program {
	t.Helper()
	p := &Program{name: name, log: filepath.Join(t.TempDir(), name+".log"), command: command}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("the end of the log of %s, without single requests:\n%s", name, Tail(withoutRequests(p.Log()), 40))
		}
	})
	return p
}

// withoutRequests leaves out what a gateway says of each request.
func withoutRequests(log string) string {
	return strings.Join(slices.DeleteFunc(Lines(log), func(line string) bool {
		return strings.Contains(line, `"route":`)
	}), "\n")
}

// Start starts the process. It must not be running.
func (p *Program) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd, ended := p.command(), make(chan struct{})
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", p.name, err)
	}
	p.cmd, p.ended = cmd, ended
	go func() {
		_ = cmd.Wait() // ProcessState tells how it ended
		close(ended)
	}()
	return nil
}

// Await starts the process and waits until it is well, which is asked again and
// again.
func (p *Program) Await(well func() bool) error {
	if err := p.Start(); err != nil {
		return err
	}
	deadline := time.After(patience)
	for !well() {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-p.Ended():
			return fmt.Errorf("%s ended:\n%s", p.name, Tail(p.Log(), 40))
		case <-deadline:
			return fmt.Errorf("%s is not well after %s:\n%s", p.name, patience, Tail(p.Log(), 40))
		}
	}
	return nil
}

const patience = 30 * time.Second

// Ended is closed when the process has ended. Nil before the first start.
func (p *Program) Ended() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

// Signal sends a signal. That the process has ended is no error.
func (p *Program) Signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Kill ends the process at once, as a power failure would, also a frozen one.
func (p *Program) Kill() {
	if p.Signal(syscall.SIGKILL) == nil && p.Ended() != nil {
		<-p.Ended()
	}
}

// Stop sends SIGTERM and waits for the end. It returns the exit status.
func (p *Program) Stop(within time.Duration) (int, error) {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	return p.Wait(within)
}

// Wait waits for the end and returns the exit status. A process that does not
// end within that time is killed.
func (p *Program) Wait(within time.Duration) (int, error) {
	select {
	case <-p.Ended():
	case <-time.After(within):
		p.Kill()
		return 0, fmt.Errorf("%s did not end within %s", p.name, within)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.ProcessState.ExitCode(), nil
}

// Log returns all that the process has written, in all of its lives.
func (p *Program) Log() string {
	content, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(content)
}

// FreeAddress returns an address of this machine on which nobody listens now.
func FreeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Tail returns the beginnings of the last n lines.
func Tail(text string, n int) string {
	all := Lines(text)
	all = all[max(len(all)-n, 0):]
	for i, line := range all {
		all[i] = fmt.Sprintf("%.400s", line)
	}
	return strings.Join(all, "\n")
}

// Lines splits text.
func Lines(text string) []string {
	var found []string
	s := bufio.NewScanner(strings.NewReader(text))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		found = append(found, s.Text())
	}
	return found
}
