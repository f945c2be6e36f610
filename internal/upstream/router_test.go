package upstream

import (
	"strings"
	"testing"
)

// TestAddressesFromNamespaces: a namespace is a part of a host name, or it is not put into an address.
func TestAddressesFromNamespaces(t *testing.T) {
	for _, c := range []struct {
		address, namespace string
		fits               bool
	}{
		{"{namespace}.tmprl.cloud:7233", "clinic.a1b2c", true},
		{"{namespace}.tmprl.cloud:7233", "clinic_1-x", true},
		{"{namespace}.tmprl.cloud:7233", "evil.com/", false},
		{"{namespace}.tmprl.cloud:7233", "evil.com:443#", false},
		{"{namespace}.tmprl.cloud:7233", "evil.com:443/?x=", false},
		{"{namespace}.tmprl.cloud:7233", "a@evil.com", false},
		{"{namespace}.tmprl.cloud:7233", "..", false},
		{"{namespace}.tmprl.cloud:7233", "a..b", false},
		{"{namespace}.tmprl.cloud:7233", "a.", false},
		{"{namespace}.tmprl.cloud:7233", "", false},
		{"{namespace}.tmprl.cloud:7233", "évil", false},
		{"{namespace}.tmprl.cloud:7233", "a\x00b", false},
		{"{namespace}.tmprl.cloud:7233", strings.Repeat("a", 129), false},
		{"temporal-{namespace}:7233", "clinic", true},
		{"temporal-{namespace}:7233", "x.evil.com", false}, // no domain follows: it would choose its own
		{"{namespace}:7233", "evil.com", false},
		{"dns:///{namespace}.internal:7233", "clinic", true},
	} {
		if got := fitsAddress(c.address, c.namespace); got != c.fits {
			t.Errorf("%q in %s: %v", c.namespace, c.address, got)
		}
	}
}
