package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// outputFormat is what --output says. Every command that answers with more than a line has it.
type outputFormat string

const (
	outputText outputFormat = "text"
	outputJSON outputFormat = "json"
)

// flag adds --output to a command.
func (o *outputFormat) flag(cmd *cobra.Command) {
	*o = outputText
	cmd.Flags().VarP(o, "output", "o", "text or json")
	// It fails for flags that there are not.
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{string(outputText), string(outputJSON)}, cobra.ShellCompDirectiveNoFileComp))
}

func (o *outputFormat) json() bool { return *o == outputJSON }

// String and the next two make it a flag's value.
func (o *outputFormat) String() string { return string(*o) }

// Type is shown in the help.
func (o *outputFormat) Type() string { return "format" }

// Set takes what the user wrote.
func (o *outputFormat) Set(text string) error {
	switch f := outputFormat(text); f {
	case outputText, outputJSON:
		*o = f
		return nil
	}
	return fmt.Errorf("%q is not one of text, json", text)
}

// writeJSON writes one indented document.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
