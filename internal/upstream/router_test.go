package upstream

import (
	"errors"
	"fmt"
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

func TestRouterLimitsItsAddresses(t *testing.T) {
	router := NewRouter([]Config{{Namespaces: []string{"n*"}, Address: "{namespace}:1"}, {Namespaces: []string{}, Address: "127.0.0.1:1"}}, nil)
	first, err := router.Route("n0")
	if err != nil || !router.ByNamespace() {
		t.Fatal(err)
	}
	for i := range maxTargets - 1 {
		if _, err := router.Route(fmt.Sprint("n", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := router.Route("new"); !errors.Is(err, ErrTooMany) {
		t.Errorf("one address too many: %v", err)
	}
	// An address that no call needs gives way, the one that was used longest ago first.
	for _, namespace := range []string{"n5", "n3", "n4"} {
		pool, err := router.Route(namespace)
		if err != nil {
			t.Fatal(err)
		}
		pool.Release()
		if namespace != "n4" { // a call holds that one
			pool.Release()
		}
	}
	for _, namespace := range []string{"new1", "new2"} {
		if _, err := router.Route(namespace); err != nil {
			t.Errorf("%s, where others are idle: %v", namespace, err)
		}
	}
	for _, namespace := range []string{"new3", "n3", "n5"} {
		if _, err := router.Route(namespace); !errors.Is(err, ErrTooMany) {
			t.Errorf("%s, where none is idle: %v", namespace, err)
		}
	}
	if again, err := router.Route("n0"); again != first || err != nil {
		t.Errorf("an address in use: %v", err)
	}
	if _, err := router.Route("other"); !errors.Is(err, ErrNoUpstream) {
		t.Errorf("a namespace that no upstream serves: %v", err)
	}
	if n := router.Count(); n != 0 {
		t.Errorf("%d connections are open without calls", n)
	}
	router.Close()
	if _, err := router.Route("new"); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := systemInfo(first); err == nil {
		t.Error("a call was made after Close")
	}
}
