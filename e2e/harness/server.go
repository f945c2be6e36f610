package harness

import (
	"context"
	"os"

	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// StartTemporal is peers.StartTemporal for tests: the first build of the server takes minutes, and lines
// on standard error show the progress.
func StartTemporal(ctx context.Context, o peers.TemporalOptions) (*peers.Process, error) {
	if o.Binary == "" && os.Getenv("TEMPORAL_SERVER_BIN") == "" {
		bin, err := peers.BuildTemporal(ctx, os.Stderr)
		if err != nil {
			return nil, err
		}
		o.Binary = bin
	}
	return peers.StartTemporal(ctx, o)
}
