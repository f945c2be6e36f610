package main

import (
	"slices"
	"testing"

	"github.com/spf13/cobra"
)

// withoutOutput are the commands that print no result, or one in a form of its own.
var withoutOutput = []string{
	"temporal-seal",               // serves, as does the next one, and logs by --log-format
	"temporal-seal serve",         //
	"temporal-seal config schema", // JSON Schema
	"temporal-seal config docs",   // Markdown
}

// TestOutput requires --output of every command that prints a result, so that scripts need not know which have it.
func TestOutput(t *testing.T) {
	root, seen := rootCommand(), 0
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, below := range cmd.Commands() {
			walk(below)
		}
		exempt := slices.Contains(withoutOutput, cmd.CommandPath())
		if exempt || cmd.HasSubCommands() || cmd.Name() == "help" || cmd.HasParent() && cmd.Parent().Name() == "completion" {
			if exempt && cmd.Flags().Lookup("output") != nil {
				t.Errorf("%s has --output, and is listed as one without", cmd.CommandPath())
			}
			return
		}
		seen++
		if f := cmd.Flags().Lookup("output"); f == nil || f.Shorthand != "o" {
			t.Errorf("%s has no --output, -o", cmd.CommandPath())
		}
	}
	walk(root)
	if seen < 20 {
		t.Errorf("only %d commands were seen", seen)
	}
}
