package app

import (
	"cmp"
	"log/slog"
	"math"

	"github.com/KimMachineGun/automemlimit/memlimit"

	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/server"
)

// unknownMemory is assumed where neither a limit nor the system shows how much memory there is.
const unknownMemory = 1 << 30

// serverLimits returns the limits of the config, and for those that it leaves out what fits into the memory.
func serverLimits(l *config.Limits, memory int64) server.Limits {
	fits := server.LimitsFor(memory)
	if files := maxFiles(); files > 0 {
		// The rest is for upstreams, keys and files.
		fits.Connections = min(fits.Connections, max(files*3/4, 1))
	}
	return server.Limits{
		Connections: cmp.Or(l.Connections, fits.Connections), Calls: cmp.Or(l.Calls, fits.Calls),
		LongPolls: cmp.Or(l.LongPolls, fits.LongPolls), Bytes: cmp.Or(int64(l.Bytes), fits.Bytes),
		RequestBytes:  int64(l.RequestBytes),
		ConnectionAge: l.ConnectionAge,
	}
}

// goShare is the Go runtime's share of the container's memory. The rest is for the program itself, some 60 MB, for what the
// kernel keeps for connections, and for what the runtime takes beyond its limit while it cannot collect as fast as callers who
// attack have it allocate: at 0.8 of 512 MiB, 80 MiB more were seen.
const goShare = 0.7

// limitMemory sets the Go runtime's memory limit, so that it collects garbage in time: to what GOMEMLIMIT says, else to
// [goShare] of what the container may have. It returns the bytes that limits follow from.
func limitMemory(log *slog.Logger) int64 {
	limit, err := memlimit.Set(memlimit.WithRatio(goShare))
	if err != nil {
		log.Warn("the container's memory limit cannot be read; set GOMEMLIMIT if there is one", "error", err)
	} else if limit != math.MaxInt64 {
		return limit
	}
	if system, err := memlimit.FromSystem(); err == nil && system > 0 && system < math.MaxInt64 {
		return int64(system)
	}
	return unknownMemory
}
