package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/temporal-seal/temporal-seal/internal/app"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyservice"
)

// listKeysOptions are the flags of keys list.
type listKeysOptions struct {
	flags   config.Flags
	timeout time.Duration
	output  outputFormat
	// List the keys of a running proxy.
	running bool
	// Its admin address; "": the config's.
	admin string
}

// listKeysCommand lists the keys that a config names, or with --running those that a proxy has used since its
// start.
func listKeysCommand() *cobra.Command {
	var o listKeysOptions
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the keys of a config, and which answer",
		Long: `list asks each key encryption key of the config for an answer. KEK is the reference by which envelopes, metrics and
"temporal-seal keys scan" name a key. With --running it asks the proxy on the config's admin address for what it uses: the
envelopes sealed and opened with each key since its start, and the ids of the data keys that seal now, as
revoked_data_keys takes them. The exit code is 1 if an active key does not answer.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.flags.Load()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
			defer cancel()
			if o.running {
				return o.listRunning(ctx, cmp.Or(o.admin, c.Admin), cmd.OutOrStdout())
			}
			return o.listConfigured(ctx, c, cmd.OutOrStdout())
		},
	}
	addFlags(&o.flags, cmd)
	f := cmd.Flags()
	o.output.flag(cmd)
	f.BoolVar(&o.running, "running", false, "ask the running proxy what it uses")
	f.StringVar(&o.admin, "admin", "", "address to ask with --running (default: the config's)")
	addTimeout(&o.timeout, cmd)
	return cmd
}

// listedKey is one key encryption key of an entry.
type listedKey struct {
	Name       string       `json:"name"`
	Namespaces []string     `json:"namespaces,omitempty"`
	Role       keyring.Role `json:"role"`
	URI        string       `json:"uri"`
	// Its reference in envelopes and metrics; "": not known.
	KEK string `json:"kek,omitempty"`
	// Of awskms: the ARN of the key that the URI means now, also where that names an alias.
	ARN     string `json:"arn,omitempty"`
	Answers bool   `json:"answers"`
	// Why it does not answer.
	Error string `json:"error,omitempty"`
}

// configuredKeys lists the key encryption keys of every entry, the active one first, and sends a request to
// each. A URI with {1} or {namespace} gets none: what fills that place is not known here.
func configuredKeys(ctx context.Context, c *config.Config) []listedKey {
	var all []listedKey
	for _, k := range c.Keys {
		for i, uri := range append([]string{k.Active}, k.OpenOnly...) {
			l := listedKey{Name: k.Name, Namespaces: k.Namespaces, Role: keyring.RoleOpenOnly, URI: uri}
			if i == 0 {
				l.Role = keyring.RoleActive
			}
			// An error is a row of the list and does not end it: the other keys may answer.
			if strings.ContainsAny(uri, "{}") {
				l.Error = "not asked: its placeholders stand for what policies and callers name"
			} else if p, err := keyservice.Open(ctx, uri); err != nil {
				l.Error = err.Error()
			} else {
				l.KEK, l.ARN, l.Answers = p.Ref().String(), crypto.ARNOf(p), true
			}
			all = append(all, l)
		}
	}
	return all
}

// listConfigured prints the keys of the config. It returns exit code 1 if an active key does not answer:
// nothing can be sealed with its entry then.
func (o *listKeysOptions) listConfigured(ctx context.Context, c *config.Config, stdout io.Writer) error {
	all := configuredKeys(ctx, c)
	var code error
	for _, l := range all {
		if l.Role == keyring.RoleActive && !l.Answers && !strings.ContainsAny(l.URI, "{}") {
			code = exitCode(1)
		}
	}
	if o.output.json() {
		return cmp.Or(writeJSON(stdout, all), code)
	}
	t := newTable(stdout)
	fmt.Fprintln(t, "KEY\tNAMESPACES\tROLE\tKEK\tURI\tMEANS\tANSWERS")
	for _, l := range all {
		answers := "yes"
		if !l.Answers {
			answers = "no: " + l.Error
		}
		namespaces := cmp.Or(strings.Join(l.Namespaces, ","), "all")
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			l.Name, namespaces, l.Role, cmp.Or(l.KEK, "-"), l.URI, cmp.Or(l.ARN, "-"), answers)
	}
	return cmp.Or(t.Flush(), code)
}

// listRunning gets /keys from the admin server of a running proxy and prints it. The JSON form is the
// document of the admin server.
func (o *listKeysOptions) listRunning(ctx context.Context, address string, stdout io.Writer) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/keys", nil)
	if err != nil {
		return fmt.Errorf("--admin: %w", err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("no proxy answers on its admin address: %w; name another with --admin", err)
	}
	defer answer.Body.Close()
	// A proxy may hold thousands of data keys, one for each namespace and key name.
	var use app.KeysInUse
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf(
			"http://%s/keys: %s; is that the admin address of a proxy of this version?", address, answer.Status)
	}
	// 64 MiB bound what another server at this address can make the command hold.
	if err := json.NewDecoder(io.LimitReader(answer.Body, 64<<20)).Decode(&use); err != nil {
		return fmt.Errorf("http://%s/keys: not what a proxy answers: %w", address, err)
	}
	if o.output.json() {
		return writeJSON(stdout, use)
	}
	// The document has two lists: keys by use, and the data keys that seal now.
	t := newTable(stdout)
	fmt.Fprintln(t, "KEY\tROLE\tKEK\tMEANS\tSEALED\tOPENED\tLAST OPENED")
	for _, k := range use.Keys {
		last := "-"
		if !k.LastOpened.IsZero() {
			last = k.LastOpened.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\t%s\n", k.Name, k.Role, k.KEK, cmp.Or(k.ARN, "-"), k.Sealed, k.Opened, last)
	}
	fmt.Fprintln(t, "\nNAMESPACE\tKEY\tKEK\tMADE\tDATA KEY")
	for _, d := range use.DataKeys {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", d.Namespace, d.Key, d.KEK, d.Made.UTC().Format(time.RFC3339), d.ID)
	}
	return t.Flush()
}
