package keyring

import (
	"slices"
	"testing"
)

// TestPlaceholders fills the URIs of entries: what stands in them comes from policies, callers and envelopes.
func TestPlaceholders(t *testing.T) {
	set, err := NewSet(&Options{SealedAs: map[string]string{"orders-new": "orders", "odd": "a/b"}, Keys: []KeyConfig{
		{Name: "tenant/*", Active: "awskms://alias/{namespace}-{1}", OpenOnly: []string{"awskms://alias/old-{1}"}},
		{Name: "default", Active: "local:keys/{namespace}.key"},
		{Name: "plain", Active: "local:plain.key"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		namespace, key string
		want           []string
	}{
		{"orders", "default", []string{"local:keys/orders.key"}},
		{"orders.eu", "tenant/acme", []string{"awskms://alias/orders.eu-acme", "awskms://alias/old-acme"}},
		{"orders", "plain", []string{"local:plain.key"}},
		{"orders-new", "default", []string{"local:keys/orders.key"}},
		{"odd", "default", nil},
		{"a/../b", "plain", []string{"local:plain.key"}},
		{"a/../b", "default", nil},
		{"../b", "default", nil},
		{".hidden", "default", nil},
		{"a?region=x", "default", nil},
		{"{1}", "tenant/acme", nil},
		{"", "default", nil},
		{"orders", "tenant/a/b", nil},
	} {
		_, uris, ok := set.URIs(tt.namespace, tt.key)
		if ok != (tt.want != nil) || !slices.Equal(uris, tt.want) {
			t.Errorf("key %q of namespace %q: %v, %v; want %v", tt.key, tt.namespace, uris, ok, tt.want)
		}
	}
	if key, ok := set.DefaultKey("a/b"); key != "plain" || !ok {
		t.Errorf("the default key of a namespace that may not stand in a URI is %q, %v", key, ok)
	}
	if !set.Names("tenant/x") || set.Names("other") {
		t.Error("the names of keys are wrong")
	}
}
