package keyring

import (
	"crypto/fips140"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
)

// fakeTime runs f with a fake clock. In FIPS mode Go draws entropy from the jitter of the clock, which a fake one does not
// have; there the random bytes come from a seed.
func fakeTime(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if fips140.Enabled() {
		cryptotest.SetGlobalRandom(t, 1)
	}
	synctest.Test(t, f)
}
