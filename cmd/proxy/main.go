// Command proxy stands between Temporal's SDKs and a Temporal frontend. It seals payloads on their way to
// the server and opens them on the way back.
//
// Each command has a file, with its flags, its run and its output. Package app does the work of serving.
//
//	main.go      the list of the commands, and exit codes
//	serve.go, check.go, config.go, health.go, init.go, open.go, version.go: the command of that name
//	explain.go   explain; explain_input.go: what it is asked, from a file or flags
//	keys.go      keys new and rotate; keys_list.go, keys_reference.go: list and reference
//	keys_scan.go keys scan; keys_scan_report.go: its result; keys_scan_store.go: what it asks the keys and the key store
//	keystore.go  keystore, but for recover: keystore_recover.go
//	subjects.go  subjects; subjects_erase.go: erase, readmit and the certificate; subjects_running.go: what runs with a
//	             subject's payloads
//	survey.go    survey; survey_report.go: what it prints
//	output.go    how commands print, as text or JSON; visible.go: without what controls a terminal
//	harden.go    keeps the process's memory from leaving it; by system: harden_unix.go, harden_linux.go, harden_nounix.go,
//	             harden_nolinux.go
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/temporal-seal/temporal-seal/internal/app"
	"github.com/temporal-seal/temporal-seal/internal/x/spell"
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

Without a command it serves: on 127.0.0.1:7333, for the Temporal server on 127.0.0.1:7233, with a key in a local file.

The exit code is 0 for success and 1 for a failure, which includes what a command finds: a check with an error, an evaluation that
fails, a key that does not answer. keys scan also ends with 3 (the key is in use) and 4 (not everything could be read), subjects erase
with 4.`,
		Version:       versionText(),
		Args:          noCommand,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.Serve(cmd.Context(), cmd.ErrOrStderr().(visible).to) // the log escapes by itself
		},
	}
	addServeFlags(&o, root)
	root.SetVersionTemplate(versionLine())
	root.SetFlagErrorFunc(flagError)
	serve := &cobra.Command{
		Use:   "serve",
		Short: "Serve (the default)",
		Args:  cobra.NoArgs,
		RunE:  root.RunE,
	}
	addServeFlags(&o, serve)
	root.AddCommand(serve, checkCommand(), configCommand(), explainCommand(), healthCommand(), initCommand(), keysCommand(),
		keystoreCommand(), openCommand(), subjectsCommand(), surveyCommand(), versionCommand())
	return root
}

// noCommand refuses arguments of a command that only has commands below it.
func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, below := range cmd.Commands() {
		names = append(names, below.Name())
	}
	return fmt.Errorf("unknown command %q%s", args[0], hint(cmd, spell.Nearest(args[0], names)))
}

// flagError says where the flags are listed, and which one was meant if one is like an unknown one.
func flagError(cmd *cobra.Command, err error) error {
	near := ""
	if unknown := new(pflag.NotExistError); errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() == "" {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if near = spell.Nearest(unknown.GetSpecifiedName(), names); near != "" {
			near = "--" + near
		}
	}
	return fmt.Errorf("%w%s", err, hint(cmd, near))
}

// hint ends a message about a word that a command does not know: near is the one that was meant, or "".
func hint(cmd *cobra.Command, near string) string {
	if near == "" {
		return "; see " + cmd.CommandPath() + " --help"
	}
	return "; did you mean " + near + "? See " + cmd.CommandPath() + " --help"
}
