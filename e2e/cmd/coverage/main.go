// Command coverage adds up Go coverage profiles by package, and compares them with what a file has on record.
//
//	coverage -record testdata/coverage.txt bin/coverage.out...         fails where a package is covered less than on record
//	coverage -record testdata/coverage.txt -write bin/coverage.out...  writes the record
//
// A statement counts as covered if any test of any profile reached it.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

const module = "github.com/temporal-seal/temporal-seal/"

// What coverage may fall below its record by, since what timers and goroutines reach differs from run to run: a share of a
// package's statements, or a number of statements where that is more.
const (
	slackPoints     = 0.3
	slackStatements = 2
)

func main() {
	record := flag.String("record", "testdata/coverage.txt", "`file` with the coverage on record")
	write := flag.Bool("write", false, "write the record instead of comparing with it")
	flag.Parse()
	if err := run(os.Stdout, *record, *write, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "coverage:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, record string, write bool, profiles []string) error {
	if len(profiles) == 0 {
		return errors.New("no profile is named; run `make coverage`")
	}
	blocks := map[string]block{}
	for _, name := range profiles {
		if err := readFile(name, func(f io.Reader) error { return addProfile(blocks, f) }); err != nil {
			return err
		}
	}
	now := byPackage(blocks)
	then := table{}
	err := readFile(record, func(f io.Reader) (err error) {
		then, err = readTable(f)
		return err
	})
	if err != nil && !(write && errors.Is(err, os.ErrNotExist)) {
		return err
	}
	lower := compare(out, then, now)
	if write {
		return os.WriteFile(record, []byte(head+now.String()), 0o644)
	}
	return lower
}

func readFile(name string, read func(io.Reader) error) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := read(f); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// block is a run of statements without a branch.
type block struct {
	statements int
	covered    bool
}

// addProfile reads a profile that `go test -coverprofile` or `go tool covdata textfmt` wrote. The same block may come
// several times, once for each test binary.
func addProfile(blocks map[string]block, profile io.Reader) error {
	lines := bufio.NewScanner(profile)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if strings.HasPrefix(line, "mode: ") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) != 3 {
			return fmt.Errorf("line %d is not `file:from,to statements count`: %q", n, line)
		}
		statements, err := strconv.Atoi(fields[1])
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if strings.Contains(fields[0], ".pb.go:") { // generated
			continue
		}
		b := blocks[fields[0]]
		blocks[fields[0]] = block{statements: statements, covered: b.covered || fields[2] != "0"}
	}
	return lines.Err()
}

// share is how many of a package's statements are covered.
type share struct{ covered, statements int }

func (s share) percent() float64 {
	if s.statements == 0 {
		return 100
	}
	return 100 * float64(s.covered) / float64(s.statements)
}

// below reports whether coverage is lower than on record by more than the slack.
func (s share) below(record share) bool {
	slack := max(slackPoints, 100*slackStatements/float64(max(s.statements, 1)))
	return s.percent() < record.percent()-slack
}

// table is coverage by package, named by its folder in the repository.
type table map[string]share

const totalName = "total"

func byPackage(blocks map[string]block) table {
	t := table{}
	for place, b := range blocks {
		file, _, _ := strings.Cut(place, ":")
		name := strings.TrimPrefix(path.Dir(file), module)
		s := t[name]
		s.statements += b.statements
		if b.covered {
			s.covered += b.statements
		}
		t[name] = s
	}
	return t
}

func (t table) total() (sum share) {
	for _, s := range t {
		sum.covered += s.covered
		sum.statements += s.statements
	}
	return sum
}

func (t table) String() string {
	var b strings.Builder
	row := func(name string, s share) {
		fmt.Fprintf(&b, "%-28s %10d %10d %7.1f\n", name, s.covered, s.statements, s.percent())
	}
	for _, name := range slices.Sorted(maps.Keys(t)) {
		row(name, t[name])
	}
	row(totalName, t.total())
	return b.String()
}

// readTable reads what String writes. The total is kept under its name.
func readTable(from io.Reader) (table, error) {
	t := table{}
	lines := bufio.NewScanner(from)
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) != 4 {
			return nil, fmt.Errorf("line %d is not `package covered statements percent`: %q", n, lines.Text())
		}
		covered, err1 := strconv.Atoi(fields[1])
		statements, err2 := strconv.Atoi(fields[2])
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		t[fields[0]] = share{covered, statements}
	}
	return t, lines.Err()
}

// compare writes a table of the coverage on record and now, and returns an error for what is lower, gone or new.
func compare(out io.Writer, then, now table) error {
	now = maps.Clone(now)
	now[totalName] = now.total()
	names := map[string]bool{}
	for _, t := range []table{then, now} {
		for name := range t {
			names[name] = name != totalName
		}
	}
	var errs []error
	fmt.Fprintf(out, "%-28s %10s %10s %7s %9s\n", "package", "covered", "statements", "percent", "on record")
	rows := slices.DeleteFunc(slices.Sorted(maps.Keys(names)), func(name string) bool { return name == totalName })
	for _, name := range append(rows, totalName) {
		was, recorded := then[name]
		is, here := now[name]
		switch {
		case !here:
			fmt.Fprintf(out, "%-28s %10s %10s %7s %9.1f  gone\n", name, "", "", "", was.percent())
			errs = append(errs, fmt.Errorf("package %s is on record and has no statements now; "+
				"move its line as the head of the record explains", name))
			continue
		case !recorded:
			fmt.Fprintf(out, "%-28s %10d %10d %7.1f %9s  new\n", name, is.covered, is.statements, is.percent(), "")
			errs = append(errs, fmt.Errorf("package %s is not on record; run `make coverage RECORD=1` and commit the change",
				name))
			continue
		}
		note := ""
		if is.below(was) {
			note = "  LOWER"
			errs = append(errs, fmt.Errorf("%s: %.1f %% is covered, %.1f %% on record; test what is not",
				name, is.percent(), was.percent()))
		}
		fmt.Fprintf(out, "%-28s %10d %10d %7.1f %9.1f%s\n", name, is.covered, is.statements, is.percent(), was.percent(), note)
	}
	return errors.Join(errs...)
}

const head = `# Statement coverage of the product by its unit tests, by package. ` + "`make coverage`" + ` fails where a package, or the total, is
# lower than here by more than 0.3 points (and by more than 2 statements: what timers reach differs from run to run).
# ` + "`make coverage RECORD=1`" + ` writes this file; the diff shows what became lower, and a review decides whether that is right.
#
# A statement counts as covered if a test of any package reaches it, so tests may move from one package to another.
# When code moves, carry its numbers over before recording anew, so that the move cannot hide a loss:
#   - a package is renamed: rename it here;
#   - two packages become one: add their numbers, covered and statements;
#   - a package is split: write a line for each part; the sums of covered and of statements stay those of the old line.
# The percentage is for readers: comparisons use the two counts. Update the total's counts only by RECORD=1.
#
# package                       covered statements percent
`
