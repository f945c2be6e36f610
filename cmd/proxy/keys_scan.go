package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/app"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyservice"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/scan"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
	"github.com/temporal-seal/temporal-seal/internal/x/glob"
)

// Exit codes of a scan. 3 needs --key; 4 comes without it too, and from subjects erase.
const (
	keyInUse      = exitCode(3) // it still opens something: it must not be retired
	notAllWasRead = exitCode(4) // it may still open something that the scan could not read
)

// scanOptions are the flags of keys scan.
type scanOptions struct {
	flags config.Flags
	// For all keys together.
	timeout time.Duration
	// To walk; empty: all that the upstreams serve.
	namespaces []string
	// URI or reference of the key that may be retired; "": none.
	asked  string
	output outputFormat
	// Path of the file that keeps the state of the scan; "": it is not kept.
	state string
	// Calls per second.
	rate float64
	// List the ids of data keys.
	dataKeys bool
	// Opened when the first envelope by reference is found, and for --key.
	store crypto.KeyStore
	// Whether the config has a life for the key of an envelope.
	expires func(sealedFor, key string) bool
}

// scanKeysCommand counts what a Temporal server holds by the key that sealed it, so that operators know
// whether they may retire a key.
func scanKeysCommand() *cobra.Command {
	var o scanOptions
	cmd := &cobra.Command{
		Use:   "scan",
		Short: "Count what a server holds by the key that sealed it",
		Long: `scan walks what the server holds (workflows open and closed with their histories, memos and pending activities, schedules,
standalone activities and Nexus operations, worker deployments) and counts envelopes by key name, namespace and key
encryption key, and what nobody sealed. It reads headers only: it opens nothing and needs no key, except to learn
which is which. Envelopes by reference count by their rows in the config's key store, and one without a row as unread. It goes to the server directly, with the TLS and the API key of the config's upstreams.

Without --namespace it walks all namespaces of the server, and it has to: what one namespace sealed may be held by another.
A key may be retired when nothing is sealed with it any more, and each key in the config's key store that it has wrapped is also wrapped by
another key of the config: ask with --key. The exit code is then 0 if it is not in use, 3 if it is, and 4 if that cannot be told, since
something could not be read, or envelopes name keys that the config does not have: an alias may have named one of them before. Without
--key it is 0, or 4 if something could not be read. It is 1 if the scan itself failed.`,
		Example: `  temporal-seal keys scan --config config.yaml --namespace clinic-prod
  temporal-seal keys scan --config config.yaml --key 'awskms://arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab'
  temporal-seal keys scan --upstream temporal:7233 --rate 5 --state scan.json --output json`,
		Args: cobra.NoArgs,
		RunE: o.scan,
	}
	f := cmd.Flags()
	f.StringVar(&o.flags.File, "config", "",
		"config file in YAML: its upstreams are walked, and its keys are named")
	f.StringVar(&o.flags.Upstream, "upstream", "",
		"address of the Temporal frontend (default: the config's, "+standard.Upstreams[0].Address+" without one)")
	f.StringSliceVarP(&o.namespaces, "namespace", "n", nil, "namespaces to walk (default: all)")
	f.StringVar(&o.asked, "key", "",
		"the key encryption key asked about: its URI, or its reference of 16 hex digits")
	o.output.flag(cmd)
	f.StringVar(&o.state, "state", "",
		"file to save the state in after each page, and to go on from if it is there")
	f.Float64Var(&o.rate, "rate", 50, "calls a second to the server, at most")
	f.BoolVar(&o.dataKeys, "data-keys", false, "list the ids of data keys, as revoked_data_keys takes them")
	addTimeout(&o.timeout, cmd)
	return cmd
}

// scan walks the namespaces one after the other, prints the report, and returns an exit code as its error if
// --key names a key that may not be retired, or if something could not be read. An interrupt ends the scan; a state file lets it go on later.
func (o *scanOptions) scan(cmd *cobra.Command, _ []string) error {
	if o.rate <= 0 {
		return errors.New("--rate: write a number above 0")
	}
	c, err := o.flags.Load()
	if err != nil {
		return err
	}
	// An interrupt cancels the scan. The state file holds the last whole page then.
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	names, asked, err := o.knownKeys(ctx, c)
	if err != nil {
		return err
	}
	state := new(scan.State)
	options := scan.Options{Rows: o.rows(c, names, asked), Subjects: o.subjects}
	if o.state != "" {
		if state, err = scan.ReadState(o.state); err != nil {
			return fmt.Errorf("--state: %w; remove the file to start anew", err)
		}
		options.Save = func(s *scan.State) error { return s.Save(o.state) }
	}
	known, err := newKnownKeys(c, names, o.timeout)
	if err != nil {
		return err
	}
	o.expires = known.expires
	var stored storedKeys
	if err = o.walkAll(ctx, cmd, c, state, options); err == nil {
		known.find(ctx, &state.Report)
		stored = o.askStore(ctx, c, known, asked)
	}
	if o.store != nil {
		err = errors.Join(err, o.store.Close())
	}
	if err != nil {
		return err
	}
	if stored.err != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "the key store was not read: %v\n", stored.err)
	}
	result := o.result(&state.Report, names, asked, stored)
	// The report comes first: an exit code other than 0 is part of the result.
	if o.output.json() {
		err = writeJSON(cmd.OutOrStdout(), result)
	} else {
		err = o.print(cmd.OutOrStdout(), result)
	}
	return cmp.Or(err, result.verdict())
}

// walkAll scans the namespaces that were asked for, one after the other.
func (o *scanOptions) walkAll(ctx context.Context, cmd *cobra.Command, c *config.Config, state *scan.State, options scan.Options) error {
	upstreams, err := app.Upstreams(c, quiet)
	if err != nil {
		return err
	}
	if options.Rewriter == nil {
		if options.Rewriter, err = rewrite.New(rewrite.Options{Log: quiet}); err != nil {
			return err
		}
	}
	// The server's own descriptors may know fields that this build does not: payloads in them count too.
	upstream.Learn(ctx, upstreams, options.Rewriter.Join, quiet)
	// Not all servers let callers list namespaces. Naming them avoids that call.
	if len(o.namespaces) == 0 {
		if o.namespaces, err = allNamespaces(ctx, upstreams); err != nil {
			if status.Code(errors.Unwrap(err)) == codes.Unavailable {
				return fmt.Errorf("the server is out of reach: %w; check --upstream, or the config's upstreams", err)
			}
			return fmt.Errorf("the server does not list its namespaces: %w; name them with --namespace", err)
		}
	}
	options.Rate = o.rate
	if options.Progress == nil {
		options.Progress = progressTo(cmd.ErrOrStderr())
	}
	scanner := scan.New(options)
	for _, namespace := range o.namespaces {
		if err := o.walk(ctx, scanner, upstreams, namespace, state); err != nil {
			return err
		}
	}
	return nil
}

// progressTo returns a function that writes a line about each page of a list.
func progressTo(w io.Writer) func(namespace, what string, n *scan.Namespace) {
	return func(namespace, what string, n *scan.Namespace) {
		envelopes := 0
		for _, e := range n.Sealed {
			envelopes += e.Count
		}
		fmt.Fprintf(w, "%s: %s: %s, %d sealed, %d unread\n", namespace, what, walkedText(n), envelopes, n.Unread)
	}
}

// rows returns what looks rows up in the config's key store; nil if it has none. Of a data key that several key encryption
// keys have wrapped, it returns a row of one that the config has, and that is not the one asked about.
func (o *scanOptions) rows(c *config.Config, names map[string]string, asked *crypto.KEKRef) func(context.Context, []crypto.KeyID) (map[crypto.KeyID]crypto.KeyRow, error) {
	if c.KeyStore == nil {
		return nil
	}
	rank := func(r crypto.KeyRow) (n int) {
		if names[r.KEK.String()] != "" {
			n++
		}
		if asked == nil || r.KEK != *asked {
			n += 2
		}
		return n
	}
	return func(ctx context.Context, ids []crypto.KeyID) (map[crypto.KeyID]crypto.KeyRow, error) {
		if err := o.openStore(ctx, c); err != nil {
			return nil, err
		}
		found, err := o.store.Get(ctx, ids)
		rows := make(map[crypto.KeyID]crypto.KeyRow, len(found))
		for _, r := range found {
			if other, twice := rows[r.ID]; !twice || rank(r) > rank(other) {
				rows[r.ID] = r
			}
		}
		return rows, err
	}
}

// subjects looks up rows of keys of subjects in the key store that rows has opened. The key encryption key of each is that of its wrap
// key.
func (o *scanOptions) subjects(ctx context.Context, ids []crypto.KeyID) (map[crypto.KeyID]crypto.KeyRow, error) {
	store := crypto.SubjectsOf(o.store)
	if store == nil {
		return nil, errors.New("keys of subjects are in a key store, and none is configured: add key_store")
	}
	found, err := store.SubjectKeys(ctx, ids)
	if err != nil {
		return nil, err
	}
	rows, parents := make(map[crypto.KeyID]crypto.KeyRow, len(found)), make(map[crypto.KeyID]crypto.KEKRef)
	for _, r := range found {
		if _, known := parents[r.Parent]; !known {
			wraps, err := store.Parent(ctx, r.Parent)
			if err != nil {
				return nil, err
			}
			for _, w := range wraps {
				parents[r.Parent] = w.KEK
			}
		}
		if r.Erased != 0 {
			r.Wrapped = nil // it does not open, even where it came back from a backup
		} else if len(r.Wrapped) == 0 {
			continue // nothing says that it was erased: it is lost
		}
		rows[r.ID] = crypto.KeyRow{ID: r.ID, Context: r.Context, KEK: parents[r.Parent], Wrapped: r.Wrapped}
	}
	return rows, nil
}

// walk scans one namespace over the upstream that serves it, as the proxy would choose it. Each namespace
// has a connection of its own, since upstreams may be addressed by namespace.
func (o *scanOptions) walk(
	ctx context.Context, scanner *scan.Scanner, upstreams []upstream.Config, namespace string, state *scan.State,
) error {
	// The calls go to the server itself, and not through a proxy: they must return envelopes unopened.
	router := upstream.NewRouter(upstreams, nil)
	defer router.Close()
	conn, err := router.Route(namespace)
	if err != nil {
		return fmt.Errorf("namespace %s: %w", namespace, err)
	}
	if err = scanner.Run(ctx, conn, namespace, state); errors.Is(err, context.Canceled) && o.state != "" {
		return fmt.Errorf("stopped; the same command goes on from %s", o.state)
	}
	return err
}

// allNamespaces lists the namespaces of all upstreams, sorted. Of an upstream for certain namespaces it
// returns only these.
func allNamespaces(ctx context.Context, upstreams []upstream.Config) ([]string, error) {
	var names []string
	for i := range upstreams {
		one := upstreams[i]
		one.Namespaces = nil // what it lists is what it has, not what the config sends there
		router := upstream.NewRouter([]upstream.Config{one}, nil)
		var listed []string
		conn, err := router.Route("")
		if err == nil {
			listed, err = scan.Namespaces(ctx, conn)
		}
		router.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", one.Address, err)
		}
		for _, name := range listed {
			if upstreams[i].Namespaces == nil || glob.MatchAny(upstreams[i].Namespaces, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// knownKeys finds out the references of the configured keys, and of the one that --key names; without
// it asked is nil. names are the URIs and roles by reference, in hexadecimal digits. A key that does
// not answer has no known reference; the report shows the bare reference then.
func (o *scanOptions) knownKeys(
	ctx context.Context, c *config.Config,
) (names map[string]string, asked *crypto.KEKRef, err error) {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	if o.asked != "" {
		asked = new(crypto.KEKRef)
		// No URI is a reference: it has a colon, which is no hexadecimal digit.
		if raw, err := hex.DecodeString(o.asked); err == nil && len(raw) == len(asked) {
			copy(asked[:], raw)
		} else if p, err := keyservice.Open(ctx, o.asked); err == nil {
			*asked = p.Ref()
		} else {
			return nil, nil, fmt.Errorf("--key: %w; a key that does not answer any more can be named by its reference: "+
				"see the KEK of `temporal-seal keys list` or of a scan", err)
		}
	}
	// Several entries may share a key encryption key.
	byKEK := map[string][]string{}
	for _, l := range configuredKeys(ctx, c) { // without a config the key that serve would use
		if l.KEK != "" {
			byKEK[l.KEK] = append(byKEK[l.KEK], describeKey(l.URI, l.ARN, l.Role))
		}
	}
	names = map[string]string{}
	for kek, uris := range byKEK {
		slices.Sort(uris)
		names[kek] = strings.Join(slices.Compact(uris), ", ")
	}
	return names, asked, nil
}

// describeKey names a key encryption key by its URI, by what that means now, and by its role.
func describeKey(uri, arn string, role keyring.Role) string {
	if strings.Contains(uri, arn) { // also "", for keys that have none
		return fmt.Sprintf("%s (%s)", uri, role)
	}
	return fmt.Sprintf("%s = %s (%s)", uri, arn, role)
}
