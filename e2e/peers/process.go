package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// Host is where every peer listens: none of them has authentication.
const Host = "127.0.0.1"

// stopTime is how long a program may take to end by itself before it is killed.
const stopTime = 10 * time.Second

// Process is a program that was started here.
type Process struct {
	// Address is where it serves gRPC, host:port.
	Address string
	// UIAddress is the URL of its web pages; empty if it has none.
	UIAddress string
	// Version is what the program says it is.
	Version string

	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *tailBuffer
	done  chan struct{}
	err   error // of cmd.Wait, valid once done is closed
}

// Start runs a program that ends with this process: its standard input is a pipe that closes with us, and on Linux the kernel kills
// it. It has a process group of its own, so that Ctrl-C reaches the caller alone, which stops things in order. Standard
// output is left for the caller to read if stdout is nil, and joins standard error in log otherwise. Of the command's attributes, its
// user counts.
func Start(name string, cmd *exec.Cmd, log io.Writer) (*Process, error) {
	p := &Process{name: name, cmd: cmd, out: &tailBuffer{to: log}, done: make(chan struct{})}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p.stdin = stdin
	if cmd.Stdout == nil {
		cmd.Stdout = p.out
	}
	cmd.Stderr = p.out
	attributes := childAttributes()
	if cmd.SysProcAttr != nil {
		attributes.Credential = cmd.SysProcAttr.Credential
	}
	cmd.SysProcAttr = attributes
	cmd.WaitDelay = time.Second // a grandchild that keeps the output open must not keep Wait waiting
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Input is the program's standard input. It closes with Stop, and with this process, if not before.
func (p *Process) Input() io.WriteCloser { return p.stdin }

// Done is closed when the program has ended, by itself or by Stop.
func (p *Process) Done() <-chan struct{} { return p.done }

// ExitCode is what the program ended with, once Done is closed; -1 if a signal ended it.
func (p *Process) ExitCode() int { return p.cmd.ProcessState.ExitCode() }

// Output is the last of what the program wrote.
func (p *Process) Output() string { return p.out.String() }

// Stop ends the program and waits until it is gone. It may be called more than once. The error says that it had to be killed, or
// that it had failed before.
func (p *Process) Stop() error { return p.StopWithin(stopTime) }

// StopWithin is Stop for a program that may take longer, or shall take less, to end by itself.
func (p *Process) StopWithin(limit time.Duration) error {
	select {
	case <-p.done:
		return p.exitError()
	default:
	}
	p.stdin.Close()
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return p.exitError()
	case <-time.After(limit):
		p.Kill()
		return fmt.Errorf("%s did not end within %s and was killed", p.name, limit)
	}
}

// Kill ends the program at once, as a crash would, and waits until it is gone.
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// exitError is nil for a program that ended with 0 or by the signal that Stop or Kill sent.
func (p *Process) exitError() error {
	var exit *exec.ExitError
	if errors.As(p.err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return nil
		}
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w\n%s", p.name, p.err, p.Output())
	}
	return nil
}

// await runs ready until it succeeds, the program ends, or the context does.
func (p *Process) await(ctx context.Context, ready func(context.Context) error) error {
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended before it was ready: %w\n%s", p.name, p.err, p.Output())
		case <-ctx.Done():
			return fmt.Errorf("%s was not ready in time: %w\n%s", p.name, errors.Join(ctx.Err(), err), p.Output())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// FreePorts finds n ports on Host that nobody listens on. All are held until the last one is found, so that no two are the same.
func FreePorts(n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", net.JoinHostPort(Host, "0"))
		if err != nil {
			return nil, fmt.Errorf("no free port on %s: %w", Host, err)
		}
		defer l.Close()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}

func hostPort(port int) string { return net.JoinHostPort(Host, strconv.Itoa(port)) }
