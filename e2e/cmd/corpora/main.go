// Command corpora checks that no fuzz target and no committed input of one is lost.
//
//	corpora -root . -list testdata/fuzz-corpora.txt         fails where a target, a seed or an input on the list is missing
//	corpora -root . -list testdata/fuzz-corpora.txt -write  writes the list
//
// A target is a function FuzzX of a test file. Its inputs are the files of testdata/fuzz/FuzzX beside it; its seeds
// are what it adds by f.Add, which are counted by running them.
package main

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// What one target's inputs may be in all: they are run by every `go test`.
const (
	maxInputs = 40
	maxBytes  = 64 << 10
)

func main() {
	root := flag.String("root", ".", "`folder` of the module")
	list := flag.String("list", "testdata/fuzz-corpora.txt", "`file` with the targets on the list")
	write := flag.Bool("write", false, "write the list instead of comparing with it")
	flag.Parse()
	if err := run(os.Stdout, *root, *list, *write, countSeeds); err != nil {
		fmt.Fprintln(os.Stderr, "corpora:", err)
		os.Exit(1)
	}
}

// target is a fuzz target with what is committed for it.
type target struct {
	name, folder string // folder as seen from the module's, with slashes
	seeds        int
	inputs       []string // by hash of their content, sorted
	bytes        int
}

// run compares the targets below root with the list, or writes it. seeds counts the f.Add seeds of a folder's targets.
func run(out io.Writer, root, list string, write bool, seeds func(root, folder string) (map[string]int, error)) error {
	targets, err := findTargets(root)
	if err != nil {
		return err
	}
	counted := map[string]map[string]int{}
	for i := range targets {
		t := &targets[i]
		if counted[t.folder] == nil {
			if counted[t.folder], err = seeds(root, t.folder); err != nil {
				return err
			}
		}
		t.seeds = counted[t.folder][t.name]
		if t.bytes > maxBytes || len(t.inputs) > maxInputs {
			return fmt.Errorf("%s/testdata/fuzz/%s holds %d inputs of %d bytes; keep at most %d of %d bytes in all, "+
				"those that reach the most code", t.folder, t.name, len(t.inputs), t.bytes, maxInputs, maxBytes)
		}
	}
	if write {
		return os.WriteFile(list, []byte(head+format(targets)), 0o644)
	}
	f, err := os.Open(list)
	if err != nil {
		return err
	}
	defer f.Close()
	listed, err := parse(f)
	if err != nil {
		return fmt.Errorf("%s: %w", list, err)
	}
	if err := compare(out, listed, targets); err != nil {
		return err
	}
	inputs := 0
	for _, t := range targets {
		inputs += len(t.inputs)
	}
	fmt.Fprintf(out, "fuzz corpora: %d targets, %d inputs, none of %d listed targets is missing\n", len(targets), inputs, len(listed))
	return nil
}

var declaration = regexp.MustCompile(`(?m)^func (Fuzz\w*)\(\w+ \*testing\.F\)`)

// findTargets finds the targets of the module at root. Modules below it are not looked into.
func findTargets(root string) (targets []target, err error) {
	err = filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			_, nested := os.Stat(filepath.Join(file, "go.mod"))
			name := d.Name()
			if file != root && (nested == nil || name == "testdata" || strings.HasPrefix(name, ".")) {
				return fs.SkipDir
			}
			return nil
		case !strings.HasSuffix(file, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		folder, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		for _, m := range declaration.FindAllStringSubmatch(string(text), -1) {
			t := target{name: m[1], folder: filepath.ToSlash(folder)}
			if err := t.readInputs(filepath.Join(filepath.Dir(file), "testdata", "fuzz", t.name)); err != nil {
				return err
			}
			targets = append(targets, t)
		}
		return nil
	})
	slices.SortFunc(targets, func(a, b target) int {
		return cmp.Or(strings.Compare(a.folder, b.folder), strings.Compare(a.name, b.name))
	})
	return targets, err
}

func (t *target) readInputs(dir string) error {
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return err
		}
		sum := sha256.Sum256(text)
		t.inputs = append(t.inputs, hex.EncodeToString(sum[:8]))
		t.bytes += len(text)
	}
	slices.Sort(t.inputs)
	return err
}

var seedPassed = regexp.MustCompile(`(?m)^ *--- PASS: (Fuzz\w*)/seed#\d+ `)

// countSeeds runs a folder's fuzz targets on their seeds and inputs, and counts the seeds.
func countSeeds(root, folder string) (map[string]int, error) {
	cmd := exec.Command("go", "test", "-run", "^Fuzz", "-v", "./"+folder)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go test -run ^Fuzz ./%s: %w\n%s", folder, err, out)
	}
	seeds := map[string]int{}
	for _, m := range seedPassed.FindAllSubmatch(out, -1) {
		seeds[string(m[1])]++
	}
	return seeds, nil
}

// format writes a line for each target and an indented one for each of its inputs.
func format(targets []target) string {
	var b strings.Builder
	for _, t := range targets {
		fmt.Fprintf(&b, "%s %s seeds=%d\n", t.name, t.folder, t.seeds)
		for _, input := range t.inputs {
			fmt.Fprintf(&b, "  %s\n", input)
		}
	}
	return b.String()
}

func parse(from io.Reader) (targets []target, err error) {
	lines := bufio.NewScanner(from)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0 || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "  ") && len(fields) == 1 && len(targets) > 0:
			last := &targets[len(targets)-1]
			last.inputs = append(last.inputs, fields[0])
		case len(fields) == 3:
			seeds, err := strconv.Atoi(strings.TrimPrefix(fields[2], "seeds="))
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
			targets = append(targets, target{name: fields[0], folder: fields[1], seeds: seeds})
		default:
			return nil, fmt.Errorf("line %d is neither `FuzzName folder seeds=N` nor an indented hash: %q", n, line)
		}
	}
	return targets, lines.Err()
}

// compare returns an error for each listed target that is missing or has less than the list says. A target may have moved
// to another folder. Where several have the same name, each stands for one on the list.
func compare(out io.Writer, listed, here []target) error {
	var errs []error
	free := slices.Clone(here)
	// Those that stayed where they were come first, so that they stand for themselves.
	listed = slices.Clone(listed)
	stayed := func(t target) bool {
		return slices.ContainsFunc(here, func(h target) bool { return h.name == t.name && h.folder == t.folder })
	}
	slices.SortStableFunc(listed, func(a, b target) int {
		switch {
		case stayed(a) == stayed(b):
			return 0
		case stayed(a):
			return -1
		}
		return 1
	})
	for _, want := range listed {
		at := closest(want, free)
		if at < 0 {
			errs = append(errs, fmt.Errorf("fuzz target %s of %s is gone; restore it", want.name, want.folder))
			continue
		}
		got := free[at]
		free = slices.Delete(free, at, at+1)
		if got.folder != want.folder {
			fmt.Fprintf(out, "%s moved from %s to %s\n", want.name, want.folder, got.folder)
		}
		if got.seeds < want.seeds {
			errs = append(errs, fmt.Errorf("fuzz target %s of %s has %d seeds by f.Add, the list has %d; restore the others",
				got.name, got.folder, got.seeds, want.seeds))
		}
		if lost := missing(want, got); len(lost) > 0 {
			errs = append(errs, fmt.Errorf("fuzz target %s: %d inputs are not in %s; restore or move them there: %s",
				got.name, len(lost), path.Join(got.folder, "testdata/fuzz", got.name), strings.Join(lost, " ")))
		}
	}
	for _, t := range free {
		errs = append(errs, fmt.Errorf("fuzz target %s of %s is not on the list; run `make fuzz-corpora RECORD=1`", t.name, t.folder))
	}
	return errors.Join(errs...)
}

// closest returns the index of the target of the same name that is in the same folder, or else has the most inputs of the
// listed one; -1 if there is none of that name.
func closest(want target, free []target) int {
	best, bestScore := -1, -1
	for i, t := range free {
		if t.name != want.name {
			continue
		}
		score := len(want.inputs) - len(missing(want, t))
		if t.folder == want.folder {
			score = len(want.inputs) + 1
		}
		if score > bestScore {
			best, bestScore = i, score
		}
	}
	return best
}

// missing returns the listed inputs that a target does not have.
func missing(want, got target) (lost []string) {
	for _, input := range want.inputs {
		if !slices.Contains(got.inputs, input) {
			lost = append(lost, input)
		}
	}
	return lost
}

const head = `# Every fuzz target of the product: its name, its folder, the seeds that it adds by f.Add, and below it the inputs in
# testdata/fuzz/<name> beside it, by the first 16 hex digits of the SHA-256 of the file.
# ` + "`make fuzz-corpora`" + ` fails where a target, a seed or an input of this list is missing. A target may move to another folder;
# its inputs move along. ` + "`make fuzz-corpora RECORD=1`" + ` writes this file: its diff shows what was added, and what was dropped.
#
`
