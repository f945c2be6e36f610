package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
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
	dir   string // the copy
	clean string // the proxy without a fault
	tests string // the compiled contract suite
	green map[string]bool
	keep  bool
}

// newWorkshop copies the files that git knows or would add, with their changes.
func newWorkshop(ctx context.Context, root string) (*workshop, error) {
	list, err := exec.CommandContext(
		ctx,
		"git",
		"-C",
		root,
		"ls-files",
		"-z",
		"--cached",
		"--others",
		"--exclude-standard",
	).Output()
	if err != nil {
		return nil, fmt.Errorf("list the files of %s: %w; it has to be a git checkout", root, err)
	}
	dir, err := os.MkdirTemp("", "faults")
	if err != nil {
		return nil, err
	}
	w := &workshop{
		dir:   dir,
		clean: filepath.Join(dir, "clean-proxy"),
		tests: filepath.Join(dir, "contract.test"),
		green: map[string]bool{},
	}
	for name := range strings.SplitSeq(string(list), "\x00") {
		if name == "" || slices.Contains([]string{"demo", "bench", "deploy"}, strings.Split(name, "/")[0]) {
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

// prepare builds the proxy and the suite without a fault, and checks that the tests of all faults pass: a test that fails
// anyway finds nothing. With lazy those of the suite are checked when their first fault comes.
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
		return nil // each test has to pass without a fault before it is run with one: see try and make
	}
	var tests []string
	units := map[string][]string{}
	for _, f := range faults {
		tests = append(tests, f.tests...)
		if f.unitTest != "" {
			units[f.unit] = append(units[f.unit], f.unitTest)
		}
	}
	for _, pkg := range slices.Sorted(maps.Keys(units)) {
		if err := w.unitPasses(ctx, pkg, units[pkg]); err != nil {
			return err
		}
	}
	return w.passes(ctx, tests)
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
	if err != nil && ctx.Err() == nil { // a busy machine may fail what waits for real servers: it has a second try
		out, err = w.contract(ctx, w.clean, left)
	}
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

// unitPasses checks that unit tests of a package pass without a fault, each once.
func (w *workshop) unitPasses(ctx context.Context, pkg string, tests []string) error {
	var left []string
	for _, name := range tests {
		if !w.green[pkg+" "+name] && !slices.Contains(left, name) {
			left = append(left, name)
		}
	}
	if len(left) == 0 {
		return nil
	}
	out, err := w.unit(ctx, pkg, left)
	if err != nil && ctx.Err() == nil { // some wait for times that a busy machine may miss: they have a second try
		out, err = w.unit(ctx, pkg, left)
	}
	if err != nil {
		return fmt.Errorf("these tests of %s fail without a fault: %s\n%s", pkg, strings.Join(failed(out), ", "), lastLines(out))
	}
	for _, name := range left {
		if !bytes.Contains(out, []byte("--- PASS: "+name+" (")) {
			return fmt.Errorf("%s has no test %s, or it was skipped", pkg, name)
		}
		w.green[pkg+" "+name] = true
	}
	return nil
}

// contract runs tests of the suite against a binary.
func (w *workshop) contract(ctx context.Context, binary string, tests []string) ([]byte, error) {
	cmd := exec.CommandContext(
		ctx,
		w.tests,
		"-test.v",
		"-test.timeout",
		testTime.String(),
		"-test.run",
		"^("+strings.Join(tests, "|")+")$",
	)
	cmd.Dir = filepath.Join(w.dir, "e2e", "contract")
	cmd.Env = append(os.Environ(), "SEAL_PROXY_BIN="+binary)
	return cmd.CombinedOutput()
}

func (w *workshop) unit(ctx context.Context, pkg string, tests []string) ([]byte, error) {
	cmd := exec.CommandContext(
		ctx,
		"go",
		"test",
		"-count=1",
		"-v",
		"-timeout",
		testTime.String(),
		"-run",
		"^("+strings.Join(tests, "|")+")$",
		pkg,
	)
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

// made is a fault that was built.
type made struct {
	fault  *fault
	binary string
	stale  error  // it does not apply or compile
	out    []byte // of a unit test, which runs where the fault is
	err    error  // of a unit test
}

// made builds the faults one after the other, each while the tests of the one before run, until stop is called.
func (w *workshop) made(ctx context.Context, faults []*fault) (built <-chan *made, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	out := make(chan *made)
	go func() {
		defer close(out)
		for i, f := range faults {
			m := &made{fault: f, binary: filepath.Join(w.dir, fmt.Sprintf("faulty-proxy-%d", i))}
			m.stale = w.make(ctx, m)
			select {
			case out <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, func() {
		cancel()
		for range out { // until the builder has put everything back
		}
	}
}

// make builds one fault, and undoes it.
func (w *workshop) make(ctx context.Context, m *made) error {
	if m.fault.unitTest != "" {
		if err := w.unitPasses(ctx, m.fault.unit, []string{m.fault.unitTest}); err != nil {
			return err
		}
	}
	before := map[string][]byte{}
	for _, name := range m.fault.files {
		text, err := os.ReadFile(filepath.Join(w.dir, name))
		if err != nil {
			return err
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
	if err := w.git(ctx, "apply", m.fault.path); err != nil {
		return err
	}
	if m.fault.unitTest != "" {
		if m.out, m.err = w.unit(ctx, m.fault.unit, []string{m.fault.unitTest}); bytes.Contains(m.out, []byte("[build failed]")) {
			return fmt.Errorf("it does not compile: %s", lastLines(m.out))
		}
		return nil
	}
	if err := w.build(ctx, m.binary); err != nil {
		return fmt.Errorf("it does not compile: %w", err)
	}
	return nil
}

// try runs the tests of one fault.
func (w *workshop) try(ctx context.Context, m *made) (verdict, error) {
	if m.stale != nil {
		return verdict{stale: true, by: m.stale.Error()}, ctx.Err()
	}
	defer func() { _ = os.Remove(m.binary) }() // 50 MB
	if m.fault.unitTest == "" {
		if err := w.passes(ctx, m.fault.tests); err != nil {
			return verdict{}, err
		}
		m.out, m.err = w.contract(ctx, m.binary, m.fault.tests)
	}
	if w.keep {
		_, _ = io.Copy(os.Stderr, bytes.NewReader(m.out))
	}
	return judge(m.out, m.err), ctx.Err()
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
