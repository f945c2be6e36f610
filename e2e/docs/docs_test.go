// Package docs runs what the documents tell a reader to run.
//
// Commands in blocks are run as they stand, in order, on a Temporal server at its default address; a network namespace of
// their own keeps them from this machine's ports. Commands within sentences are held against the help of the program that
// they name. Configs are given to `temporal-seal check`, links are followed.
package docs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// counted is what the tests have checked, for the last line.
var counted struct{ commands, configs, messages, links int }

func TestMain(m *testing.M) {
	code := m.Run()
	harness.RemoveProxy()
	if n := &counted; code == 0 && n.commands > 0 && n.configs > 0 && n.messages > 0 && n.links > 0 {
		fmt.Printf("docs: %d commands, %d configs, %d messages, %d links: all hold\n", n.commands, n.configs, n.messages, n.links)
	}
	os.Exit(code)
}

// document is one Markdown file.
type document struct {
	name  string // below the root
	lines []string
}

func documents(t *testing.T) []document {
	t.Helper()
	root := harness.Root()
	names := []string{"README.md", "CONTRIBUTING.md"}
	more, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil || len(more) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	examples, err := filepath.Glob(filepath.Join(root, "examples", "*", "README.md"))
	if err != nil || len(examples) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, path := range append(more, examples...) {
		name, err := filepath.Rel(root, path)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	var all []document
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, document{name, strings.Split(string(text), "\n")})
	}
	return all
}

// block is a fenced piece of a document. One with a title is a file, which the commands after it read.
type block struct {
	where, language, title string
	lines                  []string
}

var title = regexp.MustCompile(`^(\S*) title="([^"]+)"$`)

func (d *document) blocks() []block {
	var all []block
	var open *block
	for i, line := range d.lines {
		switch language, fence := strings.CutPrefix(line, "```"); {
		case fence && open == nil:
			open = &block{where: fmt.Sprintf("%s:%d", d.name, i+1), language: language}
			if m := title.FindStringSubmatch(language); m != nil {
				open.language, open.title = m[1], m[2]
			}
		case fence:
			all = append(all, *open)
			open = nil
		case open != nil:
			open.lines = append(open.lines, line)
		}
	}
	return all
}

// prose is the document without its blocks.
func (d *document) prose() string {
	var b strings.Builder
	inside := false
	for _, line := range d.lines {
		if strings.HasPrefix(line, "```") {
			inside = !inside
		} else if !inside {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// commands are the lines of a block that a reader types.
func (b *block) commands() []string {
	var all []string
	for _, line := range b.lines {
		if c, ok := strings.CutPrefix(line, "$ "); ok {
			all = append(all, c)
		}
	}
	return all
}

var inline = regexp.MustCompile("`((?:bin/)?temporal-seal|make|temporal|helm) ([^`]+)`")

// TestSentences holds commands within sentences against the programs.
func TestSentences(t *testing.T) {
	proxy, err := harness.BuildProxy()
	if err != nil {
		t.Fatal(err)
	}
	cli, err := peers.BuildCLI(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	targets := makeTargets(t)
	n := 0
	for _, d := range documents(t) {
		for _, found := range inline.FindAllStringSubmatch(d.prose(), -1) {
			n++
			words := strings.Fields(found[2])
			switch found[1] {
			case "make":
				if !slices.Contains(targets, words[0]) {
					t.Errorf("%s: the Makefile has no target %q", d.name, words[0])
				}
			case "temporal":
				helps(t, d.name, cli, words)
			case "helm":
			default:
				helps(t, d.name, proxy, words)
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d commands were found", n)
	}
	counted.commands += n
}

// helps checks that a program knows a command and the flags that come with it.
func helps(t *testing.T, where, program string, words []string) {
	t.Helper()
	var path []string
	for _, w := range words {
		if !regexp.MustCompile(`^[a-z-]+$`).MatchString(w) || strings.HasPrefix(w, "-") || len(path) == 3 {
			break
		}
		path = append(path, w)
	}
	out, err := exec.CommandContext(t.Context(), program, append(path, "--help")...).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %s %s: %v\n%s", where, filepath.Base(program), strings.Join(words, " "), err, out)
		return
	}
	for _, w := range words {
		flag, _, _ := strings.Cut(w, "=")
		if strings.HasPrefix(flag, "--") && !bytes.Contains(out, []byte(flag)) {
			t.Errorf("%s: %s %s has no flag %s", where, filepath.Base(program), strings.Join(path, " "), flag)
		}
	}
}

var target = regexp.MustCompile(`(?m)^([a-z][a-z0-9/-]*):(?:[^=]|$)(.*)$`)

func makefile(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(harness.Root(), "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func makeTargets(t *testing.T) []string {
	var all []string
	for _, m := range target.FindAllStringSubmatch(makefile(t), -1) {
		all = append(all, m[1])
	}
	return all
}

// checked are the targets that CI makes, and what these need.
func checked(t *testing.T) []string {
	t.Helper()
	ci, err := os.ReadFile(filepath.Join(harness.Root(), ".ci", "run"))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	var add func(name string)
	add = func(name string) {
		if slices.Contains(all, name) {
			return
		}
		all = append(all, name)
		for _, m := range target.FindAllStringSubmatch(makefile(t), -1) {
			if m[1] == name {
				needs, _, _ := strings.Cut(m[2], "##")
				for _, n := range strings.Fields(needs) {
					add(n)
				}
			}
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^(?:step|patient) make ([a-z0-9-]+)`).FindAllStringSubmatch(string(ci), -1) {
		add(m[1])
	}
	return all
}

// seen are the targets in blocks that CI does not make, and why that is enough.
var seen = map[string]string{
	"demo": "demo's own tests run the program, make test-all and CI run those",
}

// TestTargets: each make target that a block runs is run by CI.
func TestTargets(t *testing.T) {
	byCI := checked(t)
	for _, d := range documents(t) {
		for _, b := range d.blocks() {
			for _, c := range b.commands() {
				words := strings.Fields(c)
				if words[0] != "make" || slices.Contains(byCI, words[1]) || seen[words[1]] != "" {
					continue
				}
				t.Errorf("%s: nothing runs %q: CI makes %v", b.where, c, byCI)
			}
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// TestLinks follows the links between the documents, to the heading.
func TestLinks(t *testing.T) {
	headings := map[string][]string{}
	for _, d := range documents(t) {
		for _, line := range strings.Split(d.prose(), "\n") {
			if text, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
				headings[d.name] = append(headings[d.name], anchor(text))
			}
		}
	}
	for _, d := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(d.prose(), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			counted.links++
			path, fragment, _ := strings.Cut(m[1], "#")
			to := d.name
			if path != "" {
				to = filepath.Join(filepath.Dir(d.name), path)
			}
			if _, err := os.Stat(filepath.Join(harness.Root(), to)); errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: there is no %s", d.name, to)
			} else if fragment != "" && !slices.Contains(headings[to], fragment) {
				t.Errorf("%s: %s has no heading for #%s", d.name, to, fragment)
			}
		}
	}
}

// anchor is how the usual renderers name a heading.
func anchor(heading string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(strings.TrimSpace(heading)) {
		switch {
		case r == ' ':
			b.WriteByte('-')
		case r == '-' || r == '_' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r > 127:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// elsewhere are the problems of a config that only says what it would be elsewhere: files and services that are not here.
var elsewhere = regexp.MustCompile(`no such file|cannot be read|does not exist|does not answer|do not answer|not answer|credentials|no EC2|lookup|dial tcp|is not set|is not a directory`)

// TestNavigation requires every page in the navigation of the site, and no page there that does not exist.
func TestNavigation(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(harness.Root(), "deploy/site/mkdocs.yml"))
	if err != nil {
		t.Fatal(err)
	}
	_, nav, _ := strings.Cut(string(text), "\nnav:\n")
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile(`: ([a-z-]+\.md)\n`).FindAllStringSubmatch(nav, -1) {
		listed[m[1]] = true
	}
	pages, err := filepath.Glob(filepath.Join(harness.Root(), "docs/*.md"))
	if err != nil || len(pages) == 0 {
		t.Fatal(pages, err)
	}
	for _, page := range pages {
		if name := filepath.Base(page); !listed[name] {
			t.Errorf("docs/%s is not in nav of deploy/site/mkdocs.yml", name)
		}
	}
	if len(listed) != len(pages)+1 { // and index.md, which is made of README.md
		t.Errorf("nav lists %d pages, and there are %d", len(listed), len(pages)+1)
	}
}

// TestConfigs gives every config in the documents to the proxy. Pieces are put into a config first.
func TestConfigs(t *testing.T) {
	proxy, err := harness.BuildProxy()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, d := range documents(t) {
		for _, b := range d.blocks() {
			if b.language != "yaml" {
				continue
			}
			text := strings.Join(b.lines, "\n")
			if strings.HasPrefix(text, "callers:") {
				text = "listeners:\n  - address: 127.0.0.1:7333\n    tls: {cert_file: /tls/tls.crt, key_file: /tls/tls.key}\n    " + strings.ReplaceAll(text, "\n", "\n    ")
			}
			if !regexp.MustCompile(`(?m)^(listeners|upstreams|keys|policy|audit|codec_server|foreign|limits|drain|grants|admin):`).MatchString(text) {
				continue // something else in YAML, such as cases of a policy
			}
			n++
			file := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cmd := exec.CommandContext(ctx, proxy, "check", "--config", file, "--timeout", "1s")
			cmd.Env = append(os.Environ(), "AWS_EC2_METADATA_DISABLED=true", "AWS_ACCESS_KEY_ID=none", "AWS_SECRET_ACCESS_KEY=none")
			cmd.Dir = filepath.Dir(file)
			out, _ := cmd.CombinedOutput() // its exit code says no more than its lines
			cancel()
			for line := range strings.Lines(string(out)) {
				if strings.HasPrefix(line, "temporal-seal: ") && !elsewhere.MatchString(line) {
					t.Errorf("%s: %s", b.where, line)
				}
			}
		}
	}
	if n < 5 {
		t.Errorf("only %d configs were found", n)
	}
	counted.configs = n
}
