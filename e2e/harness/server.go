package harness

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// StartTemporal is peers.StartTemporal for tests. Where this repository's server was not built, it takes the Temporal CLI that pip has
// or downloads, which takes seconds; the build takes minutes. Lines on standard error show the progress.
func StartTemporal(ctx context.Context, o peers.TemporalOptions) (*peers.Process, error) {
	if o.Binary == "" && os.Getenv("TEMPORAL_SERVER_BIN") == "" {
		var err error
		if o.Binary, err = temporal(ctx); err != nil {
			return nil, err
		}
	}
	return peers.StartTemporal(ctx, o)
}

// temporal returns the server that is there soonest.
func temporal(ctx context.Context) (string, error) {
	if !peers.TemporalBuilt() {
		if bin, err := peers.FetchCLI(ctx, os.Stderr); err == nil {
			return bin, nil
		} else if !errors.Is(err, peers.ErrNoPip) {
			fmt.Fprintf(os.Stderr, "%v; a server is built instead\n", err)
		}
	}
	return peers.BuildTemporal(ctx, os.Stderr)
}
