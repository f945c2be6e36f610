// Package snapshots compares what users depend on with what was accepted: metrics, config keys, commands and flags, exit
// codes, JSON output, admin and codec server endpoints, audit records, environment variables. It drives the built
// binary from outside. testdata/snapshots holds the accepted state, and CHANGELOG.md has a line for each change of it.
//
// `make snapshots` compares; `make snapshots ACCEPT="Changed: ..."` accepts what has changed.
package snapshots

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

func TestMain(m *testing.M) {
	code := m.Run()
	harness.RemoveProxy()
	os.Exit(code)
}

// snapshot is one file of testdata/snapshots.
type snapshot struct {
	file  string
	about string
	// take returns the lines of the file. Sections keep their order; facts are sorted by take.
	take func(*testing.T) []string
}

var snapshots = []snapshot{
	{"admin.txt", "Endpoints of the admin listener and the codec server: method, path, status, content type.", takeAdmin},
	{"audit.txt", "The shape of audit records, and the values of closed sets in them.", takeAudit},
	{"case-files.txt", "Keys of case files for `temporal-seal check --cases` and `temporal-seal explain --input`.", takeCaseFiles},
	{"cli-help.txt", "The help of every command.", takeHelp},
	{"config.txt", "Keys of the config file: path, type, default, closed set of values.", takeConfig},
	{"environment.txt", "Environment variables that the program reads, or that the documents name.", takeEnvironment},
	{"exit-codes.txt", "Exit codes of every command, and which of the standard streams it writes to.", takeExitCodes},
	{"flags.txt", "Flags of every command, with their type and default as the help gives them.", takeFlags},
	{"json-output.txt", "The shape of every JSON output: field, type. `sometimes`: not in every output.", takeJSON},
	{"metrics.txt", "Metrics: type, help, labels, buckets, and their series. `*` stands for any value.", takeMetrics},
}

// TestSnapshots takes all snapshots from the built binary, and compares them with the accepted ones.
// SEAL_SNAPSHOTS_ACCEPT, a line for the changelog, accepts what has changed instead.
func TestSnapshots(t *testing.T) {
	line := os.Getenv("SEAL_SNAPSHOTS_ACCEPT")
	if line != "" {
		if _, _, err := parseLine(line); err != nil {
			t.Fatal(err) // before the work
		}
	}
	taken := make([]string, len(snapshots))
	t.Run("take", func(t *testing.T) {
		for i, s := range snapshots {
			t.Run(s.file, func(t *testing.T) {
				t.Parallel()
				taken[i] = "# " + s.about + "\n" + strings.Join(s.take(t), "\n") + "\n"
			})
		}
	})
	if t.Failed() {
		t.Fatal("not every snapshot could be taken: nothing is compared")
	}
	everyMetricIsThere(t, taken[at("metrics.txt")])
	everyFieldIsThere(t, taken[at("json-output.txt")]+taken[at("audit.txt")])
	if t.Failed() {
		return
	}
	byFile := map[string]string{}
	for i, s := range snapshots {
		byFile[s.file] = taken[i]
	}
	l := ledger{dir: snapshotDir(), changelog: filepath.Join(harness.Root(), "CHANGELOG.md")}
	if line != "" {
		changed, err := l.accept(byFile, line)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("snapshots: accepted %s\n", strings.Join(changed, ", "))
		return
	}
	problems, err := l.check(byFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Error(p)
	}
	if len(problems) > 0 {
		t.Fatal(`if the change is intended: make snapshots ACCEPT="Changed: what users have to know"`)
	}
	fmt.Printf("snapshots: %d files, all as accepted\n", len(byFile))
}

func snapshotDir() string { return filepath.Join(harness.Root(), "testdata", "snapshots") }

func at(file string) int {
	return slices.IndexFunc(snapshots, func(s snapshot) bool { return s.file == file })
}
