// Command proxy stands between Temporal's SDKs and a Temporal frontend. It seals payloads on their way to
// the server and opens them on the way back.
//
// Each command has a file, with its flags, its run and its output: serve.go, check.go, config.go, explain.go,
// health.go, keys.go (with keys_list.go and keys_scan.go), keystore.go, open.go, version.go. Package app does the work of
// serving. harden.go keeps the process's memory from leaving it; output.go is how commands print.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/temporal-seal/temporal-seal/internal/app"
)

// main hardens the process before anything else. A failure of that is a warning: containers may forbid it.
func main() {
	if err := harden(); err != nil {
		fmt.Fprintf(os.Stderr, "temporal-seal: warning: %v\n", err)
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run executes the command line and returns the exit code. It writes errors to stderr, each line with the
// program's name in front.
func run(args []string, stdout, stderr io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	stdout, stderr = visible{to: stdout}, visible{to: stderr}
	root.SetOut(stdout)
	root.SetErr(stderr)
	// No command runs with debugging on, not even help: the setting is a mistake wherever it is found.
	err := refuseDebugging()
	if err == nil {
		err = root.Execute()
	}
	if err == nil {
		return 0
	}
	var quiet exitCode
	if errors.As(err, &quiet) {
		return int(quiet)
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(stderr, "temporal-seal: %s\n", strings.TrimRight(line, "\n"))
	}
	return 1
}

// exitCode ends the program with a code, without another message.
type exitCode int

// Error is never printed: run turns the code into that of the process.
func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// rootCommand builds the command line. Serving is both the root command and a command of its own: a container
// image needs no arguments, and scripts may spell it out.
func rootCommand() *cobra.Command {
	var o app.Options
	o.Version = versionText()
	root := &cobra.Command{
		Use:   "temporal-seal",
		Short: "Seals Temporal payloads between SDKs and the server",
		Long: `temporal-seal stands between Temporal workers and clients and a Temporal frontend. It seals every payload on its way
to the server and opens it on the way back. Workers change nothing but their HostPort.

Without a command it serves: on 127.0.0.1:7333, for the Temporal server on 127.0.0.1:7233, with a key in a local file.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command %q; see temporal-seal --help", args[0])
			}
			return nil
		},
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.Serve(cmd.Context(), cmd.ErrOrStderr().(visible).to) // the log escapes by itself
		},
	}
	addServeFlags(&o, root)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())
	})
	serve := &cobra.Command{
		Use:   "serve",
		Short: "Serve (the default)",
		Args:  cobra.NoArgs,
		RunE:  root.RunE,
	}
	addServeFlags(&o, serve)
	root.AddCommand(serve, checkCommand(), configCommand(), explainCommand(), healthCommand(), keysCommand(),
		keystoreCommand(), openCommand(), versionCommand())
	return root
}
