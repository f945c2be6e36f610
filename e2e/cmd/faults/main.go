// Command faults tries whether the tests find the named faults in testdata/faults: small changes of safety code, each of
// which breaks one rule. It copies the checkout, applies one patch at a time, builds the proxy and runs the tests that
// have to fail. It runs in a module that has the folder e2e/contract: see `make named-faults`.
//
// A patch starts with its header:
//
//	Breaks: the rule that does not hold any more, in a sentence
//	Killed-by: TestOne|TestTwo            tests of e2e/contract, at least one of which has to fail
//	Killed-by-unit: ./internal/x TestY    instead: a unit test, where nothing shows outside
//	Why-unit: why nothing shows outside
//
// The last line of the output is `faults: N named, N killed`. The exit code is 1 if a fault survives, or if its patch does
// not apply or compile (it is stale then).
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	root := flag.String("root", "..", "folder of the checkout")
	only := flag.String("only", "", "names of the faults to try, separated by spaces; empty: all")
	short := flag.Bool("short", false, "check that all patches apply, and try as many of them as fit into -budget")
	budget := flag.Duration("budget", 210*time.Second, "time for -short")
	keep := flag.Bool("keep-output", false, "print what the tests wrote about each fault")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := run(ctx, *root, strings.Fields(*only), *short, *budget, *keep)
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
	}
	if !ok || err != nil {
		stop()
		os.Exit(1)
	}
}

// run tries the faults and prints a line for each. It reports whether all of them were found.
func run(ctx context.Context, root string, only []string, short bool, budget time.Duration, keep bool) (ok bool, err error) {
	began := time.Now()
	all, err := readFaults(filepath.Join(root, "testdata", "faults"))
	if err != nil {
		return false, err
	}
	chosen, err := choose(all, only)
	if err != nil {
		return false, err
	}
	w, err := newWorkshop(ctx, root)
	if err != nil {
		return false, err
	}
	defer w.close()
	w.keep = keep
	applied := 0
	ok = true
	for _, f := range chosen {
		if err := w.applies(ctx, f); err != nil {
			fmt.Printf("%-40s STALE     %v\n", f.name, err)
			ok = false
			continue
		}
		applied++
	}
	if !ok {
		fmt.Printf("faults: %d named, %d apply\n", len(chosen), applied)
		return false, errors.New("patches do not apply: make them anew from the code as it is now")
	}
	if short {
		rotate(ctx, root, chosen)
	}
	if err := w.prepare(ctx, chosen, short); err != nil {
		return false, err
	}
	tried, killed := 0, 0
	next, stop := w.made(ctx, chosen)
	defer stop()
	longest, last := time.Duration(0), time.Now()
	for m := range next {
		verdict, err := w.try(ctx, m)
		if err != nil {
			return false, fmt.Errorf("%s: %w", m.fault.name, err)
		}
		took := time.Since(last)
		last = time.Now()
		longest = max(longest, took)
		tried++
		if verdict.killed {
			killed++
		}
		fmt.Printf("%-40s %-9s %s (%.0f s)\n", m.fault.name, verdict.word(), verdict.by, took.Seconds())
		if short && time.Since(began)+longest > budget {
			break
		}
	}
	if short {
		fmt.Printf("faults: %d named, %d apply, %d tried, %d killed\n", len(chosen), applied, tried, killed)
	} else {
		fmt.Printf("faults: %d named, %d killed\n", len(chosen), killed)
	}
	return killed == tried, nil
}

// choose picks faults by name, or all.
func choose(all []*fault, only []string) ([]*fault, error) {
	if len(only) == 0 {
		return all, nil
	}
	var chosen []*fault
	for _, name := range only {
		i := slices.IndexFunc(all, func(f *fault) bool { return f.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no fault %q in testdata/faults", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// rotate orders the faults by a hash of the commit and their names: another sample for each commit, the same one for the
// same commit.
func rotate(ctx context.Context, root string, faults []*fault) {
	commit, err := exec.CommandContext(ctx, "git", "-C", root, "rev-parse", "HEAD").Output()
	if err != nil {
		commit = nil // no repository: always the same order
	}
	order := func(f *fault) uint64 {
		h := fnv.New64a()
		_, _ = h.Write(commit)
		_, _ = h.Write([]byte(f.name))
		return h.Sum64()
	}
	slices.SortFunc(faults, func(a, b *fault) int { return cmp.Compare(order(a), order(b)) })
}
