// Manpages writes a manual page for each command of temporal-seal, from its help, and completions for the usual shells.
//
//	manpages -proxy bin/temporal-seal -out bin/release
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

func main() {
	program := flag.String("proxy", "bin/temporal-seal", "the built program")
	out := flag.String("out", "bin/release", "folder for man and completions")
	flag.Parse()
	if err := run(*program, *out); err != nil {
		fmt.Fprintf(os.Stderr, "manpages: %v\n", err)
		os.Exit(1)
	}
}

func run(program, out string) error {
	for _, dir := range []string{"man", "completions"} {
		if err := errors.Join(os.RemoveAll(filepath.Join(out, dir)), os.MkdirAll(filepath.Join(out, dir), 0o755)); err != nil {
			return err
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		text, err := exec.Command(program, "completion", shell).Output()
		if err != nil {
			return fmt.Errorf("completion %s: %w", shell, err)
		}
		if err := os.WriteFile(filepath.Join(out, "completions", "temporal-seal."+shell), text, 0o644); err != nil {
			return err
		}
	}
	return walk(program, filepath.Join(out, "man"), []string{"temporal-seal"}, "seals Temporal payloads between SDKs and the server")
}

var below = regexp.MustCompile(`(?m)^  ([a-z][a-z-]*) +(\S.*)$`)

// walk writes the page of a command and those of the commands below it.
func walk(program, dir string, path []string, summary string) error {
	help, err := exec.Command(program, append(path[1:len(path):len(path)], "--help")...).Output()
	if err != nil {
		return fmt.Errorf("%v --help: %w", path, err)
	}
	name := strings.Join(path, "-")
	if err := os.WriteFile(filepath.Join(dir, name+".1"), []byte(page(name, summary, string(help))), 0o644); err != nil {
		return err
	}
	_, list, _ := strings.Cut(string(help), "\nAvailable Commands:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	for _, m := range below.FindAllStringSubmatch(list, -1) {
		if m[1] == "help" || m[1] == "completion" {
			continue // the command library's own
		}
		if err := walk(program, dir, append(path[:len(path):len(path)], m[1]), m[2]); err != nil {
			return err
		}
	}
	return nil
}

var heading = regexp.MustCompile(`^([A-Z][A-Za-z ]+):$`)

// page turns a help text into a manual page: its first paragraphs are the description, and its headings those of sections.
func page(name, summary, help string) string {
	description, rest, _ := strings.Cut(help, "\nUsage:\n")
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s 1 \"\" \"temporal-seal\" \"Temporal Seal\"\n", strings.ToUpper(strings.ReplaceAll(name, "-", "\\-")))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", escape(name), escape(summary))
	fmt.Fprintf(&b, ".SH DESCRIPTION\n.nf\n%s\n.fi\n", escape(strings.TrimSpace(description)))
	section := "SYNOPSIS"
	var lines []string
	flush := func() {
		if text := strings.Trim(strings.Join(lines, "\n"), "\n"); text != "" {
			fmt.Fprintf(&b, ".SH %s\n.nf\n%s\n.fi\n", section, escape(text))
		}
		lines = nil
	}
	for line := range strings.Lines(rest) {
		line = strings.TrimRight(line, "\n")
		if m := heading.FindStringSubmatch(line); m != nil {
			flush()
			section = strings.ToUpper(m[1])
			continue
		}
		lines = append(lines, line)
	}
	flush()
	return b.String()
}

// escape keeps roff from reading a text as requests: a line that begins with a period or a quote, backslashes, hyphens.
func escape(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
