package spell_test

import (
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/x/spell"
)

func TestNearest(t *testing.T) {
	list := []string{"listeners", "upstreams", "keys", "key"}
	for name, want := range map[string]string{
		"listenres": "listeners", "Upstreams": "upstreams", "kys": "keys", "key": "key", "": "", "something": "",
	} {
		if got := spell.Nearest(name, list); got != want {
			t.Errorf("Nearest(%q) = %q, not %q", name, got, want)
		}
	}
}
