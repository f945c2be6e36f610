package keyring

import (
	"crypto/fips140"
	"crypto/rand"
	"os"
	"sync"
	"testing"
)

// TestMain stocks random generators in FIPS mode. There each new generator draws entropy from the jitter of the clock, which
// a fake clock does not have; Go pools generators, so tests with fake time use those that were made before.
func TestMain(m *testing.M) {
	stockGenerators()
	os.Exit(m.Run())
}

// stockGenerators makes many generators in FIPS mode: each reader holds one for so long that the scheduler starts others
// meanwhile. A test that collects garbage, and with it the pool, has to stock them again.
func stockGenerators() {
	if !fips140.Enabled() {
		return
	}
	var readers sync.WaitGroup
	for range 64 {
		readers.Go(func() { _, _ = rand.Read(make([]byte, 16<<20)) })
	}
	readers.Wait()
}
