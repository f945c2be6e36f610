package crypto_test

import (
	"strings"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

func TestEncryptionContext(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"clinic-prod.a1b2c", "clinic-prod.a1b2c"}, {"eu/default", "eu/default"}, {"a_b:c@d=e+f", "a_b:c@d=e+f"},
		{"", "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
		{strings.Repeat("a", 256), strings.Repeat("a", 256)},
	} {
		got := crypto.KeyContext{Namespace: c.in, Key: "k"}.EncryptionContext()
		if v := got["temporal-seal:namespace"]; v != c.want {
			t.Errorf("%q becomes %q, want %q", c.in, v, c.want)
		}
		if got["temporal-seal:key"] != "k" || len(got) != 2 {
			t.Errorf("context %v", got)
		}
	}
	for _, in := range []string{"Zahlung prüfen", strings.Repeat("a", 257), "a b"} {
		if v := (crypto.KeyContext{Namespace: in}).EncryptionContext()["temporal-seal:namespace"]; !strings.HasPrefix(v, "sha256:") || len(v) != 71 {
			t.Errorf("%q becomes %q, want a hash", in, v)
		}
	}
}
