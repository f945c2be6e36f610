package harness

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// motoVersion of the PyPI package moto: an AWS emulator, with a KMS that nobody here wrote.
const motoVersion = "5.2.5"

// StartMoto installs moto into a virtual environment in the user's cache folder, if it is not there yet, and starts
// its server. It needs python3 and, the first time, PyPI.
func StartMoto(ctx context.Context, progress io.Writer) (endpoint string, p *peers.Process, err error) {
	bin, err := InstallMoto(ctx, progress)
	if err != nil {
		return "", nil, fmt.Errorf("moto: %w", err)
	}
	ports, err := peers.FreePorts(1)
	if err != nil {
		return "", nil, err
	}
	endpoint = "http://" + net.JoinHostPort(peers.Host, strconv.Itoa(ports[0]))
	p, err = peers.Start("moto", exec.Command(bin, "-H", peers.Host, "-p", strconv.Itoa(ports[0])), io.Discard)
	if err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+"/moto-api/", nil)
		if err != nil {
			return "", nil, err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
			return endpoint, p, nil
		}
		select {
		case <-p.Done():
			return "", nil, fmt.Errorf("moto ended: %s", p.Output())
		case <-ctx.Done():
			p.Kill()
			return "", nil, fmt.Errorf("moto was not ready in time: %s", p.Output())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// InstallMoto installs moto into the user's cache folder, if it is not there yet, and returns the path of its server.
func InstallMoto(ctx context.Context, progress io.Writer) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "temporal-seal", "moto-"+motoVersion)
	bin := filepath.Join(dir, "bin", "moto_server")
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	_, _ = fmt.Fprintf(progress, "installing moto %s from PyPI into %s\n", motoVersion, dir)
	for _, args := range [][]string{
		{"python3", "-m", "venv", "--clear", dir}, // what a broken installation left behind goes first
		{filepath.Join(dir, "bin", "pip"), "install", "--quiet", "--disable-pip-version-check", "moto[server]==" + motoVersion},
	} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w\n%s", args[0], err, out)
		}
	}
	return bin, nil
}
