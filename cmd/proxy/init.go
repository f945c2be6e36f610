package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	temporalseal "github.com/temporal-seal/temporal-seal"
	"github.com/temporal-seal/temporal-seal/internal/x/loopback"
)

// initOptions are the flags of init.
type initOptions struct {
	listen, upstream, key string
	tls                   bool
	namespaces            []string
	output                outputFormat
}

// startingFiles is what init prints in JSON.
type startingFiles struct {
	Files []string `json:"files"` // that were written
}

// initCommand writes files to start from. What they say is what serve does without them, so that a first edit
// changes one thing.
func initCommand() *cobra.Command {
	var o initOptions
	cmd := &cobra.Command{
		Use:   "init [DIR]",
		Short: "Write a config and a policy to start from",
		Long: `init writes config.yaml, policy.rego (the policy that ships) and cases.yaml, payloads with the verdicts that check expects, into
the current directory or DIR. It overwrites nothing. The files pass "temporal-seal check --offline --config config.yaml".`,
		Example: `  temporal-seal init --namespace orders-prod --upstream temporal-frontend.temporal.svc:7233
  temporal-seal init --namespace orders.a1b2c --upstream orders.a1b2c.tmprl.cloud:7233 --upstream-tls --key 'awskms://alias/temporal?region=eu-central-1'`,
		Args: cobra.MaximumNArgs(1),
		RunE: o.run,
	}
	o.output.flag(cmd)
	f := cmd.Flags()
	f.StringVar(&o.listen, "listen", standard.Listeners[0].Address, "address for workers and clients")
	f.StringVar(&o.upstream, "upstream", standard.Upstreams[0].Address, "address of the Temporal frontend")
	f.BoolVar(&o.tls, "upstream-tls", false, "the frontend speaks TLS")
	f.StringVar(&o.key, "key", standard.Keys[0].Active, "URI of the default key: awskms://..., gcpkms://..., azurekeyvault://..., vault://..., plugin://... or local:FILE")
	f.StringSliceVar(&o.namespaces, "namespace", nil, "namespace that callers reach, once for each; required off loopback")
	return cmd
}

// run writes all files or none.
func (o *initOptions) run(cmd *cobra.Command, args []string) error {
	dir := ""
	if len(args) == 1 {
		dir = args[0]
	}
	host, _, err := net.SplitHostPort(o.listen)
	if err != nil {
		return fmt.Errorf("--listen: %q is not an address: write host:port", o.listen)
	}
	if len(o.namespaces) == 0 && !loopback.Host(host) {
		return fmt.Errorf("--namespace is required, since other machines reach %s: name each namespace that callers may use", o.listen)
	}
	files := []struct{ name, text string }{
		{"config.yaml", o.config(filepath.Join(dir, "policy.rego"))},
		{"policy.rego", string(temporalseal.ShippedPolicy)},
		{"cases.yaml", o.cases()},
	}
	for _, file := range files {
		path := filepath.Join(dir, file.name)
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%s exists already, and nothing was written: remove it, or name another directory", path)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s cannot be written: %w", path, err)
		}
	}
	if err := os.MkdirAll(cmp.Or(dir, "."), 0o755); err != nil {
		return fmt.Errorf("the directory cannot be made: %w", err)
	}
	var written startingFiles
	for _, file := range files {
		path := filepath.Join(dir, file.name)
		if err := writeNew(path, file.text); err != nil {
			return fmt.Errorf("%s cannot be written: %w", path, err)
		}
		written.Files = append(written.Files, path)
		if !o.output.json() {
			fmt.Fprintf(cmd.OutOrStdout(), "wrote %s\n", path)
		}
	}
	if o.output.json() {
		return writeJSON(cmd.OutOrStdout(), written)
	}
	config := filepath.Join(dir, "config.yaml")
	fmt.Fprintf(cmd.OutOrStdout(), "\nNext:\n  temporal-seal check --config %s --connect\n  temporal-seal serve --config %s\n", config, config)
	return nil
}

// writeNew writes a file that is not there yet.
func writeNew(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, text)
	return errors.Join(err, f.Close())
}

// config returns the text of config.yaml.
func (o *initOptions) config(policy string) string {
	var b strings.Builder
	b.WriteString("# Every key is described in docs/configuration.md, and by: temporal-seal config docs\n")
	fmt.Fprintf(&b, "listeners:\n  - address: %s\n", strconv.Quote(o.listen))
	if len(o.namespaces) > 0 {
		quoted := make([]string, len(o.namespaces))
		for i, namespace := range o.namespaces {
			quoted[i] = strconv.Quote(namespace)
		}
		b.WriteString("    # Whoever reaches the address reads and writes these namespaces. `mtls`, `token` and `jwt` tell callers apart.\n")
		fmt.Fprintf(&b, "    callers: {anonymous: {namespaces: [%s]}}\n", strings.Join(quoted, ", "))
	}
	fmt.Fprintf(&b, "upstreams:\n  - address: %s\n", strconv.Quote(o.upstream))
	if o.tls {
		b.WriteString("    tls: {}                 # verified with the system's authorities; cert_file and key_file for mTLS\n")
	}
	b.WriteString("keys:                       # the most sensitive first\n")
	fmt.Fprintf(&b, "  - {name: default, active: %s}\n", strconv.Quote(o.key))
	b.WriteString("# Paths are relative to the directory in which the proxy is started.\n")
	fmt.Fprintf(&b, "policy: {file: %s}\n", strconv.Quote(policy))
	return b.String()
}

// cases returns the text of cases.yaml.
func (o *initOptions) cases() string {
	namespace := standardNamespace
	if len(o.namespaces) > 0 {
		namespace = strings.ReplaceAll(o.namespaces[0], "*", "x")
	}
	return fmt.Sprintf(`# Payloads and what the policy has to decide about them: temporal-seal check tests it.
keys: [default]
defaults: {namespace: %s}
cases:
  - name: the input of a workflow is sealed
    input: {rpc: StartWorkflowExecution, payload: {kind: input}}
    want: {action: seal, key: default}
  - name: a credential in a header is sealed
    input: {rpc: StartWorkflowExecution, payload: {kind: header, name: authorization}}
    want: {action: seal, key: default}
  - name: the result is opened in its own namespace
    direction: response
    input: {rpc: GetWorkflowExecutionHistory, payload: {kind: result}, sealed: {namespace: %[1]s, key: default}}
    want: {action: open}
`, strconv.Quote(namespace))
}

// standardNamespace is the one of Temporal's SDKs and CLI.
const standardNamespace = "default"
