package crypto_test

import (
	"bytes"
	"context"
	"errors"
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

// wrapper keeps the data key that it wraps, and fails as a test requires.
type wrapper struct {
	plain []byte
	err   error
}

func (w *wrapper) WrapDataKey(_ context.Context, plain []byte, _ crypto.KeyContext) ([]byte, error) {
	w.plain = plain
	return []byte("wrapped"), w.err
}

func TestDrawDataKey(t *testing.T) {
	zero := make([]byte, crypto.DataKeySize)
	w := new(wrapper)
	first, wrapped, err := crypto.DrawDataKey(t.Context(), w, crypto.KeyContext{})
	if err != nil || string(wrapped) != "wrapped" || !bytes.Equal(first, w.plain) || len(first) != crypto.DataKeySize || bytes.Equal(first, zero) {
		t.Errorf("a data key of %d bytes, wrapped as %q, error %v", len(first), wrapped, err)
	}
	if second, _, err := crypto.DrawDataKey(t.Context(), w, crypto.KeyContext{}); err != nil || bytes.Equal(first, second) {
		t.Errorf("two data keys are alike, error %v", err)
	}
	w.err = errors.New("no")
	plain, wrapped, err := crypto.DrawDataKey(t.Context(), w, crypto.KeyContext{})
	if err == nil || plain != nil || wrapped != nil || !bytes.Equal(w.plain, zero) {
		t.Errorf("a data key that nobody wrapped is still in memory, error %v", err)
	}
}
