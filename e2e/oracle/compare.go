package main

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// acceptedFile holds the intended differences.
type acceptedFile struct {
	// Renames are texts that the new build writes in another way. They are replaced in what the old one showed.
	Renames []*rename `yaml:"renames"`
	// Differences are lines that may differ.
	Differences []*difference `yaml:"differences"`
}

type rename struct {
	Aspect string `yaml:"aspect"` // where it holds: one of the aspects, or log
	From   string `yaml:"from"`
	To     string `yaml:"to"`
	Reason string `yaml:"reason"`
	used   bool
}

// difference accepts a line of one build without its equal in the other.
type difference struct {
	Case   string `yaml:"case"`   // regular expression of the case's name; empty: all
	Aspect string `yaml:"aspect"` // exactly
	Old    string `yaml:"old"`    // regular expression of a line of the old build
	New    string `yaml:"new"`    // regular expression of a line of the new build
	Reason string `yaml:"reason"`

	ofCase, ofOld, ofNew *regexp.Regexp
	used                 bool
}

func readAccepted(path string) (*acceptedFile, error) {
	f := new(acceptedFile)
	if path == "" {
		return f, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the accepted differences: %w", err)
	}
	if err := yaml.UnmarshalWithOptions(text, f, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for i, r := range f.Renames {
		if r.From == "" || r.Reason == "" {
			return nil, fmt.Errorf("%s: renames[%d]: `from` and `reason` are required", path, i)
		}
	}
	for i, d := range f.Differences {
		if d.Reason == "" || d.Aspect == "" || d.Old == "" && d.New == "" {
			return nil, fmt.Errorf("%s: differences[%d]: `aspect`, `reason` and one of `old`, `new` are required", path, i)
		}
		for _, one := range []struct {
			text string
			to   **regexp.Regexp
		}{{d.Case, &d.ofCase}, {d.Old, &d.ofOld}, {d.New, &d.ofNew}} {
			if one.text == "" {
				continue
			}
			if *one.to, err = regexp.Compile(one.text); err != nil {
				return nil, fmt.Errorf("%s: differences[%d]: %w", path, i, err)
			}
		}
	}
	return f, nil
}

// accepts reports whether a line that only one build has is intended.
func (f *acceptedFile) accepts(name, aspect, line string, isNew bool) bool {
	for _, d := range f.Differences {
		pattern := d.ofOld
		if isNew {
			pattern = d.ofNew
		}
		if d.Aspect == aspect && (d.ofCase == nil || d.ofCase.MatchString(name)) && pattern != nil && pattern.MatchString(line) {
			d.used = true
			return true
		}
	}
	return false
}

// comparison counts.
type comparison struct {
	most        int
	accepted    *acceptedFile
	methods     map[string]bool
	messages    int
	differences int
	outcomes    map[string]int // of the old build's calls, by status code
	sealed      int            // values in what was compared
}

// outcomeText lists the outcomes by name.
func (c *comparison) outcomeText() string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(c.outcomes)) {
		list = append(list, fmt.Sprintf("%s %d", name, c.outcomes[name]))
	}
	return strings.Join(list, ", ")
}

// meaningful fails a run in which too little was compared: two builds that refuse everything are alike.
func (c *comparison) meaningful() error {
	all := 0
	for _, n := range c.outcomes {
		all += n
	}
	if c.outcomes["OK"]*3 < all || c.sealed < all/4 {
		return fmt.Errorf("of %d calls %d ended well, with %d sealed values: that says too little about either build",
			all, c.outcomes["OK"], c.sealed)
	}
	return nil
}

// ordinarySpaces takes the no-break space out of protobuf's errors: whether one has it depends on the hash of the binary.
var ordinarySpaces = strings.NewReplacer("\u00a0", " ", `\u00a0`, " ")

// compare counts one difference for an aspect of a case whose lines are not the same on both sides.
func (c *comparison) compare(name, aspect, old, new string) {
	old, new = ordinarySpaces.Replace(old), ordinarySpaces.Replace(new)
	for _, r := range c.accepted.Renames {
		if r.Aspect == aspect && strings.Contains(old, r.From) {
			old, r.used = strings.ReplaceAll(old, r.From, r.To), true
		}
	}
	if old == new || aspect == "size" && aboutEqual(old, new) {
		return
	}
	olds, news := strings.Split(old, "\n"), strings.Split(new, "\n")
	lost := slices.DeleteFunc(without(olds, news), func(line string) bool {
		return c.accepted.accepts(name, aspect, line, false)
	})
	come := slices.DeleteFunc(without(news, olds), func(line string) bool {
		return c.accepted.accepts(name, aspect, line, true)
	})
	if len(lost)+len(come) == 0 && len(without(olds, news))+len(without(news, olds)) > 0 {
		return
	}
	c.differences++
	if c.differences > c.most {
		return
	}
	fmt.Printf("difference %d: %s: %s\n", c.differences, name, aspect)
	if len(lost)+len(come) == 0 {
		fmt.Println("  the same lines in another order")
	}
	show("  - ", lost)
	show("  + ", come)
}

// slack is by how many bytes two requests of one content may differ. Texts of failures are compressed, and what another
// layer sealed in them has another length then. slackSealed is what each sealed value adds, since two formats of the
// envelope differ by more in base64, and in the lengths around it; padding adds more than that.
const slack, slackSealed = 64, 16

// aboutEqual compares lists of sizes.
func aboutEqual(old, new string) bool {
	olds, news := strings.Split(old, "\n"), strings.Split(new, "\n")
	if len(olds) != len(news) {
		return false
	}
	for i := range olds {
		var names [2]string
		var sizes, sealed [2]int
		for j, line := range []string{olds[i], news[i]} {
			if line == "" {
				continue
			}
			if _, err := fmt.Sscanf(line, "%s %d bytes %d sealed", &names[j], &sizes[j], &sealed[j]); err != nil {
				return false
			}
		}
		differ := max(sizes[0], sizes[1]) - min(sizes[0], sizes[1])
		if names[0] != names[1] || sealed[0] != sealed[1] || differ > slack+slackSealed*sealed[0] {
			return false
		}
	}
	return true
}

// shownLines and shownWidth bound what is printed of one difference.
const shownLines, shownWidth = 8, 400

func show(prefix string, lines []string) {
	for i, line := range lines {
		if i == shownLines {
			fmt.Printf("%sand %d lines more\n", prefix, len(lines)-i)
			return
		}
		if len(line) > shownWidth {
			line = fmt.Sprintf("%s... (%d characters)", line[:shownWidth], len(line))
		}
		fmt.Println(prefix + line)
	}
}

// without are the lines of a that b does not have, each as often as b has it too few times.
func without(a, b []string) []string {
	count := map[string]int{}
	for _, line := range b {
		count[line]++
	}
	var rest []string
	for _, line := range a {
		if count[line]--; count[line] < 0 {
			rest = append(rest, line)
		}
	}
	return rest
}

// unused reports accepted differences that did not occur: what is not needed any more has to go, or it would hide the next.
func (c *comparison) unused(complete bool) {
	if !complete {
		return
	}
	for _, r := range c.accepted.Renames {
		if !r.used {
			c.differences++
			fmt.Printf("difference %d: the accepted rename of %q did not occur: remove it\n", c.differences, r.From)
		}
	}
	for _, d := range c.accepted.Differences {
		if !d.used {
			c.differences++
			fmt.Printf("difference %d: the accepted difference %q / %q in %s did not occur: remove it\n",
				c.differences, d.Old, d.New, d.Aspect)
		}
	}
}
