package snapshots

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// command is a command with its help.
type command struct {
	path string // "temporal-seal keys list"
	help string
}

// commands walks the help from the root down.
func commands(t *testing.T) []command {
	t.Helper()
	p := newProgram(t)
	var all []command
	var walk func(path []string)
	walk = func(path []string) {
		r := p.run(t, append(slices.Clone(path[1:]), "--help")...)
		if r.code != 0 || r.stderr != "" {
			t.Fatalf("%v --help: exit code %d, %s", path, r.code, r.stderr)
		}
		all = append(all, command{strings.Join(path, " "), r.stdout})
		if path[len(path)-1] == "completion" {
			return // the command library's own; what its commands say changes with the library
		}
		for _, name := range subcommands(r.stdout) {
			walk(append(slices.Clone(path), name))
		}
	}
	walk([]string{"temporal-seal"})
	if len(all) < 5 {
		t.Fatalf("only %d commands were found", len(all))
	}
	return all
}

var subcommandLine = regexp.MustCompile(`^  ([a-z][a-z-]*) +\S`)

// subcommands reads the names below "Available Commands:". help is left out: it shows what --help does.
func subcommands(help string) []string {
	_, list, found := strings.Cut(help, "\nAvailable Commands:\n")
	if !found {
		return nil
	}
	list, _, _ = strings.Cut(list, "\n\n")
	var names []string
	for line := range strings.Lines(list) {
		if m := subcommandLine.FindStringSubmatch(line); m != nil && m[1] != "help" {
			names = append(names, m[1])
		}
	}
	return names
}

// takeHelp is the help of each command below a heading.
func takeHelp(t *testing.T) []string {
	var lines []string
	for _, c := range commands(t) {
		lines = append(lines, "", "=== "+c.path, "")
		for line := range strings.Lines(strings.TrimSpace(c.help)) {
			lines = append(lines, strings.TrimRight(line, " \n"))
		}
	}
	return lines
}

var (
	flagLine    = regexp.MustCompile(`^ +(?:-([a-zA-Z]), )?--([a-z-]+)(?: ([a-zA-Z]+))?(?:   +(.*))?$`)
	flagDefault = regexp.MustCompile(`\(default:? (.*)\)$`)
)

// takeFlags lists each flag of each command.
func takeFlags(t *testing.T) []string {
	var lines []string
	for _, c := range commands(t) {
		_, list, found := strings.Cut(c.help, "\nFlags:\n")
		if !found {
			t.Errorf("%s: its help shows no flags", c.path)
			continue
		}
		list, _, _ = strings.Cut(list, "\n\n")
		for line := range strings.Lines(list) {
			m := flagLine.FindStringSubmatch(strings.TrimRight(line, "\n"))
			if m == nil {
				t.Errorf("%s: this test cannot read the flag in %q", c.path, line)
				continue
			}
			short, name, kind, usage := m[1], m[2], m[3], m[4]
			fact := c.path + ": --" + name
			if short != "" {
				fact += ", -" + short
			}
			if kind == "" {
				kind = "switch"
			}
			fact += ", " + kind
			if d := flagDefault.FindStringSubmatch(usage); d != nil {
				fact += ", default " + d[1]
			}
			lines = append(lines, fact)
		}
	}
	slices.Sort(lines)
	return lines
}
