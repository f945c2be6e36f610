package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// command is a program that `go install` can build as it is: its go.mod replaces nothing.
type command struct {
	name    string // of the binary
	about   string // for messages
	pkg     string
	version string
	size    string // what a first build costs
	env     string // the variable that names a binary to use instead
}

var (
	// The newest Temporal CLI that the Go module proxy can build. Its development server is 1.29.1, an older one than
	// temporalserver's.
	cli  = command{"temporal", "Temporal CLI", "github.com/temporalio/cli/cmd/temporal", "v1.5.1", "5 to 9 CPU minutes", "TEMPORAL_CLI_BIN"}
	helm = command{"helm", "Helm", "helm.sh/helm/v3/cmd/helm", "v3.22.0", "5 to 9 CPU minutes", "HELM_BIN"}
)

// BuildCLI returns the path of the Temporal CLI `temporal`, building it first if the cache does not hold it; TEMPORAL_CLI_BIN names
// one to use instead. It is a tool of real users, and as [TemporalOptions.Binary] an older server to test against.
func BuildCLI(ctx context.Context, progress io.Writer) (string, error) {
	return cli.build(ctx, progress)
}

// BuildHelm is BuildCLI for Helm; HELM_BIN names one to use instead.
func BuildHelm(ctx context.Context, progress io.Writer) (string, error) {
	return helm.build(ctx, progress)
}

func (c command) build(ctx context.Context, progress io.Writer) (string, error) {
	if path := os.Getenv(c.env); path != "" {
		return path, nil
	}
	if progress == nil {
		progress = io.Discard
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache folder for the %s: %w", c.about, err)
	}
	dir := filepath.Join(cache, "temporal-seal", "peers", c.name+"-"+c.version)
	bin := filepath.Join(dir, c.name)
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the cache folder for the %s: %w", c.about, err)
	}
	unlock, err := lock(ctx, dir+".lock", func() { fmt.Fprintf(progress, "%s: another process is building it, waiting\n", c.about) })
	if err != nil {
		return "", fmt.Errorf("build the %s: %w", c.about, err)
	}
	defer unlock()
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	return bin, c.install(ctx, dir, bin, progress)
}

// install builds into a folder of its own first, so that a build that is cut short is never taken for a whole one.
func (c command) install(ctx context.Context, dir, bin string, progress io.Writer) error {
	began := time.Now()
	fmt.Fprintf(progress, "%s: building %s (once; %s, kept in %s)\n", c.about, c.version, c.size, dir)
	partial, err := os.MkdirTemp(dir, "partial-")
	if err != nil {
		return fmt.Errorf("build the %s: %w", c.about, err)
	}
	defer os.RemoveAll(partial)
	cmd := exec.CommandContext(ctx, "go", "install", "-ldflags=-s -w", c.pkg+"@"+c.version)
	cmd.Dir = partial // away from this checkout's go.mod
	cmd.Env = append(os.Environ(), "GOBIN="+partial, "GOWORK=off", "GOFLAGS=")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the %s: %w\n%s", c.about, errors.Join(err, ctx.Err()), out)
	}
	fmt.Fprintf(progress, "%s: built in %s\n", c.about, time.Since(began).Round(time.Second))
	return os.Rename(filepath.Join(partial, c.name), bin)
}
