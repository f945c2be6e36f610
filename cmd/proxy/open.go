package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
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
	// JSON payloads are printed as the values that they hold.
	readable bool
}

// maxHistory is what the input of open may hold, in bytes. The Temporal server keeps histories of 50 MB at most by default,
// and JSON writes payloads in base64.
const maxHistory = 256 << 20

// openCommand is for emergencies: it reads what the proxy sealed when neither a proxy nor a Temporal server
// runs. Access to the keys is the only protection here.
func openCommand() *cobra.Command {
	var o openOptions
	cmd := &cobra.Command{
		Use:   "open [FILE]",
		Short: "Open the payloads of a saved history, with the keys alone (break-glass)",
		Long: `open reads JSON, such as a history saved with "temporal workflow show --output json", from a file or standard input,
and prints it with every sealed payload opened. Payloads keep their form and their metadata, so that replayers of SDKs read what
it prints; --readable prints JSON payloads as the values that they hold. The input may hold several documents, one after
the other or one in each line. It needs the keys and asks no policy: whoever may use the keys may read.
The exit code is 1 if something could not be opened, which is printed as it was, or if the input is not JSON to its end.`,
		Example: `  temporal workflow show --workflow-id w --output json > history.json
  temporal-seal open --config config.yaml history.json > opened.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: o.open,
	}
	onlyJSON{}.flag(cmd)
	addFlags(&o.flags, cmd)
	cmd.Flags().StringVar(&o.namespace, "namespace", "",
		"open what was sealed for this namespace (and granted to it) only, and other tools' payloads as it "+
			"reads them; default: what any namespace sealed")
	cmd.Flags().BoolVar(&o.readable, "readable", false,
		"print JSON payloads as the values that they hold; replayers of SDKs do not read this form")
	addTimeout(&o.timeout, cmd)
	return cmd
}

// open reads JSON documents, opens every payload in them and prints them. Problems with single
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
	text, err := readHistory(file)
	if err != nil {
		return fmt.Errorf("the history cannot be read: %w", err)
	}
	documents := json.NewDecoder(bytes.NewReader(text))
	document, raw, err := nextDocument(documents)
	if err != nil { // before any key is asked
		return notJSON(file, 0, err)
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
	options := history.Options{Keys: keys, Foreign: others, Namespace: o.namespace, Realm: c.Realm, Readable: o.readable}
	opened, failed, printed := 0, 0, 0
	for ; err == nil; document, raw, err = nextDocument(documents) {
		plain, n, problems := history.Open(ctx, document, options)
		if err := writeLike(cmd.OutOrStdout(), raw, plain); err != nil {
			return err
		}
		opened, failed, printed = opened+n, failed+len(problems), printed+1
		for _, problem := range problems {
			fmt.Fprintf(stderr, "temporal-seal: %s\n", problem)
		}
	}
	fmt.Fprintf(stderr, "opened %d, %d could not be opened\n", opened, failed)
	if !errors.Is(err, io.EOF) {
		return notJSON(file, printed, err)
	}
	if failed > 0 {
		return exitCode(1)
	}
	return nil
}

// readHistory reads a file, or standard input for "-", up to its bound.
func readHistory(file string) ([]byte, error) {
	from := os.Stdin
	if file != "-" {
		var err error
		if from, err = os.Open(file); err != nil {
			return nil, err
		}
		defer from.Close()
	}
	text, err := io.ReadAll(io.LimitReader(from, maxHistory+1))
	if err == nil && len(text) > maxHistory {
		err = fmt.Errorf("%s is larger than %d MiB; split it", from.Name(), maxHistory>>20)
	}
	return text, err
}

// nextDocument returns the next JSON document, and its text. The error is io.EOF behind the last one.
func nextDocument(d *json.Decoder) (document any, raw json.RawMessage, err error) {
	if err = d.Decode(&raw); err != nil {
		return nil, nil, err
	}
	values := json.NewDecoder(bytes.NewReader(raw))
	values.UseNumber() // a float64 would change ids with more than 53 bits
	err = values.Decode(&document)
	return document, raw, err
}

// notJSON returns the error of an input of which a number of documents have been printed.
func notJSON(file string, printed int, err error) error {
	where, what := file, "is not JSON: "+err.Error()
	if file == "-" {
		where = "standard input"
	}
	switch {
	case printed > 0:
		what = fmt.Sprintf("is not JSON behind its document %d, and what follows is not printed: %v", printed, err)
	case errors.Is(err, io.EOF):
		what = "is empty"
	}
	return fmt.Errorf("%s %s; save a history with: temporal workflow show --output json", where, what)
}

// writeLike writes a document in one line if it was read so, as JSON lines have it, and else indented.
func writeLike(w io.Writer, raw []byte, document any) error {
	if bytes.ContainsRune(raw, '\n') {
		return writeJSON(w, document)
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(document)
}
