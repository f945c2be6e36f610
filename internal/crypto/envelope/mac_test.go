package envelope_test

import (
	"bytes"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// TestMACs: a MAC is that of one message, and every bit of it counts.
func TestMACs(t *testing.T) {
	dataKey := bytes.Repeat([]byte{7}, envelope.DataKeySize)
	c := &envelope.Context{Key: "default", Namespace: "clinic"}
	id, _, err := envelope.Derive(dataKey, c)
	if err != nil {
		t.Fatal(err)
	}
	key, err := envelope.DeriveMACKey(dataKey, c)
	if err != nil {
		t.Fatal(err)
	}
	if other, _ := envelope.DeriveMACKey(dataKey, &envelope.Context{Key: "default", Namespace: "other"}); bytes.Equal(key, other) {
		t.Error("two namespaces have one key")
	}
	h := &envelope.Header{ID: id, Key: "default", Namespace: "clinic", Wrapped: []byte("wrapped")}
	message := []byte("message")
	mac := envelope.AppendMAC(nil, h, key, message)
	verify := func(mac, message []byte) bool {
		s, err := envelope.ParseMAC(mac)
		return err == nil && s.VerifyMAC(key, message)
	}
	if !verify(mac, message) {
		t.Error("a MAC is not that of its message")
	}
	if verify(mac, []byte("other")) || verify(mac, nil) {
		t.Error("a MAC is that of another message")
	}
	for i := len(mac) - envelope.MACSize; i < len(mac); i++ {
		changed := bytes.Clone(mac)
		changed[i] ^= 1
		if verify(changed, message) {
			t.Errorf("byte %d does not count", i)
		}
	}
	for n := range mac {
		if _, err := envelope.ParseMAC(mac[:n]); err == nil {
			t.Errorf("%d of %d bytes are a MAC", n, len(mac))
		}
	}
	if _, err := envelope.ParseMAC(append(bytes.Clone(mac), 0)); err == nil {
		t.Error("a MAC with a byte more is one")
	}
	for _, flags := range []byte{1, 2, 4, 8, 16, 32} {
		changed := bytes.Clone(mac)
		changed[1] = flags
		if _, err := envelope.ParseMAC(changed); err == nil {
			t.Errorf("flags %#x are taken for those of a MAC", flags)
		}
	}
}
