package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/temporal-seal/temporal-seal/internal/app"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyservice"
	"github.com/temporal-seal/temporal-seal/internal/history"
)

// openOptions are the flags of open.
type openOptions struct {
	flags config.Flags
	// For all keys together.
	timeout time.Duration
	// In which payloads are opened; "": the one that each envelope names.
	namespace string
}

// openCommand is for emergencies: it reads what the proxy sealed when neither a proxy nor a Temporal server
// runs. Access to the keys is the only protection here.
func openCommand() *cobra.Command {
	var o openOptions
	cmd := &cobra.Command{
		Use:   "open [FILE]",
		Short: "Open the payloads of a saved history, with the keys alone (break-glass)",
		Long: `open reads JSON, such as a history saved with "temporal workflow show --output json", from a file or standard input,
and prints it with every sealed payload opened. It needs the keys and asks no policy: whoever may use the keys may read.
The exit code is 1 if something could not be opened; it is printed as it was.`,
		Example: `  temporal workflow show --workflow-id w --output json > history.json
  temporal-seal open --config config.yaml history.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: o.open,
	}
	addFlags(&o.flags, cmd)
	cmd.Flags().StringVar(&o.namespace, "namespace", "",
		"open what was sealed for this namespace (and granted to it) only, and other tools' payloads as it "+
			"reads them; default: what any namespace sealed")
	addTimeout(&o.timeout, cmd)
	return cmd
}

// open reads a JSON document, opens every payload in it and prints the document. Problems with single
// payloads go to stderr and lead to exit code 1, but do not end the command.
func (o *openOptions) open(cmd *cobra.Command, args []string) error {
	ctx, stderr, file := cmd.Context(), cmd.ErrOrStderr(), "-"
	if len(args) == 1 {
		file = args[0]
	}
	c, err := o.flags.Load()
	if err != nil {
		return err
	}
	text, err := readFileOrStdin(file)
	if err != nil {
		return fmt.Errorf("the history cannot be read: %w", err)
	}
	var document any
	decoder := json.NewDecoder(bytes.NewReader(text))
	// A float64 would change ids with more than 53 bits.
	decoder.UseNumber()
	if err := decoder.Decode(&document); err != nil {
		where, what := file, "is not JSON: "+err.Error()
		if file == "-" {
			where = "standard input"
		}
		if errors.Is(err, io.EOF) {
			what = "is empty"
		}
		return fmt.Errorf("%s %s; save a history with: temporal workflow show --output json", where, what)
	}
	// All keys are opened, active and open-only ones: a history may be older than the last rotation.
	keys, err := app.OpenAllKeys(ctx, c, app.KeyOptions{Timeout: o.timeout, Open: keyservice.Open, Log: quiet})
	if err != nil {
		return err
	}
	defer keys.Close()
	others, err := app.ForeignReader(ctx, c, o.timeout)
	if err != nil {
		return err
	}
	document, opened, problems := history.Open(ctx, document, history.Options{
		Keys: keys, Foreign: others, Namespace: o.namespace, Realm: c.Realm})
	if err := writeJSON(cmd.OutOrStdout(), document); err != nil {
		return err
	}
	for _, problem := range problems {
		fmt.Fprintf(stderr, "temporal-seal: %s\n", problem)
	}
	fmt.Fprintf(stderr, "opened %d, %d could not be opened\n", opened, len(problems))
	if len(problems) > 0 {
		return exitCode(1)
	}
	return nil
}
