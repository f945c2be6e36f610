package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/temporal-seal/temporal-seal/internal/app"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyservice"
	"github.com/temporal-seal/temporal-seal/internal/scan"
)

// recovery is what a walk over a server has found for a key store.
type recovery struct {
	scan    scanOptions
	wanted  map[crypto.KeyID]string             // where an envelope names a data key by reference
	anchors map[crypto.KeyID][]*envelope.Header // of self-contained envelopes
}

// recoveredStore is what recover prints in JSON.
type recoveredStore struct {
	// DataKeys counts those that envelopes name by reference, WithoutRow those of them that had no row.
	DataKeys   int       `json:"data_keys"`
	WithoutRow int       `json:"without_row"`
	Restored   int       `json:"restored"`
	Lost       []lostKey `json:"lost"`
	// Unread counts places at the server that could not be read.
	Unread int `json:"unread"`
}

// lostKey is a data key that stays without a row.
type lostKey struct {
	ID string `json:"id"`
	// NamedBy is the place of an envelope that names it.
	NamedBy string `json:"named_by"`
	Error   string `json:"error"`
}

// maxAnchors is how many wrapped keys are tried for one data key: anybody who writes to the server can plant a wrong one.
const maxAnchors = 16

// recoverStoreCommand makes lost rows of a key store again.
func recoverStoreCommand() *cobra.Command {
	r := recovery{wanted: map[crypto.KeyID]string{}, anchors: map[crypto.KeyID][]*envelope.Header{}}
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Make lost rows of the key store again, from what the server holds",
		Long: `recover walks what the server holds, as keys scan does. For each data key that an envelope names by reference and that has no row
in the config's key store, it looks for a self-contained envelope under the same data key, has the key service unwrap the
key in it, and puts the row into the store. The exit code is 1 if a data key stays without a row, or if something could not be
read. It changes nothing at the server, and may run while proxies serve.`,
		Example: `  temporal-seal keystore recover --config config.yaml`,
		Args:    cobra.NoArgs,
		RunE:    r.run,
	}
	f := cmd.Flags()
	f.StringVar(&r.scan.flags.File, "config", "", "config file in YAML, with the key store, the keys and the upstreams")
	f.StringVar(&r.scan.flags.Upstream, "upstream", "", "address of the Temporal frontend (default: the config's)")
	f.StringSliceVarP(&r.scan.namespaces, "namespace", "n", nil, "namespaces to walk (default: all)")
	f.Float64Var(&r.scan.rate, "rate", 50, "calls a second to the server, at most")
	r.scan.output.flag(cmd)
	addTimeout(&r.scan.timeout, cmd)
	return cmd
}

func (r *recovery) run(cmd *cobra.Command, _ []string) error {
	if r.scan.rate <= 0 {
		return errors.New("--rate: write a number above 0")
	}
	c, err := r.scan.flags.Load()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	store, err := app.OpenStore(ctx, c)
	if err != nil {
		return err
	}
	var state scan.State
	rows := func(ctx context.Context, ids []crypto.KeyID) (map[crypto.KeyID]crypto.KeyRow, error) {
		found := make(map[crypto.KeyID]crypto.KeyRow, len(ids))
		for _, id := range ids { // those without a row are what this is about, and are not unread
			found[id] = crypto.KeyRow{ID: id}
		}
		return found, nil
	}
	err = r.scan.walkAll(ctx, cmd, c, &state, scan.Options{Found: r.note, Rows: rows})
	var missing []crypto.KeyID
	if err == nil {
		missing, err = r.missing(ctx, store)
	}
	// The keys have a connection of their own, and SQLite lets one in.
	if err = errors.Join(err, store.Close()); err != nil {
		return err
	}
	keys, err := app.OpenAllKeys(ctx, c, app.KeyOptions{Timeout: r.scan.timeout, Open: keyservice.Open, Log: quiet})
	if err != nil {
		return err
	}
	defer keys.Close()
	made := recoveredStore{DataKeys: len(r.wanted), WithoutRow: len(missing), Lost: []lostKey{}, Unread: state.Unread()}
	for _, id := range missing {
		err := errors.New("no self-contained envelope under it was found")
		for _, anchor := range r.anchors[id] {
			if err = keys.Rows().Restore(ctx, anchor); err == nil {
				break
			}
		}
		if err == nil {
			made.Restored++
			continue
		}
		made.Lost = append(made.Lost, lostKey{id.String(), r.wanted[id], err.Error()})
		if !r.scan.output.json() {
			fmt.Fprintf(cmd.OutOrStdout(), "%s, which %s names, has no row: %v\n", id, r.wanted[id], err)
		}
	}
	err = r.scan.output.printed(cmd, made, "%s by reference, %d without a row: %d restored, %d lost; %d places unread",
		count(made.DataKeys, "data key"), made.WithoutRow, made.Restored, len(made.Lost), made.Unread)
	if err == nil && len(made.Lost)+made.Unread > 0 {
		return exitCode(1)
	}
	return err
}

// note keeps what an envelope says about its data key. The header is part of the server's answer, so texts are copied.
func (r *recovery) note(h *envelope.Header, where string) {
	if h.Reference() {
		r.wanted[h.ID] = where
		return
	}
	known := r.anchors[h.ID]
	if len(known) < maxAnchors && !slices.ContainsFunc(known, func(k *envelope.Header) bool { return bytes.Equal(k.Wrapped, h.Wrapped) }) {
		r.anchors[h.ID] = append(known, &envelope.Header{ID: h.ID, KEK: h.KEK, Key: strings.Clone(h.Key),
			Namespace: strings.Clone(h.Namespace), Wrapped: slices.Clone(h.Wrapped)})
	}
}

// missing returns the data keys that envelopes name and that have no row, in the order of their ids.
func (r *recovery) missing(ctx context.Context, store crypto.KeyStore) ([]crypto.KeyID, error) {
	ids := slices.SortedFunc(maps.Keys(r.wanted), func(a, b crypto.KeyID) int { return bytes.Compare(a[:], b[:]) })
	rows, err := store.Get(ctx, ids)
	if err != nil {
		return nil, err
	}
	have := make(map[crypto.KeyID]bool, len(rows))
	for _, row := range rows {
		have[row.ID] = true
	}
	return slices.DeleteFunc(ids, func(id crypto.KeyID) bool { return have[id] }), nil
}
