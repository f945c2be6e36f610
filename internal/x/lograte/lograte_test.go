package lograte_test

import (
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/x/lograte"
)

func TestAllow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lograte.Limiter
		expect := func(key string, want bool) {
			t.Helper()
			if got := l.Allow(key); got != want {
				t.Errorf("%q: got %v", key, got)
			}
		}
		expect("a", true)
		expect("a", false)
		expect("b", true)
		time.Sleep(lograte.Every - 1)
		expect("a", false)
		time.Sleep(time.Nanosecond)
		expect("a", true)
		expect("a", false)
	})
}

// TestBounds shows that callers who make up keys fill neither memory nor the log, and keep no line away for ever.
func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lograte.Limiter
		lines := 0
		for i := range 10 * lograte.Keys {
			if l.Allow(strconv.Itoa(i)) {
				lines++
			}
		}
		if lines != lograte.Keys {
			t.Errorf("%d lines, want %d", lines, lograte.Keys)
		}
		time.Sleep(lograte.Every)
		if !l.Allow("late") {
			t.Error("a line is left out after the others have aged")
		}
	})
}

// TestLeftOut shows that no line is left out without a later line that says so.
func TestLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lograte.Limiter
		expect := func(key string, want int) {
			t.Helper()
			if got, ok := l.Next(key); !ok || got != want {
				t.Errorf("%q: got %d, %v", key, got, ok)
			}
		}
		expect("a", 0)
		for range 3 {
			l.Allow("a")
		}
		time.Sleep(lograte.Every)
		expect("a", 3)
		for i := range lograte.Keys + 5 {
			l.Allow(strconv.Itoa(i))
		}
		time.Sleep(lograte.Every)
		expect("new", 6) // "a" took one place
	})
}

func TestAllocations(t *testing.T) {
	var l lograte.Limiter
	l.Allow("key")
	if n := testing.AllocsPerRun(100, func() { l.Allow("key") }); n != 0 {
		t.Errorf("%v allocations for a line that is left out", n)
	}
}

// TestLongKeys: a caller's text in a key costs no memory, and keys that differ at their end are two.
func TestLongKeys(t *testing.T) {
	var l lograte.Limiter
	long := strings.Repeat("n", 1<<20)
	before := heap()
	for i := range 100 {
		if !l.Allow(long + strconv.Itoa(i)) {
			t.Fatalf("key %d was taken for another one", i)
		}
	}
	if l.Allow(long + "7") {
		t.Error("a line was logged twice")
	}
	if grown := heap() - before; grown > 10<<20 {
		t.Errorf("100 keys of 1 MB each keep %d bytes in memory", grown)
	}
	runtime.KeepAlive(&l)
}

// heap returns the bytes in use after a collection.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
