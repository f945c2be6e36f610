package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a running program. A nil process stands for no program: it ends without work.
type process struct {
	cmd  *exec.Cmd
	logs io.Closer
}

// startProcess starts a program and waits, at most 30 s, for the line of its output that holds its addresses.
//
// addresses returns what a line of the output holds, or "" for any other line. env is added to this process's
// environment.
func startProcess(ctx context.Context, addresses func(line string) string, path string, env []string,
	args ...string) (*process, string, error) {
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), env...)
	r, w, err := os.Pipe()
	if err != nil {
		return nil, "", err
	}
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // nothing outlives the bench
	err = cmd.Start()
	_ = w.Close() // the child has its own
	if err != nil {
		_ = r.Close()
		return nil, "", err
	}
	p := &process{cmd: cmd, logs: r}
	found := make(chan string, 1)
	var output []string
	go func() {
		defer close(found)
		for lines := bufio.NewScanner(r); lines.Scan(); {
			if a := addresses(lines.Text()); a != "" {
				found <- a
				_, _ = io.Copy(io.Discard, r)
				return
			}
			output = append(output, lines.Text())
		}
	}()
	select {
	case a, ok := <-found:
		if !ok {
			p.end()
			return nil, "", fmt.Errorf("%s ended before it listened: %s", path, strings.Join(output, "; "))
		}
		return p, a, nil
	case <-time.After(30 * time.Second):
		p.end()
		return nil, "", fmt.Errorf("%s does not listen after 30 s", path)
	case <-ctx.Done():
		p.end()
		return nil, "", ctx.Err()
	}
}

// startRole starts this same program as a helper process of the bench (see roles).
func startRole(ctx context.Context, role string, args ...string) (*process, string, error) {
	return startRoleWith(ctx, nil, role, args...)
}

// startRoleWith is startRole with more environment.
func startRoleWith(ctx context.Context, env []string, role string, args ...string) (*process, string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	return startProcess(ctx, listeningLine, self, env, append([]string{role}, args...)...)
}

// listeningLine returns the addresses that a role printed with printAddresses.
func listeningLine(line string) string {
	a, found := strings.CutPrefix(line, "listening ")
	if !found {
		return ""
	}
	return a
}

// end stops the process: SIGTERM, and SIGKILL after 5 s.
func (p *process) end() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may be gone
	p.wait()
}

// kill stops the process at once, without its farewell.
func (p *process) kill() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may be gone
	p.wait()
}

func (p *process) wait() {
	gone := make(chan error, 1)
	go func() { gone <- p.cmd.Wait() }()
	select {
	case <-gone:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-gone
	}
	if p.logs != nil {
		_ = p.logs.Close()
	}
}

// cpu returns the CPU time that the process and its children have used.
func (p *process) cpu() (time.Duration, error) {
	var sum time.Duration
	for _, pid := range p.tree() {
		var t unix.Timespec
		// The CPU clock of another process: clock_getcpuclockid(3).
		if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
			return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
		}
		sum += time.Duration(t.Nano())
	}
	return sum, nil
}

// memory returns the resident set of the process and its children in KB.
func (p *process) memory() (int, error) {
	sum := 0
	for _, pid := range p.tree() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, err
		}
		_, rest, _ := strings.Cut(string(b), "VmRSS:")
		kb, err := strconv.Atoi(strings.Fields(rest + " ?")[0])
		if err != nil {
			return 0, errors.Join(fmt.Errorf("process %d has no VmRSS", pid), err)
		}
		sum += kb
	}
	return sum, nil
}

func (p *process) tree() []int {
	pid := p.cmd.Process.Pid
	pids := []int{pid}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return pids
	}
	for _, f := range strings.Fields(string(b)) {
		if child, err := strconv.Atoi(f); err == nil && !slices.Contains(pids, child) {
			pids = append(pids, child)
		}
	}
	return pids
}
