package main

import (
	"io"

	"github.com/spf13/cobra"
)

func explainCommand(stdout io.Writer) *cobra.Command {
	return &cobra.Command{Use: "explain", Hidden: true}
}
