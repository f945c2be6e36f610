package snapshots

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// sections are the headings of Keep a Changelog, in their order.
var sections = []string{"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}

// parseLine splits a line such as "Changed: metric x is renamed to y".
func parseLine(line string) (section, text string, err error) {
	section, text, found := strings.Cut(line, ":")
	text = strings.Join(strings.Fields(text), " ")
	if !found || !slices.Contains(sections, section) || text == "" {
		return "", "", fmt.Errorf("%q is not a line for the changelog: write \"<section>: <text>\" with one of the sections %s",
			line, strings.Join(sections, ", "))
	}
	return section, text, nil
}

// announced returns every entry of the changelog, in every version, as "<section>: <text>". A wrapped entry counts as one
// line.
func (l ledger) announced() (map[string]bool, error) {
	text, err := os.ReadFile(l.changelog)
	if err != nil {
		return nil, err
	}
	all := map[string]bool{}
	section, entry := "", ""
	end := func() {
		if section != "" && entry != "" {
			all[section+": "+entry] = true
		}
		entry = ""
	}
	for line := range strings.Lines(string(text)) {
		trimmed := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "#"):
			end()
			section, _ = strings.CutPrefix(trimmed, "### ")
			if !slices.Contains(sections, section) {
				section = ""
			}
		case strings.HasPrefix(line, "- "):
			end()
			entry = strings.TrimPrefix(trimmed, "- ")
		case trimmed == "":
			end()
		case entry != "":
			entry += " " + trimmed
		}
	}
	end()
	return all, nil
}

// announce adds an entry to the section of that name below the heading Unreleased. It makes the section if there is none.
func (l ledger) announce(section, text string) error {
	raw, err := os.ReadFile(l.changelog)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimRight(string(raw), "\n"), "\n")
	start := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "## [Unreleased]") })
	if start < 0 {
		return fmt.Errorf("%s has no heading \"## [Unreleased]\"", l.changelog)
	}
	end := next(lines, start+1, "## ")
	heading := slices.Index(lines[start:end], "### "+section)
	var entry []string
	at := end
	if heading >= 0 {
		at = next(lines[:end], start+heading+1, "### ")
	} else {
		entry = []string{"", "### " + section, ""}
	}
	for at > 0 && lines[at-1] == "" {
		at--
	}
	entry = append(entry, wrap("- "+text, 118)...)
	lines = slices.Insert(lines, at, entry...)
	return os.WriteFile(l.changelog, []byte(strings.Join(lines, "\n")+"\n"), 0o644)
}

// next returns the index of the next line with a prefix, or the number of lines.
func next(lines []string, from int, prefix string) int {
	for i := from; i < len(lines); i++ {
		if strings.HasPrefix(lines[i], prefix) {
			return i
		}
	}
	return len(lines)
}

// wrap breaks an entry of a list into lines of at most width bytes, where words allow it.
func wrap(entry string, width int) []string {
	var lines []string
	line := ""
	for i, word := range strings.Split(entry, " ") {
		switch {
		case i == 0:
			line = word
		case len(line)+1+len(word) > width:
			lines = append(lines, line)
			line = "  " + word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}
