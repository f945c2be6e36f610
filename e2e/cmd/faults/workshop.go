package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// testTime bounds the tests of one fault.
const testTime = 2 * time.Minute

// workshop is a copy of the checkout in which faults are made and undone.
type workshop struct {
	dir    string // the copy
	binary string // the proxy that is built there
	clean  string // the proxy without a fault
	tests  string // the compiled contract suite
	green  map[string]bool
	keep   bool
}

// newWorkshop copies the files that git knows or would add, with their changes.
func newWorkshop(ctx context.Context, root string) (*workshop, error) {
	list, err := exec.CommandContext(ctx, "git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		return nil, fmt.Errorf("list the files of %s: %w; it has to be a git checkout", root, err)
	}
	dir, err := os.MkdirTemp("", "faults")
	if err != nil {
		return nil, err
	}
	w := &workshop{dir: dir, binary: filepath.Join(dir, "faulty-proxy"), clean: filepath.Join(dir, "clean-proxy"),
		tests: filepath.Join(dir, "contract.test"), green: map[string]bool{}}
	for name := range strings.SplitSeq(string(list), "\x00") {
		if name == "" || slices.Contains([]string{"docs", "demo", "bench", "deploy"}, strings.Split(name, "/")[0]) {
			continue
		}
		if err := copyFile(filepath.Join(root, name), filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			w.close()
			return nil, fmt.Errorf("copy the checkout: %w", err)
		}
	}
	return w, nil
}

func (w *workshop) close() { _ = os.RemoveAll(w.dir) }

func copyFile(from, to string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return nil // links and submodules play no part in building
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, text, info.Mode().Perm())
}

// git applies a patch, or checks whether it applies. The copy is no repository, wherever the folder for temporary files is.
func (w *workshop) git(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = w.dir
	cmd.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(w.dir))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s", firstLine(out))
	}
	return nil
}

func (w *workshop) applies(ctx context.Context, f *fault) error {
	return w.git(ctx, "apply", "--check", f.path)
}

// prepare builds the proxy and the suite without a fault. Unless lazy, it also checks that the tests of all faults pass:
// a test that fails anyway finds nothing.
func (w *workshop) prepare(ctx context.Context, faults []*fault, lazy bool) error {
	if err := w.build(ctx, w.clean); err != nil {
		return fmt.Errorf("the proxy does not build without a fault: %w", err)
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", w.tests, "./contract")
	cmd.Dir = filepath.Join(w.dir, "e2e")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("the contract suite does not build: %s", firstLine(out))
	}
	if lazy {
		return nil
	}
	var tests []string
	for _, f := range faults {
		tests = append(tests, f.tests...)
	}
	if err := w.passes(ctx, tests); err != nil {
		return err
	}
	for _, f := range faults {
		if err := w.unitPasses(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (w *workshop) build(ctx context.Context, to string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", to, "./cmd/proxy")
	cmd.Dir = w.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s", lastLines(out))
	}
	return nil
}

// passes checks that tests pass without a fault, each once.
func (w *workshop) passes(ctx context.Context, tests []string) error {
	var left []string
	for _, name := range tests {
		if !w.green[name] && !slices.Contains(left, name) {
			left = append(left, name)
		}
	}
	if len(left) == 0 {
		return nil
	}
	out, err := w.contract(ctx, w.clean, left)
	if err != nil {
		return fmt.Errorf("these tests fail without a fault: %s\n%s", strings.Join(failed(out), ", "), lastLines(out))
	}
	for _, name := range left {
		if !bytes.Contains(out, []byte("--- PASS: "+name+" (")) {
			return fmt.Errorf("e2e/contract has no test %s, or it was skipped", name)
		}
		w.green[name] = true
	}
	return nil
}

func (w *workshop) unitPasses(ctx context.Context, f *fault) error {
	if f.unitTest == "" || w.green[f.unit+f.unitTest] {
		return nil
	}
	out, err := w.unit(ctx, f)
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+f.unitTest+" (")) {
		return fmt.Errorf("%s of %s does not pass without a fault\n%s", f.unitTest, f.unit, lastLines(out))
	}
	w.green[f.unit+f.unitTest] = true
	return nil
}

// contract runs tests of the suite against a binary.
func (w *workshop) contract(ctx context.Context, binary string, tests []string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, w.tests, "-test.v", "-test.timeout", testTime.String(), "-test.run", "^("+strings.Join(tests, "|")+")$")
	cmd.Dir = filepath.Join(w.dir, "e2e", "contract")
	cmd.Env = append(os.Environ(), "SEAL_PROXY_BIN="+binary)
	return cmd.CombinedOutput()
}

func (w *workshop) unit(ctx context.Context, f *fault) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-timeout", testTime.String(), "-run", "^"+f.unitTest+"$", f.unit)
	cmd.Dir = w.dir
	return cmd.CombinedOutput()
}

// verdict is what became of one fault.
type verdict struct {
	killed bool
	stale  bool
	by     string // the tests that failed, or why none counts
}

func (v verdict) word() string {
	switch {
	case v.killed:
		return "killed"
	case v.stale:
		return "STALE"
	}
	return "SURVIVED"
}

// try makes one fault, runs its tests, and undoes it.
func (w *workshop) try(ctx context.Context, f *fault) (verdict, error) {
	if err := w.passes(ctx, f.tests); err != nil {
		return verdict{}, err
	}
	if err := w.unitPasses(ctx, f); err != nil {
		return verdict{}, err
	}
	before := map[string][]byte{}
	for _, name := range f.files {
		text, err := os.ReadFile(filepath.Join(w.dir, name))
		if err != nil {
			return verdict{stale: true, by: err.Error()}, nil
		}
		before[name] = text
	}
	defer func() {
		for name, text := range before {
			if err := os.WriteFile(filepath.Join(w.dir, name), text, 0o644); err != nil {
				panic(err) // what follows would be tried on top of this fault
			}
		}
	}()
	if err := w.git(ctx, "apply", f.path); err != nil {
		return verdict{stale: true, by: err.Error()}, nil
	}
	if err := w.build(ctx, w.binary); err != nil {
		return verdict{stale: true, by: "it does not compile: " + err.Error()}, nil
	}
	out, err := w.runTests(ctx, f)
	if w.keep {
		_, _ = io.Copy(os.Stderr, bytes.NewReader(out))
	}
	return judge(out, err), ctx.Err()
}

func (w *workshop) runTests(ctx context.Context, f *fault) ([]byte, error) {
	if f.unitTest != "" {
		return w.unit(ctx, f)
	}
	return w.contract(ctx, w.binary, f.tests)
}

// judge finds out whether tests failed because of what they check.
func judge(out []byte, err error) verdict {
	names := failed(out)
	switch {
	case err == nil:
		return verdict{by: "its tests pass"}
	case bytes.Contains(out, []byte("the proxy did not start")):
		return verdict{by: "the proxy does not start with it, which shows nothing"}
	case bytes.Contains(out, []byte("panic: ")), len(names) == 0:
		return verdict{by: "the tests ended before they failed: " + lastLines(out)}
	}
	return verdict{killed: true, by: strings.Join(names, ", ")}
}

var failure = regexp.MustCompile(`(?m)^--- FAIL: (\S+) `)

func failed(out []byte) []string {
	var names []string
	for _, m := range failure.FindAllSubmatch(out, -1) {
		names = append(names, string(m[1]))
	}
	slices.Sort(names)
	return names
}

func firstLine(out []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

func lastLines(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
