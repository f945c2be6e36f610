package peers

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// tool is a program that is built from a module of its own.
type tool struct {
	name string   // of the folder below this one, and of the binary
	pkg  string   // what to build, as seen from that folder
	args []string // further arguments for go build
	size string   // what a first build costs, for the progress messages
}

var (
	temporalTool = tool{name: "temporalserver", pkg: ".", size: "5 to 9 CPU minutes"}
	jaegerTool   = tool{name: "jaeger", pkg: "github.com/jaegertracing/jaeger/cmd/all-in-one", size: "4 to 6 CPU minutes"}
)

// BuildTemporal returns the path of the Temporal server, building it first if the cache does not hold it. Progress, a line every
// now and then, goes to the writer; nil is silent.
func BuildTemporal(ctx context.Context, progress io.Writer) (string, error) {
	return temporalTool.build(ctx, progress)
}

// BuildJaeger is BuildTemporal for Jaeger's all-in-one.
func BuildJaeger(ctx context.Context, progress io.Writer) (string, error) {
	return jaegerTool.build(ctx, progress)
}

// TemporalBuilt reports whether BuildTemporal would return at once.
func TemporalBuilt() bool { return temporalTool.built() }

// JaegerBuilt reports whether BuildJaeger would return at once.
func JaegerBuilt() bool { return jaegerTool.built() }

func (t tool) built() bool {
	dir, err := t.source()
	if err != nil {
		return false
	}
	bin, err := t.path(dir)
	if err != nil {
		return false
	}
	_, err = os.Stat(bin)
	return err == nil
}

// build returns the cached binary or makes it. A lock keeps two test packages from building the same thing at the same time: the
// second waits and then finds it done.
func (t tool) build(ctx context.Context, progress io.Writer) (string, error) {
	if progress == nil {
		progress = io.Discard
	}
	dir, err := t.source()
	if err != nil {
		return "", err
	}
	bin, err := t.path(dir)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	if err := os.MkdirAll(filepath.Dir(bin), 0o755); err != nil {
		return "", fmt.Errorf("make the cache folder for %s: %w", t.name, err)
	}
	unlock, err := lock(ctx, bin+".lock", func() {
		fmt.Fprintf(progress, "%s: another process is building it, waiting\n", t.name)
	})
	if err != nil {
		return "", fmt.Errorf("build %s: %w", t.name, err)
	}
	defer unlock()
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	return bin, t.compile(ctx, dir, bin, progress)
}

// compile runs go build into a temporary name first, so that a build that is cut short is never taken for a whole one.
func (t tool) compile(ctx context.Context, dir, bin string, progress io.Writer) error {
	began := time.Now()
	fmt.Fprintf(progress, "%s: building it (once; %s, kept in %s)\n", t.name, t.size, filepath.Dir(bin))
	partial := bin + ".partial"
	defer os.Remove(partial)

	// -v names each package as it is compiled: with the number of all of them that is a progress bar.
	total := t.countPackages(ctx, dir)
	counter := &lineCounter{}
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-v", "-buildvcs=false", "-ldflags=-s -w", "-o", partial}, append(t.args, t.pkg)...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly")
	cmd.Stdout, cmd.Stderr = counter, counter
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("build %s: %w", t.name, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			fmt.Fprintf(progress, "%s: %d of up to %d packages, %s\n", t.name, counter.lines(), total, time.Since(began).Round(time.Second))
		case err := <-done:
			if err != nil {
				return fmt.Errorf("build %s: %w (%s)\n%s", t.name, errors.Join(err, ctx.Err()), "in "+dir, counter.tail())
			}
			fmt.Fprintf(progress, "%s: built in %s\n", t.name, time.Since(began).Round(time.Second))
			return os.Rename(partial, bin)
		}
	}
}

// countPackages returns how many packages the build consists of; 0 if unknown.
func (t tool) countPackages(ctx context.Context, dir string) int {
	cmd := exec.CommandContext(ctx, "go", "list", "-deps", "-f", "{{.ImportPath}}", t.pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly")
	out, _ := cmd.Output()
	return bytes.Count(out, []byte("\n"))
}

// source is the tool's folder in this checkout.
func (t tool) source() (string, error) {
	_, file, _, ok := runtime.Caller(0)
	dir := filepath.Join(filepath.Dir(file), t.name)
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); !ok || err != nil {
		return "", fmt.Errorf("the source of %s is not at %s: run from a checkout, without -trimpath", t.name, dir)
	}
	return dir, nil
}

// path is where the binary for the present sources lies or will lie.
func (t tool) path(dir string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache folder for %s: %w", t.name, err)
	}
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.GOOS, runtime.GOARCH, t.pkg, t.args)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if name := e.Name(); !isSource(name) {
			continue
		} else if err := hashFile(sum, filepath.Join(dir, name)); err != nil {
			return "", err
		}
	}
	return filepath.Join(cache, "temporal-seal", "peers", t.name+"-"+hex.EncodeToString(sum.Sum(nil)[:6])), nil
}

func isSource(name string) bool {
	return name == "go.mod" || name == "go.sum" || strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go")
}

func hashFile(sum io.Writer, path string) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	fmt.Fprintln(sum, filepath.Base(path), len(b))
	sum.Write(b)
	return err
}
