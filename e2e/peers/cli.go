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

// cliVersion is the newest Temporal CLI that the Go module proxy can build. Its development server is 1.29.1, an older one than
// temporalserver's.
const cliVersion = "v1.5.1"

// BuildCLI returns the path of the Temporal CLI `temporal`, building it first if the cache does not hold it; TEMPORAL_CLI_BIN names
// one to use instead. It is a tool of real users, and as [TemporalOptions.Binary] an older server to test against.
func BuildCLI(ctx context.Context, progress io.Writer) (string, error) {
	if path := os.Getenv("TEMPORAL_CLI_BIN"); path != "" {
		return path, nil
	}
	if progress == nil {
		progress = io.Discard
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache folder for the Temporal CLI: %w", err)
	}
	dir := filepath.Join(cache, "temporal-seal", "peers", "temporal-cli-"+cliVersion)
	bin := filepath.Join(dir, "temporal")
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the cache folder for the Temporal CLI: %w", err)
	}
	unlock, err := lock(ctx, dir+".lock", func() { fmt.Fprintln(progress, "Temporal CLI: another process is building it, waiting") })
	if err != nil {
		return "", fmt.Errorf("build the Temporal CLI: %w", err)
	}
	defer unlock()
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	return bin, installCLI(ctx, dir, bin, progress)
}

// installCLI builds into a folder of its own first, so that a build that is cut short is never taken for a whole one.
func installCLI(ctx context.Context, dir, bin string, progress io.Writer) error {
	began := time.Now()
	fmt.Fprintf(progress, "Temporal CLI: building %s (once; 5 to 9 CPU minutes, kept in %s)\n", cliVersion, dir)
	partial, err := os.MkdirTemp(dir, "partial-")
	if err != nil {
		return fmt.Errorf("build the Temporal CLI: %w", err)
	}
	defer os.RemoveAll(partial)
	cmd := exec.CommandContext(ctx, "go", "install", "-ldflags=-s -w", "github.com/temporalio/cli/cmd/temporal@"+cliVersion)
	cmd.Dir = partial // away from this checkout's go.mod
	cmd.Env = append(os.Environ(), "GOBIN="+partial, "GOWORK=off", "GOFLAGS=")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the Temporal CLI: %w\n%s", errors.Join(err, ctx.Err()), out)
	}
	fmt.Fprintf(progress, "Temporal CLI: built in %s\n", time.Since(began).Round(time.Second))
	return os.Rename(filepath.Join(partial, "temporal"), bin)
}
