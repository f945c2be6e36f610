package app

import (
	"log/slog"
	"math"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"

	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/server"
)

const (
	// unknownMemory is reckoned with where nothing tells how much there is.
	unknownMemory = 1 << 30
	// defaultConnectionAge evens out callers over replicas that were added, and costs them two new connections an hour.
	defaultConnectionAge = 30 * time.Minute
)

// limits lays what the config says over what fits into the memory.
func serverLimits(l *config.Limits, memory int64) server.Limits {
	limits := server.LimitsFor(memory)
	limits.ConnectionAge = defaultConnectionAge
	if files := maxFiles(); files > 0 {
		// The rest is for upstreams, keys and files.
		limits.Connections = min(limits.Connections, max(files*3/4, 1))
	}
	for _, set := range []struct {
		to    *int
		value int
	}{{&limits.Connections, l.Connections}, {&limits.Calls, l.Calls}, {&limits.LongPolls, l.LongPolls}} {
		if set.value != 0 {
			*set.to = set.value
		}
	}
	if l.Bytes != 0 {
		limits.Bytes = int64(l.Bytes)
	}
	if l.ConnectionAge != 0 {
		limits.ConnectionAge = l.ConnectionAge
	}
	return limits
}

// limitMemory tells the Go runtime how much memory there is, so that it collects garbage in time: what GOMEMLIMIT says,
// else nine tenths of what the container may have. It gives the bytes to reckon with.
func limitMemory(log *slog.Logger) int64 {
	limit, err := memlimit.Set()
	if err != nil {
		log.Warn("the container's memory limit cannot be read; set GOMEMLIMIT if there is one", "error", err)
	}
	if err == nil && limit != math.MaxInt64 {
		return limit
	}
	if system, err := memlimit.FromSystem(); err == nil && system > 0 && system < math.MaxInt64 {
		return int64(system)
	}
	return unknownMemory
}
