package snapshots

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLedger accepts snapshots in a folder of its own, and then breaks every rule once.
func TestLedger(t *testing.T) {
	for name, step := range map[string]struct {
		spoil func(t *testing.T, l ledger, taken map[string]string)
		want  string // part of the problem; empty: none
	}{
		"nothing": {func(*testing.T, ledger, map[string]string) {}, ""},
		"binary changed": {func(_ *testing.T, _ ledger, taken map[string]string) {
			taken["a.txt"] = "one\n2\n"
		}, "-two\n+2"},
		"edited by hand": {func(t *testing.T, l ledger, taken map[string]string) {
			taken["a.txt"] = "one\n2\n"
			write(t, filepath.Join(l.dir, "a.txt"), "one\n2\n")
		}, "a.txt: edited by hand"},
		"changelog line removed": {func(t *testing.T, l ledger, _ map[string]string) {
			replace(t, l.changelog, "all of it", "nothing")
		}, `"Added: all of it"`},
		"changelog line wrapped": {func(t *testing.T, l ledger, _ map[string]string) {
			replace(t, l.changelog, "all of it", "all\n  of it")
		}, ""},
		"changelog line released": {func(t *testing.T, l ledger, _ map[string]string) {
			replace(t, l.changelog, "## [Unreleased]", "## [Unreleased]\n\n## [0.1.0]")
		}, ""},
		"snapshot removed": {func(t *testing.T, l ledger, _ map[string]string) {
			if err := os.Remove(filepath.Join(l.dir, "a.txt")); err != nil {
				t.Fatal(err)
			}
		}, "a.txt: the snapshot is missing"},
		"snapshot that nothing takes": {func(_ *testing.T, _ ledger, taken map[string]string) {
			delete(taken, "b.txt")
		}, "b.txt: nothing takes"},
	} {
		t.Run(name, func(t *testing.T) {
			l, taken := newLedger(t)
			step.spoil(t, l, taken)
			problems, err := l.check(taken)
			if err != nil {
				t.Fatal(err)
			}
			said := strings.Join(problems, "\n")
			if (step.want == "") != (said == "") || !strings.Contains(said, step.want) {
				t.Fatalf("problems: %q, want %q", said, step.want)
			}
			if said == "" {
				return
			}
			// Whatever is wrong, acceptance with a line of the changelog makes it right.
			if _, err := l.accept(taken, "Changed: it is different now"); err != nil {
				t.Fatal(err)
			}
			if problems, err = l.check(taken); err != nil || len(problems) > 0 {
				t.Errorf("after acceptance: %q, %v", problems, err)
			}
		})
	}
}

func TestAcceptRefuses(t *testing.T) {
	l, taken := newLedger(t)
	if _, err := l.accept(taken, "Changed: nothing"); err == nil || !strings.Contains(err.Error(), "nothing has changed") {
		t.Errorf("without a change: %v", err)
	}
	taken["a.txt"] = "other\n"
	for _, line := range []string{"", "metric x is renamed", "Changed:", "Tweaked: x"} {
		if _, err := l.accept(taken, line); err == nil {
			t.Errorf("%q was accepted", line)
		}
	}
}

// TestAnnounce holds the form of the changelog.
func TestAnnounce(t *testing.T) {
	l, taken := newLedger(t)
	taken["a.txt"] = "other\n"
	if _, err := l.accept(taken, "Added:  more,   of it"); err != nil {
		t.Fatal(err)
	}
	taken["a.txt"] = "third\n"
	if _, err := l.accept(taken, "Removed: one"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(l.changelog)
	if err != nil {
		t.Fatal(err)
	}
	want := "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- all of it\n- more, of it\n\n### Removed\n\n- one\n\n" +
		"## [0.0.1]\n\n### Fixed\n\n- old\n"
	if string(text) != want {
		t.Errorf("changelog:\n%s\nwant:\n%s", text, want)
	}
}

func newLedger(t *testing.T) (ledger, map[string]string) {
	t.Helper()
	dir := t.TempDir()
	l := ledger{dir: filepath.Join(dir, "snapshots"), changelog: filepath.Join(dir, "CHANGELOG.md")}
	if err := os.Mkdir(l.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, l.changelog, "# Changelog\n\n## [Unreleased]\n\n## [0.0.1]\n\n### Fixed\n\n- old\n")
	taken := map[string]string{"a.txt": "one\ntwo\n", "b.txt": "three\n"}
	if _, err := l.accept(taken, "Added: all of it"); err != nil {
		t.Fatal(err)
	}
	return l, taken
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func replace(t *testing.T, file, before, after string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), before) {
		t.Fatalf("%s has no %q", file, before)
	}
	write(t, file, strings.Replace(string(text), before, after, 1))
}
