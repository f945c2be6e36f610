package snapshots

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ledger is the folder of accepted snapshots. Its file accepted.txt has a line for each snapshot: the file's name, its
// SHA-256, and the line of CHANGELOG.md that announced its last change.
type ledger struct {
	dir       string
	changelog string // path of CHANGELOG.md
}

const acceptedFile = "accepted.txt"

const acceptedHead = "# Written by `make snapshots ACCEPT=\"...\"`: file, SHA-256, " +
	"and the line of CHANGELOG.md that announced its last change.\n"

type acceptance struct{ sum, line string }

// check returns what differs between the snapshots taken and the accepted ones, one problem for each file.
func (l ledger) check(taken map[string]string) ([]string, error) {
	accepted, err := l.accepted()
	if err != nil {
		return nil, err
	}
	announced, err := l.announced()
	if err != nil {
		return nil, err
	}
	stored, err := l.stored()
	if err != nil {
		return nil, err
	}
	var problems []string
	add := func(file, format string, args ...any) {
		problems = append(problems, "testdata/snapshots/"+file+": "+fmt.Sprintf(format, args...))
	}
	for _, file := range union(taken, stored, accepted) {
		now, isTaken := taken[file]
		text, isStored := stored[file]
		entry, isAccepted := accepted[file]
		switch {
		case !isTaken:
			add(file, "nothing takes this snapshot: remove it with make snapshots ACCEPT=\"Removed: ...\"")
			continue
		case !isStored:
			add(file, "the snapshot is missing")
			continue
		case !isAccepted || entry.sum != sum(text):
			add(file, "edited by hand: its hash is not the one in %s; restore the file, and accept changes by make", acceptedFile)
		case !announced[entry.line]:
			add(file, "CHANGELOG.md does not have the line that announced its last change: %q", entry.line)
		}
		if now != text {
			add(file, "differs from what the binary does (- accepted, + now)\n%s", diff(text, now))
		}
	}
	return problems, nil
}

// accept stores the snapshots that have changed, adds the line to the changelog, and records both. It returns the names
// of the files that changed.
func (l ledger) accept(taken map[string]string, line string) ([]string, error) {
	section, text, err := parseLine(line)
	if err != nil {
		return nil, err
	}
	accepted, err := l.accepted()
	if err != nil {
		return nil, err
	}
	announced, err := l.announced()
	if err != nil {
		return nil, err
	}
	stored, err := l.stored()
	if err != nil {
		return nil, err
	}
	var changed []string
	for _, file := range union(taken, stored, accepted) {
		now, isTaken := taken[file]
		entry := accepted[file]
		if isTaken && now == stored[file] && entry.sum == sum(now) && announced[entry.line] {
			continue
		}
		changed = append(changed, file)
		path := filepath.Join(l.dir, file)
		if !isTaken {
			delete(accepted, file)
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			continue
		}
		accepted[file] = acceptance{sum(now), section + ": " + text}
		if err := os.WriteFile(path, []byte(now), 0o644); err != nil {
			return nil, err
		}
	}
	if len(changed) == 0 {
		return nil, errors.New("nothing has changed, so there is nothing to accept")
	}
	if !announced[section+": "+text] {
		if err := l.announce(section, text); err != nil {
			return nil, err
		}
	}
	return changed, l.record(accepted)
}

// stored returns the snapshots in the folder, by file name.
func (l ledger) stored() (map[string]string, error) {
	paths, err := filepath.Glob(filepath.Join(l.dir, "*.txt"))
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, path := range paths {
		if filepath.Base(path) == acceptedFile {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		all[filepath.Base(path)] = string(text)
	}
	return all, nil
}

func (l ledger) accepted() (map[string]acceptance, error) {
	text, err := os.ReadFile(filepath.Join(l.dir, acceptedFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	all := map[string]acceptance{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		parts := strings.SplitN(line, "  ", 3)
		if len(parts) != 3 {
			return nil, fmt.Errorf("%s: not a file, a hash and a line: %q", acceptedFile, line)
		}
		all[parts[0]] = acceptance{parts[1], parts[2]}
	}
	return all, nil
}

func (l ledger) record(accepted map[string]acceptance) error {
	var b strings.Builder
	b.WriteString(acceptedHead)
	for _, file := range slices.Sorted(maps.Keys(accepted)) {
		fmt.Fprintf(&b, "%s  %s  %s\n", file, accepted[file].sum, accepted[file].line)
	}
	return os.WriteFile(filepath.Join(l.dir, acceptedFile), []byte(b.String()), 0o644)
}

// sum is the SHA-256 of a text, in hex.
func sum(text string) string {
	h := sha256.Sum256([]byte(text))
	return hex.EncodeToString(h[:])
}

// union returns the file names of three maps, sorted, each once.
func union(a, b map[string]string, c map[string]acceptance) []string {
	names := slices.Concat(slices.Collect(maps.Keys(a)), slices.Collect(maps.Keys(b)), slices.Collect(maps.Keys(c)))
	slices.Sort(names)
	return slices.Compact(names)
}

// diff lists the lines that two texts do not share. A line that starts with === is a heading, and stands before the
// lines of its section that differ.
func diff(before, after string) string {
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	// common[i][j] is the length of the longest common subsequence of a[i:] and b[j:].
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out []string
	heading := ""
	add := func(sign, line string) {
		if heading != "" {
			out = append(out, "  "+heading)
			heading = ""
		}
		out = append(out, sign+line)
	}
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			if strings.HasPrefix(a[i], "=== ") {
				heading = a[i]
			}
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			add("-", a[i])
			i++
		default:
			add("+", b[j])
			j++
		}
	}
	return strings.Join(out, "\n")
}
