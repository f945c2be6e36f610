package keypeers

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"time"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

const startTime = 30 * time.Second

// StartPlugin runs examples/key-plugin/server.py, or a script in front of it, and waits until its socket accepts connections. It needs
// python3 and, the first time, PyPI.
func StartPlugin(ctx context.Context, progress io.Writer, script, socket string, env []string, args ...string) (*peers.Process, error) {
	python, err := harness.PythonPackages(ctx, progress, "key-plugin-1", "grpcio==1.85.1", "grpcio-tools==1.85.1", "cryptography")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(python, append([]string{script, "--listen", "unix:" + socket}, args...)...)
	cmd.Env = append(append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1"), env...)
	p, err := peers.Start("plug-in", cmd, io.Discard)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		if conn, err := net.Dial("unix", socket); err == nil {
			return p, conn.Close()
		}
		select {
		case <-p.Done():
			return nil, fmt.Errorf("the plug-in ended: %s", p.Output())
		case <-ctx.Done():
			p.Kill()
			return nil, fmt.Errorf("the plug-in does not listen on %s: %s", socket, p.Output())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
