package keyring

import (
	"context"
	"slices"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// named is a key of a service that has ARNs.
type named struct {
	*scripted
	arn string
}

func (n named) ARN() string { return n.arn }

// TestMovedAliasesAreNoticed: until the entry has the earlier key too, which replicas that start later need.
func TestMovedAliasesAreNoticed(t *testing.T) {
	old, fresh := newScripted("test:default"), newScripted("test:default")
	fresh.ref = crypto.NewKEKRef("test", "fresh")
	alias := map[string]crypto.Provider{"test:default": named{old, "arn:old"}, "test:old": named{old, "arn:old"}}
	k := newKeyring(t, Options{Keys: defaultKeys(),
		Open: func(_ context.Context, uri string) (crypto.Provider, error) { return alias[uri], nil }})
	if moved := k.Moved(); len(moved) > 0 {
		t.Errorf("an alias that did not move: %v", moved)
	}
	alias["test:default"] = named{fresh, "arn:fresh"}
	if err := change(k, t.Context(), defaultKeys(), nil, nil); err != nil {
		t.Fatal(err)
	}
	want := MovedKey{Entry: "default", URI: "test:default", Before: "arn:old", Now: "arn:fresh"}
	if moved := k.Moved(); !slices.Equal(moved, []MovedKey{want}) {
		t.Errorf("%+v, want %+v", moved, want)
	}
	if err := change(k, t.Context(), []KeyConfig{{Name: "default", Active: "test:default", OpenOnly: []string{"test:old"}}}, nil, nil); err != nil {
		t.Fatal(err)
	}
	if moved := k.Moved(); len(moved) > 0 {
		t.Errorf("once the entry has the earlier key: %v", moved)
	}
}
