package app

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestPercentForTheFloor(t *testing.T) {
	const mb = 1 << 20
	for _, test := range []struct {
		live, floor uint64
		want        int
	}{
		{0, 64 * mb, 100}, // before the first collection nothing is known
		{8 * mb, 64 * mb, 700},
		{16 * mb, 64 * mb, 300},
		{32 * mb, 64 * mb, 100},
		{500 * mb, 64 * mb, 100}, // much is kept, as for thousands of polls
		{8 * mb, 4 * mb, 100},    // a small container
	} {
		if got := percentFor(test.live, test.floor); got != test.want {
			t.Errorf("%d kept, floor %d: %d %%, want %d", test.live, test.floor, got, test.want)
		}
	}
}

func TestGOGCHolds(t *testing.T) {
	t.Setenv("GOGC", "50")
	before := debug.SetGCPercent(50)
	defer debug.SetGCPercent(before)
	paceCollector(1 << 40)
	runtime.GC()
	time.Sleep(10 * time.Millisecond)
	if got := debug.SetGCPercent(50); got != 50 {
		t.Errorf("GOGC is %d, the operator set 50", got)
	}
}

// The pace is set anew after each collection, without anybody asking for it.
func TestPaceFollowsTheHeap(t *testing.T) {
	t.Setenv("GOGC", "")
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	paceCollector(1 << 40)
	percent := func() int {
		p := debug.SetGCPercent(100)
		debug.SetGCPercent(p)
		return p
	}
	waitFor := func(what string, ok func(int) bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			runtime.GC()
			if ok(percent()) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: GOGC is %d", what, percent())
			}
		}
	}
	waitFor("little is kept", func(p int) bool { return p > 2*defaultPercent })
	kept := make([]byte, 2*heapFloor)
	waitFor("much is kept", func(p int) bool { return p == defaultPercent })
	runtime.KeepAlive(kept)
	waitFor("little is kept again", func(p int) bool { return p > 2*defaultPercent })
}
