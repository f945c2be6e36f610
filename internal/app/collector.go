package app

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// heapFloor is what the heap may grow to before garbage is collected. A proxy keeps little and
	// throws away much: at Go's default, twice what is kept, it would collect dozens of times a second
	// for the sake of a few megabytes. That is a tenth of a small call's CPU time. Where much is kept,
	// as for thousands of polls that wait upstream, the default holds.
	heapFloor = 48 << 20
	// floorShare is the most of the memory there is that the floor may take.
	floorShare = 4
	// defaultPercent is Go's own setting of GOGC.
	defaultPercent = 100
)

// paceCollector sets the garbage collector's pace after each collection, by what is kept then. GOGC,
// where it is set, holds instead.
func paceCollector(memory int64) {
	if os.Getenv("GOGC") != "" {
		return
	}
	p := &pacer{floor: uint64(min(heapFloor, memory/floorShare)), percent: defaultPercent,
		live: []metrics.Sample{{Name: "/gc/heap/live:bytes"}}}
	p.pace()
}

type pacer struct {
	floor   uint64
	percent int
	live    []metrics.Sample
}

// collected is never used: when the runtime frees it, a collection was made. It is large enough not to share a block
// with other small values, which would keep it alive (the tiny allocator of Go's runtime, below 16 bytes).
type collected struct{ _ [64]byte }

func (p *pacer) pace() {
	metrics.Read(p.live)
	if percent := percentFor(p.live[0].Value.Uint64(), p.floor); differs(percent, p.percent) {
		p.percent = percent
		debug.SetGCPercent(percent)
	}
	runtime.AddCleanup(new(collected), func(p *pacer) { p.pace() }, p)
}

// percentFor is by how much the heap may grow from what is kept, so that it is collected at the floor
// or later.
func percentFor(live, floor uint64) int {
	if live == 0 || floor <= 2*live {
		return defaultPercent
	}
	return int(floor*100/live - 100)
}

// differs saves setting the pace for little: it stops all goroutines for a moment.
func differs(a, b int) bool { return max(a, b)*10 > min(a, b)*11 }
