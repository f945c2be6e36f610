package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// outputFormat is the value of --output, a flag of every command that prints a result.
type outputFormat string

const (
	// outputText is for people: tables, and colors on a terminal.
	outputText outputFormat = "text"
	// outputJSON is for programs: one indented document.
	outputJSON outputFormat = "json"
)

// flag adds --output to a command.
func (o *outputFormat) flag(cmd *cobra.Command) {
	*o = outputText
	cmd.Flags().VarP(o, "output", "o", "text or json")
	formats := []string{string(outputText), string(outputJSON)}
	_ = cmd.RegisterFlagCompletionFunc("output", // fails for a flag that does not exist
		cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
}

// json reports whether the user chose JSON.
func (o *outputFormat) json() bool { return *o == outputJSON }

// String and the next two make it a flag's value.
func (o *outputFormat) String() string { return string(*o) }

// Type is shown in the help.
func (o *outputFormat) Type() string { return "format" }

// Set takes what the user wrote.
func (o *outputFormat) Set(text string) error {
	if *o = outputFormat(text); *o != outputText && *o != outputJSON {
		return fmt.Errorf("%q is not one of text, json", text)
	}
	return nil
}

// onlyJSON is the value of --output where the result is JSON in any case, so that scripts may give the flag to every command.
type onlyJSON struct{}

// flag adds --output to a command.
func (o onlyJSON) flag(cmd *cobra.Command) {
	cmd.Flags().VarP(o, "output", "o", "json")
	_ = cmd.RegisterFlagCompletionFunc("output", // fails for a flag that does not exist
		cobra.FixedCompletions([]string{string(outputJSON)}, cobra.ShellCompDirectiveNoFileComp))
}

// String and the next two make it a flag's value.
func (o onlyJSON) String() string { return string(outputJSON) }

// Type is shown in the help.
func (o onlyJSON) Type() string { return "format" }

// Set takes what the user wrote.
func (o onlyJSON) Set(text string) error {
	if text != string(outputJSON) {
		return fmt.Errorf("%q is not json, the only form that this command prints", text)
	}
	return nil
}

// writeJSON writes one indented document.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// style writes lines, in color only on a terminal.
type style struct {
	w     io.Writer
	color bool
	// The first one of a write.
	err error
}

// newStyle returns a style for a terminal or a file. NO_COLOR (https://no-color.org) and TERM=dumb turn the
// colors off.
func newStyle(w io.Writer) *style {
	s := &style{w: w}
	v, _ := w.(visible)
	// Only a character device can be a terminal; files and pipes get plain text.
	if f, ok := v.to.(*os.File); ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" {
		info, err := f.Stat()
		v.color = err == nil && info.Mode()&os.ModeCharDevice != 0
		s.w, s.color = v, v.color
	}
	return s
}

// line writes one formatted line without spaces at its end. After the first write error it does nothing;
// err holds that error.
func (s *style) line(format string, args ...any) {
	if s.err == nil {
		_, s.err = fmt.Fprintln(s.w, strings.TrimRight(fmt.Sprintf(format, args...), " "))
	}
}

// paint wraps a text in an ANSI escape sequence (ECMA-48, SGR) of the given code.
func (s *style) paint(code, text string) string {
	if !s.color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s *style) bold(text string) string   { return s.paint("1", text) }
func (s *style) dim(text string) string    { return s.paint("2", text) }
func (s *style) red(text string) string    { return s.paint("31", text) }
func (s *style) green(text string) string  { return s.paint("32", text) }
func (s *style) yellow(text string) string { return s.paint("33", text) }

// verdict colors a verdict by its meaning: green for sealed or opened, yellow for readable, red for refused.
func (s *style) verdict(text string) string {
	switch {
	case strings.Contains(text, "deny"):
		return s.red(text)
	case strings.HasPrefix(text, "pass"), strings.Contains(text, `"pass"`):
		return s.yellow(text)
	}
	return s.green(text)
}

// newTable aligns lines of cells that tabs separate. Flush writes them.
func newTable(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 0, 2, ' ', 0) }

// count returns a number with its noun, in the plural unless it is 1.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
